"""Rate limits of calls: after authentication, before the bus; with a clock that does not move."""

from __future__ import annotations

import httpx
import orjson
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.ratelimit import NS, RateLimiter
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest, Member
from hearthnet.observability import trace
from hearthnet.services import echo
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.signing import sign

BODY = {"params": {}, "input": {"text": "hello"}}


@pytest.fixture
def own():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def member():
    """A member's key."""
    return KeyPair.generate()


@pytest.fixture
async def call(own, member):
    """Calls the node, signed by some key; the headers may claim something else."""
    genesis = Manifest.genesis("home", own)
    joined = Member(node_id=member.node_id, level="member", added_at=genesis.created_at, added_by=own.node_id)
    manifest = genesis.model_copy(update={"members": (*genesis.members, joined)}).signed(own)
    bus = CapabilityBus(own.node_id, manifest.level_of)
    bus.limiter = RateLimiter(own.node_id, clock=lambda: 7 * NS)
    bus.register(echo.DESCRIPTOR, echo.echo)
    services = Services(bus, None, lambda: manifest, lambda caller: None, dict, lambda only: [])
    transport = httpx.ASGITransport(build_app(services), client=("192.168.1.20", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:

        async def call_as(keys, capability="experimental.echo", **claimed):
            signed = sign(keys, own.node_id, capability, "1.0", BODY)
            headers = {"Content-Type": "application/json", **signed, **claimed}
            return await client.post("/bus/v1/call", content=orjson.dumps(BODY), headers=headers)

        yield call_as


async def test_member_is_limited(call, own, member):
    """Ten calls are served, ninety refused with a time to retry, then the connection is closed; others continue."""
    responses = [await call(member) for _ in range(103)]

    assert [response.status_code for response in responses] == [200] * 10 + [429] * 93
    assert {(a.json()["error"], a.json()["retry_after_ms"]) for a in responses[10:100]} == {("rate_limited", 100)}
    assert {response.headers.get("connection") for response in responses[:100]} == {None}
    assert {(a.json()["error"], a.headers["connection"]) for a in responses[100:]} == {("rate_limited", "close")}
    assert all(len(response.headers["x-hearthnet-request-id"]) == 26 for response in responses)
    assert len(trace.get_recent(200)) == 10  # refused calls evict no trace
    assert (await call(member, "experimental.other")).status_code == 404
    assert (await call(own)).status_code == 200


async def test_stranger_uses_up_nothing_of_a_member(call, member):
    """A flood in a member's name, signed by another key, does not use up the member's limit."""
    stranger = KeyPair.generate()
    claim = {"X-HearthNet-From": member.node_id}
    assert {(await call(stranger, **claim)).status_code for _ in range(150)} == {401}

    assert [(await call(member)).status_code for _ in range(11)] == [200] * 10 + [429]


async def test_flood_is_not_verified(call, member):
    """Over the hard limit a call is refused before its signature is verified, valid or not."""
    for _ in range(100):
        await call(member)

    assert (await call(member, **{"X-HearthNet-Signature": "ed25519:AAAA"})).json()["error"] == "rate_limited"
