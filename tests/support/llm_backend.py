"""A small backend that speaks the OpenAI protocol over a real socket, fails as it is told, and sees who leaves."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

PATIENCE_S = 30  # nothing in a test waits longer


@dataclass
class Script:
    """What the backend does with the next requests.

    Attributes:
        tokens: the texts of the chunks, or joined the text of the one answer.
        how: `ok`, or how it fails: `status`, `garbage`, `cut`, `reset`, `no_done`, `silent`, `error_chunk`, `raw`.
        after: how many tokens are sent before it fails; -1: all.
        pace_s: between two tokens.
        gate: when given, nothing is answered before it is set.
        usage: what it counts, or None: it does not say.
        status: of a failure by `status`.
        error: the body of that, or of an error chunk.
        raw: the lines of a stream, or the whole answer, as they are sent by `raw`.
    """

    tokens: tuple[str, ...] = ("Good", " day", "!")
    how: str = "ok"
    after: int = -1
    pace_s: float = 0.0
    gate: threading.Event | None = None
    usage: tuple[int, int] | None = (11, 3)
    status: int = 500
    error: object = None
    raw: bytes = b""
    reasoning: tuple[str, ...] = ()
    finish_reason: str = "stop"


class LeftError(Exception):
    """Raised when the client has closed its connection."""


@dataclass
class Backend:
    """A running backend: its script, and what it saw."""

    script: Script = field(default_factory=Script)
    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lists: dict[str, tuple[int, object]] = field(default_factory=dict)  # responses to GET: path to status and document
    at_work: int = 0
    left_at: float | None = None  # monotonic seconds, which all processes of a machine share
    left: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    def document(self, **more) -> dict:
        """An answer without its text."""
        document = {"id": "x", "object": "chat.completion", "created": 1, "model": "told-by-backend", **more}
        if self.script.usage is not None:
            tokens_in, tokens_out = self.script.usage
            document["usage"] = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
        return document


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    backend: Backend

    def do_POST(self):
        """Takes a chat."""
        backend = self.backend
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        backend.bodies.append(body)
        backend.headers.append({name.lower(): value for name, value in self.headers.items()})
        backend.paths.append(self.path)
        backend.at_work += 1
        backend.asked.set()
        script = backend.script
        try:
            self._wait_for_gate(script)
            self._answer(script, is_stream=body["stream"])
        except (LeftError, ConnectionError):
            backend.left_at = time.monotonic()
            backend.left.set()
            self.close_connection = True
        finally:
            backend.at_work -= 1

    def do_GET(self):
        """Answers with a list, of models say; 404 for what there is none of."""
        backend = self.backend
        backend.headers.append({name.lower(): value for name, value in self.headers.items()})
        backend.paths.append(self.path)
        backend.asked.set()
        status, document = backend.lists.get(self.path, (404, {"error": "nothing here"}))
        try:
            self._wait_for_gate(backend.script)
            self._send(status, document if isinstance(document, bytes) else orjson.dumps(document))
        except (LeftError, ConnectionError):
            self.close_connection = True

    def _wait_for_gate(self, script):
        ends_at = time.monotonic() + PATIENCE_S
        while script.gate is not None and not script.gate.is_set() and time.monotonic() < ends_at:
            self._wait_while_there(0.01)

    def _wait_while_there(self, seconds):
        """Waits, or raises as soon as the client has gone."""
        ready, _, _ = select.select([self.connection], [], [], seconds)
        if ready and not self.connection.recv(1, socket.MSG_PEEK):
            raise LeftError

    def _answer(self, script, *, is_stream):
        if script.how == "status":
            self._send(script.status, orjson.dumps(script.error) if script.error is not None else b"<html>oh no")
        elif script.how == "silent" and script.after < 1:
            self._wait_while_there(PATIENCE_S)
        elif script.how == "reset" and script.after < 1:
            self._reset()
        elif is_stream:
            self._stream(script)
        elif script.how == "raw":
            self._send(200, script.raw)
        else:
            self._whole(script)

    def _whole(self, script):
        message = {"role": "assistant", "content": "".join(script.tokens)}
        if script.reasoning:
            message["reasoning_content"] = "".join(script.reasoning)
        choice = {"index": 0, "message": message, "finish_reason": script.finish_reason}
        content = orjson.dumps(self.backend.document(choices=[choice]))
        if script.how == "garbage":
            content = b"{" + content
        if script.how == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self._send(200, content)

    def _send(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, script):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b": a comment keeps the connection\n\n")
        if script.how == "raw":
            self._chunk(script.raw)
            self._chunk(b"")
            return
        self._event(self._delta({"role": "assistant", "content": None}))
        for text in script.reasoning:
            self._event(self._delta({"reasoning_content": text}))
        for text in script.tokens if script.after < 0 else script.tokens[: script.after]:
            self._event(self._delta({"content": text}))
            self._wait_while_there(script.pace_s)
        if script.how in ("ok", "no_done"):
            self._finish(script)
        else:
            self._fail(script)

    def _finish(self, script):
        self._event(self._delta({}, script.finish_reason))
        if script.usage is not None:
            self._event(self.backend.document(choices=[]))
        if script.how == "ok":
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _fail(self, script):
        if script.how == "garbage":
            self._chunk(b'data: {"choices": [{"delta"\n\n')
        elif script.how == "error_chunk":
            self._event({"error": script.error})
        elif script.how == "silent":
            self._wait_while_there(PATIENCE_S)
        elif script.how == "reset":
            self._reset()
        self.close_connection = True  # a chunked response without its end

    def _reset(self):
        """Ends the connection as a crash does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _delta(self, delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {"object": "chat.completion.chunk", "model": "told-by-backend", "choices": [choice]}

    def _event(self, document):
        self._chunk(b"data: %b\n\n" % orjson.dumps(document))

    def _chunk(self, content):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def log_message(self, *args):
        """Stays quiet."""


class Server(ThreadingHTTPServer):
    """Takes a client that breaks off as nothing to speak of."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Reports every error but that."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_backend():
    """Gives a backend on a free port of loopback."""
    backend = Backend()
    server = Server(("127.0.0.1", 0), type("BackendHandler", (Handler,), {"backend": backend}))
    backend.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield backend
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
