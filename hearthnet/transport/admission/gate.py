"""Overload control: ASGI middleware that refuses calls by how long they waited, and ends running ones at a stop.

One process works on one call at a time. With more calls than it can serve a queue grows until no response is in time.
Accepted calls stay fast only if the rest are refused early: before their bodies are parsed, verified or routed.

A call waits from when its head was parsed until its task starts. The allowed wait depends on the recent past: on an
idle node a burst may queue up, because the queue will drain. Where waits have been long for a while there is a standing
queue, which adds its length to every response: then the allowed wait is short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import randrange
from typing import Any, Final, Literal

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.errors import WireError
from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.transport.api.error_body import error_body
from hearthnet.transport.api.streaming import EventStream, error_event
from hearthnet.transport.connection.connections import CONNECTION

__all__ = ["CALL_PATH", "LAST_WORDS_S", "STOP_LIMIT_S", "Gate", "Load", "Refusal"]

Refusal = Literal["overload", "stopping"]

log = get_logger(__name__)
_often = RateLimitedLogger(log)

CALL_PATH: Final = "/bus/v1/call"
STOP_LIMIT_S: Final = 5.0  # for running calls to end at a stop; service managers wait 10 s (docker) to 90 s (systemd)
LAST_WORDS_S: Final = 0.5  # for the last response of a call that was cut short
MAX_WORKING: Final = 1_000  # calls begun and not ended, most of them waiting for something: some 20 MB
BURST_S: Final = 0.25  # allowed wait on an idle node: a quarter of a second is hardly noticeable
STANDING_S: Final = 0.04  # allowed wait on a node that is always busy
PATIENCE_S: Final = 0.2  # how long waits must have been long before the node counts as always busy
# This many may always wait: 0.02 s of work on a desktop, 0.1 s on a Raspberry Pi. A loop that is late for other reasons
# (a refused flood, a slow handler, a machine busy elsewhere) must not refuse the few callers of a home.
MIN_WAITING: Final = 32
_REFUSED: Final = "other"  # the capability label: refused calls are not parsed far enough to know theirs


class Load:
    """The current load of a server.

    Args:
        clock: monotonic seconds; for tests.
        stop_limit_s: how long calls may continue after `stop`.

    Attributes:
        waiting: requests whose head was parsed and whose task has not started.
        is_stopping: new calls are refused.
        is_cut: calls that continued for too long after that were cancelled.
        at_stop: called when the stop begins, for responses that are no calls and never end by themselves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, stop_limit_s: float = STOP_LIMIT_S) -> None:
        self._clock = clock
        self._stop_limit_s = stop_limit_s
        self._working: set[asyncio.Task[Any]] = set()
        self._late_since = self._late_at = float("-inf")
        self.waiting = 0
        self.is_stopping = False
        self.is_cut = False
        self.at_stop: list[Callable[[], None]] = []

    def arrive(self) -> float | None:
        """Counts a request whose head was parsed; returns the time, or None if too few wait for it to be refused."""
        self.waiting += 1
        return self._clock() if self.waiting > MIN_WAITING else None

    def begin(self) -> None:
        """Counts a request whose task has started."""
        self.waiting = max(0, self.waiting - 1)  # an application without our server has no queue

    def refusal(self, arrived_at: float | None) -> Refusal | None:
        """Returns why a call that begins now must be refused, or None.

        Args:
            arrived_at: what `arrive` returned for it.
        """
        if self.is_stopping:
            return "stopping"
        if len(self._working) >= MAX_WORKING:
            return "overload"
        if arrived_at is None:
            return None
        now = self._clock()
        waited_s = now - arrived_at
        if waited_s <= STANDING_S:
            return None
        if now - self._late_at > PATIENCE_S:
            self._late_since = now
        self._late_at = now
        is_burst = now - self._late_since < PATIENCE_S
        return "overload" if waited_s > (BURST_S if is_burst else STANDING_S) else None

    def refuse(self, why: Refusal) -> WireError:
        """Counts a refused call; returns the error for its caller."""
        if why == "stopping":
            error = WireError("partition", "this node is stopping", retry_after_ms=int(STOP_LIMIT_S * 1_000))
        else:
            # Spread out, or they would all return at once.
            wait_ms = randrange(500, 1_500)  # noqa: S311  # no secret
            error = WireError("capacity_exceeded", "this node is overloaded", retry_after_ms=wait_ms)
        metrics.rate_limited_total.labels(_REFUSED, why).inc()
        metrics.requests_total.labels(_REFUSED, error.code).inc()
        figures = {"reason": why, "waiting": self.waiting, "working": len(self._working)}
        _often.warning("calls refused", key=why, extra=figures)
        return error

    @contextmanager
    def work(self) -> Iterator[None]:
        """Counts the current task as working on a call."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)

    async def stop(self) -> None:
        """Refuses new calls, gives running ones `stop_limit_s` to end, and cancels the rest."""
        self.is_stopping = True
        for end in self.at_stop:
            end()
        if self._working:
            log.info("waiting for calls to end", extra={"calls": len(self._working), "limit_s": self._stop_limit_s})
            await asyncio.wait(tuple(self._working), timeout=self._stop_limit_s)
        if self._working:
            self.is_cut = True
            log.warning("calls cut short: the node stops", extra={"calls": len(self._working)})
            for task in tuple(self._working):
                task.cancel()
            await asyncio.wait(tuple(self._working), timeout=2 * LAST_WORDS_S)


class Gate:
    """Counts all requests; refuses calls alone, so that an operator can still inspect a busy node."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        self._app = app
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it."""
        self._load.begin()
        if scope["path"] != CALL_PATH:
            await self._app(scope, receive, send)
            return
        connection = scope.get("state", {}).get(CONNECTION)  # None on another server
        why = self._load.refusal(None if connection is None else connection.arrived_at)
        if why is not None:
            if why == "stopping":
                await _read_rest(receive)
            await _refuse(self._load.refuse(why), scope, receive, send)
            return
        with self._load.work():
            await self._work(scope, receive, send)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message | None = None

        async def send_watched(message: Message) -> None:
            nonlocal started
            started = started or message
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not self._load.is_cut or task.uncancel() > 0:
                raise
            await _end_cut_call(started, scope, receive, send)


async def _read_rest(receive: Receive) -> None:
    """Reads the rest of a request: closing the connection before could discard the response."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            while (await receive()).get("more_body"):
                continue


async def _refuse(error: WireError, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Connection": "close"} if error.code == "partition" else {}
    await JSONResponse(error_body(error), error.status, headers=headers)(scope, receive, send)


async def _end_cut_call(started: Message | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Ends a call that was cut short: with an error, or with the last event of its stream."""
    error = WireError("partition", "this node stopped before the call had ended")
    try:
        # A client that does not read must not delay the stop.
        async with asyncio.timeout(LAST_WORDS_S):
            if started is None:
                await _refuse(error, scope, receive, send)
            elif _is_stream(started):
                await send({"type": "http.response.body", "body": error_event(error), "more_body": False})
    except TimeoutError:
        return


def _is_stream(started: Message) -> bool:
    kind: str = Headers(raw=started["headers"]).get("content-type", "")
    return kind.startswith(EventStream.media_type)
