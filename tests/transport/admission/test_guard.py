"""`Guard`: which requests it refuses and passes on, and the response headers for browsers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import orjson
import pytest
from support.certificates import write_pair
from support.refusals import refusals

from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import TransportConfig
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.observability.telemetry import Telemetry
from hearthnet.transport.admission import guard as guarding
from hearthnet.transport.admission import refusals as refused
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.admission.guard import REFUSALS, Guard, OwnHosts, ResponseHeaders, own_host_names
from hearthnet.transport.api.error_body import error_body
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app

ADDRESS = "192.168.1.5"
NAMES = frozenset({"hearth", "hearth.local"})
LIMIT = 2_000
JSON = {"content-type": "application/json"}
SAFE = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Echo:
    """An application that reads the body, counts the request as begun, and responds."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.bodies: list[bytes] = []
        self.headers = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=60")]

    async def __call__(self, scope, receive, send):
        """Responds with the length of the body."""
        self.load.begin()
        body, has_more = b"", True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message["body"]
            has_more = message["more_body"]
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"%d" % len(body)})


class Door:
    """A guard with an application behind it, called like by a server."""

    def __init__(self) -> None:
        self.load = Load()
        self.app = Echo(self.load)
        settings = TransportConfig(hosts=("proxy.example.org", "203.0.113.9", "[2001:db8::7]"), max_body_bytes=LIMIT)
        guard = Guard(self.app, settings, self.load, ["/"], OwnHosts(settings.hosts, lambda: NAMES))
        self.guard = ResponseHeaders(guard, "me")
        self.read = 0

    async def ask(self, method="GET", host="hearth:7080", body=(), more=(), scheme="http", address=ADDRESS, **headers):
        """Returns status, headers (repeated ones joined) and body of the response."""
        named = {} if host is None else {"host": host}
        lines = [*{**named, **{name.replace("_", "-"): value for name, value in headers.items()}}.items(), *more]
        scope = {
            "type": "http",
            "method": method,
            "path": "/",
            "scheme": scheme,
            "server": (address, 7080),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in lines],
        }
        pieces, sent, self.read = list(body), [], 0

        async def receive():
            self.read += 1
            return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

        async def send(message):
            sent.append(message)

        self.load.waiting += 1
        await self.guard(scope, receive, send)
        assert self.load.waiting == 0  # else refused requests would make the node look busy
        assert [message["type"] for message in sent].count("http.response.start") == 1
        assert sent[-1].get("more_body", False) is False
        found: dict[str, str] = {}
        for name, value in sent[0]["headers"]:
            found[name.decode()] = (
                found[name.decode()] + ", " + value.decode() if name.decode() in found else value.decode()
            )
        return sent[0]["status"], found, b"".join(message["body"] for message in sent[1:])

    async def status(self, *arguments, **more) -> int:
        """Returns the status of the response; only admitted requests reach the application."""
        before = len(self.app.bodies)
        status, _, body = await self.ask(*arguments, **more)
        assert (len(self.app.bodies) > before) == (status == 200)
        assert status == 200 or orjson.loads(body)["error"] == "bad_request"
        return status

    async def post(self, *pieces: bytes, kind: str | None = "application/json", length: object = None, **more):
        """Sends a body in pieces, with its length."""
        named = {} if kind is None else {"content_type": kind}
        declared = str(sum(map(len, pieces)) if length is None else length)
        return await self.ask("POST", body=pieces, content_length=declared, **{**named, **more})


@pytest.fixture
def guarded():
    """The guard of a node named hearth, with a configured proxy in front."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    return Door()


OWN = [
    "localhost",
    "LocalHost.",
    "node.localhost",
    "127.0.0.1",
    "127.9.8.7",
    "[::1]",
    ADDRESS,
    "hearth",
    "HEARTH.local.",
]
OWN += ["proxy.example.org", "203.0.113.9", "[2001:DB8:0::7]"]
OTHERS = [
    "evil.example",
    "hearth.evil.example",
    "localhost.evil.example",
    "notlocalhost",
    "192.168.1.6",
    "0.0.0.0",
    "[::]",
]
OTHERS += [
    "2130706433",
    "127.1",
    "0x7f.0.0.1",
    "127.0.0.1.nip.io",
    "[::ffff:10.0.0.1]",
    "node",
    "local",
    "-",
    "hearth..local",
]
NO_HOSTS = [
    None,
    "",
    ":7080",
    "a@localhost",
    "local host",
    "localhost/",
    "localhost:port",
    "localhost:123456",
    "::1",
    "[::1",
]
NO_HOSTS += ["[::1]x", "löcalhost", "localhost,evil", "localhost\t", "\xff", "a" * 300, "http://localhost"]


@pytest.mark.parametrize("port", ["", ":7080", ":8443", ":"])
async def test_own_names_are_admitted(guarded, port):
    """Loopback, the connection's address, the machine's names and configured ones are accepted, with any port."""
    for host in OWN:
        assert await guarded.status(host=host + port) == 200, host


async def test_names_of_others_are_misdirected(guarded, logged, monkeypatch):
    """Other names get 421, even if they resolve to this machine: DNS rebinding. The log has the name."""
    once = RateLimitedLogger(get_logger("hearthnet.test_guard"), clock=lambda: 0.0)
    monkeypatch.setattr(refused, "_often", once)
    for host in OTHERS:
        assert await guarded.status(host=host) == 421, host
        assert await guarded.status(host=f"{host}:7080") == 421, host

    assert refusals() == {"host": 2 * len(OTHERS)}
    assert [record.host for record in logged if record.getMessage() == "request refused"] == ["evil.example"]


async def test_invalid_hosts_are_bad_requests(guarded):
    """Empty, a user name, a space, an address without brackets, not ASCII: 400, not 421."""
    for host in NO_HOSTS:
        assert await guarded.status(host=host) == 400, host
    assert await guarded.status(more=[("host", "hearth")]) == 400
    assert refusals() == {"bad_host": len(NO_HOSTS), "bad_header": 1}


@pytest.mark.parametrize(
    ("address", "host"),
    [("::ffff:192.168.1.5", "192.168.1.5"), ("fe80::1%eth0", "[fe80::1]"), ("fe80::1%eth0", "[fe80::1%25eth0]")],
)
async def test_address_of_the_connection_has_many_spellings(guarded, address, host):
    """IPv4 addresses on a dual-stack socket, and addresses with a zone, are accepted."""
    assert await guarded.status(host=host, address=address) == 200
    assert await guarded.status(host=host, address="10.0.0.1") == 421


async def test_names_follow_the_machine():
    """A new machine name is accepted and an old one refused after a while; not every miss reads the names."""
    names, now_s, looks = {"old"}, [0.0], []
    own = OwnHosts(names=lambda: looks.append(1) or frozenset(names), clock=lambda: now_s[0])
    assert own.has(b"old:1", ADDRESS)
    names.clear()
    names.add("new")
    assert [own.has(b"new", ADDRESS) for _ in range(5)] == [False] * 5
    now_s[0] = 10.0
    assert own.has(b"new", ADDRESS)
    assert not own.has(b"old:1", ADDRESS)
    assert len(looks) == 2


def test_names_of_this_machine(monkeypatch, tmp_path):
    """The host name, its short form, and that below private suffixes and search domains; never the domain alone."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_bytes(b"nameserver 10.0.0.1\nsearch fritz.box . \xff.example\n# search commented\noptions x\n")
    monkeypatch.setattr(guarding, "_RESOLVER", resolver)
    monkeypatch.setattr(guarding.socket, "gethostname", lambda: "Pi.garden.example")
    assert {"pi", "pi.garden.example", "pi.local", "pi.lan", "pi.home.arpa", "pi.fritz.box"} <= own_host_names()
    assert {"garden.example", "fritz.box", "pi.", "pi.commented", "local"}.isdisjoint(own_host_names())

    resolver.unlink()
    assert "pi.local" in own_host_names()
    monkeypatch.setattr(guarding.socket, "gethostname", lambda: "")
    assert own_host_names() == frozenset()


def test_names_of_the_certificate(tmp_path):
    """The names in the certificate are accepted; an unreadable certificate has none."""
    pair = write_pair(tmp_path, hosts=("Node.example.org", "203.0.113.9"))
    own = OwnHosts(names=lambda: own_host_names(pair["tls_cert"]))
    assert own.has(b"node.example.org:7080", ADDRESS)
    assert own.has(b"203.0.113.9", ADDRESS)
    assert not own.has(b"example.org", ADDRESS)

    pair["tls_cert"].write_text("half of a certifi")
    assert own_host_names(pair["tls_cert"]) == own_host_names()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_pages_of_other_origins_are_refused(guarded, method):
    """Another scheme, name or port is another origin, and so is `null`. The node's own origin is accepted."""
    for origin in ("http://evil.example", "null", "", "https://hearth:7080", "http://hearth", "http://hearth:70800"):
        assert await guarded.status(method, origin=origin, content_type="application/json") == 403, origin
    for origin, host in (
        ("http://hearth:7080", "Hearth:7080"),
        ("http://hearth", "hearth"),
        ("http://hearth", "hearth:80"),
    ):
        assert await guarded.status(method, host, origin=origin, content_type="application/json") == 200, origin
    assert (
        await guarded.status(method, origin="https://hearth:7080", scheme="https", content_type="application/json")
        == 200
    )
    assert refusals() == {"origin": 6}


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "no-cors", "script", 403),  # a page of another port of this machine
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "navigate", "document", 200),
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
    ],
)
async def test_page_loads_without_an_origin_are_refused(guarded, site, mode, dest, status):
    """Images, scripts and frames of other pages are refused; followed links and typed addresses are not."""
    fetch = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
    assert await guarded.status(**fetch) == status
    if site == "cross-site":
        assert await guarded.status("POST", content_type="application/json", **fetch) == 403  # a form of another page


async def test_unsupported_methods_are_refused(guarded):
    """Preflight requests are refused too: no response allows another origin anything."""
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "X" * 5_000):
        status, headers, _ = await guarded.ask(method, access_control_request_method="POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD, POST")
        assert not [name for name in headers if name.startswith("access-control")]
    assert refusals() == {"method": 9}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ('application/json ; profile=x; charset="utf-8"', 200),
        (None, 415),  # a browser sends this for bytes without a type, with no preflight
        ("", 415),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/json, text/plain", 415),
        ("application/jsonp", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=utf-8; charset=latin-1", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
    ],
)
async def test_only_json_is_posted(guarded, kind, status):
    """Content types that a page can send without a preflight request are refused."""
    assert (await guarded.post(b"{}", kind=kind))[0] == status


async def test_body_declared_too_large_is_not_read_first(guarded):
    """413 is sent before any of the body is read; then the connection closes, after reading for a short while."""
    assert (await guarded.post(b"x" * LIMIT))[0] == 200
    for length in (LIMIT + 1, 200_000_000, "9" * 5_000, "-1", "1e3"):
        status, headers, body = await guarded.post(*[b"x" * 500] * 40, length=length)
        assert (status, headers["connection"], orjson.loads(body)["error"]) == (413, "close", "bad_request")
        assert guarded.read <= 1 + LIMIT // 500
    assert guarded.app.bodies == [b"x" * LIMIT]
    assert refusals() == {"body_too_large": 5}


async def test_body_of_unknown_length_is_counted(guarded):
    """One byte too many is 413; the application sees a disconnect."""
    chunked = {"content_type": "application/json", "transfer_encoding": "chunked"}
    assert (await guarded.ask("POST", body=[b"x" * 500] * 4, **chunked))[0] == 200
    status, headers, body = await guarded.ask("POST", body=[b"x" * 500] * 4 + [b"y", *[b"z" * 500] * 100], **chunked)

    assert (status, headers["connection"], orjson.loads(body)["error"]) == (413, "close", "bad_request")
    assert {name: headers[name] for name in SAFE} == SAFE
    assert [len(body) for body in guarded.app.bodies] == [2_000, 2_000]
    assert refusals() == {"body_too_large": 1}


async def test_endless_body_is_cut_off(guarded, monkeypatch):
    """A refused body that trickles in, or stops, holds its connection for half a second at most."""
    monkeypatch.setattr("hearthnet.transport.admission.guard.LAST_WORDS_S", 0.02)
    sent, never = [], asyncio.Event()
    lines = [(b"host", b"hearth"), (b"content-type", b"application/json"), (b"content-length", b"90000000")]
    scope = {"type": "http", "method": "POST", "path": "/", "scheme": "http", "server": None, "headers": lines}

    async def send(message):
        sent.append(message)

    await asyncio.wait_for(guarded.guard(scope, never.wait, send), 20)
    assert [message.get("more_body") for message in sent] == [None, True, False]


async def test_get_has_no_body(guarded):
    """A GET with a body is refused, since an intermediary may read it differently; a length of 0 is accepted."""
    assert await guarded.status(content_length="0") == 200
    assert await guarded.status(content_length="3", body=[b"abc"]) == 400
    assert refusals() == {"unexpected_body": 1}


async def test_every_response_has_the_headers_for_browsers(guarded):
    """Each header once, on refusals too; headers that a route has set stay."""
    _, headers, _ = await guarded.ask(host="evil.example")
    assert {name: headers[name] for name in SAFE} == SAFE
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    _, headers, _ = await guarded.ask()
    assert {name: headers[name] for name in SAFE} == {**SAFE, "cache-control": "max-age=60"}


@pytest.fixture
def ask(observability):
    """Calls a node's whole application from its own machine; `broken` is a route that fails."""
    keys = KeyPair.generate()
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)

    def broken():
        raise RuntimeError("the password is hunter2")

    services = Services(bus, Telemetry(observability), lambda: manifest, lambda caller: None, broken, lambda only: [])
    transport = httpx.ASGITransport(build_app(services), client=("127.0.0.1", 40_000))

    async def ask_it(method, path, **more):
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **more)

    return ask_it


HUGE = b"x" * 300_000
CONTROL = "/control/log-level"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("GET", "/health/", None, 404, "not_found"),
        ("GET", "//evil.example/..", None, 404, "not_found"),
        ("GET", "/bus/v1/call", None, 405, "bad_request"),
        ("HEAD", "/bus/v1/call", None, 405, ""),
        ("POST", "/health", b"{}", 405, "bad_request"),
        ("POST", "/trace/recent", b"plain", 405, "bad_request"),
        ("POST", "/nowhere", b"plain", 404, "not_found"),
        ("GET", "/trace?n=%00" + "9" * 5_000, None, 400, "bad_request"),
        ("POST", "/bus/v1/call", b"[" * 100_000, 401, "invalid_signature"),
        ("POST", CONTROL, b'{"logger": "a", "logger": "b"}', 400, "bad_request"),
        ("POST", CONTROL, b'{"logger": "\\ud800"}', 400, "bad_request"),
        ("POST", CONTROL, b'{"level": NaN}', 400, "bad_request"),
        ("POST", CONTROL, b"[" * 100_000, 400, "bad_request"),
        ("POST", CONTROL, b'{"%b": 1}' % HUGE, 400, "bad_request"),
        ("POST", CONTROL, b'{"logger": "%b"}' % HUGE, 400, "bad_request"),
        ("POST", CONTROL, b'{"level": "%b"}' % HUGE, 400, "bad_request"),
        ("POST", CONTROL, HUGE * 4, 413, "bad_request"),
        ("GET", "/status", None, 500, "internal_error"),
    ],
)
async def test_errors_are_those_of_the_wire(ask, logged, method, path, body, status, code):
    """Errors have a code of the closed set, the wire format, and little text; the cause is only in the log."""
    kind = {"content-type": "text/plain"} if body == b"plain" else JSON
    response = await ask(method, path, content=body, headers=kind if body is not None else {})

    assert response.status_code == status
    if method != "HEAD":
        assert response.json()["error"] == code
        assert response.json()["message"]
    assert len(response.content) < 3_000
    assert ("allow" in response.headers) == (status == 405)
    assert ("GET" in response.headers.get("allow", "")) == ("HEAD" in response.headers.get("allow", ""))
    assert {name: response.headers[name] for name in SAFE} == SAFE
    assert "x-hearthnet-from" in response.headers
    assert "hunter2" not in response.text
    failures = [record for record in logged if record.getMessage() == "request failed"]
    assert [str(record.exc_info[1]) for record in failures] == (["the password is hunter2"] if status == 500 else [])


async def test_own_page_is_no_tool(ask):
    """A page of the node's own and a typed address pass the guard, but may not use the tools' routes."""
    for headers in ({"Origin": "http://localhost"}, {"Sec-Fetch-Site": "none"}):
        assert (await ask("GET", CONTROL, headers=headers)).status_code == 403
        assert (await ask("GET", "/openapi.json", headers=headers)).status_code == 200
    assert (await ask("GET", CONTROL)).status_code == 200


def test_refusals_are_clean_already():
    """The constant responses equal those of `error_body`."""
    for refusal in REFUSALS:
        assert orjson.loads(refusal.body()) == error_body(WireError("bad_request", refusal.message))


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/manifest", "/metrics", "/trace", "/trace/recent", "/openapi.json"]
)
async def test_head_is_get_without_a_body(ask, path):
    """HEAD has the status and headers of GET."""
    head, get = await ask("HEAD", path), await ask("GET", path)

    assert head.status_code == get.status_code
    assert {name for name in head.headers if name != "date"} == {name for name in get.headers if name != "date"}
    assert head.headers["content-type"] == get.headers["content-type"]


REQUEST_ID = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("POST", "/health", {}, 405),
        ("DELETE", "/health", {}, 405),
        ("POST", "/bus/v1/call", {"content-type": "text/plain"}, 415),
        ("POST", "/bus/v1/call", {**JSON, "origin": "https://evil.example"}, 403),
        ("POST", "/bus/v1/call", {**JSON, "host": "evil.example"}, 421),
        ("POST", "/bus/v1/call", {**JSON, "content-length": "100000000"}, 413),
        ("POST", "/bus/v1/call", JSON, 401),
        ("GET", "/status", {}, 500),
    ],
)
async def test_request_id_comes_back(ask, method, path, headers, status):
    """Every response repeats a valid request id, as a ULID, and no invalid one."""
    response = await ask(method, path, headers={**headers, "x-hearthnet-request-id": REQUEST_ID.lower()})
    assert (response.status_code, response.headers["x-hearthnet-request-id"]) == (status, REQUEST_ID)

    strange = await ask(method, path, headers={**headers, "x-hearthnet-request-id": "<script>"})
    assert strange.headers.get("x-hearthnet-request-id", REQUEST_ID) != "<script>"
