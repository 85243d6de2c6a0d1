"""The response of an open stream: a viewer's events as they come, in the task of its request."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hearthnet.transport.api.streaming import wait_for_disconnect
from hearthnet.transport.page.feed import Feed, Viewer

__all__ = ["PageStream"]

BEAT_S: Final = 15.0  # proxies and browsers close a connection that is silent for longer
_BEAT: Final = b": \n\n"


class PageStream(Response):
    """Sends a viewer's events until it leaves, its secret is revoked, or the node stops."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, viewer: Viewer) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(lambda _: self._viewer.end())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not self._viewer.is_over:
                chunk = await self._viewer.get(BEAT_S)
                if not self._viewer.is_over:
                    await send({"type": "http.response.body", "body": chunk or _BEAT, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._feed.leave(self._viewer)
            watcher.cancel()
