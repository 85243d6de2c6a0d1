"""What the command line makes of answers on the node's port that are no node's."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hearthnet.cli.client import NodeClient
from hearthnet.config import Config, IdentityConfig, TransportConfig
from hearthnet.errors import HearthNetError
from hearthnet.identity.keys import KeyPair


@pytest.fixture
def impostor(tmp_path):
    """Answers everything with what it is given, in the name of our node; gives a way to make a client of it."""
    keys = KeyPair.generate()
    keys.save(tmp_path / "keys")
    told = [200, b""]

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(told[0])
            self.send_header("X-HearthNet-From", keys.node_id)
            self.send_header("Content-Length", str(len(told[1])))
            self.end_headers()
            self.wfile.write(told[1])

        def log_message(self, *_):
            """Tells nobody."""

    def client(status, body):
        told[:] = [status, body]
        transport = TransportConfig(host="127.0.0.1", port=server.server_port)
        return NodeClient(Config(identity=IdentityConfig(keys_dir=tmp_path / "keys"), transport=transport))

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield client
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (500, b"<html>"), (200, b"\xff\xfe"), (500, b"[]")])
def test_nonsense_is_an_error_with_a_hint(impostor, status, body):
    """Neither reading nor changing something ends in a traceback."""
    client = impostor(status, body)
    with pytest.raises(HearthNetError, match=rf"no HearthNet node|answered: {status}"):
        client.need("/status")
    with pytest.raises(HearthNetError, match="no HearthNet node") as caught:
        client.control("GET", "/control/log-level")

    assert caught.value.hint
