"""WSGI: a request is a trace, and the server sees the same response in the same way."""

from __future__ import annotations

import contextvars
import gc
import json
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from support.web import environ_of, made, only

from hearthnet.observability import trace
from hearthnet.observability.logs.context_fields import current_fields
from hearthnet.observability.logs.fields import fields
from hearthnet.observability.logs.tracebacks import passed_by
from hearthnet.observability.middleware import WSGIMiddleware
from hearthnet.observability.middleware.request import active_requests
from hearthnet.observability.traces.traceparent import from_w3c

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def serve(app, environ=None):
    """Serves a request with the standard library's server, without a socket; returns the bytes of the response."""
    import io

    out = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ or environ_of())
    handler.run(app)
    return out.getvalue()


def plain(environ, start_response):
    """An application with one part."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def streamed(environ, start_response):
    """An application that is a generator: it begins with the first step of its iteration."""
    with trace.span("stream"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"


@pytest.mark.parametrize("app", [plain, streamed])
def test_response_is_the_same(app):
    """Byte for byte, with the length that a server adds by itself."""
    without = serve(app)

    assert serve(WSGIMiddleware(app)) == without
    assert (b"Content-Length: 5" in without) is (app is plain)


def test_middleware_keeps_to_the_standard():
    """As `wsgiref.validate` has it, on both sides."""
    assert b"hello" in serve(validator(WSGIMiddleware(validator(plain))), environ_of())
    assert b"ab" in serve(validator(WSGIMiddleware(validator(streamed))), environ_of())
    assert [one.result for one in made()] == ["ok", "ok"]


def test_request_is_a_trace():
    """Also one whose code runs while it is iterated."""
    serve(WSGIMiddleware(streamed))

    found = only()
    assert (found.capability, found.result, [one.name for one in found.spans]) == ("GET", "ok", ["stream"])
    assert found.extras == {"http.request.method": "GET", "http.response.status_code": 200}


def test_servers_code_is_outside_the_trace():
    """Between the steps it has its own context."""
    with trace.new_trace("server") as server:
        body = WSGIMiddleware(streamed)(environ_of(), lambda *_: None)
        assert trace.current_trace() is server
        for _ in body:
            assert trace.current_trace() is server
        body.close()
        assert trace.current_trace() is server

    assert [one.capability for one in made()] == ["GET", "server"]
    assert [one.name for one in made()[0].spans] == ["stream"]


def test_body_that_is_iterated_in_another_context():
    """A server may do so: the trace goes with the response."""
    body = contextvars.copy_context().run(WSGIMiddleware(streamed), environ_of(), lambda *_: None)
    parts = contextvars.copy_context().run(list, body)
    contextvars.copy_context().run(body.close)

    assert parts == [b"a", b"b"]
    assert [one.name for one in only().spans] == ["stream"]
    assert trace.current_trace() is None


def test_exception_of_the_call(logged):
    """Leaves unchanged, and is recorded."""
    error = LookupError("shelf")

    def app(environ, start_response):
        raise error

    with pytest.raises(LookupError) as raised:
        WSGIMiddleware(app)(environ_of(), lambda *_: None)

    assert raised.value is error
    assert (only().result, only().error) == ("internal_error", "LookupError: shelf")
    assert trace.current_trace() is None
    (record,) = [record for record in logged if record.getMessage() == "request failed"]
    assert record.exc_info[1] is error


def test_exception_of_the_iteration():
    """Leaves unchanged; the server's `close` after it does no harm."""

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        raise TimeoutError("backend")

    body = WSGIMiddleware(app)(environ_of(), lambda *_: None)
    assert next(body) == b"a"
    with pytest.raises(TimeoutError, match="backend"):
        next(body)
    body.close()

    assert (only().result, only().error) == ("timeout", "TimeoutError: backend")


def test_exception_of_close():
    """Is the request's, too."""

    class Body(list):
        def close(self):
            raise ValueError("close")

    body = WSGIMiddleware(lambda environ, start_response: Body([b"x"]))(environ_of(), lambda *_: None)
    assert len(body) == 1
    assert list(body) == [b"x"]
    with pytest.raises(ValueError, match="close"):
        body.close()

    assert only().error == "ValueError: close"


def test_close_is_called_once_and_within_the_trace():
    """By the server; not by us where it does not."""
    calls = []

    class Body:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            calls.append(trace.current_trace())

    body = WSGIMiddleware(lambda environ, start_response: Body())(environ_of(), lambda *_: None)
    assert list(body) == [b"x"]
    assert calls == []
    body.close()

    assert [one.trace_id for one in calls] == [only().trace_id]


def test_server_that_does_not_close():
    """The trace ends with the response object, and the next request has its own."""
    body = WSGIMiddleware(streamed)(environ_of(), lambda *_: None)
    assert list(body) == [b"a", b"b"]
    del body
    gc.collect()
    serve(WSGIMiddleware(plain))

    assert [one.result for one in made()] == ["ok", "ok"]
    assert active_requests.labels("GET").samples()[0].value == 0


def test_client_that_leaves():
    """The server closes the response before its end."""
    body = WSGIMiddleware(streamed)(environ_of(), lambda *_: None)
    next(body)
    body.close()

    assert only().result == "cancelled"
    assert [one.name for one in only().spans] == ["stream"]


def test_response_whose_announced_bytes_were_sent_is_complete():
    """A server need not iterate further."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "1")])
        yield b"a"

    body = WSGIMiddleware(app)(environ_of(), lambda *_: None)
    next(body)
    body.close()

    assert only().result == "ok"


def test_head_is_not_iterated():
    """And is complete."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return iter([b"never"])

    WSGIMiddleware(app)(environ_of(method="HEAD"), lambda *_: None).close()

    assert (only().capability, only().result) == ("HEAD", "ok")


def test_error_page_in_place_of_a_response():
    """`start_response` called again, with the exception: the server gets exactly that, and the last status counts."""
    calls = []

    def app(environ, start_response):
        start_response("200 OK", [("a", "1")])
        try:
            raise ValueError("late")
        except ValueError:
            import sys

            info = sys.exc_info()
            start_response("500 Oops", [("b", "2")], info)
        calls.append(info)
        return [b"sorry"]

    seen = []
    WSGIMiddleware(app)(environ_of(), lambda *given: seen.append(given))

    assert seen == [("200 OK", [("a", "1")]), ("500 Oops", [("b", "2")], calls[0])]
    assert (only().result, only().error) == ("internal_error", "HTTP 500")


def test_write_is_the_servers_own():
    """The old way to send."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])(b"old")
        return []

    assert serve(WSGIMiddleware(app)).endswith(b"old")


def test_file_is_passed_on(tmp_path):
    """So that the server sends it by itself."""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    found = WSGIMiddleware(app)(environ_of(**{"wsgi.file_wrapper": FileWrapper}), lambda *_: None)

    assert type(found) is FileWrapper
    assert only().result == "ok"
    found.close()


def test_request_that_has_a_trace_gets_no_second_one():
    """From a middleware further out."""
    serve(WSGIMiddleware(WSGIMiddleware(plain)))

    assert only().capability == "GET"


def test_callers_trace_and_the_trace_in_the_response():
    """As with ASGI."""
    seen = []
    app = WSGIMiddleware(plain, response_header="X-Trace-Id")
    app(environ_of(HTTP_TRACEPARENT=CALLER, HTTP_TRACESTATE="a=1"), lambda *given: seen.append(given))

    assert (only().trace_id, only().parent_id) == (from_w3c(CALLER.split("-")[1]), "b7ad6b7169203331")
    assert seen[0][1][-1] == ("X-Trace-Id", only().trace_id)


@pytest.mark.parametrize("status", ["", "abc", None, b"200 OK", "99999999999 X"])
def test_wrong_status(status):
    """Is the server's business."""
    seen = []

    def app(environ, start_response):
        start_response(status, [])
        return []

    WSGIMiddleware(app)(environ_of(), lambda *given: seen.append(given))

    assert seen == [(status, [])]
    assert only().capability == "GET"


def test_nothing_private_is_recorded():
    """No path, query, header, body, address."""
    secret = "Tr0ub4dor-and-3"
    serve(
        WSGIMiddleware(plain),
        environ_of(f"/{secret}", QUERY_STRING=secret, HTTP_COOKIE=secret, REMOTE_ADDR=secret, REMOTE_USER=secret),
    )

    assert secret not in json.dumps(only().as_dict())


def test_routes_of_flask():
    """By its `url_rule`, also of a page for an error; none where it found none."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")

    @app.get("/things/<int:number>")
    def thing(number):
        with trace.span("find"):
            return "x" if number else flask.abort(404)

    @app.get("/boom")
    def boom():
        raise ValueError("boom")

    app.wsgi_app = WSGIMiddleware(app.wsgi_app)
    for path in ("/things/3", "/things/0", "/nothing", "/boom"):
        serve(app, environ_of(path))

    assert [(one.capability, one.result, one.extras["http.response.status_code"]) for one in made()] == [
        ("GET /things/<int:number>", "ok", 200),
        ("GET /things/<int:number>", "ok", 404),
        ("GET", "ok", 404),
        ("GET /boom", "internal_error", 500),
    ]


def test_route_by_a_function():
    """Of any other framework; one that fails costs the name."""
    serve(WSGIMiddleware(plain, route=lambda environ: "/all"))
    serve(WSGIMiddleware(plain, route=lambda environ: environ["none"]))

    assert [one.capability for one in made()] == ["GET /all", "GET"]


@pytest.mark.parametrize("part", [None, 7, object()])
def test_part_that_is_no_bytes(part):
    """Is passed on: the server reports the mistake."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        yield part

    assert list(WSGIMiddleware(app)(environ_of(), lambda *_: None)) == [part]


def test_fields_of_a_block_around_parts():
    """The server's code between them does not have these, each step has."""

    def app(environ, start_response):
        start_response("200 OK", [])
        with fields(user="ann"):
            yield b"1"
            seen.append(current_fields().values)
            yield b"2"

    seen = []
    with fields(server="one"):
        body = WSGIMiddleware(app)(environ_of(), lambda *_: None)
        for _ in body:
            assert current_fields().values == {"server": "one"}
        body.close()

    assert seen == [{"server": "one", "user": "ann"}]
    assert current_fields() is None


def test_exception_is_not_told_twice():
    """A logger that tells of it again, the server's say, finds with which trace it was logged."""

    def failing(environ, start_response):
        raise KeyError("shelf")

    with pytest.raises(KeyError) as raised:
        WSGIMiddleware(failing)(environ_of(), lambda *_: None)
    error = raised.value

    assert passed_by((KeyError, error, error.__traceback__)).trace.trace_id == only().trace_id
    assert passed_by((KeyError, error, error.__traceback__.tb_next.tb_next)) is None
