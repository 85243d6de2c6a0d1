"""What the command line makes of servers on the node's port that are not a node."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest
from support.certificates import write_pair
from support.longer import few
from support.searched import write

from hearthnet.cli.client import NodeClient
from hearthnet.cli.main import _run
from hearthnet.constants import DATABASE
from hearthnet.errors import HearthNetError, NodeUnreachableError
from hearthnet.identity.keys import PUBLIC_FILE, KeyPair
from hearthnet.locations import locate


def where(folder, port):
    """Returns the locations of a node with its keys in `folder`, on this port of this machine."""
    return locate()._replace(keys_dir=folder / "keys", host="127.0.0.1", port=port)


@pytest.fixture
def impostor(tmp_path):
    """Runs a server that sends a fixed response in the name of our node; yields a factory for its clients."""
    keys = KeyPair.generate()
    keys.save(tmp_path / "keys")
    reply = [200, b""]

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self):
            self.send_response(reply[0])
            self.send_header("X-HearthNet-From", keys.node_id)
            self.send_header("Content-Length", str(len(reply[1])))
            self.end_headers()
            self.wfile.write(reply[1])

        def log_message(self, *_):
            """Logs nothing."""

    def client(status, body):
        reply[:] = [status, body]
        return NodeClient(where(tmp_path, server.server_port))

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        client.server = server
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield client
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (500, b"<html>"), (200, b"\xff\xfe"), (500, b"[]")])
def test_nonsense_is_an_error_with_a_hint(impostor, status, body):
    """Neither reading nor changing something ends in a traceback."""
    client = impostor(status, body)
    with pytest.raises(HearthNetError, match=rf"not from a HearthNet node|reported: {status}"):
        client.need("/status", dict)
    with pytest.raises(HearthNetError, match="not from a HearthNet node") as caught:
        client.control("GET", "/control/log-level", list)

    assert caught.value.hint


SPAN = {"id": "a", "parent": None, "name": "handle", "offset_ms": 0.1, "duration_ms": 1.5, "status": "ok", "extras": {}}
TRACE = {
    "trace_id": "01HXR4Z6W5S9E2JQ4Y0T7B3M0C", "run_id": "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "capability": "echo",
    "version": "1.0", "started_us": 1_780_000_000_000_000, "duration_ms": 2.5, "result": "ok", "error": None,
    "spans": [SPAN], "extras": {"truncated": 1}, "program": "hearthnet", "seq": None, "number": 1, "notable": 0,
    "started_mono_ns": 1_000, "parent_id": None,
}  # fmt: skip
CAPABILITY = {
    "capability": "echo", "version": "1.0", "running": 0, "max_concurrent": 4, "calls": 1, "success_rate": 1.0,
    "p50_ms": 0.5, "p99_ms": None, "quarantined": False,
}  # fmt: skip
RING = {
    "capability": "echo", "count": 1, "errors": 0, "error_rate": 0.0, "p50_ms": 0.5, "p90_ms": 0.5, "p99_ms": 0.5
}  # fmt: skip
STATUS = {
    "node_id": "ed25519:x", "short_id": "x", "version": "0.2.0", "community": "home", "pid": 7, "uptime_s": 1.5,
    "port": 7080, "calls_in_flight": 0, "event_log_size": 1, "event_log_head": 1, "telemetry": {"store": "ok"},
    "disk": {"telemetry_bytes": 1, "log_bytes": 1}, "capabilities": [CAPABILITY], "ring": [RING],
}  # fmt: skip
RESULT = {
    "name": "disk_space", "status": "pass", "ok": True, "detail": "fine", "fix": None, "evidence": {"free": 1},
    "duration_ms": 0.5,
}  # fmt: skip
DOCUMENTS = {
    ("status",): STATUS,
    ("caps",): {"capabilities": [CAPABILITY]},
    ("trace", "recent"): [TRACE],
    ("trace", "show", TRACE["trace_id"]): [TRACE],
    ("search", "echo"): [TRACE],
    ("trace", "bodies"): [{"capability": "echo", "left_s": 1.5}],
    ("log", "level"): [{"logger": "hearthnet.bus", "level": "debug", "was": "info", "left_s": 1.5}],
    ("log", "level", "bus=debug"): [{"logger": "hearthnet.bus", "level": "debug", "was": "info", "left_s": 1.5}],
    ("doctor", "--no-memory", "-v", "--check", "disk_space"): [RESULT],
}
WRONG = (None, -1, 1e300, "x", [[]], {"truncated": []})


def changed(document):
    """Yields the document with each part of it replaced by each wrong value, and without each key."""
    yield from WRONG
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        for part in changed(document[key]):
            yield {**document, key: part} if isinstance(document, dict) else [part]
        if isinstance(document, dict):
            yield {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize("share", few([4, 1], 4))
@pytest.mark.parametrize("command", DOCUMENTS, ids=" ".join)
def test_any_document_in_our_name_is_shown_or_refused(impostor, tmp_path, capsys, command, share):
    """Whatever JSON it is, and of whatever status, text and --json end with a result or an error, not a traceback."""
    client = impostor(200, b"")
    write(locate().data_dir / DATABASE)
    settings = tmp_path / "config.toml"
    settings.write_text(f'[identity]\nkeys_dir = "{tmp_path}/keys"\n[transport]\nport = {client._where.port}\n')
    arguments = [*command, "--config", str(settings)]
    impostor(200, orjson.dumps(DOCUMENTS[command]))
    assert _run(arguments) == 0

    refused = 0
    changes = [*WRONG, *list(changed(DOCUMENTS[command]))[len(WRONG) :: share]]
    for status, document in [(200, one) for one in changes] + [(400, one) for one in WRONG]:
        impostor(status, orjson.dumps(document))
        assert _run(arguments) in (0, 1, 2), document
        said = capsys.readouterr()
        assert "Traceback" not in said.err, (document, said.err)
        refused += "not from a HearthNet node" in said.err + said.out
    assert refused > len(WRONG)


def test_the_key_decides_where_its_public_copy_is_wrong(impostor, tmp_path):
    """A missing or foreign public key file neither hides our node nor lets another one impersonate it."""
    client = impostor(200, b"{}")
    (tmp_path / "keys" / PUBLIC_FILE).write_bytes(KeyPair.generate().public_bytes)
    assert client.need("/status", dict) == {}
    (tmp_path / "keys" / PUBLIC_FILE).unlink()
    assert client.need("/status", dict) == {}

    KeyPair.generate().save(tmp_path / "other" / "keys")
    stranger = NodeClient(client._where._replace(keys_dir=tmp_path / "other" / "keys"))
    assert stranger.ask("/status", dict) is None
    keyless = NodeClient(client._where._replace(keys_dir=tmp_path / "none"))
    assert keyless.ask("/status", dict) is None


@pytest.mark.parametrize("response", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_server_of_another_protocol_is_no_node(tmp_path, response):
    """A server of another protocol, or one that hangs up, counts as no node."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(response)

        serving = threading.Thread(target=serve)
        serving.start()
        client = NodeClient(where(tmp_path, listening.getsockname()[1]))
        assert client.ask("/status", dict) is None
        serving.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "no such host", "a..b", "\ud800"])
def test_unreachable_node_is_an_error(tmp_path, host):
    """A refused connection and an invalid host are the same to a command."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = NodeClient(where(tmp_path, unused.getsockname()[1])._replace(host=host))
        assert client.ask("/status", dict) is None
        with pytest.raises(NodeUnreachableError):
            client.control("GET", "/control/log-level", list)


def test_silence_ends_in_time(tmp_path):
    """A server that accepts and sends nothing times out; the doctor can tell this from a refused connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = NodeClient(where(tmp_path, listening.getsockname()[1]))
        with pytest.raises(TimeoutError):
            client.get("/status", timeout_s=0.05)


def test_only_the_pinned_certificate_is_believed(impostor, tmp_path):
    """With TLS our node is found; with another certificate, or without TLS, it is not, whatever the header says."""
    pair, other = write_pair(tmp_path, "node"), write_pair(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair["tls_cert"], pair["tls_key"])
    plain = impostor(200, b"[]")
    plain._timeout_s = 5.0
    impostor.server.socket = context.wrap_socket(impostor.server.socket, server_side=True, suppress_ragged_eofs=True)

    def pinning(certificate):
        return NodeClient(plain._where._replace(tls_cert=certificate), timeout_s=5.0)

    assert pinning(pair["tls_cert"]).ask("/status", list) == []
    assert pinning(other["tls_cert"]).ask("/status", dict) is None
    assert pinning(tmp_path / "missing.pem").ask("/status", dict) is None
    assert plain.ask("/status", dict) is None
