"""Checks of the node's door: whether it has room for those who come, and turns away none who belong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.finding import found, skipped, warned
from hearthnet.config import Config
from hearthnet.identity.keys import short_id
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport import failed_signatures
from hearthnet.transport.descriptors import RESERVED, enough_for

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["connection_limit", "members_refused"]

_MAX_NAMES: Final = 3  # what fits a line
_CLOCK: Final = "hearthnet doctor --check clock_sanity"
# What is wrong is with the caller, mostly; who reads this can tell its people.
_FIXES: Final[dict[failed_signatures.Reason, str]] = {
    "wrong": "have the caller sign what it sends, byte by byte: see docs/client.md; or others use its id",
    "replayed": "have the caller sign each try anew, with milliseconds: see docs/client.md; or others send it again",
    "closed": _CLOCK,
    "full": "have the caller wait as long as retry_after_ms says",
}


def connection_limit(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The node may open as many files as its `max_connections` need."""
    if bus is None:  # the limit is of the process that listens, not of this one
        return skipped("the node is not running")
    wanted = config.transport.max_connections
    most, descriptors = enough_for(wanted)
    evidence: dict[str, Any] = {"max_connections": wanted, "possible": most, "descriptors": descriptors}
    if most == wanted:
        return found(True, f"{wanted} connections at one time", **evidence)
    detail = f"{most} connections at one time, not {wanted}: the node may open {descriptors} files"
    fix = f"raise its limit of open files to {wanted + RESERVED} (ulimit -n, LimitNOFILE=), or lower max_connections"
    return warned(detail, fix, **evidence)


def members_refused(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """No request in the name of a member was refused for its signature within the hour."""
    if bus is None:
        return skipped("the node is not running")
    refused = failed_signatures.of_members()
    reasons = Counter(reason for _, reason in refused)
    members = [short_id(member) for member, _ in Counter(member for member, _ in refused).most_common()]
    evidence: dict[str, Any] = {"reasons": dict(reasons), "members": members}
    if not refused:
        return found(True, "no member was refused within the hour", **evidence)
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    detail = f"{len(refused)} request(s) in the name of {_few(members)} refused within the hour: {told}"
    return warned(detail, _FIXES.get(reasons.most_common(1)[0][0]), **evidence)


def _few(members: Sequence[str]) -> str:
    more = f" and {len(members) - _MAX_NAMES} more" if len(members) > _MAX_NAMES else ""
    return ", ".join(members[:_MAX_NAMES]) + more
