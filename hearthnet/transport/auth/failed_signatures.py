"""Requests whose signature was not accepted: counted by reason, and for the doctor kept where a member is named.

Who is no member is refused before its signature is computed, so what is kept was sent by a member, or by somebody who
names one: ids are public, and what was sent once can be sent again. It is a hint, and bounded.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Final, Literal, get_args

from hearthnet.observability import metrics
from hearthnet.observability.runtime import runtime

__all__ = ["RECENT_S", "Reason", "forget", "note", "of_members"]

# In the order in which a request is checked.
Reason = Literal[
    "missing", "malformed", "expired", "community", "revoked", "not_member", "wrong", "replayed", "closed", "full"
]  # fmt: skip
metrics.signature_failures_total.allow("reason", get_args(Reason))

RECENT_S: Final = 3_600.0  # what is older has been mended, or comes again
_KEPT: Final = 256  # enough to tell whose they are

_of_members: deque[tuple[float, str, Reason]] = deque(maxlen=_KEPT)


def note(reason: Reason, member: str | None) -> None:
    """Counts a request that was refused; `member` is the node id in whose name it came, if that is a member's."""
    metrics.signature_failures_total.labels(reason).inc()
    if member is not None:
        _of_members.append((monotonic(), member, reason))


def of_members() -> list[tuple[str, Reason]]:
    """Returns the node ids and reasons of the last that came in the name of members within the hour."""
    since = monotonic() - RECENT_S
    return [(member, reason) for noted_at, member, reason in _of_members.copy() if noted_at >= since]


def forget() -> None:
    """Forgets what is kept; what was counted stays."""
    _of_members.clear()


runtime.at_fork(forget)
