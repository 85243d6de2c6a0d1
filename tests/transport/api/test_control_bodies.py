"""Recording of bodies: access rules, limits, and that bodies are in the trace only while it is on."""

from __future__ import annotations

import json
from contextlib import nullcontext

import httpx
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor, RouteRequest
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import trace
from hearthnet.observability.telemetry import Telemetry
from hearthnet.services import echo
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app

PATH = "/control/record-bodies"
ECHO = "experimental.echo"
ON = '{"capability": "experimental.echo", "for_s": 60}'


@pytest.fixture
def keys():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def bus(keys):
    """A bus with the echo service, and a capability that calls it."""
    made = CapabilityBus(keys.node_id, Manifest.genesis("home", keys).level_of)
    made.register(echo.DESCRIPTOR, echo.echo)

    async def forward(request):
        return await made.call(ECHO, "1.0", request.body)

    made.register(CapabilityDescriptor(name="experimental.forward", version=(1, 0)), forward)
    return made


@pytest.fixture
def ask(bus, keys, observability):
    """Calls the route as a client of some address."""
    manifest = Manifest.genesis("home", keys)
    services = Services(bus, Telemetry(observability), lambda: manifest, lambda caller: None, dict, lambda only: [])
    app = build_app(services)

    async def ask_as(content: str | None = None, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(address, 40_000))
        sent = {"content-type": "application/json", **headers}
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request("GET" if content is None else "POST", PATH, content=content, headers=sent)

    return ask_as


async def call(bus, name=ECHO, **wanted):
    """Calls a capability; returns the newest trace."""
    request = RouteRequest(name, (1, 0), {"params": {}, "input": {"text": "dear diary", **wanted}}, bus.node_id)
    with pytest.raises(WireError) if "fail" in wanted else nullcontext():
        response = await bus.handle_call(request)
        if not isinstance(response, dict):
            assert [frame async for frame in response]
    return trace.get_recent(1)[0]


async def test_bodies_are_recorded_while_it_is_on(ask, bus):
    """While off, no body is in the trace; while on, request and result are."""
    before = await call(bus)
    response = await ask(ON)
    during = await call(bus)
    ended = await ask('{"capability": "experimental.echo"}')
    after = await call(bus)

    assert [item["capability"] for item in response.json()] == [ECHO]
    assert 59 < response.json()[0]["left_s"] <= 60
    assert ended.json() == []
    assert "diary" not in str(before.as_dict())
    assert "diary" not in str(after.as_dict())
    assert json.loads(during.extras["request_body"])["input"] == {"text": "dear diary"}
    assert json.loads(during.extras["answer_body"]) == {"text": "dear diary"}


async def test_only_the_capability_that_was_named(ask, bus):
    """For a nested call the outer trace has no bodies; they are in the span of the call."""
    await ask(ON)
    outer = await call(bus, "experimental.forward")

    assert set(outer.extras) == {"caller"}
    (inner,) = [part for part in outer.spans if part.name == "call"]
    assert json.loads(inner.extras["answer_body"]) == {"text": "dear diary"}


async def test_stream_and_failure_are_recorded(ask, bus):
    """A stream's frames are recorded as lines; a failed call has only its request."""
    await ask(ON)
    streamed = await call(bus, frames=2)
    failed = await call(bus, fail="timeout")

    assert [json.loads(line)["index"] for line in streamed.extras["answer_body"].splitlines()] == [0, 1]
    assert "dear diary" in failed.extras["request_body"]
    assert "answer_body" not in failed.extras


async def test_secret_in_a_body_is_not_recorded(ask, bus):
    """Bodies are redacted like everything else."""
    await ask(ON)
    found = await call(bus, text="my password=hunter2 and sk-abcdef1234567890abcdef")

    assert "hunter2" not in str(found.as_dict())
    assert "abcdef1234567890" not in str(found.as_dict())
    assert "my password=[redacted]" in found.extras["request_body"]


async def test_all_are_ended_at_once(ask, bus):
    """Ending without a capability ends all; GET lists the active ones."""
    await ask(ON)
    await ask('{"capability": "experimental.forward", "for_s": 5}')
    assert [item["capability"] for item in (await ask()).json()] == [ECHO, "experimental.forward"]

    assert (await ask("{}")).json() == []
    assert not bus.bodies.is_allowed(ECHO)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ('{"for_s": 60}', 400),
        ('{"capability": "experimental.echo", "for_s": 0}', 400),
        ('{"capability": "experimental.echo", "for_s": 3601}', 400),
        ('{"capability": "experimental.echo", "for_s": null, "x": 1}', 400),
        ('{"capability": "", "for_s": 60}', 400),
        ('{"capability": "experimental.nothing", "for_s": 60}', 404),
        ("[]", 400),
        ("nonsense", 400),
    ],
)
async def test_what_cannot_be_is_refused(ask, bus, content, status):
    """A missing or excessive time, a missing or unknown capability is an error, and starts nothing."""
    response = await ask(content)

    assert response.status_code == status
    assert response.json()["message"]
    assert bus.bodies.current() == {}


@pytest.mark.parametrize("content", [None, ON])
async def test_strangers_and_browsers_are_refused(ask, bus, content):
    """Other machines, web pages, and bodies that are not JSON change nothing and see nothing."""
    assert (await ask(content, address="192.168.1.20")).status_code == 401
    assert (await ask(content, origin="http://evil.example")).status_code == 403
    assert (await ask(ON, **{"content-type": "text/plain"})).status_code == 415
    assert bus.bodies.current() == {}
