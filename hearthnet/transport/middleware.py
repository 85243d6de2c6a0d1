"""Pure ASGI middleware: every answer names the node that gave it.

The node's own tools ask a port; this header tells them that it is their node that answers there.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.transport.signing import SENDER

__all__ = ["NameSender"]


class NameSender:
    """Adds `X-HearthNet-From` to every answer."""

    def __init__(self, app: ASGIApp, node_id: str) -> None:
        self._app = app
        self._header = (SENDER.lower().encode(), node_id.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        is_answered = False

        async def send_named(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            # The framework raises an error again after it was logged and answered, to have it logged once more.
            if not is_answered:
                raise
