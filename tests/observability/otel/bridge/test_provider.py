"""OpenTelemetry's API over our traces: who provides it, what its spans belong to, and whole libraries that use it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState
from support.open_telemetry import fresh_api, installed, newest, spans_by_name
from support.reading import rows
from support.waiting import until

from hearthnet.cli.main import _run
from hearthnet.observability import otel, telemetry, trace
from hearthnet.observability.otel.bridge import TracerProvider
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.span import orphans
from hearthnet.observability.traces.traceparent import headers_for, to_w3c

__all__ = ["fresh_api", "installed"]  # fixtures

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def remote(flags=1, state=""):
    """A context with a remote parent."""
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags:02x}", "tracestate": state}
    return extract(headers)


def test_earlier_tracers_wake(fresh_api):
    """Libraries take their tracers when they are imported; those record from the installation on."""
    early = fresh_api.get_tracer("early")
    early.start_span("lost").end()
    assert otel.install()
    assert otel.install()
    with early.start_as_current_span("kept"):
        pass

    assert [found.capability for found in trace.get_recent()] == ["kept"]


def test_another_provider_stays_and_is_named(fresh_api, logged):
    """The API takes one, once: who was there first is said, and nothing is changed."""
    theirs = fresh_api.NoOpTracerProvider()
    fresh_api.set_tracer_provider(theirs)
    there = context_api._RUNTIME_CONTEXT

    assert not otel.install()
    assert fresh_api.get_tracer_provider() is theirs
    assert context_api._RUNTIME_CONTEXT is there
    (warning,) = [record for record in logged if record.name.endswith("otel.bridge.provider")]
    assert warning.provider == "opentelemetry.trace.NoOpTracerProvider"


def test_environment_variable_names_it(fresh_api, monkeypatch):
    """The entry point is what `opentelemetry-instrument` and the API itself load."""
    if not entry_points(group="opentelemetry_tracer_provider", name="hearthnet"):
        pytest.skip("installed before it had the entry point")
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "hearthnet")

    assert isinstance(fresh_api.get_tracer_provider(), TracerProvider)
    assert otel.install()
    with trace.new_trace("a.b"), trace.span("ours"):
        assert api.get_current_span().name == "ours"


def test_importing_the_package_costs_nothing():
    """The API is imported by the installation alone; without it the error says what to install."""
    script = """
import sys
sys.modules["opentelemetry"] = None
from hearthnet.observability import otel
try:
    otel.install()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "pip install 'hearthnet[otel]'" in done.stdout, done.stderr


def test_what_callers_expect_of_a_provider(installed):
    """Methods of the SDK's provider that libraries call without asking."""
    provider = api.get_tracer_provider()
    provider.add_span_processor(object())
    assert provider.force_flush()
    provider.shutdown()
    tracer = provider.get_tracer("name", "1.0", "https://schema", {"a": 1})
    with tracer.start_as_current_span("after shutdown"):
        pass
    assert newest()["capability"] == "after shutdown"


def test_span_within_a_trace_is_part_of_it(installed):
    """No matter how it is opened; as a decorator too, of functions and coroutines."""

    @installed.start_as_current_span("function")
    def function():
        return trace.current_trace()

    @installed.start_as_current_span("coroutine")
    async def coroutine():
        await asyncio.sleep(0)
        return trace.current_trace()

    with trace.new_trace("a.b") as started:
        with installed.start_span("with"), installed.start_as_current_span("current", kind=SpanKind.PRODUCER):
            pass
        assert function() is started
        assert asyncio.run(coroutine()) is started

    assert list(spans_by_name(newest())) == ["with", "current", "function", "coroutine"]
    assert spans_by_name(newest())["current"]["parent"] is None  # `with` does not make a span current
    assert [found.capability for found in trace.get_recent()] == ["a.b"]


def test_root_without_a_parent_begins_a_trace(installed):
    """Its id is minted, so its low bits are random, and it says so."""
    with installed.start_as_current_span("job") as job:
        context = job.get_span_context()

    row = newest()
    assert (row["capability"], row["parent_id"], row["result"]) == ("job", None, "ok")
    assert f"{context.trace_id:032x}" == to_w3c(row["trace_id"])
    assert context.trace_flags == 3


@pytest.mark.parametrize(("flags", "passed_on"), [(0, 1), (1, 1), (2, 3), (3, 3)])
def test_remote_parent_is_joined(installed, flags, passed_on):
    """Its trace id, span and `tracestate`; recorded also where the caller did not sample; random as it said."""
    headers: dict[str, str] = {}
    with installed.start_as_current_span("served", context=remote(flags, "a=1,b=2"), kind=SpanKind.SERVER) as served:
        assert served.is_recording()
        inject(headers)

    row = newest()
    assert (to_w3c(row["trace_id"]), row["parent_id"]) == (TRACE, SPAN)
    own = f"{served.get_span_context().span_id:016x}"
    assert headers == {"traceparent": f"00-{TRACE}-{own}-{passed_on:02x}", "tracestate": "a=1,b=2"}
    assert "a=1" not in json.dumps(row)


def test_remote_parent_within_a_trace_is_another_visit(installed):
    """A server in the same process: a trace of its own, with the caller's id, beside the caller's."""
    with trace.new_trace("a.b") as started, trace.span("call"):
        headers: dict[str, str] = {}
        inject(headers)
        with installed.start_as_current_span("served", context=extract(headers)) as served:
            assert trace.current_trace() is served.trace
        assert trace.current_trace() is started

    caller, served = (found.as_dict() for found in trace.get_recent(2))
    assert (caller["trace_id"], served["parent_id"]) == (served["trace_id"], spans_by_name(caller)["call"]["id"])


def test_work_after_its_trace_is_another_visit(installed):
    """A task that outlives its request: nothing is lost, and it is found under the request's id."""
    with installed.start_as_current_span("request", remote(3, "a=1")) as request:
        context = context_api.get_current()
    token = context_api.attach(context)
    headers: dict[str, str] = {}
    request.trace.tracestate = "a=1,a=2"
    orphans_before = list(orphans)
    with installed.start_as_current_span("late"), trace.span("ours"):
        inject(headers)
        assert headers_for()["tracestate"] == "a=1,a=2"
    context_api.detach(token)

    row = newest()
    assert (headers["traceparent"][-3:], headers["tracestate"]) == ("-03", "a=1")
    assert (row["capability"], row["trace_id"]) == ("late", newest(2)["trace_id"])
    assert row["parent_id"] == f"{request.get_span_context().span_id:016x}"
    assert (list(spans_by_name(row)), list(orphans)) == (["ours"], orphans_before)


@pytest.mark.parametrize(
    "key", ["suppress_instrumentation", context_api._SUPPRESS_INSTRUMENTATION_KEY], ids=["plain", "unique"]
)
def test_suppressed_spans_are_not_recorded(installed, key):
    """Either key. What is below has the context of the parent, and so has what goes out."""
    with trace.new_trace("a.b"), installed.start_as_current_span("outer") as outer:
        token = context_api.attach(context_api.set_value(key, True))
        with installed.start_as_current_span("dropped") as dropped:
            assert not dropped.is_recording()
            assert dropped.get_span_context() == outer.get_span_context()
            headers: dict[str, str] = {}
            inject(headers)
            allowed = context_api.attach(context_api.set_value(key, None))
            installed.start_span("allowed").end()
            context_api.detach(allowed)
        context_api.detach(token)
        assert f"{outer.get_span_context().span_id:016x}" in headers["traceparent"]

    spans = spans_by_name(newest())
    assert (list(spans), spans["allowed"]["parent"]) == (["outer", "allowed"], spans["outer"]["id"])


def test_suppressed_under_a_root(installed):
    """What is recorded below is directly under the trace, as the root has no span of its own there."""
    with trace.new_trace("a.b"):
        token = context_api.attach(context_api.set_value("suppress_instrumentation", True))
        dropped = installed.start_span("dropped")
        context_api.detach(token)
        installed.start_span("allowed", api.set_span_in_context(dropped)).end()

    assert spans_by_name(newest())["allowed"]["parent"] is None


def test_suppressed_root_is_none(installed):
    """Nothing is begun, and nothing is sent."""
    token = context_api.attach(context_api.set_value("suppress_instrumentation", True))
    headers: dict[str, str] = {}
    with installed.start_as_current_span("dropped"):
        inject(headers)
    context_api.detach(token)

    assert (headers, trace.get_recent()) == ({}, [])


def test_tracestate_that_the_api_takes_not(installed, logged):
    """Two members of one key, or one that it cannot parse: nothing is logged, and what it can hold is passed on."""
    state = TraceState([("a", "1")])
    parent = SpanContext(int(TRACE, 16), int(SPAN, 16), True, TraceFlags(1), state)
    with installed.start_as_current_span("served", api.set_span_in_context(NonRecordingSpan(parent))) as served:
        for text in ("foo=1,foo=2", "0=1,bar=2", "a@b@c=1,bar=2"):
            served.trace.tracestate = text
            api.get_current_span()
            with trace.span("ours"):
                assert dict(api.get_current_span().get_span_context().trace_state) in ({"foo": "1"}, {"bar": "2"})

    assert [record.getMessage() for record in logged if record.name.startswith("opentelemetry")] == []


async def test_instrumented_libraries_show_their_spans(installed, capsys):
    """The public instrumentations of a client and a server, over a real socket: in SQL and in `trace show`."""
    client_instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    server_instrumentation = pytest.importorskip("opentelemetry.instrumentation.fastapi")
    httpx, fastapi, uvicorn = (pytest.importorskip(name) for name in ("httpx", "fastapi", "uvicorn"))

    app = fastapi.FastAPI()

    @app.get("/things/{number}")
    async def thing(number: int):
        with trace.span("look it up", number=number):
            return {"number": number}

    server_instrumentation.FastAPIInstrumentor.instrument_app(app)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    with telemetry.open():
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            client_instrumentation.HTTPXClientInstrumentor.instrument_client(client)
            with trace.new_trace("shop.order") as started:
                response = await client.get(f"http://127.0.0.1:{port}/things/7?token=s3cret-t0ken")
        server.should_exit = True
        await serving
    assert response.json() == {"number": 7}

    database = runtime.store_dir / "telemetry.db"
    fields = "capability, name, status, extras ->> '$.\"http.method\"', extras ->> '$.\"otel.kind\"'"
    found = rows(database, f"SELECT {fields} FROM spans WHERE trace_id = ?", started.trace_id)
    ((parent, text),) = rows(database, "SELECT parent_id, extras FROM traces WHERE capability LIKE 'GET %'")
    assert ("shop.order", "GET", "ok", "GET", "client") in found
    assert ("GET /things/{number}", "look it up") in [row[:2] for row in found]
    assert json.loads(text)["http.status_code"] == 200
    assert parent == next(span.id for span in started.spans if span.name == "GET")
    assert "s3cret" not in text

    assert _run(["trace", "show", started.trace_id]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("shop.order", "GET /things/{number}", "look it up"))
