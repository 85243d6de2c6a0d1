"""A receiver of OTLP on a real socket, which decodes with `opentelemetry-proto` and responds as it is told."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PATIENCE_S = 30.0
_IDS = {"traceId", "spanId", "parentSpanId"}
Message = Any


def encoded(request: dict[str, Any]) -> bytes:
    """Returns the fields of a request as protobuf, by the protocol's own classes."""
    kind = ExportTraceServiceRequest if "resource_spans" in request else ExportLogsServiceRequest
    return kind(**request).SerializeToString()


def plain(attributes) -> dict[str, Any]:
    """Returns attributes as Python's values."""
    return {item.key: value(item.value) for item in attributes}


def value(found) -> Any:
    """Returns one value as Python's."""
    kind = found.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in found.array_value.values]
    return None if kind is None else getattr(found, kind)


def from_json(text: bytes) -> Message:
    """Returns the message of a request in OTLP's JSON, whose ids are hexadecimal."""
    document = json.loads(text, parse_constant=_no_constant)
    kind = ExportTraceServiceRequest if "resourceSpans" in document else ExportLogsServiceRequest
    return json_format.ParseDict(_with_base64(document), kind())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _with_base64(document: Any) -> Any:
    if isinstance(document, list):
        return [_with_base64(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode() if key in _IDS else _with_base64(item)
        for key, item in document.items()
    }


def spans_in(message: Message) -> list[Any]:
    """Returns the spans of a request."""
    resources = message.resource_spans if isinstance(message, ExportTraceServiceRequest) else ()
    return [span for one in resources for scope in one.scope_spans for span in scope.spans]


def logs_in(message: Message) -> list[Any]:
    """Returns the log records of a request."""
    resources = message.resource_logs if isinstance(message, ExportLogsServiceRequest) else ()
    return [record for one in resources for scope in one.scope_logs for record in scope.log_records]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    message: Message
    size: int

    @property
    def names(self) -> list[str]:
        """The capabilities of its traces."""
        return [found["hearthnet.capability"] for span in spans_in(self.message)
                if "hearthnet.capability" in (found := plain(span.attributes))]  # fmt: skip

    @property
    def bodies(self) -> list[str]:
        """The texts of its log records."""
        return [record.body.string_value for record in logs_in(self.message)]


@dataclass(frozen=True)
class Response:
    """What is sent back; it counts as stored where `stores`."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stores: bool = False


@dataclass
class Receiver:
    """A running receiver.

    Attributes:
        respond: returns the response to a request; None: it is stored.
        gate: nothing is answered before it is set; None: at once.
        is_half_way: stores what comes, and hangs up instead of responding.
    """

    url: str = ""
    respond: Callable[[Request], Response | None] = lambda _: None
    gate: threading.Event | None = None
    is_half_way: bool = False
    requests: list[Request] = field(default_factory=list)
    stored: list[Request] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The capabilities of all traces that it has stored, in their order."""
        return [name for request in self.stored for name in request.names]

    @property
    def bodies(self) -> list[str]:
        """The texts of all log records that it has stored."""
        return [body for request in self.stored for body in request.bodies]

    def of(self, signal: str) -> list[Request]:
        """Returns the requests of a signal."""
        return [request for request in self.requests if request.path.endswith(signal)]


class Handler(BaseHTTPRequestHandler):
    """Takes the requests of one connection."""

    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self):
        """Takes one request."""
        receiver = self.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): text for name, text in self.headers.items()}
        request = Request(self.path, headers, _decoded(self.path, headers, body), len(body))
        receiver.requests.append(request)
        if receiver.gate is not None:
            receiver.gate.wait(PATIENCE_S)
        response = receiver.respond(request)
        if response is None or response.stores:
            receiver.stored.append(request)
        if receiver.is_half_way:
            self.close_connection = True
            return
        response = response or Response(headers={"Content-Type": "application/x-protobuf"}, body=_empty(self.path))
        self.send_response(response.status)
        for name, text in response.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *args):
        """Stays quiet."""


def _decoded(path: str, headers: dict[str, str], body: bytes) -> Message:
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    if headers["content-type"] == "application/json":
        return from_json(body)
    kind = ExportTraceServiceRequest if path.endswith("traces") else ExportLogsServiceRequest
    try:
        return kind.FromString(body)
    except DecodeError:
        return None


def _empty(path: str) -> bytes:
    kind = ExportTraceServiceResponse if path.endswith("traces") else ExportLogsServiceResponse
    return kind().SerializeToString()


def partial(signal: str, rejected: int, words: str) -> Response:
    """Returns a partial success: all is taken but so many."""
    if signal == "traces":
        made: Message = ExportTraceServiceResponse()
        made.partial_success.rejected_spans = rejected
    else:
        made = ExportLogsServiceResponse()
        made.partial_success.rejected_log_records = rejected
    made.partial_success.error_message = words
    return Response(200, {"Content-Type": "application/x-protobuf"}, made.SerializeToString(), stores=True)


class Server(ThreadingHTTPServer):
    """Does not report clients that break off."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Stays quiet."""


@contextmanager
def receiving(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Gives a receiver on a port of loopback."""
    receiver = Receiver()
    server = Server(("127.0.0.1", port), type("ReceiverHandler", (Handler,), {"receiver": receiver}))
    receiver.url = f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    serving.start()
    try:
        yield receiver
    finally:
        if receiver.gate is not None:
            receiver.gate.set()
        server.shutdown()
        server.server_close()
        serving.join()
