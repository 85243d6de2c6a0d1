"""The current scope of a task or thread: a trace and its innermost open span.

One context variable, set by tracing and read by logging. A span that opens sets a new scope and restores the old one
when it closes, so tasks that copied the context keep their own view.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hearthnet.observability.records.record import LogValues

__all__ = ["Counted", "Scope", "TraceLike", "current", "swap"]


class Counted(Protocol):
    """A message whose records are counted when they are not stored."""

    def drop_row(self) -> None:
        """Counts one record that is not stored."""


class TraceLike(Protocol):
    """A trace as the context knows it."""

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
        """The innermost open span."""


current: ContextVar[Scope | None] = ContextVar("hearthnet_scope", default=None)


def swap(scope: Scope | None) -> Scope | None:
    """Makes `scope` current and returns the previous one: for work done in steps, such as a stream of frames."""
    previous = current.get()
    current.set(scope)
    return previous
