"""The check of the clock: against the HTTP date of anchors, and against the times that peers sign their requests with.

Anchors are asked where the operator wants something asked of the internet: where `emergency.enabled` has the node probe
them anyway, or where `probe_targets` names others than the default ones, a router say. Otherwise nothing is sent, and
the peers alone tell.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hearthnet.checks.probes.side_by_side import ask_all
from hearthnet.checks.results import found, skipped, warned
from hearthnet.config import Config, EmergencyConfig
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport.auth import peer_clocks

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["Anchor", "clock_sanity", "judge_clock"]

MAX_CLOCK_OFFSET_S: Final = 60.0
NEAR_LIMIT_S: Final = 30.0  # peers refuse what is 60 s off, and clocks that differ by half of it do not stand still
_ANCHOR_TIMEOUT_S: Final = 1.0
_ALL_ANCHORS_S: Final = 1.2  # of all of them, side by side: a name server may swallow a question as well
_DATE_STEP_S: Final = 1.0  # an HTTP date has whole seconds and leaves off the rest
_FIX: Final = "sudo timedatectl set-ntp true"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What an anchor's answer tells of this clock.

    Attributes:
        target: who was asked.
        offset_s: this clock minus the anchor's, in seconds.
        precision_s: how far `offset_s` may be from the truth.
    """

    target: str
    offset_s: float
    precision_s: float


@dataclass(frozen=True, slots=True)
class Peers:
    """What peers' requests tell of this clock: the latest offset of each, and those refused as expired; seconds."""

    offsets_s: tuple[float, ...] = ()
    expired_s: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        """The offset in the middle."""
        return statistics.median_low(self.offsets_s)


def clock_sanity(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The clock is within 60 s of anchors' HTTP dates, and near that of the peers."""
    targets = _targets(config.emergency)
    if targets:
        import httpx  # noqa: F401  # now: on a small machine importing it takes as long as an anchor may
    answers = ask_all(_ask, targets, _ALL_ANCHORS_S)
    return judge_clock([answer for answer in answers if answer is not None], _peers(bus), asked=len(targets))


def _targets(emergency: EmergencyConfig) -> tuple[str, ...]:
    is_wanted = emergency.enabled or emergency.probe_targets != EmergencyConfig().probe_targets
    return emergency.probe_targets if is_wanted else ()


def _peers(bus: CapabilityBus | None) -> Peers:
    if bus is None:  # they call the node, not this program
        return Peers()
    # Our own tools sign as the node does, by this very clock.
    others = [offset_s for peer, offset_s in peer_clocks.offsets().items() if peer != bus.node_id]
    return Peers(tuple(others), tuple(peer_clocks.recently_expired()))


def _ask(target: str) -> Anchor | None:
    """Returns what an anchor says, or None when it says nothing of use."""
    import httpx

    try:
        place = urlsplit(f"//{target}").netloc
        started_s, started = time.time(), time.monotonic()
        answer = httpx.head(f"http://{place}/", timeout=_ANCHOR_TIMEOUT_S, trust_env=False)
        took_s = time.monotonic() - started
        date_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, UnicodeError):
        return None
    # The anchor read its clock at some time on the way, and that clock stood between the date and a second later.
    offset_s = started_s + took_s / 2 - (date_s + _DATE_STEP_S / 2)
    return Anchor(target, offset_s, _DATE_STEP_S / 2 + took_s / 2)


def judge_clock(anchors: list[Anchor], peers: Peers, *, asked: int) -> CheckResult:
    """Returns the finding; anchors decide where most of them agree, else the peers do.

    Args:
        anchors: those that answered.
        peers: empty outside a running node.
        asked: how many anchors were.
    """
    evidence = _evidence(anchors, peers, asked)
    if not anchors:
        return _judge_by_peers(peers, asked, evidence)
    middle = _middle(anchors)
    agreeing = [anchor for anchor in anchors if abs(anchor.offset_s - middle.offset_s) <= MAX_CLOCK_OFFSET_S]
    if len(agreeing) * 2 <= len(anchors):
        detail = f"{len(anchors)} anchors answer, and no more than {len(agreeing)} agree on a time"
        return warned(detail, "name anchors that keep time in [emergency] probe_targets", **evidence)
    detail = f"{middle.offset_s:+.1f} s (±{middle.precision_s:.1f} s) against {_named(agreeing)}"
    if len(agreeing) < len(anchors):
        detail += f"; {', '.join(anchor.target for anchor in anchors if anchor not in agreeing)} is far off itself"
    measured = {"offset_s": middle.offset_s, "precision_s": middle.precision_s, **evidence}
    if abs(middle.offset_s) - middle.precision_s > MAX_CLOCK_OFFSET_S:
        return found(False, f"this clock is {_off(middle.offset_s)}: {detail}", _FIX, **measured)
    if peers.offsets_s and abs(peers.median_s) > NEAR_LIMIT_S:
        return warned(f"{detail}, but {_against(peers)}: set the clocks of the peers", _FIX, **measured)
    return found(True, detail, **measured)


def _middle(anchors: list[Anchor]) -> Anchor:
    """Returns the anchor with the median offset: one that lies does not decide."""
    row = sorted(anchors, key=lambda anchor: anchor.offset_s)
    return row[(len(row) - 1) // 2]


def _judge_by_peers(peers: Peers, asked: int, evidence: dict[str, Any]) -> CheckResult:
    if peers.offsets_s:
        evidence = {"offset_s": peers.median_s, **evidence}
        if abs(peers.median_s) > NEAR_LIMIT_S:
            return warned(f"{_against(peers)}; from 60 s on calls are refused", _FIX, **evidence)
        return found(True, _against(peers), **evidence)
    if peers.expired_s:
        middle_s = statistics.median_low(peers.expired_s)
        detail = f"{len(peers.expired_s)} call(s) within the hour were refused as expired, and none came in time: "
        return warned(f"{detail}this clock, or the callers', is {_off(middle_s)}", _FIX, **evidence)
    if asked:
        return skipped("no anchor answers: the internet is down", **evidence)
    why = "no peer called, and anchors are asked only with [emergency] enabled, or probe_targets of your own"
    return skipped(why, **evidence)


def _evidence(anchors: list[Anchor], peers: Peers, asked: int) -> dict[str, Any]:
    return {
        "asked": asked,
        "anchors": [asdict(item) for item in anchors],
        "peers": len(peers.offsets_s),
        "peers_offset_s": peers.median_s if peers.offsets_s else None,
        "expired_calls": len(peers.expired_s),
    }


def _named(anchors: list[Anchor]) -> str:
    return anchors[0].target if len(anchors) == 1 else f"{len(anchors)} anchors"


def _against(peers: Peers) -> str:
    return f"{peers.median_s:+.1f} s against {len(peers.offsets_s)} peer(s)"


def _off(offset_s: float) -> str:
    return f"{abs(offset_s):.0f} s {'ahead' if offset_s > 0 else 'behind'}"
