"""uvicorn's HTTP protocol over llhttp, with limits on the size, duration and number of requests.

llhttp itself rejects a bare LF, a folded header, two lengths, a length beside chunks and control characters. The
callbacks here refuse what it leaves open: any version but 1.0 and 1.1, targets that are not a path, WebSocket,
trailers, `Transfer-Encoding` with HTTP/1.0, and excessive sizes, for which it has no limits.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hearthnet.errors import WireError
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.admission.guard import SAFE_HEADERS, request_id_of
from hearthnet.transport.admission.refusals import Reason, count_refused
from hearthnet.transport.auth.signing import REQUEST_ID, SENDER
from hearthnet.transport.connection.connections import CONNECTION, Connection, Connections

__all__ = ["BoundedProtocol", "error_response"]

MAX_HEAD_BYTES: Final = 16_384  # a signed call has 700 bytes; browsers with many cookies send 4 kB
MAX_HEADERS: Final = 100  # a signed call has 15
MAX_TARGET_BYTES: Final = 8_192  # RFC 9112 asks for 8,000 at least
# Parsed in pieces, so that only few requests are parsed before the first has its response: each takes 10 kB of memory.
PIECE_BYTES: Final = 8_192
MAX_PIPELINED_BYTES: Final = 65_536  # received and not parsed
# Overhead that chunked coding may add to a body. One byte per chunk adds five; clients send chunks of 16 kB or more.
FREE_OVERHEAD_BYTES: Final = 16_384
OVERHEAD_SHARE: Final = 1 / 16
MAX_UNWANTED_BYTES: Final = 65_536  # of a body that is still sent after the response
# After an error the connection is read on, into nothing: closed at once, what arrives would take back the response.
LINGER_S: Final = 0.5
# After the client closed its sending side: how often to probe whether it still reads, and how long to wait where no
# probe can be written: into a response that has begun, or to HTTP/1.0, which has none.
HALF_CLOSED_PROBE_S: Final = 0.5
HALF_CLOSED_LIMIT_S: Final = 5.0
_PROBE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"  # some clients take any other interim response for the final one
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_MESSAGES: Final[dict[Reason, str]] = {
    "malformed": "not a valid HTTP/1.1 request",
    "not_http1": "this port speaks HTTP/1.1",
    "pipelined": "too many requests were pipelined before the first response",
    "target": "the request target must be a path: this is not a proxy",
    "too_many_chunks": "the body has too many small chunks; send larger ones, or Content-Length",
    "too_much_head": "the headers are larger than 16 kB or more than 100, or the request line is longer than 8 kB",
    "trailers": "trailers are not supported",
    "upgrade": "protocol upgrades are not supported",
}


def error_response(error: WireError, *headers: tuple[bytes, bytes]) -> bytes:
    """Returns a complete HTTP response that closes the connection, for errors before there is a request."""
    body = orjson.dumps(error.body())
    lines = [
        b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode()),
        *(b"%b: %b" % header for header in (*headers, *SAFE_HEADERS)),
        b"date: " + formatdate(usegmt=True).encode(),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", body])


class _RefusedError(Exception):
    """Raised in a parser callback to stop the parser."""


class BoundedProtocol(HttpToolsProtocol):
    """The protocol of one connection. Reports its state to `Connections`, and each request to `Load`.

    Args:
        connection: its entry in `connections`.
        connections: the server's table of connections.
        load: the server's load.
        node_id: named in responses made here.
        uvicorn: further arguments of uvicorn's protocol.
    """

    def __init__(
        self, connection: Connection, connections: Connections, load: Load, node_id: str, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn, app_state={CONNECTION: connection})
        # Malformed requests are counted here; one warning each would fill the log.
        self.logger = self.logger.getChild("connection")
        self.logger.setLevel("ERROR")
        self._connection = connection
        self._connections = connections
        self._load = load
        self._name = (SENDER.lower().encode(), node_id.encode())
        self._why: Reason = "malformed"
        self._unparsed = bytearray()
        self._is_parsing = True  # False: the rest is not wanted
        self._is_ending = False  # the last response is written
        self._last_words = b""  # sent after the last response
        self._half_closed_at: float | None = None
        self._unanswered: deque[Any] = deque()  # uvicorn's cycles without a complete response, the current one first
        self._received = 0  # of these, requests that have arrived completely
        self._has_begun = self._is_in_head = self._is_in_body = False
        self._begun_in_piece = 0  # requests that begin in the current piece of data
        self._reset_counts()

    def _reset_counts(self) -> None:
        """Resets the counters of a request; bytes, except `_headers`."""
        self._head_bytes = 0  # of an incomplete head, in whole pieces
        self._field_bytes = 0
        self._headers = 0
        self._target_bytes = 0
        self._body_bytes = 0
        self._overhead_bytes = 0
        self._unwanted_bytes = 0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Starts. With TLS the connection was admitted before its handshake."""
        super().connection_made(transport)
        if self.scheme == "https":  # asyncio's transport breaks at the second close, and uvicorn closes twice
            transport.close = partial(_close_once, transport, transport.close)  # type: ignore[method-assign]
        self._connection.peer = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Removes the connection from the table."""
        super().connection_lost(exc)
        for cycle in self._unanswered:  # uvicorn tells only the newest
            cycle.disconnected = True
            cycle.message_event.set()
        self._connections.remove(self._connection)

    def data_received(self, data: bytes) -> None:
        """Parses received data, as far as it does not have to wait for an earlier response."""
        if self._is_parsing:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        while self._unparsed and len(self._unanswered) < 2 and not self.transport.is_closing():
            piece = bytes(self._unparsed[:PIECE_BYTES])
            del self._unparsed[:PIECE_BYTES]
            self._parse_piece(piece)
        if len(self._unparsed) > MAX_PIPELINED_BYTES and not self.transport.is_closing():
            self._refuse("pipelined")

    def _parse_piece(self, piece: bytes) -> None:
        """Parses a piece and enforces the size limits."""
        was_in_head, was_in_body, body_bytes = self._is_in_head, self._is_in_body, self._body_bytes
        self._begun_in_piece = 0
        super().data_received(piece)
        if self.transport.is_closing() or not self._is_parsing:
            return
        if was_in_head and self._is_in_head and not self._begun_in_piece:
            self._head_bytes += len(piece)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse("too_much_head")
        elif self._is_in_body and self._begun_in_piece <= (not was_in_body):  # all of the piece is of this request
            if not self._unanswered or self.cycle.response_started:
                self._count_unwanted(len(piece))
            added = self._body_bytes - (body_bytes if was_in_body else 0)
            self._overhead_bytes += len(piece) - added - (0 if was_in_body else MAX_HEAD_BYTES)
            if self._overhead_bytes > FREE_OVERHEAD_BYTES + self._body_bytes * OVERHEAD_SHARE:
                self._refuse("too_many_chunks")

    def _count_unwanted(self, size: int) -> None:
        self._unwanted_bytes += size
        if self._unwanted_bytes > MAX_UNWANTED_BYTES:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes either
        """Keeps a half-closed connection open until its last response is sent.

        asyncio does not support this with TLS.
        """
        if self.scheme == "https" or self._is_ending:
            return False
        if (self._is_in_head or self._is_in_body) and not self._unparsed:  # the rest will never arrive
            return False
        is_first = self._half_closed_at is None
        self._half_closed_at = self._half_closed_at or self.loop.time()
        self._end_if_half_closed()
        is_open = not self.transport.is_closing()
        if is_open and is_first:
            self.loop.call_later(HALF_CLOSED_PROBE_S, self._probe)
        return is_open

    def _end_if_half_closed(self) -> None:
        if self._half_closed_at is not None and not self._unparsed:
            self.shutdown()  # with the last response

    def _probe(self) -> None:
        """Checks whether the client still reads: after closing both sides it resets the connection when written to."""
        if self.transport.is_closing() or self._is_ending:
            return
        cycle = self._unanswered[0] if self._unanswered else None
        if cycle is not None and not cycle.response_started and cycle.scope["http_version"] != "1.0":
            self.transport.write(_PROBE)
        elif self.loop.time() - (self._half_closed_at or 0.0) > HALF_CLOSED_LIMIT_S:
            self.abort()
            return
        self.loop.call_later(HALF_CLOSED_PROBE_S, self._probe)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self._reset_counts()
        self._begun_in_piece += 1
        self._has_begun = self._is_in_head = True
        if not self._unanswered:
            self._connections.wait(self._connection)

    def on_url(self, url: bytes) -> None:
        """Adds a piece of the target."""
        if not self._target_bytes and not url.startswith(b"/"):
            raise self._refusal("target")
        self._target_bytes += len(url)
        if self._target_bytes > MAX_TARGET_BYTES:
            raise self._refusal("too_much_head")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header, or refuses a trailer."""
        if self._is_in_body:
            raise self._refusal("trailers")
        self._headers += 1
        self._field_bytes += len(name) + len(value)
        if self._headers > MAX_HEADERS or self._field_bytes > MAX_HEAD_BYTES:
            raise self._refusal("too_much_head")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Starts the application, or queues the request behind earlier ones."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise self._refusal("not_http1")
        if version == "1.0" and b"transfer-encoding" in dict(self.headers):
            raise self._refusal("malformed")
        is_upgrade = self.parser.should_upgrade()
        if is_upgrade:
            named = dict(self.headers)
            has_body = b"transfer-encoding" in named or b"content-length" in named
            if has_body or named.get(b"upgrade", b"").lower().startswith(b"websocket"):
                raise self._refusal("upgrade")
        self._is_in_head, self._is_in_body = False, True
        super().on_headers_complete()
        if is_upgrade:  # the parser takes what follows for the other protocol, so the connection ends with the response
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]  # uvicorn obeys it
            self._stop_parsing()
        self._unanswered.append(self.cycle)
        if len(self._unanswered) == 1:
            self._connection.arrived_at = self._load.arrive()

    def on_body(self, body: bytes) -> None:
        """Passes on a piece of the body."""
        self._body_bytes += len(body)
        if self._unanswered:
            if not self.cycle.response_started:  # afterwards the application keeps nothing of it
                self._connections.add_body_bytes(self._connection, len(body))
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        self._is_in_body = False
        if self._unanswered:
            self._received += 1
            if self._received == 1:
                self._connections.work(self._connection)
        super().on_message_complete()

    def _refusal(self, why: Reason) -> _RefusedError:
        self._why = why
        return _RefusedError()

    # uvicorn's callbacks

    def on_response_complete(self) -> None:
        """Continues with the next request."""
        self._unanswered.popleft()
        self._received = max(0, self._received - 1)  # 0: it was answered before it had arrived
        if not self._received:
            self._connections.wait(self._connection)
        if self._unanswered and not self.transport.is_closing():
            self._connection.arrived_at = self._load.arrive()
            if not self._received:
                self._connections.add_body_bytes(self._connection, self._body_bytes)
        super().on_response_complete()
        if self._last_words and not (self._unanswered or self.transport.is_closing()):
            self._end_with(self._last_words)
        self._parse()
        self._end_if_half_closed()

    def send_400_response(self, msg: str) -> None:
        """Responds to what the parser refused, with the wire error format."""
        del msg  # uvicorn's own text
        self._refuse(self._why)

    # Called by `Connections`

    def abort(self) -> None:
        """Closes at once; also drops what the kernel has buffered for the client, some MB on a fast network."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError):  # already closed
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def expire(self) -> None:
        """Responds 408 if a request has begun; then closes."""
        if not self._has_begun:
            count_refused("silent", address=self._connection.host)
            self.transport.close()
        elif self._unanswered or self._is_in_head:
            self._refuse("slow")
        else:  # its response was sent before it had arrived completely
            self.transport.close()

    def unsent_bytes(self) -> int:
        """Returns how many bytes of a response wait for the client; with TLS only those above 64 kB."""
        return self.transport.get_write_buffer_size()

    def is_reading(self) -> bool:
        """Returns False while the application has paused reading of a body."""
        return self.transport.is_reading()

    def is_closing(self) -> bool:
        """Returns whether the connection only waits for the client to read the rest of its response."""
        return self.transport.is_closing()

    def _stop_parsing(self) -> None:
        self._is_parsing = False
        self._unparsed.clear()

    def _refuse(self, why: Reason) -> None:
        """Responds with an error and closes, after the responses to earlier requests; else only closes."""
        if self._is_ending:
            return
        if self._is_in_body and not self._unanswered:  # its response is already sent
            self.transport.close()
            return
        count_refused(why, address=self._connection.host)
        if why == "slow":
            error = WireError("timeout", "this request took too long to arrive")
        else:
            error = WireError("bad_request", _MESSAGES[why])
        request_id = request_id_of(self.headers or ())
        named = () if request_id is None else ((REQUEST_ID.lower().encode(), request_id),)
        response = error_response(error, self._name, *named)
        is_own = len(self._unanswered) == 1 and self._is_in_body and not self.cycle.response_started
        if not self._unanswered or is_own:
            self._end_with(response)
        elif self._is_in_body or why == "pipelined":  # of a request that is queued already
            self.abort()
        else:
            self._last_words = response
            self._stop_parsing()

    def _end_with(self, response: bytes) -> None:
        """Sends the last response; closes when the client has read it or has had the time to."""
        self._stop_parsing()
        self._is_ending = True
        for cycle in self._unanswered:  # the application stops now
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(response)
        if self.scheme == "https":  # asyncio cannot half-close it
            self.transport.close()
        else:
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)


def _close_once(transport: asyncio.Transport, close: Callable[[], None]) -> None:
    if not transport.is_closing():
        close()
