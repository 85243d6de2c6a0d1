"""Requests to ASGI and WSGI applications without a server, and the traces that they made."""

from __future__ import annotations

import io

from hearthnet.observability.runtime import runtime
from hearthnet.observability.tracing import Trace


def scope_of(path="/", method="GET", headers=(), **more):
    """The scope of a request."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": b"", **more}


async def ask(app, path="/", method="GET", headers=(), *, incoming=(), sends=None, **more):
    """Has an ASGI application serve a request; returns what it sent."""
    waiting, sent = [*incoming], []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if sends is not None:
            sends(message)
        sent.append(message)

    await app(scope_of(path, method, headers, **more), receive, send)
    return sent


def environ_of(path="/", method="GET", **more):
    """The environ of a request."""
    return {
        "REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "test",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http", "wsgi.version": (1, 0), "wsgi.multithread": False, "wsgi.multiprocess": False,
        "wsgi.run_once": False, **more,
    }  # fmt: skip


def made():
    """The traces that were recorded, oldest first."""
    return [Trace.from_record(record) for record in runtime.recorder.pending_traces()]


def only():
    """The trace that was recorded."""
    (found,) = made()
    return found
