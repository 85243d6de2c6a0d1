"""uvicorn's HTTP protocol, with a short way out: a call that is refused is answered from its bytes, unparsed.

Parsing a request, starting its task and answering through the framework takes as long as a third of a served call. A
node that is called four times as often as it can serve would spend most of its time refusing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from hearthnet.errors import WireError
from hearthnet.transport.gate import CALL_PATH, REFUSED_FOR
from hearthnet.transport.load import Load
from hearthnet.transport.signing import REQUEST_ID, SENDER

__all__ = ["CallProtocol", "plain_call", "quick_answer"]

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
    body = orjson.dumps(error.body())
    status = HTTPStatus(error.status)
    lines = [
        b"HTTP/1.1 %d %b" % (status, status.phrase.encode()),
        *(b"%b: %b" % header for header in headers),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    ]
    if (request_id := _REQUEST_ID.search(head)) is not None:
        lines.append(b"%b: %b" % (REQUEST_ID.lower().encode(), request_id[1].upper()))
    if error.code == "partition":
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b"", body])


class CallProtocol(H11Protocol):
    """A connection of a server; see `of`."""

    load: Load
    name: tuple[bytes, bytes]  # the header that names the node, on every answer

    @classmethod
    def of(cls, load: Load, node_id: str) -> type[CallProtocol]:
        """Returns the class of one server's connections: uvicorn makes them, and hands over nothing of ours."""
        return type("CallProtocol", (cls,), {"load": load, "name": (SENDER.lower().encode(), node_id.encode())})

    def data_received(self, data: bytes) -> None:
        """Answers a call that is refused, if it can be at once; else reads on as uvicorn does."""
        why = self.load.refusal()
        if why is not None and self._is_between_requests() and (head := plain_call(data)) is not None:
            self._answer(head, self.load.refuse(why))
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self.load.waiting += 1
            if why is not None:
                self.cycle.scope["state"][REFUSED_FOR] = why

    def _is_between_requests(self) -> bool:
        """Tells whether what comes next begins a request, and its answer would be read."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0] and not self.flow.write_paused

    def _answer(self, head: bytes, error: WireError) -> None:
        self.transport.write(quick_answer(head, error, (*self.server_state.default_headers, self.name)))
        if error.code == "partition":
            self.transport.close()
        elif self.timeout_keep_alive_task is not None:  # else the connection would count as unused since its last call
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
