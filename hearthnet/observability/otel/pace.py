"""How fast rows are exported: slowly enough that an event loop of the same process hardly notices.

A thread that computes keeps the interpreter's lock until it gives it up, or for five milliseconds. So it gives it up
after each short piece of work, for a moment; and once a batch is sent, it stays away for
several times as long as that took. That makes a backlog a delay, while rows that are evicted before they are sent are a
loss: where rows come faster than they are sent, the pauses become shorter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from hearthnet.constants import TRACE_RING_BUFFER

__all__ = ["Pace"]

_PIECE_S: Final = 0.000_3  # of work between two moments: each costs CPU, and leaves caches cold
_MOMENT_S: Final = 0.000_1  # the system makes it half as long again
_FACTOR: Final = 8.0  # the pause after a batch is so many times as long as its work
_LEAST_FACTOR: Final = 0.25
_MANY: Final = TRACE_RING_BUFFER // 2  # rows that wait: far from a loss
_MAX_PAUSE_S: Final = 1.0  # on a slow machine, too


class Pace:
    """The pace of one signal.

    Args:
        is_urgent: whether there is no time for pauses.
        clock: CPU seconds of this thread; tests pass their own.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        is_urgent: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._is_urgent = is_urgent
        self._clock = clock
        self._sleep = sleep
        self._factor = _FACTOR
        self._behind: int | None = None
        self._began_at: float | None = None
        self._rested_at = 0.0

    def begin(self, behind: int, *, is_taken: bool = True) -> None:
        """Begins a batch.

        Args:
            behind: how many rows wait.
            is_taken: whether the backend takes what it is sent. If not, they become more at whatever pace.
        """
        if behind < _MANY:
            self._factor = min(_FACTOR, self._factor * 2)
        elif is_taken and self._behind is not None and behind > self._behind:
            self._factor = max(_LEAST_FACTOR, self._factor / 2)
        self._behind = behind
        self._began_at = self._rested_at = self._clock()

    def rest(self) -> None:
        """Gives the interpreter's lock up for a moment, if there was enough work since the last one."""
        if self._clock() - self._rested_at >= _PIECE_S and not self._is_urgent():
            self._sleep(_MOMENT_S)
            self._rested_at = self._clock()

    def end(self) -> float:
        """Ends the batch, if one has begun; returns how many seconds to stay away, 0 if there is no time."""
        began_at, self._began_at = self._began_at, None
        if began_at is None or self._is_urgent():
            return 0.0
        return min(_MAX_PAUSE_S, (self._clock() - began_at) * self._factor)
