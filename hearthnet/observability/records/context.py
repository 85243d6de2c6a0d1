"""The current scope of a task or thread: a trace and its innermost open span.

One context variable, set by tracing and read by logging. A span that opens sets a new scope and restores the one around
it when it closes, so tasks that copied the context keep their own view. Such a copy may outlive the span and even the
trace: `innermost` passes over spans that have closed since, and the trace says whether it is over.

Work that the garbage collector runs (the finalizer of an object in a cycle, the end of a forgotten generator) leaves
the variable as it is. Until Python 3.12 the collector may run in the middle of setting a variable, and to set one
there frees the table that is being read: the interpreter crashes (https://github.com/python/cpython/issues/148891).
"""

from __future__ import annotations

import gc
import sys
from contextvars import ContextVar
from threading import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from hearthnet.observability.records.record import LogValues

__all__ = ["Collector", "collector", "current", "innermost", "swap"]


if TYPE_CHECKING:

    class Counted(Protocol):
        """A message whose records are counted when they are not stored."""

        def drop_row(self) -> None:
            """Counts one record that is not stored."""

    class TraceLike(Protocol):
        """A trace as the context knows it."""

        is_over: bool  # its record and its "done" line are made

        @property
        def trace_id(self) -> str:
            """Its ULID."""

        def hold(self, values: LogValues, message: Counted | None = None) -> bool:
            """Keeps a log record until the trace ends, to store it if the trace is notable; False if it cannot."""

    class Scope(Protocol):
        """A trace and a position in it: `span_id` is None at the root."""

        @property
        def trace(self) -> TraceLike:
            """The trace."""

        @property
        def span_id(self) -> str | None:
            """The span."""

        @property
        def closed_ns(self) -> int:
            """When the span closed, on the monotonic clock; 0 while it is open, and at a root."""

        @property
        def outer(self) -> Scope | None:
            """The scope around it."""


current: ContextVar[Scope | None] = ContextVar("hearthnet_scope", default=None)


class Collector:
    """The garbage collector: `thread` is the one that it runs in, 0 while it does not, and from Python 3.12 on."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = 0

    def note(self, phase: str, _: dict[str, int]) -> None:
        """Notes that it starts or stops."""
        self.thread = get_ident() if phase == "start" else 0

    def is_here(self) -> bool:
        """Returns whether it is what runs this code."""
        return self.thread == get_ident()


collector = Collector()
if sys.version_info < (3, 12):
    gc.callbacks.append(collector.note)


def swap(scope: Scope | None) -> Scope | None:
    """Makes `scope` current and returns the previous one: for work done in steps, such as a stream of frames."""
    previous = current.get()
    if not collector.thread or not collector.is_here():
        current.set(scope)
    return previous


def innermost() -> Scope | None:
    """Returns the current scope: the innermost open span, or the root of a trace, which may have ended."""
    scope = current.get()
    while scope is not None and scope.closed_ns:
        scope = scope.outer
    return scope
