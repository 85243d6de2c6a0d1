"""ASGI middleware that refuses, by their head alone, requests that cannot be meant for this node.

    400  an invalid host, a repeated header, a GET with a body      413  a body that is too large
    403  a page of another origin                                   415  a POST that is not JSON, where one is served
    405  another method than GET, HEAD and POST                     421  a host name that is not this node's

Any web page can make a browser on this network attack the node. Each way is blocked twice: by the host (`OwnHosts`),
by the origin (`Origin`, or `Sec-Fetch-Site` where a GET has none), and by the content type, which forces a preflight
request that is never granted. Following a link is allowed: the page with the link cannot read the target. No response
allows another origin anything.

A request that passes takes 3 us here, of some 700 that a call takes; a refused one takes 7 us, or 17 for its host name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.config import TransportConfig
from hearthnet.errors import WireError
from hearthnet.transport.admission.hosts import MalformedHostError, OwnHosts, own_host_names
from hearthnet.transport.admission.load import LAST_WORDS_S, Load
from hearthnet.transport.admission.refusals import Reason, count_refused

__all__ = ["REFUSALS", "Guard"]

_DECIDING: Final = frozenset(
    b"host origin sec-fetch-site sec-fetch-mode sec-fetch-dest content-type content-length transfer-encoding".split()
)
_READING: Final = "GET"
_OWN_SITES: Final = (None, b"none", b"same-origin")
_DEFAULT_PORTS: Final = {"http": b":80", "https": b":443"}
_JSON: Final = b"application/json"
_UTF_8: Final = (b"utf-8", b"utf8")
_MAX_HOST_SHOWN: Final = 128


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A constant error response and its reason for the counter; `is_last`: it closes the connection."""

    status: int
    reason: Reason
    message: str
    is_last: bool = False
    allow: bytes = b""

    def start(self) -> Message:
        """Returns the message that starts the response."""
        length = str(len(self.body())).encode()
        headers = [(b"content-type", _JSON), (b"content-length", length)]
        if self.allow:
            headers.append((b"allow", self.allow))
        if self.is_last:
            headers.append((b"connection", b"close"))
        return {"type": "http.response.start", "status": self.status, "headers": headers}

    def body(self) -> bytes:
        """Returns the wire's error body."""
        return orjson.dumps(WireError("bad_request", self.message).body())


_NO_HOST: Final = _Refusal(400, "bad_host", "the Host header names no valid host")
_TWICE: Final = _Refusal(400, "bad_header", "a header that must be unique is repeated")
_READ_WITH_BODY: Final = _Refusal(400, "unexpected_body", "a GET must not have a body", is_last=True)
_OTHER_ORIGIN: Final = _Refusal(403, "origin", "pages of another origin may not use this node")
_OTHER_METHOD: Final = _Refusal(405, "method", "the methods are GET, HEAD and POST", allow=b"GET, HEAD, POST")
_TOO_LARGE: Final = _Refusal(413, "body_too_large", "the body is larger than [transport] max_body_bytes", is_last=True)
_NOT_JSON: Final = _Refusal(415, "content_type", "the content type must be application/json, in UTF-8")
_OTHER_HOST: Final = _Refusal(
    421, "host", "this node has another name; if it is also reached by this one, add it to [transport] hosts"
)
REFUSALS: Final = (
    _NO_HOST, _TWICE, _READ_WITH_BODY, _OTHER_ORIGIN, _OTHER_METHOD, _TOO_LARGE, _NOT_JSON, _OTHER_HOST,
)  # fmt: skip


class Guard:
    """Passes on requests that may be meant for this node.

    Args:
        app: the application; counts the requests that reach it as begun.
        config: further host names of the node, and the largest body.
        load: the server's load; counts the requests that are refused here as begun.
        posts: paths that accept a POST; for others the application responds with the allowed method.
        hosts: the host names of the node; for tests.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: TransportConfig,
        load: Load,
        posts: Collection[str],
        hosts: OwnHosts | None = None,
    ) -> None:
        self._app = app
        self._load = load
        self._posts = frozenset(posts)
        self._hosts = hosts or OwnHosts(config.hosts, lambda: own_host_names(config.tls_cert))
        self._max_body_bytes = config.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it."""
        found = _deciding_headers(scope["headers"])
        why = _TWICE if found is None else self._check(scope, found)
        if why is not None:
            self._load.begin()
            await self._refuse(why, scope, receive, send)
        elif found is not None and b"transfer-encoding" in found:
            await self._pass_counted(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, found: Mapping[bytes, bytes]) -> _Refusal | None:
        host, method = found.get(b"host", b""), scope["method"]
        try:
            if not self._hosts.has(host, (scope.get("server") or ("",))[0]):
                return _OTHER_HOST
        except MalformedHostError:
            return _NO_HOST
        if not _is_own_origin(found, scope["scheme"], host, method):
            return _OTHER_ORIGIN
        if method == "POST":
            return self._check_body(found, scope["path"])
        if method != _READING:
            return _OTHER_METHOD
        has_body = b"transfer-encoding" in found or found.get(b"content-length", b"0") != b"0"
        return _READ_WITH_BODY if has_body else None

    def _check_body(self, found: Mapping[bytes, bytes], path: str) -> _Refusal | None:
        length = found.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 20 or int(length) > self._max_body_bytes:
            return _TOO_LARGE
        kind = found.get(b"content-type", b"")
        return None if kind == _JSON or path not in self._posts or _is_json(kind) else _NOT_JSON

    async def _pass_counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on a request of unknown length; when it becomes too long, the application sees a disconnect."""
        left = self._max_body_bytes
        is_answered = False

        async def receive_counted() -> Message:
            nonlocal left, is_answered
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
            if left >= 0:
                return message
            if not is_answered:
                is_answered = True
                await self._refuse(_TOO_LARGE, scope, receive, send)
            return {"type": "http.disconnect"}

        async def send_once(message: Message) -> None:
            nonlocal is_answered
            if left >= 0:
                is_answered = True
                await send(message)

        await self._app(scope, receive_counted, send_once)

    async def _refuse(self, why: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        shown = {"host": _shown_host(scope)} if why is _OTHER_HOST else {}  # for the operator, who may add it
        count_refused(why.reason, status=why.status, **shown)
        await send(why.start())
        await send({"type": "http.response.body", "body": why.body(), "more_body": why.is_last})
        if why.is_last:
            await self._read_rest(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read_rest(self, receive: Receive) -> None:
        """Reads on for a while: a client still sending when the connection closes may never see the response."""
        left = self._max_body_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while left > 0 and (message := await receive()).get("more_body"):
                    left -= len(message.get("body", b""))


def _deciding_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Returns the headers that decide, or None if one is repeated: two readers might pick different values."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _DECIDING:
            if name in found:
                return None
            found[name] = value
    return found


def _is_own_origin(found: Mapping[bytes, bytes], scheme: str, host: bytes, method: str) -> bool:
    """Returns False for a request that a page of another origin caused."""
    origin = found.get(b"origin")
    if origin is not None:
        port = _DEFAULT_PORTS[scheme]
        own = scheme.encode() + b"://" + host.lower().removesuffix(port)
        return origin.lower().removesuffix(port) == own
    if found.get(b"sec-fetch-site") in _OWN_SITES:
        return True
    is_navigation = found.get(b"sec-fetch-mode") == b"navigate" and found.get(b"sec-fetch-dest") == b"document"
    return is_navigation and method == _READING


def _is_json(kind: bytes) -> bool:
    """Returns True for the content type of JSON in UTF-8; other parameters are ignored."""
    name, *parameters = kind.lower().split(b";")
    pairs = [parameter.strip().partition(b"=") for parameter in parameters]
    charsets = [value.strip(b'"') for key, _, value in pairs if key == b"charset"]
    return name.strip() == _JSON and all(charset in _UTF_8 for charset in charsets)


def _shown_host(scope: Scope) -> Any:
    return next(value for name, value in scope["headers"] if name == b"host")[:_MAX_HOST_SHOWN].decode("latin-1")
