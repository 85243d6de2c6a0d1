"""The page of a program's own metrics for Prometheus, as ASGI and as WSGI application to mount.

Without HearthNet's own metrics, which `metrics.exposition()` has as well. The program decides who may ask: the page has
no authentication.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hearthnet.observability import metrics
from hearthnet.observability.middleware.asgi import Receive, Scope, Send
from hearthnet.observability.middleware.wsgi import StartResponse

__all__ = ["asgi_metrics", "wsgi_metrics"]

_METHODS: Final = ("GET", "HEAD")
_REFUSED: Final = (b"only GET and HEAD\n", "text/plain; charset=utf-8")


async def asgi_metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """Serves the metrics of this program; an ASGI application."""
    if scope["type"] != "http":
        return
    accept = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
    is_asked = scope["method"] in _METHODS
    body, content_type = await _exposition(accept) if is_asked else _REFUSED
    headers = [(name.lower().encode(), value.encode()) for name, value in _headers(body, content_type, is_asked)]
    await send({"type": "http.response.start", "status": 200 if is_asked else 405, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _exposition(accept: str) -> tuple[bytes, str]:
    """Returns the page; made in a thread, for it takes milliseconds, where the event loop is asyncio's."""
    import asyncio  # late: importing an instrument imports no event loop

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return metrics.exposition(accept, is_own=True)
    return await asyncio.to_thread(metrics.exposition, accept, is_own=True)


def wsgi_metrics(environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Serves the metrics of this program; a WSGI application."""
    is_asked = environ["REQUEST_METHOD"] in _METHODS
    body, content_type = metrics.exposition(environ.get("HTTP_ACCEPT", ""), is_own=True) if is_asked else _REFUSED
    start_response("200 OK" if is_asked else "405 Method Not Allowed", _headers(body, content_type, is_asked))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _headers(body: bytes, content_type: str, is_asked: bool) -> list[tuple[str, str]]:
    return [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Vary", "Accept") if is_asked else ("Allow", ", ".join(_METHODS)),
    ]
