"""Who may read what, through the application itself with a client that claims its address."""

from __future__ import annotations

import httpx
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.record import TraceRecord
from hearthnet.services import echo
from hearthnet.transport.api.models import TraceOut
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.auth.response_signing import is_signed_answer
from hearthnet.transport.auth.signing import sign

HIDDEN = ["/trace", "/trace/recent", "/trace/01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "/status", "/doctor"]
OPEN = ["/metrics", "/health", "/ready", "/manifest"]


@pytest.fixture
def keys():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def ask(keys, observability):
    """Asks a path as a client of some address."""
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    bus.register(echo.DESCRIPTOR, echo.echo)

    replays = Replays(keys.node_id)

    async def ask_as(address: str, path: str, bus: CapabilityBus = bus, headers=None) -> httpx.Response:
        services = Services(
            bus, recording, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys, replays=replays
        )
        transport = httpx.ASGITransport(build_app(services), client=(address, 40_000), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.get(path, headers=headers)

    with telemetry.open(observability) as recording:
        yield ask_as


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize(
    "address", ["192.168.1.20", "10.0.0.1", "::ffff:192.168.1.20", "2001:db8::1", "testclient", ""]
)
async def test_strangers_cannot_read_telemetry(ask, address, path):
    """From any address that is not loopback, telemetry and tools are refused."""
    answer = await ask(address, path)

    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_reads_telemetry(ask, address):
    """Loopback, in every spelling, may."""
    assert (await ask(address, "/trace")).status_code == 200


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
@pytest.mark.parametrize("path", ["/trace", "/status", "/openapi.json"])
async def test_what_a_proxy_passes_on_is_not_from_this_machine(ask, header, path):
    """A request from loopback that names whom it is passed on for is a stranger's."""
    answer = await ask("127.0.0.1", path, headers={header: "127.0.0.1"})

    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/trace", "/trace/recent?n=3&result=ok", "/openapi.json"])
async def test_member_reads_from_anywhere_once(ask, keys, path):
    """A signed GET is answered, signed; the same again, or the same for another path, is not."""
    headers = sign(keys, keys.node_id, f"GET {path}", "1.0", None)
    elsewhere = await ask("192.168.1.20", "/trace?n=7", headers=headers)
    answer = await ask("192.168.1.20", path, headers=headers)
    again = await ask("127.0.0.1", path, headers=headers)

    assert (elsewhere.status_code, answer.status_code, again.status_code) == (401, 200, 401)
    asked = headers["X-HearthNet-Signature"]
    assert is_signed_answer(answer.headers, 200, answer.content, asked, keys.node_id)
    assert not is_signed_answer(answer.headers, 200, answer.content + b" ", asked, keys.node_id)
    assert {elsewhere.json()["error"], again.json()["error"]} == {"invalid_signature"}
    assert "x-hearthnet-signature" not in {*elsewhere.headers, *again.headers}


@pytest.mark.parametrize(("query", "status"), [("n=x", 400), ("n=1", 500)])
async def test_errors_of_a_signed_get_are_signed(ask, keys, monkeypatch, query, status):
    """A parameter that does not fit, and a failure of our own: whoever proved who it is can prove who answered."""
    monkeypatch.setattr(telemetry.Telemetry, "traces", lambda *_: 1 / 0)
    headers = sign(keys, keys.node_id, f"GET /trace?{query}", "1.0", None)
    answer = await ask("192.168.1.20", f"/trace?{query}", headers=headers)

    assert answer.status_code == status
    assert "zero" not in answer.text
    assert is_signed_answer(answer.headers, status, answer.content, headers["X-HearthNet-Signature"], keys.node_id)


async def test_tools_of_the_machine_are_not_for_members(ask, keys):
    """What is for loopback alone is not opened by a signature."""
    headers = sign(keys, keys.node_id, "GET /status", "1.0", None)

    assert (await ask("192.168.1.20", "/status", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/none", 404, "not_found"), ("/trace?n=x", 400, "bad_request"), ("/bus/v1/call", 405, "bad_request")],
)
async def test_errors_of_the_framework_have_the_wires_form(ask, path, status, code):
    """What no route answers, or a parameter that does not fit, is told like every other error."""
    answer = await ask("127.0.0.1", path)

    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json()["message"]


@pytest.mark.parametrize("path", OPEN)
async def test_open_routes_answer_everybody(ask, path):
    """Metrics, health, readiness and manifest need no loopback."""
    assert (await ask("192.168.1.20", path)).status_code == 200


async def test_node_without_capabilities_is_not_ready(ask, keys):
    """`/ready` is 503 until there is something to call."""
    answer = await ask("127.0.0.1", "/ready", CapabilityBus(keys.node_id))

    assert (answer.status_code, answer.json()) == (503, {"ready": False, "capabilities": 0})


async def test_error_inside_a_route_shows_no_internals(ask):
    """A route that fails answers with the wire's error and nothing of its cause."""
    answer = await ask("127.0.0.1", "/status")  # this node's status is empty and breaks its model

    assert answer.status_code == 500
    assert answer.json() == {"error": "internal_error", "message": "the node's log has the cause"}
    assert "node_id" not in answer.text


def test_traces_have_one_shape_from_record_to_answer():
    """The columns of a row, the keys of a trace and the fields of the answer are the same words in the same order."""
    with trace.new_trace("a.b"):
        pass

    assert list(TraceOut.model_fields) == list(TraceRecord._fields) == list(trace.get_recent(1)[0].as_dict())
