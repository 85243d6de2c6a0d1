"""The clock check: compares the clock with the HTTP date of anchors and with the timestamps in peers' requests.

Anchors are asked only if the operator wants internet probes: `emergency.enabled` is set, or `probe_targets` differs
from the default (a router, say). Otherwise nothing is sent, and only the peers' timestamps count.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hearthnet.checks.probes.probe_all import probe_all
from hearthnet.checks.results import found, skipped, warned
from hearthnet.config import Config, EmergencyConfig
from hearthnet.display import counted
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport.auth.replay import peer_clocks

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["Anchor", "check_clock", "clock_sanity"]

MAX_CLOCK_OFFSET_S: Final = 60.0
NEAR_LIMIT_S: Final = 30.0  # peers refuse calls that are 60 s off; a clock half that far off keeps drifting
_ANCHOR_TIMEOUT_S: Final = 1.0
_ALL_ANCHORS_S: Final = 1.2  # for all of them in parallel; a name server may also fail to respond
_DATE_STEP_S: Final = 1.0  # an HTTP date is truncated to whole seconds
_FIX: Final = "sudo timedatectl set-ntp true"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A clock offset derived from an anchor's response.

    Attributes:
        target: the anchor that was asked.
        offset_s: this clock minus the anchor's, in seconds.
        precision_s: the largest error of `offset_s`, in seconds.
    """

    target: str
    offset_s: float
    precision_s: float


@dataclass(frozen=True, slots=True)
class Peers:
    """Clock offsets derived from peers' requests, in seconds: each peer's latest, and those refused as expired."""

    offsets_s: tuple[float, ...] = ()
    expired_s: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        """The median offset."""
        return statistics.median_low(self.offsets_s)


def clock_sanity(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The clock is within 60 s of anchors' HTTP dates, and near that of the peers."""
    targets = _targets(config.emergency)
    if targets:
        import httpx  # noqa: F401  # before the deadline starts: on a small machine the import takes as long as it
    anchors = probe_all(_ask, targets, _ALL_ANCHORS_S)
    return check_clock([anchor for anchor in anchors if anchor is not None], _peers(bus), asked=len(targets))


def _targets(emergency: EmergencyConfig) -> tuple[str, ...]:
    is_wanted = emergency.enabled or emergency.probe_targets != EmergencyConfig().probe_targets
    return emergency.probe_targets if is_wanted else ()


def _peers(bus: CapabilityBus | None) -> Peers:
    if bus is None:  # peers call the node, not this process
        return Peers()
    # Our own tools sign as the node, with this clock.
    others = [offset_s for peer, offset_s in peer_clocks.offsets().items() if peer != bus.node_id]
    return Peers(tuple(others), tuple(peer_clocks.recently_expired()))


def _ask(target: str) -> Anchor | None:
    """Returns the offset to an anchor's clock, or None if it does not send a usable date."""
    import httpx

    try:
        address = urlsplit(f"//{target}").netloc
        started_s, started = time.time(), time.monotonic()
        response = httpx.head(f"http://{address}/", timeout=_ANCHOR_TIMEOUT_S, trust_env=False)
        took_s = time.monotonic() - started
        date_s = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, UnicodeError):
        return None
    # The anchor read its clock some time in between, and that clock was between the date and a second later.
    offset_s = started_s + took_s / 2 - (date_s + _DATE_STEP_S / 2)
    return Anchor(target, offset_s, _DATE_STEP_S / 2 + took_s / 2)


def check_clock(anchors: list[Anchor], peers: Peers, *, asked: int) -> CheckResult:
    """Returns the finding: by the anchors if any responded, else by the peers.

    Args:
        anchors: those that responded.
        peers: empty outside a running node.
        asked: the number of anchors that were asked.
    """
    evidence = _evidence(anchors, peers, asked)
    if not anchors:
        return _check_by_peers(peers, asked, evidence)
    middle = _median(anchors)
    agreeing = [anchor for anchor in anchors if abs(anchor.offset_s - middle.offset_s) <= MAX_CLOCK_OFFSET_S]
    if len(agreeing) * 2 <= len(anchors):
        detail = f"{len(anchors)} anchors respond, but only {len(agreeing)} agree on the time"
        return warned(detail, "set [emergency] probe_targets to anchors with a correct clock", **evidence)
    detail = f"{middle.offset_s:+.1f} s (±{middle.precision_s:.1f} s) against {_format_anchors(agreeing)}"
    if len(agreeing) < len(anchors):
        detail += f"; far off itself: {', '.join(anchor.target for anchor in anchors if anchor not in agreeing)}"
    measured = {"offset_s": middle.offset_s, "precision_s": middle.precision_s, **evidence}
    if abs(middle.offset_s) - middle.precision_s > MAX_CLOCK_OFFSET_S:
        return found(False, f"this clock is {_format_drift(middle.offset_s)}: {detail}", _FIX, **measured)
    if peers.offsets_s and abs(peers.median_s) > NEAR_LIMIT_S:
        return warned(f"{detail}, but {_format_peers(peers)}: correct the clocks of the peers", _FIX, **measured)
    return found(True, detail, **measured)


def _median(anchors: list[Anchor]) -> Anchor:
    """Returns the anchor with the median offset, so that a single wrong one does not decide."""
    ordered = sorted(anchors, key=lambda anchor: anchor.offset_s)
    return ordered[(len(ordered) - 1) // 2]


def _check_by_peers(peers: Peers, asked: int, evidence: dict[str, Any]) -> CheckResult:
    if peers.offsets_s:
        evidence = {"offset_s": peers.median_s, **evidence}
        if abs(peers.median_s) > NEAR_LIMIT_S:
            return warned(f"{_format_peers(peers)}; calls are refused from 60 s on", _FIX, **evidence)
        return found(True, _format_peers(peers), **evidence)
    if peers.expired_s:
        middle_s = statistics.median_low(peers.expired_s)
        calls = counted(len(peers.expired_s), "call")
        detail = f"{calls} in the last hour refused as expired, none accepted: "
        return warned(f"{detail}this clock, or the callers', is {_format_drift(middle_s)}", _FIX, **evidence)
    if asked:
        return skipped("no anchor responds: the internet is down", **evidence)
    why = "no peer called, and anchors are asked only with [emergency] enabled or custom probe_targets"
    return skipped(why, **evidence)


def _evidence(anchors: list[Anchor], peers: Peers, asked: int) -> dict[str, Any]:
    return {
        "asked": asked,
        "anchors": [asdict(item) for item in anchors],
        "peers": len(peers.offsets_s),
        "peers_offset_s": peers.median_s if peers.offsets_s else None,
        "expired_calls": len(peers.expired_s),
    }


def _format_anchors(anchors: list[Anchor]) -> str:
    return anchors[0].target if len(anchors) == 1 else f"{len(anchors)} anchors"


def _format_peers(peers: Peers) -> str:
    return f"{peers.median_s:+.1f} s against {counted(len(peers.offsets_s), 'peer')}"


def _format_drift(offset_s: float) -> str:
    return f"{abs(offset_s):.0f} s {'ahead' if offset_s > 0 else 'behind'}"
