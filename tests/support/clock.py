"""A clock that stands still until a test moves it."""

from __future__ import annotations

from typing import Generic, TypeVar

N = TypeVar("N", int, float)


class Clock(Generic[N]):
    """Returns `now`, in the unit of what it is passed to; a test adds to it."""

    def __init__(self, now: N) -> None:
        self.now = now

    def __call__(self) -> N:
        """The time."""
        return self.now
