"""Sends the frames of a call as server-sent events, in the task of the request.

Starlette's own streaming response runs its iterator in a child task; here everything runs in one task, so that
cancelling it reaches the handler at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hearthnet.bus.stream import CallStream
from hearthnet.errors import WireError
from hearthnet.transport.api.error_body import error_body, wire_error_of
from hearthnet.transport.auth.signing import Signer

__all__ = ["EventStream", "error_event", "wait_for_disconnect"]


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends `frame` events and exactly one `done` or `error` event at the end, which `signer` signs."""

    media_type = "text/event-stream"

    def __init__(
        self, stream: CallStream, headers: Mapping[str, str] | None = None, signer: Signer | None = None
    ) -> None:
        super().__init__(headers={**(headers or {}), "Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._stream = stream
        self._signer = signer
        self._is_sending = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the frames; if the client disconnects first, the call ends as cancelled."""
        sender = asyncio.current_task()
        assert sender is not None
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(lambda _: sender.cancel() if self._is_sending else None)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_frames(send)
        except asyncio.CancelledError:
            if not watcher.done():
                raise  # cancelled from outside: the server is stopping
            sender.uncancel()
        finally:
            self._is_sending = False  # a server reports the end of the response as a disconnect too
            watcher.cancel()
            await asyncio.wait({watcher})
            await self._stream.aclose()

    async def _send_frames(self, send: Send) -> None:
        kind, data = "done", dict[str, Any]()
        sent = hashlib.sha256()
        try:
            async for frame in self._stream:
                event = _event("frame", frame)
                sent.update(event)
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except BaseException as error:  # a handler may raise anything; the stream still gets an end  # noqa: BLE001
            kind, data = "error", error_body(wire_error_of(error))
        if self._signer is not None:
            data = self._signer.end(sent, data)
        # The trace is recorded by now: the stream is closed before its last event goes to the socket.
        await send({"type": "http.response.body", "body": _event(kind, data), "more_body": False})


def error_event(error: WireError) -> bytes:
    """Returns the last event of a stream that fails."""
    return _event("error", error_body(error))


def _event(kind: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))
