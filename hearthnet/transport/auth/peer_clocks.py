"""How far this clock is from those of the peers, by the times that their requests are signed with.

Kept in memory for the doctor. An offset is this clock minus the peer's, in seconds: positive when this one is ahead, or
the request was long under way.

Only a request that passed every check tells a peer's offset, so it is a minute at most. What was refused as expired was
not looked at further: anybody may have sent it, or an old one again. It is a hint, and kept apart.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from time import monotonic
from typing import Final

from hearthnet.observability.runtime import runtime

__all__ = ["forget", "note", "note_expired", "offsets", "recently_expired"]

_MAX_PEERS: Final = 256  # a community that is larger is not asked about each of its clocks
_KEPT_EXPIRED: Final = 64
RECENT_S: Final = 3_600.0  # a clock that nobody sets drifts by a second in days; one that was set, at once

_offsets: OrderedDict[str, tuple[float, float]] = OrderedDict()
_expired: deque[tuple[float, float]] = deque(maxlen=_KEPT_EXPIRED)


def note(peer: str, offset_s: float) -> None:
    """Takes the offset that a peer's verified request had."""
    _offsets[peer] = (monotonic(), offset_s)
    _offsets.move_to_end(peer)
    if len(_offsets) > _MAX_PEERS:
        _offsets.popitem(last=False)


def note_expired(offset_s: float) -> None:
    """Takes the offset of a request that was refused for it, whoever sent it."""
    _expired.append((monotonic(), offset_s))


def offsets() -> dict[str, float]:
    """Returns the latest offset, seconds, of each peer that was heard within the hour."""
    since = monotonic() - RECENT_S
    return {peer: offset_s for peer, (heard_at, offset_s) in _offsets.copy().items() if heard_at >= since}


def recently_expired() -> list[float]:
    """Returns the offsets, seconds, of the last requests that were refused as expired within the hour."""
    since = monotonic() - RECENT_S
    return [offset_s for heard_at, offset_s in _expired.copy() if heard_at >= since]


def forget() -> None:
    """Forgets all of it."""
    _offsets.clear()
    _expired.clear()


runtime.at_fork(forget)
