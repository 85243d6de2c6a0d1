"""Access rules of the routes, through the whole application with clients of various addresses."""

from __future__ import annotations

import httpx
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.services import echo
from hearthnet.transport.api.models import TraceOut
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.auth.signing import is_signed_response, sign

HIDDEN = ["/trace", "/trace/recent", "/trace/01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "/status", "/doctor"]
OPEN = ["/metrics", "/health", "/ready", "/manifest"]


@pytest.fixture
def keys():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def recording(observability):
    """An open store, for those tests that read what is recorded."""
    with telemetry.open(observability) as opened:
        yield opened


@pytest.fixture
def ask(keys, request, observability):
    """Requests a path as a client of some address."""
    is_open = "recording" in request.fixturenames
    store = request.getfixturevalue("recording") if is_open else telemetry.Telemetry(observability)
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    bus.register(echo.DESCRIPTOR, echo.echo)

    replays = Replays(keys.node_id)

    async def ask_as(address: str, path: str, bus: CapabilityBus = bus, headers=None) -> httpx.Response:
        services = Services(
            bus, store, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys, replays=replays
        )
        transport = httpx.ASGITransport(build_app(services), client=(address, 40_000), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.get(path, headers=headers)

    return ask_as


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize(
    "address", ["192.168.1.20", "10.0.0.1", "::ffff:192.168.1.20", "2001:db8::1", "testclient", ""]
)
async def test_strangers_cannot_read_telemetry(ask, address, path):
    """From any address that is not loopback, telemetry and tools are refused."""
    response = await ask(address, path)

    assert response.status_code == 401
    assert response.json()["error"] == "unauthorized"


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_reads_telemetry(ask, address):
    """Loopback, in every spelling, is admitted."""
    assert (await ask(address, "/trace")).status_code == 200


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ([], "text/plain; version=0.0.4"),
        (["application/openmetrics-text"], "application/openmetrics-text; version=1.0.0"),
        (["text/plain;q=0.4", "application/openmetrics-text;q=0.5"], "application/openmetrics-text; version=1.0.0"),
        (["application/openmetrics-text;q=0.3, text/plain;q=0.4"], "text/plain; version=0.0.4"),
    ],
)
async def test_scraper_gets_the_format_that_it_prefers(ask, accept, kind):
    """By the whole `Accept` header, in one line or several; a cache is told that it matters."""
    response = await ask("192.168.1.20", "/metrics", headers=[("accept", line) for line in accept] or {"accept": ""})

    assert response.headers["content-type"].startswith(kind)
    assert response.headers["vary"] == "Accept"
    assert response.text.endswith("# EOF\n") == ("openmetrics" in kind)


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
@pytest.mark.parametrize("path", ["/trace", "/status", "/openapi.json"])
async def test_what_a_proxy_passes_on_is_not_from_this_machine(ask, header, path):
    """A request from loopback with headers of a proxy counts as remote."""
    response = await ask("127.0.0.1", path, headers={header: "127.0.0.1"})

    assert (response.status_code, response.json()["error"]) == (401, "unauthorized")


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("path", ["/trace", "/trace/recent?n=3&result=ok", "/openapi.json"])
async def test_member_reads_from_anywhere_once(ask, keys, path):
    """A signed GET gets a signed response; a replay, and the signature of another path, are refused."""
    headers = sign(keys, keys.node_id, f"GET {path}", "1.0", None)
    elsewhere = await ask("192.168.1.20", "/trace?n=7", headers=headers)
    response = await ask("192.168.1.20", path, headers=headers)
    again = await ask("127.0.0.1", path, headers=headers)

    assert (elsewhere.status_code, response.status_code, again.status_code) == (401, 200, 401)
    asked = headers["X-HearthNet-Signature"]
    assert is_signed_response(response.headers, 200, response.content, asked, keys.node_id)
    assert not is_signed_response(response.headers, 200, response.content + b" ", asked, keys.node_id)
    assert {elsewhere.json()["error"], again.json()["error"]} == {"invalid_signature"}
    assert "x-hearthnet-signature" not in {*elsewhere.headers, *again.headers}


@pytest.mark.parametrize(("query", "status"), [("n=x", 400), ("n=1", 500)])
async def test_errors_of_a_signed_get_are_signed(ask, keys, monkeypatch, query, status):
    """Errors are signed too where the request was verified: an invalid parameter, and an internal error."""
    monkeypatch.setattr(telemetry.Telemetry, "traces", lambda *_: 1 / 0)
    headers = sign(keys, keys.node_id, f"GET /trace?{query}", "1.0", None)
    response = await ask("192.168.1.20", f"/trace?{query}", headers=headers)

    assert response.status_code == status
    assert "zero" not in response.text
    assert is_signed_response(
        response.headers, status, response.content, headers["X-HearthNet-Signature"], keys.node_id
    )


async def test_tools_of_the_machine_are_not_for_members(ask, keys):
    """A signature does not open the routes for loopback only."""
    headers = sign(keys, keys.node_id, "GET /status", "1.0", None)

    assert (await ask("192.168.1.20", "/status", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/none", 404, "not_found"), ("/trace?n=x", 400, "bad_request"), ("/bus/v1/call", 405, "bad_request")],
)
async def test_errors_of_the_framework_have_the_wires_form(ask, path, status, code):
    """Unknown routes and invalid parameters are wire errors."""
    response = await ask("127.0.0.1", path)

    assert (response.status_code, response.json()["error"]) == (status, code)
    assert response.json()["message"]


@pytest.mark.parametrize("path", OPEN)
async def test_open_routes_serve_everybody(ask, path):
    """Metrics, health, readiness and manifest are open from everywhere."""
    assert (await ask("192.168.1.20", path)).status_code == 200


async def test_node_without_capabilities_is_not_ready(ask, keys):
    """`/ready` is 503 until there is a capability."""
    response = await ask("127.0.0.1", "/ready", CapabilityBus(keys.node_id))

    assert (response.status_code, response.json()) == (503, {"ready": False, "capabilities": 0})


async def test_error_inside_a_route_shows_no_internals(ask):
    """A failing route responds with a wire error without its cause."""
    response = await ask("127.0.0.1", "/status")  # this node's status is empty and breaks its model

    assert response.status_code == 500
    assert response.json() == {"error": "internal_error", "message": "the node's log has the cause"}
    assert "node_id" not in response.text


def test_traces_have_one_shape_from_record_to_response():
    """The columns of a row, the keys of a trace and the fields of the response have the same names and order.

    The response has the program of the run besides.
    """
    with trace.new_trace("a.b"):
        pass

    *fields, last = TraceOut.model_fields
    assert fields == list(TraceRecord._fields) == list(trace.get_recent(1)[0].as_dict())
    assert last == "program"


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("until=1970-01-01T00:00:00Z", []),
        ("since=1970-01-01T00:00:00Z&until=2999-01-01T00:00:00%2B05:30", ["two", "one"]),
        ("since=2999-01-01T00:00:00Z", []),
        ("trace=01HXR4Z6W5S9E2JQ4Y0T7B3M", ["two", "one"]),
        ("trace=01HXR4Z6W5S9E2JQ4Y0T7B3M2", ["two"]),
        ("trace=01HXR4Z6W5S9E2JQ4Y0T7B3M1C", ["one"]),
        ("trace=02", []),
        ("trace=01*", 400),
        ("trace=", 400),
        ("trace=01HXR4Z6W5S9E2JQ4Y0T7B3M1CX", 400),
        ("until=yesterday", 400),
    ],
)
async def test_recent_traces_by_time_and_id(ask, query, expected):
    """An id or its beginning, literally; times without a word for them."""
    for number, name in ((1, "one"), (2, "two")):
        with trace.new_trace(name, trace_id=f"01HXR4Z6W5S9E2JQ4Y0T7B3M{number}C"):
            pass
    response = await ask("127.0.0.1", f"/trace/recent?{query}")

    if isinstance(expected, int):
        assert response.status_code == expected
    else:
        assert [item["capability"] for item in response.json()] == expected
