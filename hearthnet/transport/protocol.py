"""uvicorn's HTTP protocol, with a short way out: a call that is refused is answered from its bytes, unparsed.

Parsing a request, starting its task and answering through the framework takes as long as a third of a served call. A
node that is called four times as often as it can serve would spend most of its time refusing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hearthnet.errors import WireError
from hearthnet.transport.connections import Connection, Connections, State
from hearthnet.transport.gate import CALL_PATH, REFUSED_FOR
from hearthnet.transport.heads import MAX_HEAD_BYTES, MESSAGES, StrictConnection
from hearthnet.transport.load import Load, Refusal
from hearthnet.transport.raw_answers import answer_bytes, last_answer
from hearthnet.transport.refused import Reason, note_refused
from hearthnet.transport.signing import REQUEST_ID, SENDER

__all__ = ["CallProtocol", "plain_call", "quick_answer"]

# What a client may send before it has its answer, or after it was refused: the rest of a body that was under way.
MAX_UNWANTED_BYTES: Final = 65_536
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_START: Final = f"POST {CALL_PATH} HTTP/1.1\r\n".encode()
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n")
_REQUEST_ID: Final = re.compile(rb"\r\n" + REQUEST_ID.lower().encode() + rb": *([0-9a-z]{26})\r\n")
# What may change where a request ends, or what its answer must be.
_SPECIAL: Final = (b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\nconnection: close", b"\r\nupgrade:")


def plain_call(data: bytes) -> bytes | None:
    """Returns the head in lower case if `data` is one whole call in its plainest form, else None: it must be parsed."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or not data.startswith(_START):
        return None
    head = data[: end + 2].lower()
    lengths = _LENGTH.findall(head)
    is_whole = len(lengths) == 1 and len(data) == end + 4 + int(lengths[0])
    return head if is_whole and not any(word in head for word in _SPECIAL) else None


def quick_answer(head: bytes, error: WireError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the bytes that answer a plain call with an error; `headers` are those of every answer."""
    named = list(headers)
    if (request_id := _REQUEST_ID.search(head)) is not None:
        named.append((REQUEST_ID.lower().encode(), request_id[1].upper()))
    return last_answer(error, named) if error.code == "partition" else answer_bytes(error, named)


def _quiet(logger: Any) -> Any:
    """Returns a logger without uvicorn's warnings of what a stranger sends, which is counted instead."""
    quiet = logger.getChild("connection")
    if not quiet.level:
        quiet.setLevel("ERROR")
    return quiet


class CallProtocol(H11Protocol):
    """A connection of a server; see `of`. It tells `Connections` what it waits for."""

    load: Load
    connections_of_all: Connections
    name: tuple[bytes, bytes]  # the header that names the node, on every answer
    most_bytes: int  # of one request, as they come in: its head, its body, and what chunks add to it
    connection: Connection
    conn: StrictConnection

    @classmethod
    def of(cls, load: Load, node_id: str, connections: Connections, largest_body: int) -> type[CallProtocol]:
        """Returns the class of one server's connections: uvicorn makes them, and hands over nothing of ours."""
        ours = {
            "load": load,
            "connections_of_all": connections,
            "name": (SENDER.lower().encode(), node_id.encode()),
            "most_bytes": MAX_HEAD_BYTES + 2 * largest_body,
        }
        return type("CallProtocol", (cls,), ours)

    def __init__(self, *args: Any, connection: Connection, **more: Any) -> None:
        super().__init__(*args, **more)
        self.connection = connection
        self.conn = StrictConnection()
        self.logger = _quiet(self.logger)
        self._bytes = 0  # of the request that comes in; with those that were not wanted after its answer
        self._why: Refusal | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begins; with TLS the connection is known since before its handshake."""
        super().connection_made(transport)
        self.connection.peer = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self.connections_of_all.remove(self.connection)

    def data_received(self, data: bytes) -> None:
        """Answers a call that is refused, if it can be at once; else reads on as uvicorn does."""
        if self.transport.is_closing():
            return
        why = self.load.refusal()
        if why is not None and self._is_between_requests() and (head := plain_call(data)) is not None:
            self._answer(head, self.load.refuse(why))
            return
        self._why = why
        self._bytes += len(data)
        if self._bytes > MAX_UNWANTED_BYTES and self.conn.their_state is h11.SEND_BODY and self._is_too_much_body():
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._bytes > MAX_UNWANTED_BYTES and len(self.conn.trailing_data[0]) > MAX_UNWANTED_BYTES:
            note_refused("pipelined", address=self.connection.party)
            self.transport.abort()
        self._tell_state()
        if self.conn.their_state is h11.SEND_BODY and not self.cycle.response_complete:
            self.connections_of_all.hold(self.connection, len(data))

    def _is_too_much_body(self) -> bool:
        """Ends a connection whose body goes on and on; tells whether it does. The application counts what is in it."""
        if self.cycle.response_started:  # refused before its body was read; the client has its answer
            self.transport.close()
            return True
        if self._bytes > self.most_bytes:
            self._refuse("too_much_body", WireError("bad_request", "this request is too large"), 413)
            return True
        return False

    def handle_events(self) -> None:
        """Goes on with what was read, and counts the request that begins."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._bytes = len(self.conn.trailing_data[0])
            self.load.waiting += 1
            if self._why is not None:
                self.cycle.scope["state"][REFUSED_FOR] = self._why

    def on_response_complete(self) -> None:
        """Goes on with the next request; `Connections` ends a connection that has none, without a timer for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._bytes = 0
        self.connections_of_all.release(self.connection)
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE:
            self.conn.start_next_cycle()
            self._why = self.load.refusal()
            self.handle_events()
        self._tell_state()

    def _tell_state(self) -> None:
        """Tells what is waited for, if that has changed."""
        theirs = self.conn.their_state
        state: State = "half_open"
        if theirs is not h11.IDLE and theirs is not h11.SEND_BODY:
            state = "busy"
        elif theirs is h11.IDLE and self.cycle is not None and not self.conn.trailing_data[0]:
            state = "idle"
        if state != self.connection.state:
            self.connections_of_all.enter(self.connection, state)

    def _is_between_requests(self) -> bool:
        """Tells whether what comes next begins a request, and its answer would be read."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0] and not self.flow.write_paused

    def _answer(self, head: bytes, error: WireError) -> None:
        self.transport.write(quick_answer(head, error, (*self.server_state.default_headers, self.name)))
        if error.code == "partition":
            self.transport.close()
        else:
            self.connections_of_all.enter(self.connection, "idle")  # else it would count as unused since its last call

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no request; uvicorn's words for it are not the wire's."""
        trouble = self.conn.trouble
        self._refuse(trouble, WireError("bad_request", MESSAGES[trouble]))

    def _refuse(self, reason: Reason, error: WireError, status: int | None = None) -> None:
        """Answers with an error and closes; where another answer has begun, it is cut short."""
        note_refused(reason, address=self.connection.party)
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        is_answered = cycle is None or cycle.response_complete
        if is_answered or not cycle.response_started:
            self.transport.write(last_answer(error, (*self.server_state.default_headers, self.name), status))
            self.transport.close()
        else:
            self.transport.abort()
        if not is_answered:
            cycle.disconnected = True  # the application hears now that nobody waits, and its answer goes nowhere
            cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Never: HTTP/1.1 goes on, as a server may have it."""
        return False

    def drop(self) -> None:
        """Ends at once, whatever waits to be sent; the kernel's share of it goes too, a few MB with a fast network."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError):  # closed meanwhile
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def expire(self) -> None:
        """Answers 408 where a request has begun, and closes."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if cycle is None and not self.conn.trailing_data[0]:
            note_refused("silent", address=self.connection.party)
            self.transport.close()
        elif self.conn.their_state is h11.SEND_BODY and cycle.response_complete:
            self.transport.close()  # refused before; what it sends since then is not wanted
        else:
            self._refuse("slow", WireError("timeout", "this request took too long to come in"))

    def leave(self) -> None:
        """Ends after what waits was sent."""
        self.transport.close()

    def unsent_bytes(self) -> int:
        """Returns how much of an answer waits for the client; with TLS what is above 64 kB, the rest goes unseen."""
        return self.transport.get_write_buffer_size()

    def holds_back(self) -> bool:
        """Tells whether it is us who do not read on: the application takes its time with a body."""
        return self.flow.read_paused
