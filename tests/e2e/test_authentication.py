"""Only requests signed by a member are executed, once each: tested with hundreds, over real connections."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from support.wire import post_all

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.config import TransportConfig, load, resolve_paths
from hearthnet.identity.community import community_dir, utc_now
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import (
    Manifest,
    Member,
    Revocation,
    read_manifest,
    write_manifest,
)
from hearthnet.observability import metrics, trace
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.auth.signing import sign
from hearthnet.transport.server import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"
COUNTED = CapabilityDescriptor("experimental.counted", (1, 0), max_concurrent=64)
HEADERS = [
    f"X-HearthNet-{name}"
    for name in ("Capability", "Capability-Version", "Request-Id", "From", "Community", "Timestamp", "Signature")
]
ECHO = {"params": {}, "input": {"text": "hello"}}


@pytest.fixture
def keys():
    """The node's key: its own calls have no rate limit that could hide a result."""
    return KeyPair.generate()


@pytest.fixture
def revoked():
    """The key of a revoked member."""
    return KeyPair.generate()


@pytest.fixture
async def server(keys, revoked):
    """A server, the calls its handler has executed, and a function that sends requests and returns the responses."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    gone = Revocation(node_id=revoked.node_id, revoked_at=utc_now())
    manifest = Manifest.genesis("home", keys).model_copy(update={"revoked": (gone,)})
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    executed = []

    async def count(request):
        executed.append(request.body["input"]["n"])
        return {"n": len(executed)}

    bus.register(COUNTED, count)
    services = Services(
        bus, None, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys, replays=Replays(keys.node_id)
    )
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        load = Load()
        server = Server(build_app(services, load=load), TransportConfig(host="127.0.0.1"), load, keys.node_id)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield executed, partial(post_all, listening.getsockname()[1])
        server.stop()
        await serving


def signed(keys, community, count):
    """Returns this many different calls."""
    made = []
    for number in range(count):
        body = {"params": {}, "input": {"n": number}}
        made.append((sign(keys, community, COUNTED.name, "1.0", body), orjson.dumps(body)))
    return made


def counts(responses) -> Counter:
    """Returns how often each status and code was returned."""
    return Counter((response.status_code, response.json().get("error")) for response in responses)


def failures() -> dict[str, float]:
    """Returns the counter of refused signatures by reason."""
    lines = metrics.exposition()[0].decode().splitlines()
    start = 'hearthnet_signature_failures_total{reason="'
    found = {line[len(start) :].partition('"')[0]: float(line.split()[-1]) for line in lines if line.startswith(start)}
    return {reason: count for reason, count in found.items() if count}


def altered(headers, name, chance):
    """Returns the headers with one character of one of them replaced by another of its kind."""
    value = headers[name]
    place = chance.randrange(len(value))
    others = "0123456789" if value[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    changed = chance.choice([other for other in others if other != value[place]])
    return {**headers, name: value[:place] + changed + value[place + 1 :]}


async def test_replayed_requests_are_not_executed(server, keys):
    """Hundreds of recorded requests are sent again, with other unsigned headers too: all are refused."""
    executed, send_all = server
    requests = signed(keys, keys.node_id, 300)
    assert counts(await send_all(requests)) == {(200, None): 300}
    again = [({**headers, "Accept": "text/event-stream"}, body) for headers, body in requests]

    assert counts(await send_all(again)) == {(401, "invalid_signature"): 300}
    assert sorted(executed) == list(range(300))
    assert failures() == {"replayed": 300}


async def test_no_header_can_be_altered(server, keys):
    """Of 301 requests with one changed character in a signed header none is executed; the true ones still are."""
    executed, send_all = server
    chance = random.Random(7)
    requests = signed(keys, keys.node_id, 301)
    forged = [
        (altered(headers, HEADERS[number % len(HEADERS)], chance), body)
        for number, (headers, body) in enumerate(requests)
    ]
    responses = await send_all(forged)

    assert {response.status_code for response in responses} <= {401, 410}
    assert executed == []
    assert sum(failures().values()) == 301
    assert "x-hearthnet-signature" not in {name for response in responses for name in response.headers}
    assert counts(await send_all(requests[:50])) == {(200, None): 50}  # forgeries have used up nothing of the true ones


async def test_calls_of_strangers_and_revoked_members_are_not_executed(server, keys, revoked):
    """Hundreds of calls of a non-member and a hundred of a revoked one are refused by id, and leave no trace."""
    executed, send_all = server
    by_stranger = await send_all(signed(KeyPair.generate(), keys.node_id, 300))
    by_removed = await send_all(signed(revoked, keys.node_id, 100))

    assert counts(by_stranger) == {(401, "unauthorized"): 300}
    assert counts(by_removed) == {(403, "revoked"): 100}
    assert executed == []
    assert failures() == {"not_member": 300, "revoked": 100}
    assert trace.get_recent(10) == []


def test_real_node_refuses_what_comes_again(node):
    """Replays are refused by a running node, which signs its responses."""
    body = {"params": {}, "input": {"text": "hello"}}
    headers = node.headers(body)

    assert "x-hearthnet-signature" in node.call(body, headers=headers).headers
    again = node.call(body, headers=headers)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_signature")
    done = node.cli("call", "experimental.echo", "--body", '{"input": {"text": "hello"}}')
    assert (done.returncode, orjson.loads(done.stdout)) == (0, {"text": "hello"})


def test_revocation_waits_for_no_restart(stopped_node):
    """A member revoked in the manifest's file while the node runs is refused a second later, with `revoked`."""
    member = KeyPair.generate()
    community = stopped_node.keys.node_id
    directory = community_dir(resolve_paths(load()).community.state_dir, community)
    genesis = read_manifest(directory)
    joined = Member(node_id=member.node_id, level="member", added_at=utc_now(), added_by=community)
    known = genesis.model_copy(update={"members": (*genesis.members, joined)}).signed(stopped_node.keys)
    write_manifest(known, directory)
    stopped_node.start()
    body = {"params": {}, "input": {"text": "hello"}}
    assert stopped_node.call(body, headers=stopped_node.headers(body, keys=member)).status_code == 200

    gone = Revocation(node_id=member.node_id, revoked_at=utc_now())
    update = {"revoked": (gone,), "head_lamport": known.head_lamport + 1}
    write_manifest(known.model_copy(update=update).signed(stopped_node.keys), directory)
    codes = []

    def is_refused():
        codes.append(stopped_node.call(body, headers=stopped_node.headers(body, keys=member)).json().get("error"))
        return codes[-1] not in (None, "rate_limited", "unauthorized")

    stopped_node.wait_a_while_for(is_refused, codes)
    assert codes[-1] == "revoked"
    # At most one call was under way when the manifest was read again: its claim was true then, and the bus refused it.
    assert codes.count("unauthorized") <= 1
    assert stopped_node.echo().status_code == 200


def stamp(offset_s: float, timespec: str = "milliseconds") -> str:
    """Returns a wire timestamp this many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=offset_s)).isoformat(timespec=timespec).replace("+00:00", "Z")


def call_at(node, signed_at: str) -> tuple[dict[str, str], int]:
    """Makes a call with the node's key, signed at that time; returns the headers and the status."""
    headers = sign(node.keys, node.keys.node_id, "experimental.echo", "1.0", ECHO, None, signed_at)
    return headers, node.call(ECHO, headers=headers).status_code


def test_kill_and_restart_execute_nothing_twice(node):
    """Everything accepted before a kill, in any order of timestamps, is known after it, and after one more."""
    accepted = [call_at(node, stamp(offset_s)) for offset_s in (0, 40, -50, 59, -5, 40)]
    assert {status for _, status in accepted} == {200}
    for _ in range(2):
        node.stop(signal.SIGKILL)
        node.start()
        again = [node.call(ECHO, headers=headers) for headers, _ in accepted if is_fresh(headers)]
        assert len(again) >= 4
        assert counts(again) == {(401, "invalid_signature"): len(again)}


def is_fresh(headers) -> bool:
    """Returns True if a request is still fresh, with some seconds to spare."""
    return headers["X-HearthNet-Timestamp"] > stamp(-57)


def test_clock_that_is_off_is_served_from_the_first_moment(node):
    """Callers 58 s behind and ahead, and ones with whole seconds, are served right after a start and a restart."""
    for _ in range(2):
        served = [call_at(node, stamp(offset_s))[1] for offset_s in (-58, 58, -5, 5)]
        served += [call_at(node, stamp(0, "seconds"))[1] for _ in range(3)]
        assert served == [200] * 7
        node.stop(signal.SIGKILL)
        node.start()


def test_programs_in_the_documentation_run(node):
    """Both programs in `docs/client.md` work unchanged against a running node."""
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    printed = [
        subprocess.run(
            [sys.executable, "-c", program, node.url], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for program in programs
    ]

    assert printed == ["{'text': 'hello'}\n0 hello\n1 hello\n1 trace\n", "200 1\n"]
