"""Rejected signatures: counts them by reason, and keeps recent ones that name a member for the doctor.

A non-member is refused before its signature is verified, so the kept ones came from a member or from someone who names
one: ids are public, and old requests can be replayed. The records are hints, and limited in number.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Final, Literal, get_args

from hearthnet.observability import metrics
from hearthnet.observability.runtime import runtime

__all__ = ["RECENT_S", "Reason", "forget", "record", "of_members"]

# In the order of the checks.
Reason = Literal[
    "missing", "malformed", "expired", "community", "revoked", "not_member", "wrong", "replayed", "closed", "full"
]  # fmt: skip
metrics.signature_failures_total.allow("reason", get_args(Reason))

RECENT_S: Final = 3_600.0  # an older problem is solved, or occurs again
_KEPT: Final = 256  # enough to identify the members

_of_members: deque[tuple[float, str, Reason]] = deque(maxlen=_KEPT)


def record(reason: Reason, member: str | None) -> None:
    """Counts a refused request; `member` is the node id that it names, if that is a member's."""
    metrics.signature_failures_total.labels(reason).inc()
    if member is not None:
        _of_members.append((monotonic(), member, reason))


def of_members() -> list[tuple[str, Reason]]:
    """Returns node id and reason of each refused request that named a member, within the last hour."""
    since = monotonic() - RECENT_S
    return [(member, reason) for recorded_at, member, reason in _of_members.copy() if recorded_at >= since]


def forget() -> None:
    """Clears the recent records; the counter keeps its value."""
    _of_members.clear()


runtime.at_fork(forget)
