"""Ends a call when the client leaves, and sends its frames as server-sent events, in the task of the request.

Starlette's own streaming response runs its iterator in a child task; here the steps stay in one task, so cancelling it
reaches the handler at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hearthnet.bus.stream import CallStream
from hearthnet.errors import WireError
from hearthnet.transport.api.error_body import error_body, failure_of
from hearthnet.transport.auth.response_signing import Signer

__all__ = ["EventStream", "error_event", "unless_caller_leaves", "wait_for_disconnect"]

T = TypeVar("T")

_PATIENCE_S: Final = 0.05  # most calls are over by then; one whose caller has left ends that much later


async def unless_caller_leaves(receive: Receive, answering: Awaitable[T]) -> T:
    """Returns what `answering` gives; it is cancelled when the client closes its connection first.

    A server tells of a closed connection only to those who ask, and asking costs a task: calls that are over sooner
    than anybody could lose patience never pay for it.

    Args:
        receive: of a request whose body was read.
        answering: the work; it goes on in the caller's task.

    Raises:
        ClientDisconnect: raised when the client has gone.
    """
    worker = asyncio.current_task()
    assert worker is not None
    watcher: asyncio.Task[None] | None = None
    is_over = has_left = False

    def tell(_: object) -> None:
        nonlocal has_left
        if not is_over and watcher is not None and not watcher.cancelled() and watcher.exception() is None:
            has_left = True
            worker.cancel()

    def watch() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(tell)

    patience = asyncio.get_running_loop().call_later(_PATIENCE_S, watch)
    try:
        return await answering
    except asyncio.CancelledError:
        if not has_left or worker.uncancel() > 0:
            raise  # cancelled from outside: the server stops
        raise ClientDisconnect from None
    finally:
        is_over = True
        patience.cancel()
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Answers with `frame` events and exactly one `done` or `error` event at the end, which `signer` signs."""

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
        """Sends the frames; when the client disconnects first, the call ends as cancelled."""
        sender = asyncio.current_task()
        assert sender is not None
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(lambda _: sender.cancel() if self._is_sending else None)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_frames(send)
        except asyncio.CancelledError:
            if not watcher.done():
                raise  # cancelled from outside: the server stops
            sender.uncancel()
        finally:
            self._is_sending = False  # a server reports the end of the answer as a disconnect too
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
        except BaseException as error:  # a handler may raise anything; its caller is owed an end  # noqa: BLE001
            kind, data = "error", error_body(failure_of(error))
        if self._signer is not None:
            data = self._signer.end(sent, data)
        # The trace is recorded: the stream is over before its last event is handed to the socket.
        await send({"type": "http.response.body", "body": _event(kind, data), "more_body": False})


def error_event(error: WireError) -> bytes:
    """Returns the event that ends a stream with an error."""
    return _event("error", error_body(error))


def _event(kind: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))
