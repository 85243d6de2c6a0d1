"""A real node under attack: attacks are refused, cost next to nothing, and lock out no caller."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from contextlib import ExitStack, closing, suppress

import httpx
import orjson
import overload
import pytest
from prometheus_client.parser import text_string_to_metric_families
from siege import siege
from support.wire import post_all

# As few descriptors as a badly configured system has; and a umask that lets the group write.
LAUNCHER = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
os.umask(0o002)
os.execv(sys.executable, [sys.executable, "-m", "hearthnet", "run"])
"""
BODY = {"params": {}, "input": {"text": "hello"}}
JSON = {"Content-Type": "application/json"}
CALL = b"POST /bus/v1/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def poor_node(tmp_path_factory):
    """A node with 256 descriptors, warmed up: memory of its first calls is not growth. Shared by all attacks."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", "")  # restored afterwards, whoever sets it
        made = overload.start_node(tmp_path_factory.mktemp("home"), [sys.executable, "-c", LAUNCHER])
    try:
        with httpx.Client(verify=False) as client:
            for number in range(300):
                assert made.echo(str(number), client).status_code == 200
            client.get(f"{made.url}/metrics")
        yield made
    finally:
        made.stop(signal.SIGKILL)


def refused(node) -> dict[str, float]:
    """Returns the counter of refused requests by reason."""
    page = node.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    found = families["hearthnet_refused"].samples
    return {sample.labels["reason"]: sample.value for sample in found if sample.name.endswith("_total")}


def exchange(node, data: bytes) -> bytes:
    """Returns what the node sends to these bytes, until it closes or has responded; empty if it only closes."""
    response = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=15) as connection:
        with suppress(ConnectionError):  # it has read enough; its response may have arrived all the same
            connection.sendall(data)
        try:
            while b"\r\n\r\n" not in response and (piece := connection.recv(65_536)):
                response += piece
        except ConnectionError:
            return response
    return response


def send_and_drain(node, data: bytes) -> None:
    """Sends without waiting for a response, and reads until the node closes: it may respond to some of it first."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=15) as connection, suppress(ConnectionError):
        sender = threading.Thread(target=_send_all, args=(connection, data), daemon=True)
        sender.start()
        while connection.recv(1_000_000):
            continue


def _send_all(connection, data: bytes) -> None:
    with suppress(OSError):  # it has read enough
        connection.sendall(data)


def status_of(response: bytes) -> int | None:
    """Returns the status of a response, None for none."""
    return int(response.split(b" ", 2)[1]) if response else None


CHUNKED = CALL + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /trace HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHAPES = {
    "two lengths": CALL + b"Content-Length: 0\r\nContent-Length: 42\r\n\r\n" + SMUGGLED,
    "the same length twice": CALL + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": CALL + b"Content-Length: 2, 2\r\n\r\n{}",
    "length and chunks": CALL + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "length with a sign": CALL + b"Content-Length: +2\r\n\r\n{}",
    "unknown coding": CALL + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bare LF": CALL.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "one bare LF": CALL + b"X-A: b\nContent-Length: 2\r\n\r\n{}",
    "bare CR": CALL + b"X-A: b\rContent-Length: 2\r\n\r\n{}",
    "space before the colon": CALL + b"Content-Length : 2\r\n\r\n{}",
    "folded header": CALL + b"X-A: b\r\n Content-Length: 2\r\n\r\n{}",
    "NUL": CALL + b"X-A: \0\r\nContent-Length: 2\r\n\r\n{}",
    "chunk size without an end": CHUNKED + b"F" * 30_000,
    "giant chunk size": CHUNKED + b"F" * 21 + b"\r\n",
    "negative chunk size": CHUNKED + b"-1\r\n",
    "chunk with a bare LF": CHUNKED + b"2\n{}\r\n0\r\n\r\n",
    "chunk extension of megabytes": CHUNKED + b"2;" + b"x" * 3_000_000 + b"\r\n{}\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"2\r\n{}\r\n0\r\nX-A: b\r\n\r\n",
    "WebSocket": b"GET /trace HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute target": b"GET http://example.org/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500),
    "large head": CALL + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": CALL + b"X-A: b\r\n" * 200 + b"\r\n",
    "long line": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "id of 200 kB": CALL + b"X-HearthNet-Request-Id: " + b"a" * 200_000 + b"\r\n\r\n",
}


def head_of_member(node) -> bytes:
    """A head that names a member, so that the node waits for its body."""
    headers = node.headers(BODY).items()
    return CALL + "".join(f"{name}: {value}\r\n" for name, value in headers if name not in JSON).encode()


def test_shapes(poor_node):
    """Ambiguous requests, and ones that are not HTTP/1.1, get 400 and a closed connection; nothing smuggled runs."""
    with siege(poor_node):
        responses = {name: exchange(poor_node, data) for name, data in SHAPES.items()}

    assert {name: status_of(response) for name, response in responses.items()} == dict.fromkeys(SHAPES, 400)
    assert {orjson.loads(response.partition(b"\r\n\r\n")[2])["error"] for response in responses.values()} == {
        "bad_request"
    }
    assert all(b"connection: close" in response for response in responses.values())
    assert set(refused(poor_node)) >= {"malformed", "not_http1", "target", "too_much_head", "trailers", "upgrade"}


def test_pipelined_thousands(poor_node):
    """A thousand pipelined requests are served one after another; a megabyte of them closes the connection."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = refused(poor_node).get("pipelined", 0)
    with siege(poor_node):
        with socket.create_connection(("127.0.0.1", poor_node.port), timeout=15) as connection:
            connection.sendall(request * 1_000)
            responses = b""
            while responses.count(b"HTTP/1.1 200") < 1_000:
                piece = connection.recv(65_536)
                assert piece
                responses += piece
        for _ in range(20):
            send_and_drain(poor_node, request * 25_000)
    assert refused(poor_node)["pipelined"] - before == 20


def test_crowds(poor_node):
    """With 300 half-open, 300 idle and 300 silent connections and 256 descriptors, callers are still served."""
    with siege(poor_node) as member, ExitStack() as crowd:
        for sent in (CALL, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b""):
            for number in range(300):
                if number % 100 == 0:  # the member is not faster than this thread, which shares its process
                    poor_node.wait_a_while_for(lambda served=member.served: member.served > served or member.failed)
                one = crowd.enter_context(socket.create_connection(("127.0.0.1", poor_node.port), timeout=15))
                one.sendall(sent)
        served = member.served
        poor_node.wait_a_while_for(lambda: member.served >= served + 30)
        # More connections than descriptors are open now.
        assert refused(poor_node)["crowded"] > 600
    lines = [line for line in poor_node.log_lines() if line["msg"] == "fewer connections than configured"]
    assert [line["descriptors"] for line in lines] == [256]


async def received_by(reader: asyncio.StreamReader) -> bytes:
    """Returns what comes until the connection is closed, or reset because a piece was on its way when it was closed."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := await reader.read(65_536):
            received += piece
    return received


async def trickle(node, head: bytes, piece: bytes) -> bytes:
    """Sends a piece every tenth of a second until the node closes; returns all that the node sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(head)
    response = asyncio.create_task(received_by(reader))
    while not (await asyncio.wait({response}, timeout=0.1))[0]:
        writer.write(piece)
    writer.close()
    return response.result()


async def read_never(node) -> None:
    """Requests a lot and reads none of it, until the node aborts."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with closing(connection):
        await loop.sock_connect(connection, ("127.0.0.1", node.port))
        body = orjson.dumps({"params": {}, "input": {"text": "x" * 10_000, "frames": 1_000}})
        headers = {**node.headers(orjson.loads(body)), "Content-Length": str(len(body)), "Host": "localhost"}
        lines = ["POST /bus/v1/call HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await loop.sock_sendall(connection, "\r\n".join(lines).encode() + body)
        while not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # a reset is seen without reading
            await asyncio.sleep(0.2)


async def test_slow_ones(poor_node):
    """Slow heads and bodies get 408; connections that never send or never read are closed: within 15 s."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    before = refused(poor_node)
    call = head_of_member(poor_node)
    chunked = call + b"Transfer-Encoding: chunked\r\n\r\n"
    expecting = call + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    with siege(poor_node):
        async with asyncio.timeout(30):
            responses = await asyncio.gather(
                *(trickle(poor_node, CALL, b"X-A: b\r\n"[:1]) for _ in range(32)),
                # With the others that have a head fewer than 32: so many may always wait, however slow the loop is.
                *(trickle(poor_node, call + b"Content-Length: 9000\r\n\r\n", b"{") for _ in range(8)),
                *(trickle(poor_node, chunked, b"1\r\n{\r\n") for _ in range(5)),
                *(trickle(poor_node, expecting, b"") for _ in range(5)),
                trickle(poor_node, b"", b""),
                trickle(poor_node, CALL + b"Content-Length: 9000\r\n\r\n", b"{"),
                *(read_never(poor_node) for _ in range(10)),
            )
    assert loop.time() - began > 9
    last_words = [response.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"") for response in responses[:50]]
    assert {status_of(response) for response in last_words} == {408}
    assert responses[50] == b""
    assert status_of(responses[51]) == 401  # an unsigned request is not waited for
    found = refused(poor_node)
    assert {reason: found[reason] - before.get(reason, 0) for reason in ("slow", "silent", "stalled")} == {
        "slow": 50,
        "silent": 1,
        "stalled": 10,
    }
    poor_node.wait_for_sql([(10,)], "SELECT count(*) FROM traces WHERE result = 'cancelled'")


def test_large_bodies(poor_node):
    """200 MB, declared or in chunks, get 413 before they are read; the connection is closed."""
    piece = b"x" * 100_000
    call = head_of_member(poor_node)
    with siege(poor_node):
        for head, part, statuses in (
            (call + b"Content-Length: 200000000\r\n\r\n", piece, {413, None}),  # a reset may have discarded it
            (call + b"Transfer-Encoding: chunked\r\n\r\n", b"186a0\r\n" + piece + b"\r\n", {413, None}),
            (CHUNKED, b"186a0\r\n" + piece + b"\r\n", {401, None}),
        ):
            with socket.create_connection(("127.0.0.1", poor_node.port), timeout=15) as connection:
                sent = 0
                connection.sendall(head)
                response = b""
                with suppress(ConnectionError):
                    while sent < 200_000_000:
                        connection.sendall(part)
                        sent += len(part)
                with suppress(ConnectionError):
                    response = connection.recv(65_536)
            assert status_of(response) in statuses
            assert sent < 20_000_000
        a_bit = poor_node.post("/bus/v1/call", content=b"x" * 1_100_000, headers=JSON)
        assert a_bit.status_code == 413


def test_bodies_that_never_end(poor_node):
    """A member's name makes the node read bodies; 150 MB of incomplete ones are not kept."""
    start = head_of_member(poor_node) + b"Content-Length: 1000000\r\n\r\n" + b"x" * 990_000
    held = []
    with siege(poor_node, max_growth_bytes=40_000_000):
        for _ in range(150):
            held.append(socket.create_connection(("127.0.0.1", poor_node.port), timeout=15))
            with suppress(ConnectionError):  # already evicted
                held[-1].sendall(start)
    assert refused(poor_node)["crowded"] >= 100
    for connection in held:
        connection.close()


def test_pages_of_others(poor_node):
    """A web page in a browser cannot use a node of the same machine: by Host, Origin or content type."""
    signed = poor_node.headers(BODY)
    headers = {**signed, **JSON}
    with siege(poor_node):
        responses = {
            name: poor_node.post("/bus/v1/call", content=orjson.dumps(BODY), headers={**headers, **other})
            for name, other in {
                "host": {"Host": "evil.example"},
                "origin": {"Origin": "https://evil.example"},
                "no origin": {"Origin": "null"},
                "text": {"Content-Type": "text/plain"},
            }.items()
        }
    assert {name: response.status_code for name, response in responses.items()} == {
        "host": 421,
        "origin": 403,
        "no origin": 403,
        "text": 415,
    }
    assert all("access-control-allow-origin" not in response.headers for response in responses.values())
    request_id = signed["X-HearthNet-Request-Id"]
    assert poor_node.get(f"/trace/{request_id}").status_code == 404


DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = [b"[]", b"null", b'"x"', b'{"params":NaN}', DEEP, b'{"input":{},"input":{}}', b"1" * 10_000, b'"\\ud800"', b""]


def test_strange_bodies_and_ids(poor_node):
    """Bodies that are not a call get 400; odd ids and names get a response, and are stored nowhere."""
    with siege(poor_node):
        for body in BODIES:
            # Signed where possible: the body is refused, not the caller.
            signed = poor_node.headers(orjson.loads(body) if body in (b"[]", b"null", b'"x"') else BODY)
            response = poor_node.post("/bus/v1/call", content=body, headers={**signed, **JSON})
            assert (response.status_code, response.json()["error"]) == (400, "bad_request"), body[:20]
        for request_id in (b"<script>", b"\x1b[31m", b"a" * 10_000):
            response = exchange(
                poor_node, CALL + b"Content-Length: 2\r\nX-HearthNet-Request-Id: " + request_id + b"\r\n\r\n{}"
            )
            assert status_of(response) in {400, 401}
            assert request_id not in response
        split = exchange(
            poor_node, CALL + b"X-HearthNet-Request-Id: a\r\nContent-Length: 2\r\nX-B: \xed\xa0\x80\r\n\r\n{}"
        )
        assert status_of(split) in {400, 401}
        surrogate = CALL + b"Content-Length: 2\r\nX-HearthNet-Capability: \xed\xa0\x80\r\n\r\n{}"
        assert status_of(exchange(poor_node, surrogate)) in {400, 401}
        assert poor_node.get("/metrics").status_code == 200
        assert poor_node.get("/trace").status_code == 200
    written = b"".join(path.read_bytes() for path in poor_node.log_dir.glob("*"))
    assert b"<script>" not in written


async def test_made_up_names(poor_node):
    """Hundreds of invented capabilities and callers make a handful of series, and use no memory."""

    def call(number):
        name = f"made.up{number}"
        sender = {"X-HearthNet-From": f"ed25519:{name}"} if number // 20 % 2 else {}
        return {**poor_node.headers(BODY, name), **sender}, orjson.dumps(BODY)

    with siege(poor_node):
        responses = await post_all(poor_node.port, map(call, range(400)), connections=20)
    assert {response.status_code for response in responses} <= {401, 404, 429}
    page = poor_node.get("/metrics").text
    assert "made.up" not in page
    assert page.count("\n") < 1_000


def test_modes(poor_node):
    """Whatever the umask, a node's files are private: database, -wal, -shm, log, box and their folders."""
    for folder in (poor_node.data_dir, poor_node.log_dir):
        files = list(folder.rglob("*"))
        assert files
        modes = {path.name: path.stat().st_mode for path in [folder, *files] if path.name != "device.pub"}
        loose = {name: oct(mode) for name, mode in modes.items() if mode & 0o077}
        assert loose == {}
    names = {path.name for path in poor_node.data_dir.iterdir()}
    assert {"telemetry.db", "telemetry.db-wal", "telemetry.db-shm"} <= names
