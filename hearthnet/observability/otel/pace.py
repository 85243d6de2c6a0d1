"""How fast rows are exported: so slowly that an event loop of the same process does not notice.

A thread that computes keeps the interpreter's lock until it gives it up, or for five milliseconds. So it gives it up
after each short piece of work, for a moment; and once a batch is sent, it stays away for many times as long as that
took. That makes a backlog a delay, while rows that are evicted before they are sent are a loss: it stays away no longer
than it may where rows come fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Final

__all__ = ["Pace"]

_PIECE_S: Final = 0.000_05  # of work between two moments: each costs CPU, and leaves caches cold
_MOMENT_S: Final = 0.000_1  # the system makes it half as long again
_FACTOR: Final = 64.0  # the pause after a batch is so many times as long as its work
_LEAD: Final = 1.5  # rows are sent so many times as fast as they come, at the least
_WINDOW_S: Final = 5.0  # over which that is measured: rows come with commits, a second's at once
_LEAST_WINDOW_S: Final = 1.0


class Pace:
    """The pace of one signal.

    Args:
        is_urgent: whether there is no time for pauses.
        clock: CPU seconds of this thread; tests pass their own.
        sleep: waits for seconds.
        monotonic: seconds.
    """

    def __init__(
        self,
        is_urgent: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_urgent = is_urgent
        self._clock = clock
        self._sleep = sleep
        self._monotonic = monotonic
        self._seq: int | None = None  # of the last row at the start of the window
        self._since = 0.0  # when that was, by `monotonic`
        self._last_rate = 0.0  # of the window before
        self._rate = 0.0  # at which rows come, a second
        self._rows = 0  # of the batch
        self._has_begun = False
        self._started_at = 0.0  # by `monotonic`
        self._began_at = self._rested_at = 0.0  # by `clock`

    def begin(self, seq: int) -> None:
        """Begins a batch; `seq` is that of the last row of the store."""
        now = self._monotonic()
        self._measure(seq, now)
        self._started_at, self._rows = now, 0
        self._has_begun = True
        self._began_at = self._rested_at = self._clock()

    def _measure(self, seq: int, now: float) -> None:
        if self._seq is None or seq < self._seq:  # of another database
            self._seq, self._since, self._rate, self._last_rate = seq, now, 0.0, 0.0
            return
        rate = (seq - self._seq) / max(now - self._since, _LEAST_WINDOW_S)
        self._rate = max(rate, self._last_rate)
        if now - self._since >= _WINDOW_S:
            self._seq, self._since, self._last_rate = seq, now, rate

    def due_s(self, rows: float) -> float:
        """Returns in how many seconds so many rows come, as fast as they came last."""
        return rows / self._rate if self._rate else inf

    def take(self, rows: int) -> None:
        """Notes how many rows of the store the batch is ahead of the one before."""
        self._rows = rows

    def rest(self) -> None:
        """Gives the interpreter's lock up for a moment, if there was enough work since the last one."""
        if self._clock() - self._rested_at >= _PIECE_S and not self._is_urgent():
            self._sleep(_MOMENT_S)
            self._rested_at = self._clock()

    def end(self) -> float:
        """Ends the batch, if one has begun; returns how many seconds to stay away, 0 if there is no time."""
        has_begun, self._has_begun = self._has_begun, False
        if not has_begun or self._is_urgent():
            return 0.0
        pause_s = (self._clock() - self._began_at) * _FACTOR
        due_at = self._started_at + self.due_s(self._rows / _LEAD)
        return max(0.0, min(pause_s, due_at - self._monotonic()))
