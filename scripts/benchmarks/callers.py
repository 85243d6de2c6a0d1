"""Callers of a node: connections that send requests signed ahead and note how each was answered.

A client library takes more time for a call than the node does; these write ready bytes and read as little of the
answers as is needed to know that they are right.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson
from ulid import ULID

if TYPE_CHECKING:
    from hearthnet.identity.keys import KeyPair

__all__ = ["Answers", "Callers", "Request", "signed_ahead"]

_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_GIVE_UP_S: Final = 20.0  # for what is under way at the end


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it goes over the wire, and what must stand in its answer."""

    wire: bytes
    marks: tuple[bytes, ...]


@dataclass(slots=True)
class Answers:
    """What came of some calls.

    Attributes:
        served_ms: how long each call took that was served, milliseconds.
        refused_ms: the same of those that were refused.
        refused: how many were, by status and code.
        wrong: answers that were not those of their request, the first few.
        lost: calls without an answer.
        unsent: calls that were due while every connection waited for an answer.
        lasted_s: from the first to the last.
    """

    served_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    wrong: list[bytes] = field(default_factory=list)
    lost: int = 0
    unsent: int = 0
    lasted_s: float = 0.0

    @property
    def served_per_s(self) -> float:
        """How many were served a second."""
        return len(self.served_ms) / self.lasted_s

    def take(self, request: Request, answer: bytes, took_ms: float) -> None:
        """Notes one answer."""
        if answer.startswith(b"HTTP/1.1 200 "):
            self.served_ms.append(took_ms)
            if not all(mark in answer for mark in request.marks):
                self.wrong.append(answer)
            return
        self.refused_ms.append(took_ms)
        body = orjson.loads(answer.partition(b"\r\n\r\n")[2])
        kind = f"{answer[9:12].decode()} {body['error']}"
        self.refused[kind] = self.refused.get(kind, 0) + 1
        if not isinstance(body.get("retry_after_ms"), int):
            self.wrong.append(answer)


def signed_ahead(keys: KeyPair, community: str, count: int, per_second: float = 0.0) -> list[Request]:
    """Returns calls of the echo service, each different, signed by `keys`.

    Args:
        keys: of a member.
        community: its id.
        count: how many.
        per_second: the pace at which they will be sent, from now on: each is stamped with its second. 0: all at once.
    """
    from hearthnet.transport.auth.signing import Envelope

    made = []
    now_s = time.time()
    for number in range(count):
        request_id = str(ULID())
        body = {"params": {}, "input": {"text": f"call {number} {request_id}"}}
        at_s = now_s + (number / per_second if per_second else 0.0)
        stamp = datetime.fromtimestamp(int(at_s), UTC).isoformat().replace("+00:00", "Z")
        envelope = Envelope("experimental.echo", "1.0", request_id, keys.node_id, community, stamp, body)
        made.append(_request(envelope.payload(), keys.sign(envelope.payload()), orjson.dumps(body)))
    return made


def _request(payload: dict[str, str], signature: str, body: bytes) -> Request:
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "X-HearthNet-Capability": payload["capability"],
        "X-HearthNet-Capability-Version": payload["version"],
        "X-HearthNet-Request-Id": payload["request_id"],
        "X-HearthNet-From": payload["from"],
        "X-HearthNet-Community": payload["community"],
        "X-HearthNet-Timestamp": payload["timestamp"],
        "X-HearthNet-Signature": signature,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    text = orjson.loads(body)["input"]["text"]
    marks = (f'"text":"{text}"'.encode(), payload["request_id"].encode())
    return Request(f"POST /bus/v1/call HTTP/1.1\r\n{head}\r\n".encode() + body, marks)


class _Connection(asyncio.Protocol):
    """One connection, with at most one call under way."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._read = bytearray()
        self._request: Request | None = None
        self._sent_at = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: Request) -> None:
        self._request = request
        self._sent_at = time.perf_counter()
        self.transport.write(request.wire)

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        length = _LENGTH.search(self._read, 0, end + 2) if end >= 0 else None
        if length is None or len(self._read) < end + 4 + int(length[1]):
            return
        answer, self._read = bytes(self._read), bytearray()
        assert self._request is not None
        self._callers.answers.take(self._request, answer, (time.perf_counter() - self._sent_at) * 1e3)
        self._request = None
        self._callers.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._request is not None:
            self._callers.answers.lost += 1
            self._request = None
        self._callers.leave(self)


class Callers:
    """Connections to one node. Made by `connected`."""

    def __init__(self) -> None:
        self.answers = Answers()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._waiting: Iterator[Request] = iter(())
        self._quiet = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int, count: int) -> AsyncIterator[Callers]:
        """Gives so many connections to a port of this machine."""
        made = cls()
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: _Connection(made), "127.0.0.1", port)
            connection.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made._all.add(connection)
            made._idle.append(connection)
        try:
            yield made
        finally:
            for connection in tuple(made._all):
                connection.transport.abort()

    async def one_after_another(self, requests: Iterable[Request]) -> Answers:
        """Has each connection send the next request when it has its answer: as many a second as the node serves."""
        self.answers = Answers()
        self._waiting = iter(requests)
        started = time.perf_counter()
        idle, self._idle = self._idle, []
        for connection in idle:
            self.free(connection)
        await self._settle()
        return self._ended(started)

    async def at_a_pace(self, requests: Iterable[Request], per_second: float) -> Answers:
        """Sends at a pace, whatever comes back: as many callers do who do not know of each other."""
        self.answers = Answers()
        started = time.perf_counter()
        for number, request in enumerate(requests):
            ahead_s = started + number / per_second - time.perf_counter()
            if ahead_s > 0 or number % 16 == 0:  # answers are read also when we are late
                await asyncio.sleep(max(0.0, ahead_s))
            if self._idle:
                self._idle.pop().send(request)
            else:
                self.answers.unsent += 1
        await self._settle()
        return self._ended(started)

    def free(self, connection: _Connection) -> None:
        """Takes a connection that has its answer."""
        request = next(self._waiting, None)
        if request is not None:
            connection.send(request)
            return
        self._idle.append(connection)
        self._note_quiet()

    def leave(self, connection: _Connection) -> None:
        """Takes a connection that was closed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if len(self._idle) == len(self._all):
            self._quiet.set()

    async def _settle(self) -> None:
        """Waits until nothing is under way."""
        self._quiet.clear()
        if len(self._idle) < len(self._all):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), _GIVE_UP_S)

    def _ended(self, started: float) -> Answers:
        self.answers.lasted_s = time.perf_counter() - started
        self.answers.lost += len(self._all) - len(self._idle)
        return self.answers
