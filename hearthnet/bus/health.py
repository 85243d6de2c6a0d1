"""How well an offered capability does: the last calls, and a quarantine for one that mostly fails."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from hearthnet.constants import (
    HEALTH_MIN_CALLS,
    HEALTH_QUARANTINE_SECONDS,
    HEALTH_QUARANTINE_THRESHOLD,
    HEALTH_WINDOW_CALLS,
)

__all__ = ["Health"]


class Health:
    """The health of one entry over its last 100 calls.

    Under half of them successful (from 20 on), the entry is quarantined for 60 s. Then one call is let through; it
    decides whether the entry is back or quarantined again.

    Args:
        clock: monotonic seconds; tests hand in their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[bool, float]] = deque()
        self._successes = 0  # among them: counted along, since every call asks for the rate
        self._quarantined_until: float | None = None
        self._is_probing = False

    def admit(self) -> int:
        """Returns 0 if a call may go through, else in how many milliseconds to try again."""
        if self._quarantined_until is None:
            return 0
        wait_s = self._quarantined_until - self._clock()
        if wait_s > 0:
            return max(1, round(wait_s * 1_000))
        if self._is_probing:
            return 1_000
        self._is_probing = True
        return 0

    def record(self, *, ok: bool, duration_ms: float, is_probe: bool = True) -> None:
        """Takes the outcome of a call that says something about the entry.

        Args:
            ok: whether it succeeded.
            duration_ms: how long it took.
            is_probe: false for a call that was admitted before a quarantine and ends within it: it decides nothing.
        """
        if self.is_quarantined and not is_probe:
            return
        if self._is_probing:
            self._is_probing = False
            self._forget()
            self._quarantined_until = None if ok else self._clock() + HEALTH_QUARANTINE_SECONDS
        self._remember(ok, duration_ms)
        rate = self.success_rate
        if rate is not None and len(self._calls) >= HEALTH_MIN_CALLS and rate < HEALTH_QUARANTINE_THRESHOLD:
            self._quarantined_until = self._clock() + HEALTH_QUARANTINE_SECONDS
            self._forget()

    def _remember(self, ok: bool, duration_ms: float) -> None:
        if len(self._calls) == HEALTH_WINDOW_CALLS:
            self._successes -= self._calls.popleft()[0]
        self._calls.append((ok, duration_ms))
        self._successes += ok

    def _forget(self) -> None:
        self._calls.clear()
        self._successes = 0

    def skip(self) -> None:
        """Takes a probe whose outcome says nothing: the next call is the probe."""
        self._is_probing = False

    @property
    def is_quarantined(self) -> bool:
        """Whether calls are turned away."""
        return self._quarantined_until is not None

    @property
    def success_rate(self) -> float | None:
        """The share of successes, or None before the first call."""
        return self._successes / len(self._calls) if self._calls else None

    def quantile_ms(self, share: float) -> float | None:
        """Returns the duration that `share` of the calls did not exceed, or None before the first call."""
        durations = sorted(duration for _, duration in self._calls)
        if not durations:
            return None
        # Nearest rank, as in the view `capability_stats`.
        return durations[max(0, math.ceil(share * len(durations)) - 1)]

    @property
    def calls(self) -> int:
        """How many calls the figures are made of."""
        return len(self._calls)
