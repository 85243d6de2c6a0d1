"""Holds what is current in a task or thread: a trace, and the innermost open span in it.

One context variable serves tracing, which sets it, and logging, which reads it. Its value is immutable in effect: a
span that opens sets a new scope and puts the old one back, so tasks that copied the context keep their own view.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hearthnet.observability.records.record import LogValues

__all__ = ["Counted", "Scope", "TraceLike", "current", "swap"]


class Counted(Protocol):
    """A message whose records are counted when they are not stored."""

    def hold_row(self) -> None:
        """Counts one record that is not stored."""


class TraceLike(Protocol):
    """What the context needs to know of a trace."""

    @property
    def trace_id(self) -> str:
        """Its ULID."""

    def hold(self, values: LogValues, message: Counted | None = None) -> bool:
        """Keeps a log record until the trace ends and shows whether it matters; False if it cannot."""


class Scope(Protocol):
    """A trace and a place in it: `span_id` is None at the root."""

    @property
    def trace(self) -> TraceLike:
        """The trace."""

    @property
    def span_id(self) -> str | None:
        """The innermost open span."""


current: ContextVar[Scope | None] = ContextVar("hearthnet_scope", default=None)


def swap(scope: Scope | None) -> Scope | None:
    """Makes `scope` current and returns what was: for work that goes on in steps, such as a stream of frames."""
    previous = current.get()
    current.set(scope)
    return previous
