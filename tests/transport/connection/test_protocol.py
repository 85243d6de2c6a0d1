"""A real server on a real port: overload, stopping, half-closed clients, and checks that llhttp leaves open."""

from __future__ import annotations

import asyncio
import inspect
import resource
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httptools
import httpx
import orjson
import pytest
import uvicorn
from support.certificates import write_pair
from support.refusals import refusals
from support.waiting import a_moment, wait_until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.config import TransportConfig
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics, trace
from hearthnet.services import echo
from hearthnet.transport import server as transport_server
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.signing import sign
from hearthnet.transport.connection import connections as transport_connections
from hearthnet.transport.connection import protocol as transport_protocol
from hearthnet.transport.server import Server

BODY = orjson.dumps({"params": {}, "input": {"text": "hello"}})
JSON = {"Content-Type": "application/json"}
REQUEST_ID = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def call(*more: str, start="POST /bus/v1/call HTTP/1.1", length: object = len(BODY), body=BODY) -> bytes:
    """Returns the bytes of a call."""
    lines = [start, "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, f"X-HearthNet-Request-Id: {REQUEST_ID}", *more, "", ""]).encode() + body


class Fixed(Load):
    """A load that refuses when a test says so."""

    why = None

    def refusal(self, arrived_at):
        """Returns the reason set by the test."""
        del arrived_at
        return self.why


@pytest.fixture
def keys():
    """The node's key."""
    return KeyPair.generate()


@pytest.fixture
def bus(keys):
    """A bus with the echo service and two capabilities that never end."""
    made = CapabilityBus(keys.node_id, lambda _: "anchor")
    made.register(echo.DESCRIPTOR, echo.echo)
    made.register(CapabilityDescriptor(name="experimental.hang", version=(1, 0)), hang)
    made.register(CapabilityDescriptor(name="experimental.drip", version=(1, 0), stream_schema={}), drip)
    return made


async def hang(_):
    """Never returns."""
    await asyncio.Event().wait()


async def drip(_):
    """Yields one frame and never another."""
    yield {"n": 1}
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(bus, keys, load):
    """Runs a real server; yields it and its URL."""
    manifest = Manifest.genesis("home", keys)
    services = Services(bus, None, lambda: manifest, lambda _: None, dict, lambda _: [])
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # a client may connect before the server runs
        server = Server(build_app(services, load=load), TransportConfig(host="127.0.0.1"), load, keys.node_id)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield server, f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.stop()
        await task


def post(client, url, keys, capability="experimental.echo", request_id=REQUEST_ID, **more):
    """Returns a signed call that is sent when awaited."""
    headers = {**JSON, **sign(keys, keys.node_id, capability, "1.0", orjson.loads(BODY), request_id), **more}
    return client.post(f"{url}/bus/v1/call", content=BODY, headers=headers, timeout=30)


async def test_refused_call_gets_a_time_to_retry(bus, keys):
    """A refused call has no trace and the log does not name its caller; other routes and later calls are served."""
    load = Fixed()
    async with serving(bus, keys, load) as (_, url), httpx.AsyncClient(verify=False) as client:
        load.why = "overload"
        refused = await post(client, url, keys)
        assert (await client.get(f"{url}/health")).status_code == 200
        load.why = None
        assert (await post(client, url, keys)).json() == {"text": "hello"}

    assert (refused.status_code, refused.json()["error"]) == (429, "capacity_exceeded")
    assert 500 <= refused.json()["retry_after_ms"] < 1_500
    assert refused.headers["x-hearthnet-request-id"] == REQUEST_ID
    assert refused.headers["x-hearthnet-from"] == keys.node_id
    assert "date" in refused.headers
    assert len(trace.get_recent(10)) == 1


async def test_connection_serves_on_after_refusals(bus, keys):
    """A connection stays usable after its calls were refused: the next call on it is served."""
    load = Fixed()
    now = datetime.now(UTC).replace(microsecond=0)
    async with serving(bus, keys, load) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        for number, (why, status) in enumerate(((None, 200), ("overload", 429), ("overload", 429), (None, 200))):
            load.why = why
            stamp = (now + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers = sign(keys, keys.node_id, "experimental.echo", "1.0", orjson.loads(BODY), REQUEST_ID, stamp)
            writer.write(call(*(f"{name}: {value}" for name, value in headers.items() if "Request-Id" not in name)))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.close()


async def test_stop_ends_a_stream_with_an_error_and_a_call_with_503(bus, keys):
    """Calls that do not end in time get an error that the node stops: in a stream's last event, or as response."""
    load = Load(stop_limit_s=0.0)
    async with serving(bus, keys, load) as (server, url), httpx.AsyncClient(verify=False) as client:
        hanging = asyncio.create_task(post(client, url, keys, "experimental.hang"))
        signed = {**JSON, **sign(keys, keys.node_id, "experimental.drip", "1.0", orjson.loads(BODY))}
        async with client.stream("POST", f"{url}/bus/v1/call", content=BODY, headers=signed) as response:
            events = response.aiter_lines()
            assert await anext(events) == "event: frame"
            while bus.stats()[1]["running"] == 0:
                await a_moment()
            server.stop()
            rest = [line async for line in events if line]
        cut = await hanging
        with pytest.raises(httpx.TransportError):
            await post(client, url, keys)  # the port is closed by now, or the call gets no response

    assert rest[1] == "event: error"
    assert orjson.loads(rest[2].removeprefix("data: "))["error"] == "partition"
    assert len(rest) == 3
    assert (cut.status_code, cut.json()["error"], cut.headers["connection"]) == (503, "partition", "close")
    assert sorted(item.result for item in trace.get_recent(10)) == ["cancelled", "cancelled"]
    assert [entry["running"] for entry in bus.stats()] == [0, 0, 0]


@asynccontextmanager
async def running_server(transport, app=None, **pair):
    """Runs a server of an application, by default a bare one, with these settings; yields its port."""

    async def bare(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(app or bare, TransportConfig(host="127.0.0.1", **transport, **pair), node_id="me")
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0)
        yield listening.getsockname()[1]
        server.stop()
        await task


async def answers_200(port, context=None) -> bool:
    """Returns True if a new connection is served."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head.startswith(b"HTTP/1.1 200")


async def test_connections_in_the_handshake_are_evicted_too(tmp_path, monkeypatch):
    """Connections without a TLS handshake are evicted like others: a TLS client is served at once."""
    monkeypatch.setattr(transport_server, "HANDSHAKE_TIMEOUT_S", 600.0)  # no handshake times out meanwhile
    pair = write_pair(tmp_path)
    trusting = ssl.create_default_context(cafile=pair["tls_cert"])
    trusting.check_hostname = False
    async with running_server({"max_connections": 16}, **pair) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        async with asyncio.timeout(60):
            assert await answers_200(port, trusting)
            gone = [reader for reader, _ in silent if not await reads_on(reader)]
        assert len(gone) >= 25
        for _, writer in silent:
            writer.close()


async def reads_on(reader) -> bool:
    """Returns True while the other side has not closed."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.01):
            await reader.read(1)
        return False
    return not reader.at_eof() and reader.exception() is None


async def test_data_after_a_refusal_is_not_refused_again(logged):
    """A body sent after the response is read only for a moment: then the connection ends."""

    async def refuse(scope, receive, send):
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running_server({"max_body_bytes": 1_024}, app=refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 413")
        with suppress(ConnectionError):
            writer.write(b"[" * 200_000)
            await reader.read()
        writer.close()
    assert [record.msg for record in logged if record.levelname == "WARNING"] == []


async def test_no_descriptors_no_flood(logged):
    """Without free descriptors a few lines are logged, no traceback; waiting clients are served after."""
    async with running_server({}) as port:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(3)]
        lowest = socket.socket()
        used = lowest.fileno()
        lowest.close()
        # This process must not open anything from here on.
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            loop = asyncio.get_running_loop()
            for one in waiting:
                one.setblocking(False)
                await loop.sock_connect(one, ("127.0.0.1", port))
            for _ in range(50):
                await a_moment()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in waiting:
            await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(loop.sock_recv(one, 100), 15)).startswith(b"HTTP/1.1 200")
            one.close()
    warnings = [record for record in logged if record.levelname not in ("DEBUG", "INFO")]
    assert {getattr(record, "reason", record.msg) for record in warnings} == {"descriptors"}
    assert len(warnings) < 5


async def sent_back(port, *pieces: bytes, is_half_closed=False) -> bytes:
    """Sends pieces and returns everything that the server sends until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    if is_half_closed:
        writer.write_eof()
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    return said


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", "not_http1"),
        (b"GET /health\r\n\r\n", "not_http1"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "target"),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", "target"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", "malformed"),
        (GET + b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "upgrade"),
        (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", "upgrade"),
        (CHUNKED + b"0\r\nX-A: b\r\n\r\n", "trailers"),
        (GET + b"X-A: b\r\n" * 101 + b"\r\n", "too_much_head"),
        (GET + b"X-A: " + b"a" * 25_000, "too_much_head"),
        (b"GET /" + b"a" * 8_192 + b" HTTP/1.1\r\n", "too_much_head"),
        (CHUNKED + b"1\r\na\r\n" * 20_000, "too_many_chunks"),
        (CHUNKED + b"1;" + b"x" * 70_000, "too_many_chunks"),
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
async def test_what_llhttp_allows_and_a_node_does_not(sent, reason, is_split):
    """Each is a 400 wire error and closes the connection, in one piece or in many; it is counted once."""

    async def patient(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    metrics.configure(SimpleNamespace(metrics_enabled=True))
    pieces = [sent[at : at + 997] for at in range(0, len(sent), 997)] if is_split else [sent]
    async with running_server({}, app=patient) as port:
        with suppress(ConnectionError):  # more was on its way when it closed
            said = await sent_back(port, *pieces)
            assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"\r\nconnection: close\r\n" in said
            assert b"\r\nx-hearthnet-from: me\r\n" in said
            assert orjson.loads(said.partition(b"\r\n\r\n")[2])["error"] == "bad_request"
    assert refusals() == {reason: 1}


@pytest.mark.parametrize("more", [b"", b"\n", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_tls_is_no_http_whatever_its_bytes_are(more):
    """The random bytes of a TLS hello may contain a line end: the response is a plain text 400."""
    async with running_server({}) as port:
        assert (await sent_back(port, b"\x16\x03\x01" + more)).startswith(b"HTTP/1.1 400")


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"


async def test_upgrade_without_a_body_is_served_as_http1(bus, keys):
    """The upgrade that curl and Java request by default is ignored; whatever follows in that piece is not parsed."""
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    async with serving(bus, keys, Load()) as (_, url):
        port = int(url.rpartition(":")[2])
        for rest in (b"", ask + b"\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n" + ask):
            for cut in (len(ask + H2C), len(ask), 5):
                said = await sent_back(port, (ask + H2C + rest)[:cut], (ask + H2C + rest)[cut:])
                assert (said.count(b"HTTP/1.1 "), b"connection: close" in said) == (1, True)
                assert said.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [b"/health", b"/metrics", b"/trace/recent", b"/openapi.json", b"/manifest"])
async def test_half_closed_client_gets_its_response(bus, keys, observability, path):
    """A client that closes its sending side reads the whole response, then the end."""
    async with serving(bus, keys, Load()) as (_, url):
        sent = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        said = await sent_back(int(url.rpartition(":")[2]), sent, is_half_closed=True)

    said = said.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")  # while a busy machine has no response yet
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 500"))  # there is no telemetry behind /trace here
    assert len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


async def test_half_closed_client_gets_all_responses(bus, keys):
    """Requests pipelined before the end are served, also those not parsed yet."""
    async with serving(bus, keys, Load()) as (_, url):
        sent = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 600
        said = await sent_back(int(url.rpartition(":")[2]), sent, is_half_closed=True)

    assert said.count(b"HTTP/1.1 200") == 600


async def test_half_closed_client_waits_for_a_slow_call(bus, keys, monkeypatch):
    """A slow call ends normally; meanwhile the client gets interim responses."""
    monkeypatch.setattr(transport_protocol, "HALF_CLOSED_PROBE_S", 0.02)
    body = orjson.dumps({"params": {}, "input": {"text": "late", "delay_ms": 300}})
    signed = sign(keys, keys.node_id, "experimental.echo", "1.0", orjson.loads(body), REQUEST_ID)
    lines = [f"{name}: {value}" for name, value in signed.items() if "Request-Id" not in name]
    async with serving(bus, keys, Load()) as (_, url):
        said = await sent_back(
            int(url.rpartition(":")[2]), call(*lines, length=len(body), body=body), is_half_closed=True
        )

    *probes, head, response = said.split(b"\r\n\r\n")
    assert set(probes) == {b"HTTP/1.1 100 Continue"}
    assert head.startswith(b"HTTP/1.1 200")
    assert orjson.loads(response)["text"] == "late"


async def test_client_that_has_left_is_noticed(bus, keys, monkeypatch):
    """A client that closed both sides looks half-closed at first; a probe detects it, and its call is cancelled."""
    monkeypatch.setattr(transport_protocol, "HALF_CLOSED_PROBE_S", 0.02)
    signed = sign(keys, keys.node_id, "experimental.hang", "1.0", orjson.loads(BODY), REQUEST_ID)
    lines = [f"{name}: {value}" for name, value in signed.items() if "Request-Id" not in name]
    async with serving(bus, keys, Load()) as (_, url), asyncio.timeout(30):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(call(*lines))
        while bus.stats()[1]["running"] == 0:
            await a_moment()
        writer.close()
        while bus.stats()[1]["running"]:
            await a_moment()
    assert [item.result for item in trace.get_recent(10)] == ["cancelled"]


def signed_lines(keys, capability):
    """The signed headers of a call, as lines; its request id comes from `call`."""
    signed = sign(keys, keys.node_id, capability, "1.0", orjson.loads(BODY), REQUEST_ID)
    return [f"{name}: {value}" for name, value in signed.items() if "Request-Id" not in name]


@pytest.mark.parametrize("capability", ["experimental.hang", "experimental.drip"])
@pytest.mark.parametrize("behind", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("is_reset", [False, True])
async def test_call_ends_however_its_client_leaves(bus, keys, monkeypatch, capability, behind, is_reset):
    """By a close or a reset, before its response or within a stream, with another request pipelined or not."""
    monkeypatch.setattr(transport_protocol, "HALF_CLOSED_PROBE_S", 0.02)
    monkeypatch.setattr(transport_protocol, "HALF_CLOSED_LIMIT_S", 0.1)
    load = Load()
    lines = [*signed_lines(keys, capability), "Accept: text/event-stream"]
    async with serving(bus, keys, load) as (server, url), asyncio.timeout(30):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(call(*lines) + behind)
        while not sum(entry["running"] for entry in bus.stats()):
            await a_moment()
        if is_reset:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4)
            )
        writer.close()
        while sum(entry["running"] for entry in bus.stats()) or len(server._connections):
            await a_moment()
    assert load.waiting == 0
    assert [item.result for item in trace.get_recent(10)] == ["cancelled"]


async def test_request_behind_one_that_closes_is_not_waited_for(bus, keys):
    """What is queued when the connection ends has never begun, and does not count as waiting."""
    load = Load()
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    async with serving(bus, keys, load) as (server, url):
        for _ in range(40):
            await sent_back(int(url.rpartition(":")[2]), get + b"Content-Length: 2\r\n\r\nab" + get + b"\r\n")
        while len(server._connections):
            await a_moment()
    assert load.waiting == 0


async def test_request_queued_without_its_body_is_timed_out_and_counted(monkeypatch):
    """Behind an answered request it waits like any other: its bytes count, it can be evicted, and it gets 408."""
    ready = asyncio.Event()

    async def reads_all(scope, receive, send):
        if scope["method"] == "POST":
            ready.set()
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(transport_connections, "REQUEST_S", 0.2)
    monkeypatch.setattr(transport_server, "_SWEEP_S", 0.05)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(reads_all, TransportConfig(host="127.0.0.1", max_body_bytes=50_000), node_id="me")
        task = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n"
        writer.write(GET + b"\r\n" + head + b"x" * 1_000)
        await asyncio.wait_for(ready.wait(), 20)
        assert server._connections._held_bytes == 1_000
        said = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        server.stop()
        await task
    assert [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 408 Request Timeout",
    ]


@pytest.mark.parametrize("cut", [None, 36, 37, 40])
async def test_response_is_not_lost_to_what_follows(cut):
    """A malformed request behind a good one gets its error after the good one's response, however the bytes arrive."""
    sent = GET + b"\r\nnonsense\r\n\r\n"
    async with running_server({}) as port:
        said = await sent_back(port, *([sent] if cut is None else [sent[:cut], sent[cut:]]))
    assert [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
    ]


async def test_error_of_a_body_repeats_the_request_id():
    """What is refused after the head has the caller's id, like every other response."""

    async def patient(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    named = CHUNKED[:-2] + f"X-HearthNet-Request-Id: {REQUEST_ID}\r\n\r\n".encode()
    async with running_server({}, app=patient) as port:
        said = await sent_back(port, named, b"0\r\nX-A: b\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")
    assert f"x-hearthnet-request-id: {REQUEST_ID}".encode() in said


async def test_tls_client_that_reads_nothing_and_leaves_is_let_go(tmp_path, monkeypatch):
    """The server goes on, and the connection is aborted, whatever asyncio's transport makes of a second close."""
    pair = write_pair(tmp_path)

    served = []

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000")]})
        await send({"type": "http.response.body", "body": b"x" * 20_000})
        served.append(scope)

    monkeypatch.setattr(transport_connections, "REQUEST_S", 0.1)
    monkeypatch.setattr(transport_connections, "STALL_S", 0.3)
    monkeypatch.setattr(transport_server, "_SWEEP_S", 0.05)
    context = ssl.create_default_context(cafile=pair["tls_cert"])
    context.check_hostname = False
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(large, TransportConfig(host="127.0.0.1", **pair), node_id="me")
        task = asyncio.create_task(server.serve(sockets=[listening]))

        def leave_unread() -> socket.socket:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            plain.connect(listening.getsockname())
            client = context.wrap_socket(plain)
            for number in range(400):
                client.sendall(GET + b"\r\n")
                wait_until(lambda wanted=number: len(served) > wanted)
                if any(
                    one.transport._ssl_protocol._transport.get_write_buffer_size() for one in server._state.connections
                ):
                    break
            client.settimeout(0.01)
            with suppress(OSError):
                client.unwrap()  # sends close_notify and reads nothing
            return client

        client = await asyncio.to_thread(leave_unread)
        async with asyncio.timeout(30):
            while len(server._connections):
                await a_moment()
        assert not task.done()
        client.close()
        server.stop()
        await task


async def test_stream_is_refused_over_http_1_0(bus, keys):
    """A stream is chunked, which HTTP/1.0 does not have; a plain call is served."""
    lines = signed_lines(keys, "experimental.drip")
    async with serving(bus, keys, Load()) as (_, url):
        port = int(url.rpartition(":")[2])
        refused = await sent_back(port, call(*lines, "Accept: text/event-stream", start="POST /bus/v1/call HTTP/1.0"))
        lines = signed_lines(keys, "experimental.echo")
        served = await sent_back(port, call(*lines, start="POST /bus/v1/call HTTP/1.0"))
    assert refused.startswith(b"HTTP/1.1 400")
    assert b"transfer-encoding" not in refused
    assert served.endswith(b'{"text":"hello"}')


async def test_unfinished_request_of_a_closed_client_is_given_up():
    """A request whose rest cannot arrive any more is not waited for."""
    async with running_server({}) as port:
        for sent in (b"GET / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12"):
            assert b"408" not in await sent_back(port, sent, is_half_closed=True)


async def test_malformed_rest_of_a_served_request_gets_no_second_response(logged):
    """A client that sends garbage after an early response is only disconnected."""
    async with running_server({}) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"nonsense\r\n")
        assert await reader.read() == b""
        writer.close()
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_curl_head(bus, keys):
    """`curl -I` shows the headers of a GET, at once."""
    async with serving(bus, keys, Load()) as (_, url):
        command = ["curl", "-sS", "-I", "--max-time", "20", f"{url}/health"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert "content-type: application/json" in done.stdout


async def test_monitor_with_head_keeps_its_connection(bus, keys):
    """A monitor that sends HEAD repeatedly on one connection gets no bodies and stays in sync."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    async with serving(bus, keys, Load()) as (_, url), httpx.AsyncClient(base_url=url, verify=False) as client:
        for path, status in (("/health", 200), ("/ready", 200), ("/nowhere", 404), ("/metrics", 200)) * 3:
            response = await client.head(path)
            assert (response.status_code, response.content) == (status, b"")
            assert int(response.headers["content-length"]) > 0
    assert refusals() == {}


def test_names_of_uvicorn_and_httptools_exist():
    """The undocumented names that `BoundedProtocol` and `Server` use exist; `pyproject.toml` has ceilings for each."""
    taken = inspect.signature(HttpToolsProtocol.__init__).parameters
    assert {"config", "server_state", "app_state"} <= taken.keys()
    for name in ("on_response_complete", "send_400_response", "shutdown"):
        assert callable(getattr(HttpToolsProtocol, name))
    state = ServerState()
    assert (state.connections, state.tasks, state.default_headers) == (set(), set(), [])
    settings = uvicorn.Config(lambda: None, ws="none", lifespan="off", log_config=None)
    settings.load()
    made = HttpToolsProtocol(config=settings, server_state=state, app_state={}, _loop=asyncio.new_event_loop())
    assert {"cycle", "headers", "logger", "loop", "parser", "transport"} <= vars(made).keys()
    made.loop.close()
    for name in ("get_http_version", "should_upgrade", "feed_data"):
        assert callable(getattr(httptools.HttpRequestParser, name))
