"""The short way out: which calls are answered unparsed, and that their answers are those that others get."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta

import h11
import httpx
import orjson
import pytest
from faults.certificates import write_pair

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.config import TransportConfig
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import trace
from hearthnet.services import echo
from hearthnet.transport import server as transport_server
from hearthnet.transport.app import build_app
from hearthnet.transport.heads import head_trouble
from hearthnet.transport.load import Load
from hearthnet.transport.protocol import plain_call, quick_answer
from hearthnet.transport.routes import Services
from hearthnet.transport.server import Server
from hearthnet.transport.signing import sign

BODY = orjson.dumps({"params": {}, "input": {"text": "hello"}})
JSON = {"Content-Type": "application/json"}
REQUEST_ID = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
FULL = WireError("capacity_exceeded", "too much", retry_after_ms=700)


def call(*more: str, start="POST /bus/v1/call HTTP/1.1", length: object = len(BODY), body=BODY) -> bytes:
    """The bytes of a call."""
    lines = [start, "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, f"X-HearthNet-Request-Id: {REQUEST_ID}", *more, "", ""]).encode() + body


def parsed(answer: bytes) -> tuple[int, dict, dict]:
    """Status, headers and body of an answer, as a strict parser has them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "node"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    head, body = client.next_event(), client.next_event()
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return head.status_code, dict(head.headers), orjson.loads(body.data)


def test_plain_call_is_answered():
    """A whole call is answered in the wire's form, under its own request id."""
    head = plain_call(call("Accept: */*"))

    status, headers, body = parsed(quick_answer(head, FULL, [(b"x-hearthnet-from", b"me")]))
    assert (status, body) == (429, {"error": "capacity_exceeded", "message": "too much", "retry_after_ms": 700})
    assert headers[b"x-hearthnet-request-id"] == REQUEST_ID.encode()
    assert headers[b"x-hearthnet-from"] == b"me"
    assert b"connection" not in headers


def test_last_answer_says_so():
    """A node that stops closes the connection, and says it."""
    status, headers, _ = parsed(quick_answer(plain_call(call()), WireError("partition", "stopping"), []))

    assert (status, headers[b"connection"]) == (503, b"close")


@pytest.mark.parametrize(
    "request_id", ["<script>", "01HXR4Z6W5S9E2JQ4Y0T7B3M1", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C\tx", "%0d%0aSet-Cookie: a=b"]
)
def test_strange_request_id_is_not_echoed(request_id):
    """What is no id is not in the answer."""
    data = call().replace(REQUEST_ID.encode(), request_id.encode())

    assert b"x-hearthnet-request-id" not in parsed(quick_answer(plain_call(data), FULL, []))[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        call()[:40],
        call()[:-1],
        call() + b"G",
        call() + call(),
        call(start="GET /metrics HTTP/1.1"),
        call(start="POST /bus/v1/call HTTP/1.0"),
        call(start="POST /bus/v1/call?a=b HTTP/1.1"),
        call("Transfer-Encoding: chunked"),
        call("transfer-ENCODING: chunked"),
        call("Expect: 100-continue"),
        call("Connection: close"),
        call("Upgrade: websocket"),
        call("Content-Length: 3"),
        call(length="-1"),
        call(length="+35"),
        call(length="0x23"),
        call(length="35, 35"),
    ],
)
def test_everything_else_is_parsed(data):
    """What is not one whole call in its plainest form is left to the parser."""
    assert plain_call(data) is None


class Fixed(Load):
    """A load that refuses when a test says so."""

    why = None

    def refusal(self):
        """What the test has said."""
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
    """Never answers."""
    await asyncio.Event().wait()


async def drip(_):
    """Gives one frame and never another."""
    yield {"n": 1}
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(bus, keys, load):
    """A real server on a real port; gives it and its URL."""
    manifest = Manifest.genesis("home", keys)
    services = Services(bus, None, lambda: manifest, lambda _: None, dict, lambda _: [])
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # a client may come before the server does
        server = Server(build_app(services, load=load), TransportConfig(host="127.0.0.1"), load, keys.node_id)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield server, f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.stop()
        await task


def post(client, url, keys, capability="experimental.echo", request_id=REQUEST_ID, **more):
    """A signed call that is sent when awaited."""
    headers = {**JSON, **sign(keys, keys.node_id, capability, "1.0", orjson.loads(BODY), request_id), **more}
    return client.post(f"{url}/bus/v1/call", content=BODY, headers=headers, timeout=30)


async def whole(url: str, data: bytes) -> bytes:
    """What the server answers to bytes that come at once, until it closes the connection or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    answer = head + await reader.readexactly(length)
    writer.close()
    return answer


async def test_both_ways_out_answer_alike(bus, keys):
    """A refused call in one piece, and one in two pieces that is parsed, get the same answer; neither is a trace."""
    load = Fixed()
    async with serving(bus, keys, load) as (_, url), httpx.AsyncClient() as client:
        assert (await post(client, url, keys, request_id=None)).status_code == 200
        load.why = "overload"
        parsed_one = await post(client, url, keys)
        quick = parsed(await whole(url, call()))
        assert (await client.get(f"{url}/health")).status_code == 200
        load.why = None
        assert (await post(client, url, keys)).json() == {"text": "hello"}

    status, headers, body = quick
    assert (status, body["error"], body["message"]) == (
        parsed_one.status_code,
        parsed_one.json()["error"],
        parsed_one.json()["message"],
    )
    assert status == 429
    assert 500 <= body["retry_after_ms"] < 1_500
    for name in ("x-hearthnet-request-id", "x-hearthnet-from", "content-type"):
        assert headers[name.encode()].decode() == parsed_one.headers[name]
    assert b"date" in headers
    assert len(trace.get_recent(10)) == 2


async def test_connection_serves_on_after_refusals(bus, keys):
    """A connection whose calls were refused unparsed is as good as new: the next call on it is served."""
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
    """What does not end in time is told that the node stops: a stream by its last event, a call by its answer."""
    load = Load(stop_limit_s=0.0)
    async with serving(bus, keys, load) as (server, url), httpx.AsyncClient() as client:
        hanging = asyncio.create_task(post(client, url, keys, "experimental.hang"))
        signed = {**JSON, **sign(keys, keys.node_id, "experimental.drip", "1.0", orjson.loads(BODY))}
        async with client.stream("POST", f"{url}/bus/v1/call", content=BODY, headers=signed) as answer:
            events = answer.aiter_lines()
            assert await anext(events) == "event: frame"
            while bus.stats()[1]["running"] == 0:
                await asyncio.sleep(0.01)
            server.stop()
            rest = [line async for line in events if line]
        cut = await hanging
        with pytest.raises(httpx.TransportError):
            await post(client, url, keys)  # the port is closed by now, or the call is never answered

    assert rest[1] == "event: error"
    assert orjson.loads(rest[2].removeprefix("data: "))["error"] == "partition"
    assert len(rest) == 3
    assert (cut.status_code, cut.json()["error"], cut.headers["connection"]) == (503, "partition", "close")
    assert sorted(item.result for item in trace.get_recent(10)) == ["cancelled", "cancelled"]
    assert [entry["running"] for entry in bus.stats()] == [0, 0, 0]


@asynccontextmanager
async def door(transport, app=None, **pair):
    """A server of an application, a bare one by default, with these settings; gives its port."""

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
    """Whether a newcomer is served."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head.startswith(b"HTTP/1.1 200")


async def test_strangers_in_the_handshake_are_counted(tmp_path, monkeypatch):
    """Connections whose TLS never begins make room as others do: a client with TLS is served at once."""
    monkeypatch.setattr(transport_server, "HANDSHAKE_TIMEOUT_S", 600.0)  # no handshake runs out of time meanwhile
    pair = write_pair(tmp_path)
    trusting = ssl.create_default_context(cafile=pair["tls_cert"])
    trusting.check_hostname = False
    async with door({"max_connections": 16}, **pair) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        async with asyncio.timeout(60):
            assert await answers_200(port, trusting)
            gone = [reader for reader, _ in silent if not await reads_on(reader)]
        assert len(gone) >= 25
        for _, writer in silent:
            writer.close()


async def reads_on(reader) -> bool:
    """Whether the other side has not closed yet."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.01):
            await reader.read(1)
        return False
    return not reader.at_eof() and reader.exception() is None


@pytest.mark.parametrize("more", [b"", b"\n", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_tls_is_no_http_whatever_its_bytes_are(more):
    """The random bytes of a hello hold the end of a line in half of all cases: it is malformed, not ambiguous."""
    assert head_trouble(b"\x16\x03\x01" + more) == "malformed"
    assert head_trouble(b"G") is None  # an honest beginning may be as short


async def test_who_sends_on_after_a_refusal_is_not_refused_again(logged):
    """The application has answered and counted it, and reads on for a moment: the connection ends, and no more."""

    async def refuse(scope, receive, send):
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with door({"max_body_bytes": 1_024}, app=refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 413")
        with suppress(ConnectionError):
            writer.write(b"[" * 200_000)
            await reader.read()
        writer.close()
    assert [record.msg for record in logged if record.levelname == "WARNING"] == []


async def test_no_descriptors_no_flood(logged):
    """While no descriptor is to be had a few lines are logged, no traceback; those who wait are let in after."""
    async with door({}) as port:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(3)]
        lowest = socket.socket()
        used = lowest.fileno()
        lowest.close()
        # Nothing new may be opened by this process from here on.
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            loop = asyncio.get_running_loop()
            for one in waiting:
                one.setblocking(False)
                await loop.sock_connect(one, ("127.0.0.1", port))
            for _ in range(50):
                await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in waiting:
            await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(loop.sock_recv(one, 100), 15)).startswith(b"HTTP/1.1 200")
            one.close()
    told = [record for record in logged if record.levelname not in ("DEBUG", "INFO")]
    assert {getattr(record, "reason", record.msg) for record in told} == {"descriptors"}
    assert len(told) < 5
