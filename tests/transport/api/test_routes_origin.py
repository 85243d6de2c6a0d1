"""Which trace a call joins: through the whole application, with signed headers of every kind."""

from __future__ import annotations

import re
from types import SimpleNamespace

import httpx
import orjson
import pytest
from starlette.datastructures import Headers
from ulid import ULID

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.client.client import call_headers
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics, telemetry, trace
from hearthnet.observability.traces import traceparent
from hearthnet.services import echo
from hearthnet.transport.api.routes import Services, origin_of
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.signing import REQUEST_ID, sign

OWN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
OWN_AS_W3C = traceparent.to_w3c(OWN)
OTHER_AS_W3C = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = str(ULID.from_hex(OTHER_AS_W3C))
SPAN = "00f067aa0ba902b7"
BODY = {"params": {}, "input": {"text": "hi"}}
HOSTILE = ["<script>alert(1)</script>", "00-x", f"00-{OWN_AS_W3C}-{SPAN}-01-x", "sk-secret-value", "é" * 26, "0" * 32]


@pytest.fixture(autouse=True)
def counting():
    """Fresh metrics."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))


@pytest.fixture
def keys():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def recording(observability):
    """An open store with a log, for those tests that read it."""
    with telemetry.open(observability) as opened:
        yield opened


@pytest.fixture
def call(keys):
    """Calls the echo service, signed, with further headers."""
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    bus.register(echo.DESCRIPTOR, echo.echo)

    async def relay(request):
        return {"headers": traceparent.headers_for()}

    bus.register(CapabilityDescriptor("experimental.relay", (1, 0)), relay)

    async def call_with(*more, request_id=OWN, capability="experimental.echo", signed=None, **headers):
        services = Services(bus, None, lambda: manifest, lambda caller: None, dict, lambda only: [])
        signed = signed or sign(keys, keys.node_id, capability, "1.0", BODY, request_id)
        sent = [("Content-Type", "application/json"), *{**signed, **headers}.items(), *more]
        transport = httpx.ASGITransport(build_app(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in sent]
            return await client.post("/bus/v1/call", content=orjson.dumps(BODY), headers=encoded)

    return call_with


def rejected(header):
    """Returns how many headers of that name were counted as invalid."""
    name = f'hearthnet_trace_headers_rejected_total{{header="{header}"}} '
    lines = metrics.exposition()[0].decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def newest():
    """Returns the newest trace."""
    return trace.get_recent(1)[0]


async def test_parent_in_the_same_trace(call):
    """A `traceparent` of the signed trace gives the trace its parent."""
    before = rejected("traceparent")
    response = await call(traceparent=f"00-{OWN_AS_W3C}-{SPAN}-01")

    assert (response.status_code, response.headers[REQUEST_ID]) == (200, OWN)
    assert (newest().trace_id, newest().parent_id) == (OWN, SPAN)
    assert "link" not in newest().extras
    assert rejected("traceparent") == before


async def test_parent_in_another_trace(call):
    """The signed id stays the trace's id; another valid `traceparent` becomes a link."""
    response = await call(traceparent=f"00-{OTHER_AS_W3C}-{SPAN}-01", tracestate="vendor=x")

    assert response.headers[REQUEST_ID] == OWN
    assert (newest().trace_id, newest().parent_id) == (OWN, None)
    assert newest().extras["link"] == {"trace_id": OTHER, "span_id": SPAN}
    assert "vendor" not in orjson.dumps(newest().as_dict()).decode()


async def test_request_id_may_be_spelled_as_a_w3c_id(call):
    """An OpenTelemetry client signs its own trace id, and so joins its own trace."""
    response = await call(request_id=OTHER_AS_W3C, traceparent=f"00-{OTHER_AS_W3C}-{SPAN}-00")

    assert response.headers[REQUEST_ID] == OTHER
    assert (newest().trace_id, newest().parent_id) == (OTHER, SPAN)


async def test_request_id_that_is_none_yields_to_traceparent(call):
    """A signed request id of another kind names no trace; then the caller's `traceparent` does."""
    before = rejected(REQUEST_ID)
    response = await call(request_id="call-42", traceparent=f"00-{OTHER_AS_W3C}-{SPAN}-01")

    assert response.headers[REQUEST_ID] == OTHER
    assert (newest().trace_id, newest().parent_id) == (OTHER, SPAN)
    assert rejected(REQUEST_ID) == before + 1


async def test_request_without_a_request_id_is_refused(call, keys):
    """The request id is signed: without one there is no call, and no trace."""
    signed = sign(keys, keys.node_id, "experimental.echo", "1.0", BODY, OWN)
    del signed[REQUEST_ID]
    response = await call(signed=signed, traceparent=f"00-{OTHER_AS_W3C}-{SPAN}-01")

    assert (response.status_code, response.json()["error"]) == (401, "invalid_signature")
    assert response.headers[REQUEST_ID] == OTHER
    assert trace.get_recent() == []


async def test_traceparent_need_not_be_signed(call, keys):
    """Libraries that ignore signatures add the header after ours is made; it changes nothing else."""
    for span_id in (SPAN, "00f067aa0ba902b8"):
        signed = sign(keys, keys.node_id, "experimental.echo", "1.0", BODY, OWN)
        response = await call(signed=signed, traceparent=f"00-{OWN_AS_W3C}-{span_id}-01")
        assert response.status_code == 200
        assert newest().parent_id == span_id


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("value", HOSTILE)
async def test_invalid_header_is_ignored_and_counted(call, observability, value):
    """The call gets a trace of its own, the header is counted, and its value is recorded nowhere."""
    before = rejected("traceparent")
    response = await call(traceparent=value)

    assert (response.status_code, response.headers[REQUEST_ID]) == (200, OWN)
    assert (newest().trace_id, newest().parent_id) == (OWN, None)
    assert rejected("traceparent") == before + 1
    written = b"".join(path.read_bytes() for path in observability.log_dir.glob("*.log"))
    assert b'"done"' in written
    assert value.encode() not in written + orjson.dumps(newest().as_dict()) + response.content


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("value", HOSTILE)
async def test_invalid_request_id_is_replaced_and_counted(call, observability, value):
    """A new id replaces it, in the record and in the response; the header is counted."""
    before = rejected(REQUEST_ID)
    response = await call(request_id=value)

    assert re.fullmatch("[0-9A-Z]{26}", response.headers[REQUEST_ID])
    assert rejected(REQUEST_ID) == before + 1
    written = b"".join(path.read_bytes() for path in observability.log_dir.glob("*.log"))
    assert value.encode() not in written + response.content + str(response.headers).encode()


async def test_two_headers_are_none(call):
    """Exactly one `traceparent` counts; of two, even equal ones, neither does."""
    before = rejected("traceparent")
    valid = f"00-{OWN_AS_W3C}-{SPAN}-01"
    await call(("traceparent", valid), traceparent=valid)

    assert newest().parent_id is None
    assert rejected("traceparent") == before + 1


@pytest.mark.parametrize("name", ["TraceParent", "TRACEPARENT", "TrAcEpArEnT"])
async def test_name_has_no_case(call, name):
    """The header's name is case-insensitive."""
    await call((name, f"00-{OWN_AS_W3C}-{SPAN}-01"))

    assert newest().parent_id == SPAN


@pytest.mark.parametrize("name", ["trace-parent", "trace.parent", "X-Traceparent"])
async def test_other_names_are_other_headers(call, name):
    """Headers of other names are ignored, and not counted as invalid."""
    before = rejected("traceparent")
    await call((name, f"00-{OWN_AS_W3C}-{SPAN}-01"))

    assert newest().parent_id is None
    assert rejected("traceparent") == before


async def test_without_traceparent_nothing_is_counted(call):
    """A call without a parent succeeds."""
    before = rejected("traceparent"), rejected(REQUEST_ID)
    await call()

    assert (newest().trace_id, newest().parent_id) == (OWN, None)
    assert (rejected("traceparent"), rejected(REQUEST_ID)) == before


async def test_handler_hands_the_trace_on(call):
    """A handler's own calls with `headers_for` join the trace, under the span that the handler runs in."""
    response = await call(capability="experimental.relay", traceparent=f"00-{OWN_AS_W3C}-{SPAN}-01")

    sent = traceparent.parse(response.json()["headers"]["traceparent"])
    (handling,) = [item for item in newest().spans if item.name == "handle"]
    assert (sent.trace_id, sent.span_id) == (OWN, handling.id)


@pytest.mark.parametrize(
    ("request_id", "parent", "flags", "state"),
    [
        (OWN, f"00-{OWN_AS_W3C}-{SPAN}-03", "03", "a=1,b=2"),
        (OWN, f"00-{OWN_AS_W3C}-{SPAN}-00", "01", "a=1,b=2"),
        ("call-42", f"00-{OTHER_AS_W3C}-{SPAN}-ff", "03", "a=1,b=2"),
        (OWN, f"00-{OTHER_AS_W3C}-{SPAN}-03", "01", None),  # another trace, which this one only has a link to
        (OWN, f"00-{OWN_AS_W3C}-{SPAN}-03-x", "01", None),
        (OWN, "", "01", None),
        (OWN, None, "01", None),
        ("call-42", "", "03", None),  # an id that is minted here
    ],
)
async def test_tracestate_and_flags_go_with_the_trace(call, request_id, parent, flags, state):
    """They belong to the trace of `traceparent`: if that is not the call's, neither is passed on."""
    more = [("tracestate", "a=1"), ("tracestate", " b=2")]
    named = {} if parent is None else {"traceparent": parent}
    response = await call(*more, capability="experimental.relay", request_id=request_id, **named)

    sent = response.json()["headers"]
    assert (sent["traceparent"][-2:], sent.get("tracestate")) == (flags, state)


@pytest.mark.parametrize(
    ("name", "state"),
    [("TraceState", "a=1"), ("TRACESTATE", "a=1"), ("trace-state", None), ("trace.state", None)],
)
async def test_name_of_tracestate(call, name, state):
    """It has no case, and no other names."""
    response = await call((name, "a=1"), capability="experimental.relay", traceparent=f"00-{OWN_AS_W3C}-{SPAN}-01")

    assert response.json()["headers"].get("tracestate") == state


async def test_open_telemetry_client_joins(call, keys):
    """A context injected by OpenTelemetry's propagator is used: same trace, its span as the parent."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    propagation = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
    headers: dict[str, str] = {}
    with sdk.TracerProvider().get_tracer("test").start_as_current_span("client") as theirs:
        context = theirs.get_span_context()
        propagation.TraceContextTextMapPropagator().inject(headers)
        await call(request_id=f"{context.trace_id:032x}", **headers)

    assert traceparent.to_w3c(newest().trace_id) == f"{context.trace_id:032x}"
    assert newest().parent_id == f"{context.span_id:016x}"


async def test_own_client_names_its_trace(call, keys):
    """The command line sends the signed headers, and a parent in the same trace that nothing recorded."""
    sent = call_headers(keys, keys.node_id, "experimental.echo", "1.0", BODY, OWN)
    said = traceparent.parse(sent["traceparent"])
    response = await call(signed=sent)

    assert (said.trace_id, said.is_sampled, said.is_random) == (OWN, False, False)
    assert (response.status_code, newest().trace_id, newest().parent_id) == (200, OWN, said.span_id)


@pytest.mark.parametrize("request_id", ["call-42", "0" * 26, "0" * 32])
def test_own_client_sends_no_invalid_parent(keys, request_id):
    """A request id that is not a W3C trace id gets no `traceparent`."""
    assert "traceparent" not in call_headers(keys, keys.node_id, "a.b", "1.0", BODY, request_id)


def test_each_fresh_id_is_its_own():
    """Without any header every request starts a trace of its own."""
    first, second = origin_of(Headers({})), origin_of(Headers({}))

    assert first.trace_id != second.trace_id
    assert (first.parent_id, first.link) == (None, None)
