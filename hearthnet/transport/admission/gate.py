"""ASGI middleware that refuses calls under overload and ends running ones when the node stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.errors import WireError
from hearthnet.transport.admission.load import LAST_WORDS_S, Load
from hearthnet.transport.api.error_body import error_body
from hearthnet.transport.api.streaming import EventStream, error_event
from hearthnet.transport.connection.connections import CONNECTION

__all__ = ["CALL_PATH", "Gate"]

CALL_PATH: Final = "/bus/v1/call"


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
