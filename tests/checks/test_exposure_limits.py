"""The checks of the connection limit and of refused members."""

from __future__ import annotations

import sys

import pytest
from support import forkserver

from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import Config
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import doctor
from hearthnet.transport.auth import failed_signatures
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.auth.signing import SIGNATURE, sign, verify_request

BODY = {"params": {}, "input": {}}


@pytest.fixture(autouse=True)
def forgotten():
    """No member is refused before or after the test."""
    failed_signatures.forget()
    yield
    failed_signatures.forget()


# In a process of its own: what a process gave up of its limits it does not get back.
LIMITED = """
import resource, sys
from hearthnet.checks.exposure import connection_limit
from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import Config
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
found = connection_limit(Config(), CapabilityBus("node"))
print(found.status, found.ok, found.detail, found.fix, found.evidence["possible"], sep="|")
"""


FEW = "only 255 of 256 connections possible: the node may open 335 files"
RAISE = "raise its open file limit to 336 (ulimit -n, LimitNOFILE=), or lower max_connections"


@pytest.mark.parametrize(
    ("files", "expected"),
    [(335, f"warn|True|{FEW}|{RAISE}|255"), (336, "pass|True|up to 256 connections|None|256")],
)
def test_connections_need_descriptors(files, expected):
    """One file too few for the configured connections is a warning with a fix; exactly enough passes."""
    made = [sys.executable, "-c", LIMITED, str(files)]
    done = forkserver.run(made)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_limit_of_another_process_is_not_checked():
    """Without a node its limit is unknown; this process's own does not matter."""
    assert doctor.run_one("connection_limit", Config(), None, deadline_s=60).status == "skip"
    assert doctor.run_one("members_refused", Config(), None, deadline_s=60).status == "skip"


def refused(headers, manifest, replays=None, body=BODY):
    """Returns True if the request is refused."""
    try:
        verify_request(headers, body, manifest, replays=replays)
    except WireError:
        return True
    return False


def test_members_that_are_refused_are_named(node):
    """Refused members are listed with reasons and a fix; non-members and accepted requests are not."""
    config, _ = node
    keys = KeyPair.generate()
    manifest, replays, bus = Manifest.genesis("home", keys), Replays(), CapabilityBus(keys.node_id)
    signed = sign(keys, keys.node_id, "experimental.echo", "1.0", BODY)
    stranger = sign(KeyPair.generate(), keys.node_id, "experimental.echo", "1.0", BODY)
    assert not refused(signed, manifest, replays)
    assert refused(stranger, manifest)
    assert refused({**signed, SIGNATURE: "ed25519:none"}, manifest)  # whose it is was not looked at yet

    well = doctor.run_one("members_refused", config, bus, deadline_s=60)
    assert (well.status, well.evidence) == ("pass", {"reasons": {}, "members": []})

    for _ in range(2):
        assert refused(signed, manifest, replays)
    assert refused(sign(keys, keys.node_id, "experimental.echo", "1.0", BODY), manifest, replays, body={"other": 1})

    found = doctor.run_one("members_refused", config, bus, deadline_s=60)
    name = short_id(keys.node_id)
    assert found.status == "warn"
    assert found.detail == f"3 requests in the name of {name} refused in the last hour: replayed (2), wrong (1)"
    assert "sign each attempt again" in found.fix


def test_a_flood_in_the_name_of_members_is_bounded(monkeypatch):
    """A few hundred refusals are kept, for an hour."""
    now = [1_000.0]
    monkeypatch.setattr(failed_signatures, "monotonic", lambda: now[0])
    for number in range(10_000):
        failed_signatures.record("wrong", f"member {number}")
    assert len(failed_signatures.of_members()) == 256
    now[0] += failed_signatures.RECENT_S + 1
    assert failed_signatures.of_members() == []
