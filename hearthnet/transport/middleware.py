"""ASGI middleware around the whole application: common response headers, and HEAD wherever there is a GET.

Every response names the node, because its own tools must know that their node owns the port; repeats a valid request
id; and forbids browsers to let any page use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.transport.auth.signing import REQUEST_ID, SENDER, trace_id_of

__all__ = ["SAFE_HEADERS", "ResponseHeaders", "request_id_of"]

Headers = Iterable[tuple[bytes, bytes]]

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
_UNLESS_SET: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# For browsers, on every response, also those that no route made.
SAFE_HEADERS: Final = (*_ALWAYS, *_UNLESS_SET)
_REQUEST_ID: Final = REQUEST_ID.lower().encode()


class ResponseHeaders:
    """Adds `X-HearthNet-From`, `X-HearthNet-Request-Id` and the headers for browsers; serves HEAD as GET."""

    def __init__(self, app: ASGIApp, node_id: str) -> None:
        self._app = app
        self._always = ((SENDER.lower().encode(), node_id.encode()), *_ALWAYS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            return  # neither lifespan nor WebSocket is supported
        if scope["method"] == "HEAD":  # the server omits the body
            scope = {**scope, "method": "GET"}
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = self._completed(message.get("headers", ()), scope)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            # The framework raises an error again after the response, only to have it logged once more.
            if not has_started:
                raise

    def _completed(self, given: Headers, scope: Scope) -> list[tuple[bytes, bytes]]:
        headers = [*given, *self._always]
        names = {name for name, _ in headers}
        headers += [header for header in _UNLESS_SET if header[0] not in names]
        if _REQUEST_ID not in names and (request_id := request_id_of(scope["headers"])) is not None:
            headers.append((_REQUEST_ID, request_id))
        return headers


def request_id_of(headers: Headers) -> bytes | None:
    """Returns the trace id that the headers of a request name, in its canonical spelling; None without a valid one."""
    given = [value for name, value in headers if name == _REQUEST_ID]
    found = trace_id_of(given[0].decode("latin-1")) if len(given) == 1 else None
    return None if found is None else found.encode()
