"""What the command line makes of servers on the node's port that are not a node."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.certificates import write_pair

from hearthnet.cli.client import NodeClient
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
        client.need("/status")
    with pytest.raises(HearthNetError, match="not from a HearthNet node") as caught:
        client.control("GET", "/control/log-level")

    assert caught.value.hint


def test_the_key_decides_where_its_public_copy_is_wrong(impostor, tmp_path):
    """A missing or foreign public key file neither hides our node nor lets another one impersonate it."""
    client = impostor(200, b"{}")
    (tmp_path / "keys" / PUBLIC_FILE).write_bytes(KeyPair.generate().public_bytes)
    assert client.need("/status") == {}
    (tmp_path / "keys" / PUBLIC_FILE).unlink()
    assert client.need("/status") == {}

    KeyPair.generate().save(tmp_path / "other" / "keys")
    stranger = NodeClient(client._where._replace(keys_dir=tmp_path / "other" / "keys"))
    assert stranger.ask("/status") is None
    keyless = NodeClient(client._where._replace(keys_dir=tmp_path / "none"))
    assert keyless.ask("/status") is None


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
        assert client.ask("/status") is None
        serving.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "no such host", "a..b", "\ud800"])
def test_unreachable_node_is_an_error(tmp_path, host):
    """A refused connection and an invalid host are the same to a command."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = NodeClient(where(tmp_path, unused.getsockname()[1])._replace(host=host))
        assert client.ask("/status") is None
        with pytest.raises(NodeUnreachableError):
            client.control("GET", "/control/log-level")


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

    assert pinning(pair["tls_cert"]).ask("/status") == []
    assert pinning(other["tls_cert"]).ask("/status") is None
    assert pinning(tmp_path / "missing.pem").ask("/status") is None
    assert plain.ask("/status") is None
