"""How often a peer may call: two limits for each (peer, capability) and two for each peer in all.

A call takes a token of both hard limits when it arrives: without one it is dropped, which costs next to nothing. It is
served if both soft limits have a token for it; else it is told when to come back. A bucket holds one second's worth, so
a peer that was silent may send that many at once.

A bucket is one number, the moment at which it is full again. It is full at the latest a second after its last use, and
then says nothing: so what was not used for a second can be forgotten, and nothing else ever need be, however many peers
and capabilities there are, as long as fewer than the bound call within one second.
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

NS: Final = 1_000_000_000  # a second, and how long a bucket takes to fill
# About 3 MB. A community has tens of members, each of which uses a handful of capabilities.
MAX_METERS: Final = 10_000
_ALL: Final = ""  # in place of a capability: the peer in all


class RateLimitedError(WireError):
    """Raised for a call that is one too many.

    Attributes:
        reason: `soft_capability`, `soft_peer`, `hard_capability` or `hard_peer`; the label of the counter.
        is_dropped: over a hard limit, so the caller is owed nothing: its connection may be closed.
    """

    def __init__(self, reason: str, wait_ns: int) -> None:
        what = "calls" if reason.endswith("peer") else "calls of this capability"
        super().__init__(
            "rate_limited",
            f"more {what} than this node takes from one caller",
            retry_after_ms=max(1, -(-wait_ns // 1_000_000)),
        )
        self.reason = reason
        self.is_dropped = reason.startswith("hard")


class Bucket:
    """Holds up to `per_second` tokens, and gets as many a second. Times are nanoseconds, monotonic."""

    __slots__ = ("_full_at", "_interval")

    def __init__(self, per_second: int) -> None:
        self._interval = NS // per_second
        self._full_at = 0

    def wait_ns(self, now: int) -> int:
        """Returns in how many nanoseconds there is a token; 0: there is one."""
        return max(0, max(self._full_at, now) + self._interval - now - NS)

    def take(self, now: int) -> None:
        """Takes a token that is there."""
        self._full_at = max(self._full_at, now) + self._interval

    def is_full(self, now: int) -> bool:
        """Tells whether the bucket is as one that was never used."""
        return self._full_at <= now


class _Meter:
    """The two buckets of a peer, or of a peer and a capability."""

    __slots__ = ("hard", "soft")

    def __init__(self, soft: int, hard: int) -> None:
        self.soft = Bucket(soft)
        self.hard = Bucket(hard)

    def is_full(self, now: int) -> bool:
        return self.soft.is_full(now) and self.hard.is_full(now)


class RateLimiter:
    """Counts what peers call.

    Args:
        own: our node id, which is never limited.
        clock: monotonic nanoseconds; tests hand in their own.
        max_meters: how many peers, and pairs of peer and capability, are remembered.
    """

    def __init__(self, own: str, clock: Callable[[], int] = time.monotonic_ns, max_meters: int = MAX_METERS) -> None:
        self._own = own
        self._clock = clock
        self._max_meters = max_meters
        self._meters: OrderedDict[tuple[str, str], _Meter] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._meters)

    def check(self, caller: str, capability: str) -> None:
        """Counts a call of a peer.

        Args:
            caller: its node id, which was authenticated: else anybody could use up what belongs to another.
            capability: one that is offered, or one name for all that are not.

        Raises:
            RateLimitedError: raised when it is one too many.
        """
        if caller == self._own:
            return
        now = self._clock()
        # In all before by capability: who floods one capability has used up its hard limit in all as well.
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
        """Counts nothing, so whoever claims to be `caller` may be believed: a flood ends here, before it is verified.

        Raises:
            RateLimitedError: raised when the peer is over a hard limit.
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
            self._forget(now)
        soft, hard = (
            (RATE_LIMIT_SOFT_RPS_TOTAL, RATE_LIMIT_HARD_RPS_TOTAL)
            if capability == _ALL
            else (RATE_LIMIT_SOFT_RPS_PER_CAP, RATE_LIMIT_HARD_RPS_PER_CAP)
        )
        meter = self._meters[key] = _Meter(soft, hard)
        return meter

    def _forget(self, now: int) -> None:
        """Forgets the full ones that were longest unused; if there are none, the one that was longest unused."""
        self._meters.popitem(last=False)
        while self._meters and next(iter(self._meters.values())).is_full(now):
            self._meters.popitem(last=False)
