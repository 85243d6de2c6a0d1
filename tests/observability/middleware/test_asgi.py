"""ASGI: a request is a trace, and nothing else changes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from support.reading import sample
from support.web import ask, made, only, scope_of

from hearthnet.cli.main import _run
from hearthnet.observability import get_logger, metrics, trace
from hearthnet.observability.logging import install_sinks
from hearthnet.observability.middleware import ASGIMiddleware
from hearthnet.observability.middleware.request import active_requests
from hearthnet.observability.traces.traceparent import from_w3c, headers_for

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLERS_ID = from_w3c(CALLER.split("-")[1])


def respond(status=200, *parts, headers=()):
    """An application with this response."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_request_is_a_trace():
    """Of one request there is one trace, with method and status; the application's spans are in it."""

    async def app(scope, receive, send):
        with trace.span("work", rows=3):
            await respond(201)(scope, receive, send)

    sent = await ask(ASGIMiddleware(app), "/secret-path", "POST")

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    found = only()
    assert (found.capability, found.result, [one.name for one in found.spans]) == ("POST", "ok", ["work"])
    assert found.extras == {"http.request.method": "POST", "http.response.status_code": 201}
    assert trace.current_trace() is None


@pytest.mark.parametrize(
    ("status", "result", "error"),
    [
        (200, "ok", None),
        (304, "ok", None),
        (404, "ok", None),
        (429, "ok", None),
        (500, "internal_error", "HTTP 500"),
        (501, "not_implemented", "HTTP 501"),
        (503, "internal_error", "HTTP 503"),
        (504, "timeout", "HTTP 504"),
    ],
)
async def test_result_by_status(status, result, error):
    """A caller's error is none of the program's."""
    await ask(ASGIMiddleware(respond(status)))

    assert (only().result, only().error) == (result, error)


async def test_result_that_the_application_set():
    """Stays, whatever the status."""

    async def app(scope, receive, send):
        trace.current_trace().fail("rate_limited")
        await respond(500)(scope, receive, send)

    await ask(ASGIMiddleware(app))

    assert only().result == "rate_limited"


async def test_exception_is_recorded_and_raised_unchanged(logged):
    """The very same object leaves, its traceback through the application; its record is of the trace."""
    error = KeyError("shelf")

    async def app(scope, receive, send):
        raise error

    with pytest.raises(KeyError) as raised:
        await ask(ASGIMiddleware(app))

    assert raised.value is error
    assert error.__cause__ is error.__context__ is None
    assert "app" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert (only().result, only().error) == ("internal_error", "KeyError: 'shelf'")
    (record,) = [record for record in logged if record.getMessage() == "request failed"]
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
async def test_request_that_is_cut_short(error, logged):
    """Is cancelled, and no error is logged."""

    async def app(scope, receive, send):
        raise error

    with pytest.raises(type(error)):
        await ask(ASGIMiddleware(app))

    assert only().result == "cancelled"
    assert [record for record in logged if record.levelname == "ERROR"] == []


async def test_client_that_leaves_before_the_response():
    """The request is cancelled, also where the framework raises an exception for that."""

    class ClientDisconnect(Exception):  # noqa: N818  # its name
        """As Starlette's."""

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        await ask(ASGIMiddleware(app), incoming=[{"type": "http.disconnect"}])

    assert (only().result, only().error) == ("cancelled", None)


async def test_client_that_leaves_in_a_stream():
    """A server tells it by an OSError of `send`."""

    def break_off(message):
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await ask(ASGIMiddleware(respond(200, b"part")), sends=break_off)

    assert only().result == "cancelled"


async def test_client_that_leaves_after_the_response():
    """What was complete is complete."""

    async def app(scope, receive, send):
        await respond()(scope, receive, send)
        await receive()

    await ask(ASGIMiddleware(app), incoming=[{"type": "http.disconnect"}])

    assert only().result == "ok"


async def test_bug_while_the_client_leaves():
    """Is a failure all the same."""

    async def app(scope, receive, send):
        await receive()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ask(ASGIMiddleware(app), incoming=[{"type": "http.disconnect"}])

    assert only().result == "internal_error"


@pytest.mark.parametrize("messages", [[], [{"type": "http.response.start", "status": 200}]])
async def test_response_that_is_never_completed(messages):
    """Is a failure: the server responds with an error, or breaks the connection."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    await ask(ASGIMiddleware(app))

    assert (only().result, only().error) == ("internal_error", "the response was never completed")


async def test_streaming_response_ends_with_its_last_part():
    """Spans between the parts are in the trace; so is a background task, which takes none of its time."""

    async def app(scope, receive, send):
        with trace.span("stream"):
            await respond(200, b"a", b"b")(scope, receive, send)
        with trace.span("mail"):
            await asyncio.sleep(0)
        reached.append(trace.current_trace())

    reached = []
    await ask(ASGIMiddleware(app))

    found = only()
    assert reached[0].trace_id == found.trace_id
    stream, mail = found.spans
    assert (stream.name, mail.name) == ("stream", "mail")
    assert found.duration_ms <= mail.offset_ms


async def test_background_task_that_fails():
    """The response was complete; the failure is the trace's."""

    async def app(scope, receive, send):
        await respond()(scope, receive, send)
        raise ValueError("mail")

    with pytest.raises(ValueError, match="mail"):
        await ask(ASGIMiddleware(app))

    assert (only().result, only().extras["http.response.status_code"]) == ("internal_error", 200)


async def test_trailers_end_a_response():
    """A body before them does not."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        with trace.span("digest"):
            pass
        await send({"type": "http.response.trailers", "headers": []})

    await ask(ASGIMiddleware(app))

    assert only().spans[0].offset_ms <= only().duration_ms


async def test_websockets_and_the_lifespan_are_passed_through():
    """With the server's own functions; they are no requests."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    for kind in ("websocket", "lifespan"):
        given = ({"type": kind}, object(), object())
        await ASGIMiddleware(app)(*given)
        assert all(mine is theirs for mine, theirs in zip(seen.pop(), given, strict=True))
    assert made() == []


async def test_request_that_has_a_trace_gets_no_second_one():
    """From a middleware further out."""
    await ask(ASGIMiddleware(ASGIMiddleware(respond())))

    assert only().capability == "GET"


async def test_request_within_a_trace_is_a_trace_of_its_own():
    """A client in the same process has its trace back afterwards."""
    with trace.new_trace("client") as around:
        await ask(ASGIMiddleware(respond()))
        assert trace.current_trace() is around

    assert [one.capability for one in made()] == ["GET", "client"]


async def test_callers_trace_goes_on():
    """With its id, span and state; calls from within continue it."""

    async def app(scope, receive, send):
        out.update(headers_for())
        await respond()(scope, receive, send)

    out = {}
    await ask(ASGIMiddleware(app), headers=[("traceparent", CALLER), ("tracestate", "a=1"), ("tracestate", "b=2")])

    assert (only().trace_id, only().parent_id) == (CALLERS_ID, "b7ad6b7169203331")
    assert out["traceparent"].split("-")[1] == CALLER.split("-")[1]
    assert out["tracestate"] == "a=1,b=2"


async def test_caller_may_be_linked_alone():
    """A server that anybody may call chooses its own ids."""
    await ask(ASGIMiddleware(respond(), joins_callers=False), headers=[("traceparent", CALLER)])

    assert only().parent_id is None
    assert only().trace_id != CALLERS_ID
    assert only().extras["link"] == {"trace_id": CALLERS_ID, "span_id": "b7ad6b7169203331"}


@pytest.mark.parametrize(
    "values", [["00-" + "0" * 32 + "-b7ad6b7169203331-01"], ["x" * 100_000], ["\xff\x00"], [CALLER, CALLER], [""]]
)
async def test_hostile_traceparent(values):
    """Is ignored and counted, and nothing of it is recorded."""
    counted = metrics.trace_headers_rejected_total.labels("traceparent")
    before = counted.samples()[0].value

    await ask(ASGIMiddleware(respond()), headers=[("traceparent", value) for value in values])

    assert only().parent_id is None
    assert counted.samples()[0].value == before + 1


async def test_nothing_private_is_recorded():
    """No path, query, header, body, address."""
    secret = "Tr0ub4dor-and-3"
    sent = await ask(
        ASGIMiddleware(respond(200, secret.encode())),
        f"/reset/{secret}",
        headers=[("authorization", secret), ("cookie", secret)],
        incoming=[{"type": "http.request", "body": secret.encode()}],
        query_string=secret.encode(),
        client=(secret, 1),
        raw_path=secret.encode(),
    )

    assert sent[1]["body"] == secret.encode()
    assert secret not in json.dumps(only().as_dict())


@pytest.mark.parametrize("path", ["/" + "a" * 1_000_000, "/\udcff\x00\n", "//" * 10_000, ""])
async def test_odd_paths(path):
    """Are no names."""
    middleware = ASGIMiddleware(respond())
    await ask(middleware, path)
    await ask(middleware, path)

    assert [one.capability for one in made()] == ["GET", "GET"]


async def test_unknown_method_is_no_label():
    """It may be anything."""
    await ask(ASGIMiddleware(respond()), method="BREW" * 1_000)

    assert (only().capability, only().extras["http.request.method"]) == ("HTTP", "_OTHER")


async def test_trace_in_the_response():
    """In a header of one's choice: the id for `hearthnet trace`, or as W3C defines it; the application's stay."""
    headers = [(b"x-own", b"1")]
    sent = await ask(ASGIMiddleware(respond(headers=headers), response_header="X-Trace-Id"))
    assert sent[0]["headers"] == [(b"x-own", b"1"), (b"x-trace-id", only().trace_id.encode())]

    sent = await ask(ASGIMiddleware(respond(), response_header="traceresponse"), headers=[("traceparent", CALLER)])
    ((name, value),) = sent[0]["headers"]
    assert name == b"traceresponse"
    assert value.startswith(b"00-0af7651916cd43dd8448eb211c80319c-")


async def test_requests_are_counted_and_timed():
    """By the names of OpenTelemetry's conventions: method, route, status; an exception is a 500, and none is active."""

    async def app(scope, receive, send):
        assert active_requests.labels("GET").samples()[0].value == 1
        raise ZeroDivisionError

    metrics.configure(type("On", (), {"metrics_enabled": True}))
    await ask(ASGIMiddleware(respond(404), route=lambda scope: "/things/{id}"))
    with pytest.raises(ZeroDivisionError):
        await ask(ASGIMiddleware(app))

    name = "http_server_request_duration_seconds_count"
    common = {"http_request_method": "GET"}
    assert sample(name, http_route="/things/{id}", http_response_status_code="404", **common) == 1
    assert sample(name, http_route="", http_response_status_code="500", **common) == 1
    assert sample("http_server_active_requests", **common) == 0


@pytest.mark.parametrize("find", [lambda scope: 1 / 0, lambda scope: object(), lambda scope: "/\udcff" * 10_000])
async def test_function_for_the_route_that_fails(find):
    """Costs the name alone."""
    sent = await ask(ASGIMiddleware(respond(), route=find))

    assert len(sent) == 2
    assert only().result == "ok"
    assert only().capability.startswith("GET")
    assert len(only().capability) <= 64


async def test_extras_that_are_none():
    """The application may have set anything."""

    async def app(scope, receive, send):
        trace.current_trace().extras = None
        await respond()(scope, receive, send)

    await ask(ASGIMiddleware(app))

    assert only().capability == "GET"


async def test_records_of_the_application_are_of_the_trace(observability):
    """Also of other libraries, in tasks that it starts, and the one with the traceback of what it raised."""

    async def app(scope, receive, send):
        get_logger("shop").warning("ours")
        await asyncio.create_task(later())
        raise ZeroDivisionError

    async def later():
        logging.getLogger("theirs").warning("theirs")

    install_sinks(observability)
    with pytest.raises(ZeroDivisionError):
        await ask(ASGIMiddleware(app))

    (file,) = observability.log_dir.glob("*.log")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["msg"] for line in lines] == ["ours", "theirs", "request failed", "done"]
    assert {line["trace_id"] for line in lines} == {only().trace_id}
    assert "ZeroDivisionError" in lines[2]["exc"]


async def test_many_at_once_do_not_mix():
    """Each request has its own trace in its own task."""

    async def app(scope, receive, send):
        with trace.span(scope["path"]):
            await asyncio.sleep(0)
            await respond()(scope, receive, send)

    middleware = ASGIMiddleware(app, route=lambda scope: scope["path"])
    await asyncio.gather(*(ask(middleware, f"/{number}") for number in range(50)))

    assert sorted(one.capability for one in made()) == sorted(f"GET {one.spans[0].name}" for one in made())


async def test_scope_is_the_servers_own():
    """Middleware further out finds there what the framework has written."""

    async def app(scope, receive, send):
        scope["endpoint"] = app
        await respond()(scope, receive, send)

    scope = scope_of()

    async def nothing(*_):
        return {"type": "http.request"}

    await ASGIMiddleware(app)(scope, nothing, nothing)

    assert scope["endpoint"] is app
    assert scope["hearthnet.trace"].trace_id == only().trace_id


KILLED = """
import asyncio, os, signal
from support.web import ask
from hearthnet import span, telemetry
from hearthnet.observability.middleware import ASGIMiddleware

async def app(scope, receive, send):
    with span("charge"):
        if scope["path"] == "/orders/2":
            os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})

async def serve():
    wrapped = ASGIMiddleware(app, route=lambda scope: "/orders/{number}")
    await ask(wrapped, "/orders/1")
    await ask(wrapped, "/orders/2")

with telemetry.open("runs"):
    asyncio.run(serve())
"""


def test_request_in_flight_survives_a_kill(tmp_path, monkeypatch, capsys):
    """With its route and its innermost span; the requests before it are whole."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr

    assert _run(["autopsy", "--data", "runs"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"GET /orders/\{number\}\s+at least [\d.]+ ms old, in charge for", told)
    assert re.search(r"trace +ok +GET /orders/\{number\}", told)


@pytest.mark.parametrize("status", ["200", None, 200.5, object()])
async def test_status_that_is_no_number(status):
    """Is the server's business: the trace ends, and nothing of it stays current."""
    sent = await ask(ASGIMiddleware(respond(status)))

    assert sent[0]["status"] is status
    assert only().result == "ok"
    assert trace.current_trace() is None
    assert active_requests.labels("GET").samples()[0].value == 0


@pytest.mark.parametrize("result", [None, "cancelled"])
async def test_servers_logger_does_not_repeat_the_traceback(observability, result):
    """It tells of the same exception: the trace is noted instead. One that was not logged before is told in full."""

    async def app(scope, receive, send):
        if result is not None:
            trace.current_trace().fail(result)
        raise KeyError("leaf")

    install_sinks(observability)
    try:
        await ask(ASGIMiddleware(app), "/")
    except KeyError:
        logging.getLogger("server").exception("error in application")
    try:
        raise KeyError("leaf")
    except KeyError:
        logging.getLogger("server").exception("another one")

    (file,) = observability.log_dir.glob("*.log")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    (said,) = [line for line in lines if line["msg"] == "error in application"]
    (other,) = [line for line in lines if line["msg"] == "another one"]
    assert said["exc_type"] == "KeyError"
    assert ("exc" in said, said.get("trace_id")) == ((False, only().trace_id) if result is None else (True, None))
    assert "exc" in other
    assert "trace_id" not in other
