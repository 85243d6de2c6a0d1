"""Health of a capability: the success rate of its last calls, and a quarantine if most of them fail."""

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

    If fewer than half of at least 20 succeeded, the entry is quarantined for 60 s. Then one probe call is admitted; it
    decides whether the quarantine ends or starts again.

    Args:
        clock: returns monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[bool, float]] = deque()
        self._successes = 0  # among them, kept as a counter because every call needs the rate
        self._quarantined_until: float | None = None
        self._is_probing = False

    def admit(self) -> int:
        """Returns 0 if a call is admitted, else the milliseconds to wait before the next attempt."""
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
        """Records the outcome of a call that counts for the entry's health.

        Args:
            ok: whether it succeeded.
            duration_ms: its duration.
            is_probe: False for a call that was admitted before a quarantine and ends during it: it is ignored.
        """
        if self.is_quarantined and not is_probe:
            return
        if self._is_probing:
            self._is_probing = False
            self._clear()
            self._quarantined_until = None if ok else self._clock() + HEALTH_QUARANTINE_SECONDS
        self._append(ok, duration_ms)
        rate = self.success_rate
        if rate is not None and len(self._calls) >= HEALTH_MIN_CALLS and rate < HEALTH_QUARANTINE_THRESHOLD:
            self._quarantined_until = self._clock() + HEALTH_QUARANTINE_SECONDS
            self._clear()

    def _append(self, ok: bool, duration_ms: float) -> None:
        if len(self._calls) == HEALTH_WINDOW_CALLS:
            self._successes -= self._calls.popleft()[0]
        self._calls.append((ok, duration_ms))
        self._successes += ok

    def _clear(self) -> None:
        self._calls.clear()
        self._successes = 0

    def skip(self) -> None:
        """Ignores a probe whose outcome does not count; the next call becomes the probe."""
        self._is_probing = False

    @property
    def is_quarantined(self) -> bool:
        """True while calls are refused."""
        return self._quarantined_until is not None

    @property
    def success_rate(self) -> float | None:
        """The share of successes, or None before the first call."""
        return self._successes / len(self._calls) if self._calls else None

    def quantile_ms(self, share: float) -> float | None:
        """Returns the `share` quantile of the durations, or None before the first call."""
        durations = sorted(duration for _, duration in self._calls)
        if not durations:
            return None
        # Nearest rank, as in the view `capability_stats`.
        return durations[max(0, math.ceil(share * len(durations)) - 1)]

    @property
    def calls(self) -> int:
        """The number of calls in the window."""
        return len(self._calls)
