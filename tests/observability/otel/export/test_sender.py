"""One request: how long it takes at the most, and what a response that is no good means."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, contextmanager

import pytest
from support.otlp import Response, receiving

from hearthnet.observability.otel.export import sender as module
from hearthnet.observability.otel.export.sender import Sender
from hearthnet.observability.otel.export.settings import read


@contextmanager
def sending(url, **variables):
    """A sender of traces to a receiver."""
    names = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    with closing(Sender("traces", read(url, names).targets["traces"])) as sender:
        yield sender


@contextmanager
def dripping(beginning):
    """Gives the url of a server that sends this at once, and then a letter now and then, for as long as it may."""
    over = threading.Event()

    def serve():
        connection, _ = listener.accept()
        with closing(connection):
            connection.recv(65_536)
            connection.sendall(beginning)
            while not over.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        serving.join()


@pytest.mark.parametrize(
    ("beginning", "kind", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", "retry", "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", "accepted", ""),
        (b"HTTP/1.1 401 No\r\nContent-Length: 60000\r\n\r\n", "misset", "http_401"),
    ],
)
def test_response_that_comes_by_the_letter(beginning, kind, reason):
    """Ends with the time of the request; a status that is there counts."""
    with dripping(beginning) as url, sending(url, TIMEOUT="300") as sender:
        verdict = sender.send(b"")

    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize(("status", "kind"), [(200, "accepted"), (503, "retry"), (400, "refused")])
def test_body_that_cannot_be_decoded(status, kind):
    """Is none: what the status says has happened has happened. The connection is of use again."""
    with receiving() as receiver, sending(receiver.url) as sender:
        receiver.respond = lambda request: Response(status, {"Content-Encoding": "gzip"}, b"plain")
        assert sender.send(b"").kind == kind
        receiver.respond = lambda request: None
        assert sender.send(b"").kind == "accepted"


@pytest.mark.parametrize(
    ("url", "proxy", "is_plain"),
    [
        ("http://127.0.0.1:4318", "", True),
        ("http://localhost:4318", "https://proxy.invalid", True),
        ("http://collector.invalid:4318", "", True),
        ("http://collector.invalid:4318", "https://proxy.invalid", False),
        ("https://127.0.0.1:4318", "", False),
    ],
)
def test_certificates_are_loaded_where_they_can_be_of_use(url, proxy, is_plain, monkeypatch):
    """To load them takes longer than all else at the start; where they are not, nobody would be trusted."""
    given = {}
    monkeypatch.setattr(module.httpx, "Client", lambda **named: given.update(named))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    Sender("traces", read(url, {}).targets["traces"])

    if not is_plain:
        assert given["verify"] is True
    else:
        assert given["verify"].verify_mode is ssl.CERT_REQUIRED
        assert given["verify"].get_ca_certs() == []
