"""The clock check: local servers with wrong dates, disagreeing anchors, and peers' timestamps."""

from __future__ import annotations

import socket
import threading
import time
from datetime import datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks import clock
from hearthnet.checks.clock import Anchor, Peers, check_clock
from hearthnet.config import EmergencyConfig
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import doctor
from hearthnet.transport.auth import replay
from hearthnet.transport.auth.replay import peer_clocks
from hearthnet.transport.auth.signing import TIMESTAMP, sign, verify_request

BODY = {"params": {}, "input": {}}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Long timeouts for slow machines, and no known peers."""
    monkeypatch.setattr(clock, "_ANCHOR_TIMEOUT_S", 30.0)
    monkeypatch.setattr(clock, "_ALL_ANCHORS_S", 60.0)
    peer_clocks.forget()
    yield
    peer_clocks.forget()


def with_anchors(config, *targets, enabled=False):
    """Returns settings with these anchors."""
    emergency = config.emergency.model_copy(update={"probe_targets": targets, "enabled": enabled})
    return config.model_copy(update={"emergency": emergency})


@pytest.mark.parametrize(("offset_s", "ok"), [(0, True), (45, True), (120, False), (-120, False)])
def test_clock_is_compared_with_an_anchor(node, http_date_server, offset_s, ok):
    """A clock two minutes off an anchor's date fails either way; 45 s pass."""
    config, bus = node
    result = doctor.run_one("clock_sanity", with_anchors(config, http_date_server(offset_s)), bus, deadline_s=60)

    assert result.ok is ok
    # Whole seconds, cut off, and half the way: the truth lies within what the check says of its own precision.
    assert abs(result.evidence["offset_s"] + offset_s) <= result.evidence["precision_s"] + 0.1
    assert 0.5 <= result.evidence["precision_s"] < 20
    assert (result.fix is None) is ok
    if not ok:
        assert f"{'behind' if offset_s > 0 else 'ahead'}: " in result.detail


def test_anchors_are_asked_at_the_same_time(config):
    """Servers that respond only after all were asked do respond."""
    together = threading.Barrier(4)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            together.wait(30)
            self.send_response_only(301)
            self.send_header("Date", formatdate(time.time(), usegmt=True))
            self.end_headers()

        def log_message(self, *args):
            """A server that sends nothing."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(4)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    targets = [f"127.0.0.1:{server.server_port}" for server in servers]
    result = doctor.run_one("clock_sanity", with_anchors(config, *targets), deadline_s=60)
    for server in servers:
        server.shutdown()
        server.server_close()

    assert (result.status, len(result.evidence["anchors"])) == ("pass", 4)


def test_anchors_that_do_not_answer_are_skipped(config, monkeypatch, taken_port, free_port):
    """Refused, closed, silent and invalid anchors are skipped in time, not failed."""
    monkeypatch.setattr(clock, "_ANCHOR_TIMEOUT_S", 0.1)
    monkeypatch.setattr(clock, "_ALL_ANCHORS_S", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        targets = (f"127.0.0.1:{free_port}", f"127.0.0.1:{taken_port}", mute, "[::1", "127.0.0.1:x", "")
        result = doctor.run_one("clock_sanity", with_anchors(config, *targets))

    assert (result.status, result.ok, result.evidence["asked"]) == ("skip", True, 6)
    assert "no anchor responds" in result.detail


@pytest.mark.parametrize(
    ("offsets_s", "status", "words"),
    [
        ((0.2, 0.3, 86_400.0), "pass", "far off itself: c"),
        ((86_400.0, 0.2, -0.3, 0.1), "pass", "far off itself: a"),
        ((-120.0, -121.0, 0.0), "fail", "this clock is 120 s behind"),
        ((0.0, 300.0), "warn", "2 anchors respond, but only 1 agree"),
        ((-9_000.0, 0.0, 9_000.0), "warn", "but only 1 agree"),
        ((60.4,), "pass", "+60.4 s (±0.6 s) against a"),  # it may as well be 59.8
        ((60.7,), "fail", "this clock is 61 s ahead"),
    ],
)
def test_most_of_the_anchors_decide(offsets_s, status, words):
    """A wrong anchor is outvoted and named; without a majority nothing is claimed."""
    anchors = [Anchor(name, offset_s, 0.6) for name, offset_s in zip("abcd", offsets_s, strict=False)]
    result = check_clock(anchors, Peers(), asked=len(anchors))

    assert result.status == status
    assert words in result.detail
    assert len(result.evidence["anchors"]) == len(anchors)


def test_nothing_is_asked_of_the_internet_unasked(config, monkeypatch):
    """By default no anchor is asked; with emergency mode or custom targets they are."""
    asked = []
    monkeypatch.setattr(clock, "_ask", asked.append)
    default = EmergencyConfig().probe_targets

    result = doctor.run_one("clock_sanity", with_anchors(config, *default))
    assert (asked, result.status, result.evidence["asked"]) == ([], "skip", 0)
    assert "[emergency]" in result.detail

    doctor.run_one("clock_sanity", with_anchors(config, *default, enabled=True))
    doctor.run_one("clock_sanity", with_anchors(config, "router.lan"))
    assert sorted(asked) == sorted((*default, "router.lan"))


@pytest.fixture
def call():
    """Simulates a member's signed request with this clock offset; returns the member."""
    keys = KeyPair.generate()
    manifest = Manifest.genesis("home", keys)

    def arrive(ahead_s: float, body=BODY) -> str:
        headers = sign(keys, manifest.community_id, "a.b", "1.0", BODY)
        sent_s = datetime.fromisoformat(headers[TIMESTAMP]).timestamp()
        verify_request(headers, body, manifest, now_s=sent_s + ahead_s)
        return keys.node_id

    return arrive


@pytest.mark.parametrize(("ahead_s", "status"), [(0, "pass"), (45, "warn"), (-45, "warn")])
def test_peers_decide_without_the_internet(node, call, ahead_s, status):
    """Peers' timestamps are compared; an offset near their limit is a warning."""
    config, bus = node
    call(ahead_s)
    result = doctor.run_one("clock_sanity", config, bus)

    assert (result.status, result.ok) == (status, True)
    assert result.evidence["offset_s"] == ahead_s
    assert "against 1 peer" in result.detail
    assert (result.fix is None) == (status == "pass")


def test_own_tools_and_forged_calls_do_not_count(node, call):
    """Calls with the node's own key or a wrong signature do not count."""
    config, bus = node
    with pytest.raises(WireError, match="does not match"):
        call(45, body={"params": {}, "input": {"forged": True}})
    own = CapabilityBus(call(0))

    assert doctor.run_one("clock_sanity", config, bus).evidence["peers"] == 1
    assert doctor.run_one("clock_sanity", config, own).status == "skip"
    assert doctor.run_one("clock_sanity", config, None).status == "skip"


def test_calls_refused_as_expired_are_a_hint(node, call):
    """If all calls are two minutes off, this clock may be wrong; one accepted call shows that it is not."""
    config, bus = node
    for _ in range(200):
        with pytest.raises(WireError, match="too old"):
            call(120)
    result = doctor.run_one("clock_sanity", config, bus)
    assert (result.status, result.evidence["expired_calls"]) == ("warn", 64)
    assert "120 s ahead" in result.detail

    call(0)
    assert doctor.run_one("clock_sanity", config, bus).status == "pass"


def test_peers_that_differ_from_the_anchors_warn(config):
    """If only the peers' clocks are wrong, the warning says so."""
    result = check_clock([Anchor("a", 0.1, 0.6)], Peers((-40.0, -41.0, 3.0)), asked=1)

    assert result.status == "warn"
    assert "-40.0 s against 3 peers: correct the clocks of the peers" in result.detail


def test_peers_are_few_and_recent(monkeypatch):
    """A flood of peers keeps only the last ones, and entries expire after an hour."""
    now = [1_000.0]
    monkeypatch.setattr(replay, "monotonic", lambda: now[0])
    for number in range(1_000):
        peer_clocks.record(f"peer {number}", number)
    peer_clocks.record("peer 800", -1.0)
    assert len(peer_clocks.offsets()) == 256
    assert (peer_clocks.offsets()["peer 800"], peer_clocks.offsets()["peer 999"]) == (-1.0, 999)
    assert "peer 1" not in peer_clocks.offsets()

    now[0] += 3_601.0
    assert peer_clocks.offsets() == {}
    assert peer_clocks.recently_expired() == []
