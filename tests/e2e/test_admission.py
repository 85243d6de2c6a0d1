"""Admission by a real node, plain and TLS: what it refuses and how, while its tools and callers are served."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import orjson
import pytest
from support.certificates import write_pair

from hearthnet.config import load, save

BODY = {"params": {}, "input": {"text": "hello"}}
BIG = 8_000_000
CALL = "/bus/v1/call"
JSON = ("Content-Type: application/json",)


class Caller:
    """Sends raw bytes to a node's port, as no client library would."""

    def __init__(self, node, context: ssl.SSLContext | None) -> None:
        self.node = node
        self.context = context

    def connect(self) -> socket.socket:
        """Returns a connection, encrypted if the node's are."""
        plain = socket.create_connection(("127.0.0.1", self.node.port), timeout=20)
        return plain if self.context is None else self.context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, start: str, *lines: str, body: bytes = b"", host: str | None = "localhost"):
        """Returns status, headers in lower case, and body of a response, over a connection of its own."""
        named = () if host is None else (f"Host: {host}",)
        head = "\r\n".join([start, *named, *lines, "Connection: close", "", ""]).encode("latin-1")
        with self.connect() as connection:
            connection.sendall(head + body)
            return answer_of(connection)

    def served(self) -> None:
        """Makes a signed call of a member, which must succeed."""
        assert self.node.echo().json() == {"text": "hello"}


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Reads a response until the connection ends."""
    head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    headers = {name.lower(): value for name, _, value in pairs}
    assert len(headers) == len(pairs)  # no repeated header
    return int(first.split()[1]), headers, body


@pytest.fixture(params=["http", "https"])
def caller(request, stopped_node, tmp_path, monkeypatch):
    """A running node with or without TLS, with a small body limit and a configured proxy name."""
    config = load()
    more = {"hosts": ("proxy.example.org",), "max_body_bytes": 100_000}
    context = None
    if request.param == "https":
        pair = write_pair(tmp_path)
        more |= pair
        context = ssl.create_default_context(cafile=pair["tls_cert"])
        monkeypatch.setenv("SSL_CERT_FILE", str(pair["tls_cert"]))
    save(config.model_copy(update={"transport": config.transport.model_copy(update=more)}))
    stopped_node.url = f"{request.param}://localhost:{stopped_node.port}"
    stopped_node.start()
    return Caller(stopped_node, context)


def refused_counts(node) -> dict[str, float]:
    """Returns the counter of refused requests by reason."""
    name = 'hearthnet_refused_total{reason="'
    lines = [line for line in node.get("/metrics").text.splitlines() if line.startswith(name)]
    return {line[len(name) :].partition('"')[0]: float(line.split()[-1]) for line in lines}


def test_hostile_requests_are_refused(caller):
    """Nothing refused is executed, and a member is served after each step. One node, since a start takes seconds."""
    strange_heads_are_turned_away(caller)
    caller.served()
    large_bodies_are_cut_off(caller)
    caller.served()
    ambiguous_bodies_are_refused(caller)
    caller.served()
    traces = caller.node.get("/trace/recent").json()
    assert [(found["capability"], found["result"]) for found in traces] == [("experimental.echo", "ok")] * 4
    assert [line for line in caller.node.log_lines() if line["level"] in ("error", "critical")] == []


def strange_heads_are_turned_away(caller):
    """Each kind of refusal has its status, the wire error and the headers for browsers; then all is as before."""
    node, own = caller.node, f"{caller.node.url.partition(':')[0]}://localhost:{caller.node.port}"
    foreign = "Origin: http://evil.example"
    plain = (*JSON, "Content-Length: 2")
    expected = [
        (caller.ask("GET /metrics HTTP/1.1", host="evil.example"), 421, "host"),
        (caller.ask("GET /metrics HTTP/1.1", host=f"evil.example:{node.port}"), 421, "host"),
        (caller.ask("GET /metrics HTTP/1.1", host="user@localhost"), 400, "bad_host"),
        (caller.ask("GET /metrics HTTP/1.0", host=None), 400, "bad_host"),
        (caller.ask("GET /trace HTTP/1.1", foreign), 403, "origin"),
        (caller.ask("GET /trace HTTP/1.1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), 403, "origin"),
        (caller.ask(f"OPTIONS {CALL} HTTP/1.1", "Access-Control-Request-Method: POST", foreign), 403, "origin"),
        (caller.ask(f"DELETE {CALL} HTTP/1.1"), 405, "method"),
        (
            caller.ask(f"POST {CALL} HTTP/1.1", "Content-Type: text/plain", "Content-Length: 2", body=b"{}"),
            415,
            "content_type",
        ),
        (caller.ask(f"POST {CALL} HTTP/1.1", foreign, *plain, body=b"{}"), 403, "origin"),
        (caller.ask("GET /health HTTP/1.1", "Content-Length: 2", body=b"{}"), 400, "unexpected_body"),
    ]
    for (status, headers, body), wanted, _ in expected:
        assert (status, orjson.loads(body)["error"]) == (wanted, "bad_request")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-hearthnet-from"] == node.keys.node_id
        assert not [name for name in headers if name.startswith("access-control") or name == "server"]
    reasons = [reason for *_, reason in expected]
    assert refused_counts(node) == {reason: reasons.count(reason) for reason in reasons}

    for host in ("localhost", f"127.0.0.1:{node.port}", "proxy.example.org:443", f"{socket.gethostname()}.local"):
        assert caller.ask("GET /health HTTP/1.1", host=host)[0] == 200, host
    assert caller.ask("GET /trace HTTP/1.1", f"Origin: {own}", host=f"localhost:{node.port}")[0] == 200
    done = [node.cli("status"), node.cli("call", "experimental.echo", "--body", orjson.dumps(BODY).decode())]
    assert [response.returncode for response in done] == [0, 0], [response.stderr for response in done]
    lines = [line for line in node.log_lines() if line["msg"] == "request refused"]
    assert {line["reason"] for line in lines if "reason" in line} == set(reasons)


def large_bodies_are_cut_off(caller):
    """A declared body is refused before it is sent, a chunked one when it becomes too large; the connection closes."""
    resident = resident_bytes(caller.node)
    start = f"POST {CALL} HTTP/1.1"
    with caller.connect() as connection:  # nothing of the body is sent or requested
        lines = (start, "Host: localhost", *JSON, f"Content-Length: {BIG}", "Expect: 100-continue", "", "")
        connection.sendall("\r\n".join(lines).encode())
        status, headers, body = answer_of(connection)
    assert (status, headers["connection"], orjson.loads(body)["error"]) == (413, "close", "bad_request")

    # A client that sends on gets its response all the same, or a reset.
    for content in (b"[" * BIG, (b"[" * 50_000 for _ in range(BIG // 50_000))):
        try:
            response = caller.node.post(CALL, content=content, headers=caller.node.headers(BODY))
        except httpx.TransportError:
            continue
        assert (response.status_code, response.headers["connection"]) == (413, "close")
    chunk = b"1000\r\n" + b"[" * 0x1000 + b"\r\n"
    signed = [f"{name}: {value}" for name, value in caller.node.headers(BODY).items()]
    status, headers, _ = caller.ask(start, *signed, "Transfer-Encoding: chunked", body=chunk * 25)
    assert (status, headers["connection"]) == (413, "close")
    found = refused_counts(caller.node)
    # Chunks that arrive faster than the application reads them are cut off before it has counted them.
    assert found["body_too_large"] + found.get("too_much_body", 0) == 4
    assert resident_bytes(caller.node) - resident < 10_000_000


def ambiguous_bodies_are_refused(caller):
    """Ambiguous JSON is a bad request, whoever signed it; nothing fails inside."""
    url, signed = caller.node.url + CALL, caller.node.headers(BODY)
    for raw in (
        b'{"params": {}, "input": {"text": "hello", "text": "hello"}}',
        b'{"params": {}, "input": {"text": "\\ud800"}}',
        b'{"params": {}, "input": {"text": "hello", "delay_ms": NaN}}',
        b'{"params": {}, "input": {"text": "hello", "delay_ms": %d}}' % 10**100,
        b"[]",
        b"null",
        b"[" * 90_000,
        b"\xff",
    ):
        response = httpx.post(url, content=raw, headers=signed)
        assert (response.status_code, response.json()["error"]) in ((400, "bad_request"), (401, "invalid_signature")), (
            raw
        )


def resident_bytes(node) -> int:
    """Returns the memory of the node's process."""
    lines = Path(f"/proc/{node.process.pid}/status").read_text("ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1_024
