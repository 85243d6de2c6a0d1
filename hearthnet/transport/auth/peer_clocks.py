"""Clock offsets to other nodes, from the timestamps of their signed requests.

Kept in memory for the doctor. An offset is this clock minus the other node's, in seconds: positive when this one is
ahead, or when the request was delayed.

Only fully verified requests give an offset for a node, so it is a minute at most. A request refused as expired is not
verified: anyone may have sent it, or it may be a replay. Its offset is a hint, and kept separately.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from time import monotonic
from typing import Final

from hearthnet.observability.runtime import runtime

__all__ = ["forget", "offsets", "record", "record_expired", "recently_expired"]


_MAX_PEERS: Final = 256  # in a larger community not every clock is needed
_KEPT_EXPIRED: Final = 64
RECENT_S: Final = 3_600.0  # an unsynchronized clock drifts a second in days; one that was set changes at once

_offsets: OrderedDict[str, tuple[float, float]] = OrderedDict()
_expired: deque[tuple[float, float]] = deque(maxlen=_KEPT_EXPIRED)


def record(peer: str, offset_s: float) -> None:
    """Stores the offset of a node's verified request, in seconds."""
    _offsets[peer] = (monotonic(), offset_s)
    _offsets.move_to_end(peer)
    if len(_offsets) > _MAX_PEERS:
        _offsets.popitem(last=False)


def record_expired(offset_s: float) -> None:
    """Stores the offset of a request that was refused as expired, in seconds; its sender is unverified."""
    _expired.append((monotonic(), offset_s))


def offsets() -> dict[str, float]:
    """Returns the latest offset, seconds, of each node heard within the last hour."""
    since = monotonic() - RECENT_S
    return {peer: offset_s for peer, (heard_at, offset_s) in _offsets.copy().items() if heard_at >= since}


def recently_expired() -> list[float]:
    """Returns the offsets, seconds, of recent requests that were refused as expired, within the last hour."""
    since = monotonic() - RECENT_S
    return [offset_s for heard_at, offset_s in _expired.copy() if heard_at >= since]


def forget() -> None:
    """Clears everything."""
    _offsets.clear()
    _expired.clear()


runtime.at_fork(forget)
