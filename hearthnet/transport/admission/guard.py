"""ASGI middleware around the application: headers of every response, and a guard that refuses requests by their head.

The guard refuses what cannot be meant for this node:

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
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearthnet.config import TransportConfig
from hearthnet.errors import ConfigError, WireError
from hearthnet.transport.admission.gate import LAST_WORDS_S, Load
from hearthnet.transport.admission.refusals import Reason, count_refused
from hearthnet.transport.auth.signing import REQUEST_ID, SENDER, trace_id_of
from hearthnet.transport.tls import read_certificate

__all__ = [
    "REFUSALS",
    "SAFE_HEADERS",
    "Guard",
    "MalformedHostError",
    "OwnHosts",
    "ResponseHeaders",
    "own_host_names",
    "request_id_of",
    "without_port",
]

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

_DECIDING: Final = frozenset(
    b"host origin sec-fetch-site sec-fetch-mode sec-fetch-dest content-type content-length transfer-encoding".split()
)
_READING: Final = "GET"
_OWN_SITES: Final = (None, b"none", b"same-origin")
_DEFAULT_PORTS: Final = {"http": b":80", "https": b":443"}
_JSON: Final = b"application/json"
_UTF_8: Final = (b"utf-8", b"utf8")
_MAX_HOST_SHOWN: Final = 128

_RESOLVER: Final = Path("/etc/resolv.conf")
_MAX_RESOLVER_BYTES: Final = 65_536
# From RFC 6762, RFC 8375, ICANN's private-use domain, and defaults of routers; none is delegated.
_PRIVATE_ENDINGS: Final = ("local", "home.arpa", "internal", "lan", "home", "localdomain")
_CHECK_EVERY_S: Final = 10.0  # for a laptop that moves between networks; three cheap reads
_MAX_KNOWN: Final = 256  # callers may add any port to the same name
# No part may match what the next one can match: trying every split between them takes 0.4 s for a full head.
_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}(?:%[a-z0-9%._-]{0,64})?\]|[a-z0-9._-]{1,254})(?::([0-9]{0,5}))?")


class ResponseHeaders:
    """Adds `X-HearthNet-From`, `X-HearthNet-Request-Id` and the headers for browsers; serves HEAD as GET.

    Every response names the node, because its own tools must know that their node owns the port; repeats a valid
    request id; and forbids browsers to let any page use it.
    """

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


class MalformedHostError(ValueError):
    """Raised when a `Host` header names no host."""


def without_port(host: str) -> str:
    """Returns the host of a `Host` header: lower case, without brackets, port and trailing dot.

    Raises:
        MalformedHostError: raised for an invalid host: empty, with a user name, spaces, or not ASCII.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        raise MalformedHostError
    return found[1].strip("[]").removesuffix(".")


def own_host_names(tls_cert: Path | None = None) -> frozenset[str]:
    """Returns the names that this machine currently has on its network, and those in its certificate.

    Sends no query: a name server may be slow, and may be under an attacker's control.
    """
    return _machine_names() | _certified_names(tls_cert)


def _machine_names() -> frozenset[str]:
    full = socket.gethostname().lower().removesuffix(".")
    short = full.partition(".")[0]
    if not short or _is_address(full):
        return frozenset()
    return frozenset({full, short, *(f"{short}.{ending}" for ending in (*_PRIVATE_ENDINGS, *_search_domains()))})


def _certified_names(tls_cert: Path | None) -> frozenset[str]:
    try:
        certified = () if tls_cert is None else read_certificate(tls_cert).names
    except ConfigError:  # it is being replaced; `ServingPair` logs it if it stays unusable
        return frozenset()
    return frozenset(name.lower() for name in certified)


def _search_domains() -> list[str]:
    try:
        with _RESOLVER.open(encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file.read(_MAX_RESOLVER_BYTES).lower().splitlines()]
    except OSError:  # no resolver configuration: allowed
        return []
    words = [word for line in lines if line and line[0] in ("search", "domain") for word in line[1:]]
    return [word.strip(".") for word in words if word.strip(".")]


class OwnHosts:
    """Recognizes `Host` headers that name this node; ports are ignored.

    With DNS rebinding, an attacker's page makes its own host name resolve to this machine: the browser then takes node
    and page for one origin and lets the page read responses. The Host header reveals it. A name counts as ours only if
    no one outside can make it resolve elsewhere first: loopback's names, this machine's host name alone, below suffixes
    that public DNS does not have, and below the search domains of this network. The names in the node's own certificate
    count too: the one who got it signed controls them.

    An address is ours if it is a loopback one, or the one that the connection was made to: that is correct whatever
    DHCP assigns. Names and addresses of a NAT or proxy in front of the node are set in `transport.hosts`.

    Args:
        more: further names and addresses, `transport.hosts`.
        names: returns the machine's current names; called again now and then when an unknown name arrives.
        clock: monotonic seconds; for tests.
    """

    def __init__(
        self,
        more: Iterable[str] = (),
        names: Callable[[], frozenset[str]] = own_host_names,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._more = frozenset(_plain(host.lower().strip("[]").removesuffix(".")) for host in more)
        self._read_names = names
        self._clock = clock
        self._names = names()
        self._read_at = clock()
        self._known: set[tuple[bytes, str]] = set()

    def has(self, host: bytes, address: str) -> bool:
        """Returns True if a request for `host`, over a connection to our `address`, is meant for this node.

        Raises:
            MalformedHostError: raised for an invalid host.
        """
        if (host, address) in self._known:
            return True
        name = _plain(without_port(host.decode("latin-1")))
        is_own = self._is_own(name, address) or (self._read_again() and name in self._names)
        if is_own:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known.add((host, address))
        return is_own

    def _is_own(self, name: str, address: str) -> bool:
        if name in self._names or name in self._more or name == "localhost" or name.endswith(".localhost"):
            return True
        return name == _plain(address.lower()) or (_is_address(name) and ipaddress.ip_address(name).is_loopback)

    def _read_again(self) -> bool:
        if self._clock() - self._read_at < _CHECK_EVERY_S:
            return False
        self._read_at = self._clock()
        self._names = self._read_names()
        self._known.clear()  # old names are not valid any more
        return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    """Returns an address in normal form (no zone, IPv4-mapped as IPv4); other names unchanged."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)
