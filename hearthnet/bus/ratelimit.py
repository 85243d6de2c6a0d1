"""Rate limits of callers: a soft and a hard one for each (caller, capability) and for each caller in total.

A call takes a token from both hard limits when it arrives; without one it is dropped, which costs next to nothing. It
is served if both soft limits have a token; otherwise it is refused with the time to retry. A bucket holds the tokens of
one second, so a caller that was silent may send that many at once.

A bucket is one number, the time at which it is full again: at the latest a second after its last use. So a meter that
was unused for a second can be evicted without effect, and no other need be as long as no more than `max_meters` are
used within a second, however many callers and capabilities there are.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hearthnet.constants import (
    RATE_LIMIT_HARD_RPS_PER_CAP,
    RATE_LIMIT_HARD_RPS_TOTAL,
    RATE_LIMIT_SOFT_RPS_PER_CAP,
    RATE_LIMIT_SOFT_RPS_TOTAL,
)
from hearthnet.errors import WireError

__all__ = ["MAX_METERS", "Bucket", "RateLimitedError", "RateLimiter"]

NS: Final = 1_000_000_000  # one second, the time in which a bucket fills
# About 3 MB. A community has tens of members, each of which uses a handful of capabilities.
MAX_METERS: Final = 10_000
_ALL: Final = ""  # instead of a capability: all calls of the caller


class RateLimitedError(WireError):
    """Raised for a call over a limit.

    Attributes:
        reason: `soft_capability`, `soft_peer`, `hard_capability` or `hard_peer`; the label of the counter.
        is_dropped: over a hard limit, so its connection may be closed.
    """

    def __init__(self, reason: str, wait_ns: int) -> None:
        calls = "calls" if reason.endswith("peer") else "calls of this capability"
        super().__init__(
            "rate_limited",
            f"more {calls} than this node accepts from one caller",
            retry_after_ms=-(-wait_ns // 1_000_000),  # rounded up
        )
        self.reason = reason
        self.is_dropped = reason.startswith("hard")


class Bucket:
    """A token bucket with `per_second` tokens, which regains tokens at that rate. Times are monotonic nanoseconds."""

    __slots__ = ("_full_at", "_interval")

    def __init__(self, per_second: int) -> None:
        self._interval = NS // per_second
        self._full_at = 0

    def wait_ns(self, now: int) -> int:
        """Returns the nanoseconds until a token is available; 0 if one is."""
        return max(0, max(self._full_at, now) + self._interval - now - NS)

    def take(self, now: int) -> None:
        """Takes an available token."""
        self._full_at = max(self._full_at, now) + self._interval

    def is_full(self, now: int) -> bool:
        """Returns True if the bucket is full, as if it had never been used."""
        return self._full_at <= now


class _Meter:
    """The two buckets of a caller, or of a caller and a capability."""

    __slots__ = ("hard", "soft")

    def __init__(self, soft: int, hard: int) -> None:
        self.soft = Bucket(soft)
        self.hard = Bucket(hard)

    def is_full(self, now: int) -> bool:
        return self.soft.is_full(now) and self.hard.is_full(now)


class RateLimiter:
    """Limits the rate of calls.

    Args:
        own: our node id, which is never limited.
        clock: returns monotonic nanoseconds; tests pass their own.
        max_meters: the number of callers, and pairs of caller and capability, to keep.
    """

    def __init__(self, own: str, clock: Callable[[], int] = time.monotonic_ns, max_meters: int = MAX_METERS) -> None:
        self._own = own
        self._clock = clock
        self._max_meters = max_meters
        self._meters: OrderedDict[tuple[str, str], _Meter] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._meters)

    def check(self, caller: str, capability: str) -> None:
        """Counts a call.

        Args:
            caller: the authenticated node id; otherwise anyone could use up another node's tokens.
            capability: an offered one, or one common name for all others.

        Raises:
            RateLimitedError: raised when it is over a limit.
        """
        if caller == self._own:
            return
        now = self._clock()
        # The total comes before the capability: a flood of one capability uses up the hard limit of the total too.
        peer = self._meter(caller, _ALL, now)
        one = self._meter(caller, capability, now)
        for name, meter in (("hard_peer", peer), ("hard_capability", one)):
            if wait_ns := meter.hard.wait_ns(now):
                raise RateLimitedError(name, wait_ns)
            meter.hard.take(now)
        wait_ns, name = max((one.soft.wait_ns(now), "soft_capability"), (peer.soft.wait_ns(now), "soft_peer"))
        if wait_ns:
            raise RateLimitedError(name, wait_ns)
        one.soft.take(now)
        peer.soft.take(now)

    def check_claimed(self, caller: str, capability: str) -> None:
        """Refuses a flood before its signatures are verified. It counts nothing, so a false claim does no harm.

        Raises:
            RateLimitedError: raised when the caller is over a hard limit.
        """
        now = self._clock()
        for name, key in (("hard_peer", (caller, _ALL)), ("hard_capability", (caller, capability))):
            meter = self._meters.get(key)
            if meter is not None and (wait_ns := meter.hard.wait_ns(now)):
                raise RateLimitedError(name, wait_ns)

    def _meter(self, caller: str, capability: str, now: int) -> _Meter:
        key = caller, capability
        meter = self._meters.get(key)
        if meter is not None:
            self._meters.move_to_end(key)
            return meter
        if len(self._meters) >= self._max_meters:
            self._evict(now)
        soft, hard = (
            (RATE_LIMIT_SOFT_RPS_TOTAL, RATE_LIMIT_HARD_RPS_TOTAL)
            if capability == _ALL
            else (RATE_LIMIT_SOFT_RPS_PER_CAP, RATE_LIMIT_HARD_RPS_PER_CAP)
        )
        meter = self._meters[key] = _Meter(soft, hard)
        return meter

    def _evict(self, now: int) -> None:
        """Evicts the least recently used meter, and those after it that are full."""
        self._meters.popitem(last=False)
        while self._meters and next(iter(self._meters.values())).is_full(now):
            self._meters.popitem(last=False)
