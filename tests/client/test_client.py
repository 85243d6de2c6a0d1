"""The client of a node: calls, errors, and that it accepts nothing unproven; over real connections."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.certificates import write_pair

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.client import Client, reading
from hearthnet.config import TransportConfig
from hearthnet.errors import HearthNetError, NodeUnreachableError, UntrustedResponseError, WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.ids import is_trace_id
from hearthnet.observability.traces.traceparent import TRACEPARENT, parse, to_w3c
from hearthnet.services import echo
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.server import Server

BODY = {"params": {}, "input": {"text": "hello"}}
FRAMES = {"params": {}, "input": {"text": "hello", "frames": 3}}
BUSY = CapabilityDescriptor("experimental.busy", (1, 0), max_concurrent=8)


@pytest.fixture
def keys():
    """The node's key, which is the caller's too."""
    return KeyPair.generate()


@pytest.fixture
def busy():
    """How often the busy capability refuses, and the traces under which it was called."""
    return SimpleNamespace(left=0, seen=[])


@pytest.fixture
def bus(keys, busy):
    """A bus with the echo service, and a capability that refuses with a time to retry."""
    made = CapabilityBus(keys.node_id, Manifest.genesis("home", keys).level_of)

    async def put_off(request):
        busy.seen.append(request.trace_id)
        busy.left -= 1
        if busy.left >= 0:
            raise WireError("rate_limited", "later", retry_after_ms=1)
        return {"ok": True}

    made.register(echo.DESCRIPTOR, echo.echo)
    made.register(BUSY, put_off)
    return made


@asynccontextmanager
async def serving(bus, keys, recording=None, **tls):
    """Runs a node's server; yields its port."""
    manifest = Manifest.genesis("home", keys)
    services = Services(bus, recording, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        load = Load()
        config = TransportConfig(host="127.0.0.1", **tls)
        server = Server(build_app(services, load=load), config, load, keys.node_id)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield listening.getsockname()[1]
        server.stop()
        await task


@asynccontextmanager
async def between(port: int, old: bytes, new: bytes):
    """Runs a proxy that changes responses; yields its port."""

    async def pass_on(reader, writer, change=lambda data: data):
        while data := await reader.read(65_536):
            writer.write(change(data))
        writer.close()

    async def serve(reader, writer):
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        served.append((writer, behind_writer, asyncio.current_task()))
        both = pass_on(reader, behind_writer), pass_on(behind_reader, writer, lambda data: re.sub(old, new, data))
        await asyncio.gather(*both, return_exceptions=True)

    served: list[tuple] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for *writers, task in served:
            for writer in writers:
                writer.close()
            await task


def client(port, keys, scheme="http", **more):
    """Returns a client of the node at a port."""
    return Client(f"{scheme}://127.0.0.1:{port}", keys, keys.node_id, **{"node_id": keys.node_id, **more})


async def test_node_is_called_and_read(bus, keys, observability):
    """A call, a stream frame by frame, and a signed GET with a query work; each has its own trace."""
    with telemetry.open(observability) as recording:
        async with serving(bus, keys, recording) as port, client(port, keys) as node:
            assert await node.call("experimental.echo", BODY) == {"text": "hello"}
            frames = [frame async for frame in node.stream("experimental.echo", FRAMES)]
            traces = await node.get("/trace/recent", n=2, capability="experimental.echo")
            with pytest.raises(WireError, match="no such trace") as caught:
                await node.get("/trace/01HXR4Z6W5S9E2JQ4Y0T7B3M1C")

    assert [frame["index"] for frame in frames] == [0, 1, 2]
    assert [found["result"] for found in traces] == ["ok", "ok"]
    assert caught.value.code == "not_found"


async def test_low_bits_of_a_calls_trace_are_random(bus, keys, busy):
    """What `traceparent` says of them is true: ids of the same millisecond differ there, too, by far."""
    async with serving(bus, keys) as port, client(port, keys) as node:
        prepare = [node._request_factory(BUSY.name, "1.0", BODY, None, "application/json") for _ in range(40)]
        sent = [parse(made().headers[TRACEPARENT]) for made in prepare]
        await node.call(BUSY.name, BODY)

    low = sorted(int(to_w3c(one.trace_id), 16) % 2**56 for one in sent)
    assert all(one.is_random for one in sent)
    assert min(after - before for before, after in pairwise(low)) > 2**20
    assert is_trace_id(busy.seen[0])


async def test_whole_number_is_an_integer(bus, keys):
    """Integers respelled as floats, by the caller's language or on the way, reach the handler as integers."""
    floats = {"params": {}, "input": {"text": "hello", "frames": 3.0}}
    async with serving(bus, keys) as port, client(port, keys) as node:
        assert [frame["index"] async for frame in node.stream("experimental.echo", floats)] == [0, 1, 2]


async def test_call_is_retried_only_when_allowed(bus, keys, busy):
    """A refused call is signed anew under the same trace for each try; by default there is one try."""
    async with serving(bus, keys) as port, client(port, keys) as node:
        busy.left = 2
        assert await node.call(BUSY.name, BODY, tries=3) == {"ok": True}
        assert len(busy.seen) == 3
        assert len(set(busy.seen)) == 1
        busy.left = 2
        with pytest.raises(WireError) as caught:
            await node.call(BUSY.name, BODY)

    assert (caught.value.code, caught.value.retry_after_ms, busy.left) == ("rate_limited", 1, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'{"text":"hello"}', b'{"text":"hullo"}'),
        (rb"x-hearthnet-signature: [^\r]+\r\n", b""),
        (rb"(x-hearthnet-timestamp: \d\d)\d\d", rb"\g<1>99"),
        (rb"HTTP/1.1 200 OK", b"HTTP/1.1 202 OK"),
    ],
)
async def test_changed_response_is_rejected(bus, keys, old, new):
    """A change of the body, the time, the status, the name, or no signature at all is detected."""
    async with serving(bus, keys) as port, between(port, old, new) as way, client(way, keys) as node:
        with pytest.raises(UntrustedResponseError) as caught:
            await node.call("experimental.echo", BODY)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"index":1', b'"index":7'),
        (rb'"signature":"[^"]+"', b'"signature":"ed25519"'),
        (rb"(event: done\ndata: ).*\n", b"\\1{}\n"),
    ],
)
async def test_changed_stream_is_not_believed(bus, keys, old, new):
    """Changed frames are yielded, and the end raises that they are not the node's."""
    async with serving(bus, keys) as port, between(port, old, new) as way, client(way, keys) as node:
        frames = node.stream("experimental.echo", FRAMES)
        assert [await anext(frames) for _ in range(3)]
        with pytest.raises(UntrustedResponseError):
            await anext(frames)


async def test_response_to_another_request_is_rejected(bus, keys):
    """A recorded genuine response to the same question does not prove another one."""
    recorded: list[bytes] = []

    async def replay(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(recorded))
        writer.close()

    def record(found):
        recorded.append(found[0])
        return found[0]

    async with serving(bus, keys) as port, between(port, rb"(?s).+", record) as way, client(way, keys) as node:
        assert await node.call("experimental.echo", BODY) == {"text": "hello"}
    async with (
        await asyncio.start_server(replay, "127.0.0.1", 0) as old,
        client(old.sockets[0].getsockname()[1], keys) as node,
    ):
        with pytest.raises(UntrustedResponseError):
            await node.call("experimental.echo", BODY)


async def test_other_node_and_no_node(bus, keys, free_port, taken_port):
    """Another node, a port without a server, and a server that hangs up each raise their error."""
    async with serving(bus, keys) as port, client(port, keys, node_id=KeyPair.generate().node_id) as node:
        with pytest.raises(UntrustedResponseError):
            await node.call("experimental.echo", BODY)
    async with client(free_port, keys) as node:
        with pytest.raises(NodeUnreachableError):
            await node.call("experimental.echo", BODY)
    async with client(taken_port, keys) as node:
        with pytest.raises(HearthNetError, match="broke"):
            await node.call("experimental.echo", BODY)


@pytest.mark.parametrize(
    "url",
    ["localhost:7080", "", "ftp://localhost", "http://", "http://[::1", "http://localhost:99999", "http://localhost:x"],
)
def test_invalid_url_is_an_error_at_once(keys, url):
    """An invalid url is an error with an example, not a failure somewhere below."""
    with pytest.raises(HearthNetError, match="is not the url of a node") as caught:
        Client(url, keys, keys.node_id, keys.node_id)
    assert caught.value.hint == "such as http://192.168.1.7:7080"


@pytest.mark.parametrize("body", [b"[]", b'{"error": []}', b'{"error": {"timeout": 1}}', b'{"error": "no_code"}'])
async def test_unknown_errors_become_wire_errors(keys, body):
    """Whatever is in place of the code, the caller gets a known error."""

    async def response(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 500 No\r\nX-HearthNet-From: {keys.node_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    async with (
        await asyncio.start_server(response, "127.0.0.1", 0) as strange,
        client(strange.sockets[0].getsockname()[1], keys) as node,
    ):
        with pytest.raises(WireError) as caught:
            await node.call("experimental.echo", BODY)
    assert caught.value.code == "internal_error"


async def test_silence_ends_in_time(bus, keys):
    """A node that takes longer than the caller's limit is a timeout, over all tries."""
    slow = {"params": {}, "input": {"text": "hello", "delay_ms": 60_000}}
    async with serving(bus, keys) as port, client(port, keys, timeout_s=0.2) as node:
        with pytest.raises(WireError) as caught:
            await node.call("experimental.echo", slow, tries=5)

    assert caught.value.code == "timeout"


@pytest.mark.parametrize("for_days", [90, -0.5], ids=["valid", "expired"])
async def test_certificate_is_pinned(bus, keys, tmp_path, for_days):
    """The node's own certificate is trusted, self-signed and expired; no other one is."""
    tls = write_pair(tmp_path, for_days=for_days)
    other = write_pair(tmp_path, "other")["tls_cert"]
    async with serving(bus, keys, **tls) as port:
        async with client(port, keys, "https", certificate=tls["tls_cert"]) as node:
            assert await node.call("experimental.echo", BODY) == {"text": "hello"}
        for certificate in (other, tmp_path / "none.pem", None):
            async with client(port, keys, "https", certificate=certificate) as node:
                with pytest.raises(NodeUnreachableError):
                    await node.call("experimental.echo", BODY)

    assert len(trace.get_recent(10)) == 1


async def test_issuer_of_the_certificate_is_not_trusted(bus, keys, tmp_path):
    """A file with an authority's chain pins its first certificate, not everything that the authority has signed."""
    authority = ec.generate_private_key(ec.SECP256R1())
    own = write_pair(tmp_path, issuer="authority", signer=authority)
    others = write_pair(tmp_path, "other", issuer="authority", signer=authority)
    above = write_pair(tmp_path, "authority", key=authority)["tls_cert"].read_bytes()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own["tls_cert"].read_bytes() + above)
    async with serving(bus, keys, **own) as port, client(port, keys, "https", certificate=chain) as node:
        assert await node.call("experimental.echo", BODY) == {"text": "hello"}
    async with serving(bus, keys, **others) as port, client(port, keys, "https", certificate=chain) as node:
        with pytest.raises(NodeUnreachableError):
            await node.call("experimental.echo", BODY)


@asynccontextmanager
async def answering(keys, head: str, *pieces: bytes, then_s: float = 0):
    """Runs a server that sends pieces in the node's name, the last one without end; yields its port."""
    tasks = []

    async def response(reader, writer):
        tasks.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        named = f"HTTP/1.1 {head}\r\nx-hearthnet-from: {keys.node_id}\r\nconnection: close\r\n\r\n"
        writer.write(named.encode() + b"".join(pieces))
        try:
            while then_s:
                await writer.drain()
                await asyncio.sleep(then_s)
                writer.write(pieces[-1])
        except ConnectionError:  # the client has disconnected
            return
        finally:
            writer.close()

    async with await asyncio.start_server(response, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:  # from Python 3.12 on the server waits for them
            task.cancel()


FRAME = b'event: frame\ndata: {"text":"' + b"a" * 10_000 + b'"}\n\n'
STREAM = "200 OK\r\ncontent-type: text/event-stream"


@pytest.mark.parametrize(
    ("head", "piece", "then_s", "expected", "message"),
    [
        ("200 OK\r\ncontent-encoding: gzip", gzip.compress(bytes(30_000_000)), 0, UntrustedResponseError, "not proven"),
        (STREAM, FRAME, 1e-9, HearthNetError, "larger than"),
        (STREAM, b"event: frame\ndata: " + b" " * 10_000, 1e-9, HearthNetError, "larger than"),
        (STREAM, b"event: frame\ndata: ", 0.02, WireError, "no response within"),
        ("200 OK\r\na: b", b"", 60, WireError, "no response within"),
        ("500 Oh", b'{"error":["internal_error"]}', 0, WireError, "unknown error"),
        ("500 Oh\r\ncontent-type: text/event-stream", FRAME, 0, HearthNetError, "not a HearthNet node"),
    ],
    ids=["unfolds", "frames-without-end", "frame-without-end", "frame-drips", "silent", "no-code", "status-changed"],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_hostile_responses_end(keys, monkeypatch, head, piece, then_s, expected, message, is_stream):
    """Size and time are limited for any server; failures are errors of ours."""
    monkeypatch.setattr(reading, "MAX_RESPONSE_BYTES", 200_000)
    monkeypatch.setattr("hearthnet.client.client.MAX_RESPONSE_BYTES", 200_000)
    is_shown = is_stream and piece is FRAME and then_s  # frames that are not kept have no limit
    timeout_s = 0.5 if "within" in message else 60
    async with answering(keys, head, piece, then_s=then_s) as port, client(port, keys, timeout_s=timeout_s) as node:
        frames = node.stream("experimental.echo", FRAMES)
        if is_shown:
            assert [await anext(frames) for _ in range(30)]
            await frames.aclose()
            return
        with pytest.raises(expected, match=message):
            await (anext(frames) if is_stream else node.call("experimental.echo", BODY))


@pytest.mark.parametrize(
    ("capability", "body"),
    [("experimental.écho", BODY), (BUSY.name, {"n": float("nan")}), (BUSY.name, {"n": 2**70}), (BUSY.name, {"n": {1}})],
)
async def test_what_cannot_be_sent_is_a_bad_request(keys, capability, body):
    """The same error as the node's, but nothing is sent: no server listens there."""
    async with client(1, keys) as node:
        with pytest.raises(WireError, match="cannot be sent") as caught:
            await node.call(capability, body)

    assert caught.value.code == "bad_request"
    with pytest.raises(HearthNetError, match="not the url"):
        Client("http://[::1:7080", keys, keys.node_id, keys.node_id)
