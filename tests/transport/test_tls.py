"""TLS of the port, over real sockets: old clients, unusable pairs, renewals, hostile clients."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.certificates import write_pair

from hearthnet.cli.main import main
from hearthnet.config import TransportConfig, load, resolve_paths, save
from hearthnet.errors import ConfigError
from hearthnet.node import initialise
from hearthnet.transport import server as transport_server
from hearthnet.transport.server import Server, bind
from hearthnet.transport.tls import CHECK_EVERY_S, Certificate, ServingPair, insecure_key_mode, read_certificate

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def scheme_app(scope, receive, send):
    """Responds with the scheme of the request."""
    body = scope["scheme"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(free_port, pair):
    """Runs a server with this pair; yields the pair in use."""
    config = TransportConfig(host="127.0.0.1", port=free_port, **pair)
    server = Server(scheme_app, config)
    task = asyncio.create_task(server.serve(sockets=[bind(config)]))
    try:
        while not server.started:
            await asyncio.sleep(0)
        yield server._pair
    finally:
        server.stop()
        await task


def trusting(pair) -> ssl.SSLContext:
    """Returns the context of a client that trusts only this certificate, and compares the host name."""
    return ssl.create_default_context(cafile=pair["tls_cert"])


async def connect(port, context):
    """Returns a connection after its handshake."""
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def ask(connection) -> bytes:
    """Returns the response to a request."""
    reader, writer = connection
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return await reader.readexactly(5)


async def shown_to(port) -> bytes:
    """Returns the certificate that a new client gets."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    # Without a server name: like clients that were given an address.
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=blind, server_hostname="")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def der_of(pair) -> bytes:
    """Returns a certificate in the form that a client gets."""
    return ssl.PEM_cert_to_DER_cert(pair["tls_cert"].read_text())


async def test_port_speaks_modern_tls_alone(free_port, tmp_path):
    """A client that verifies name and certificate gets TLS 1.3; TLS 1.1 and ciphers without secrecy are refused."""
    pair = write_pair(tmp_path)
    modern, old, weak = trusting(pair), trusting(pair), trusting(pair)
    stranger = trusting(write_pair(tmp_path, "other"))
    modern.set_alpn_protocols(["h2", "http/1.1"])
    old.set_ciphers("ALL:@SECLEVEL=0")  # else this client's own library would refuse
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE+AES+SHA1:AES128-GCM-SHA256:@SECLEVEL=0")
    async with serving(free_port, pair):
        connection = await connect(free_port, modern)
        secured = connection[1].get_extra_info("ssl_object")
        assert (secured.version(), secured.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
        assert await ask(connection) == b"https"
        for refused in (old, weak, stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect(free_port, refused)
        connection[1].close()


def missing(pair, folder):
    """The key is missing."""
    pair["tls_key"].unlink()


def a_folder(pair, folder):
    """The certificate is a folder."""
    pair["tls_cert"] = folder


def a_pipe(pair, folder):
    """The key is a pipe, which nothing writes to."""
    pair["tls_key"] = folder / "pipe"
    os.mkfifo(folder / "pipe")


def no_certificate(pair, folder):
    """The certificate file has other content."""
    pair["tls_cert"].write_text("dear diary")


def no_key(pair, folder):
    """The certificate is also used as the key."""
    pair["tls_key"].write_bytes(pair["tls_cert"].read_bytes())


def of_another(pair, folder):
    """The key is another certificate's."""
    pair["tls_key"] = write_pair(folder, "other")["tls_key"]


def encrypted(pair, folder):
    """The key has a password."""
    pair.update(write_pair(folder, password=b"opensesame"))


def too_short(pair, folder):
    """An RSA key that is too short today."""
    pair.update(write_pair(folder, key=rsa.generate_private_key(65537, 1024)))


UNUSABLE = [
    (missing, "tls_key", "cannot be read: No such file"),
    (a_folder, "tls_cert", "cannot be read: it is a folder, not a file"),
    (a_pipe, "tls_key", "cannot be read: it is a pipe, not a file"),
    (no_certificate, "tls_cert", "has no certificate in PEM"),
    (no_key, "tls_key", "are unusable: "),
    (of_another, "tls_key", "does not belong to the certificate in"),
    (encrypted, "tls_key", "is encrypted, and a node cannot prompt for its password"),
    (too_short, "tls_key", "EE_KEY_TOO_SMALL"),
]


@pytest.mark.parametrize(("spoil", "setting", "message"), UNUSABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_unusable_pair_is_an_error_with_a_hint(tmp_path, spoil, setting, message):
    """The error names the setting and the reason with a hint, and does not prompt for a password."""
    pair = write_pair(tmp_path)
    spoil(pair, tmp_path)

    with pytest.raises(ConfigError) as caught:
        ServingPair.of(TransportConfig(**pair))

    assert caught.value.field == f"transport.{setting}"
    assert message in caught.value.message
    assert caught.value.hint
    assert "opensesame" not in caught.value.message


def test_node_does_not_start_with_such_a_pair(home, free_port, tmp_path, capsys, monkeypatch):
    """`hearthnet run` reports it and exits with 1 before it opens anything; without TLS there is no pair."""
    pair = write_pair(tmp_path)
    of_another(pair, tmp_path)
    config = load()
    initialise(resolve_paths(config), "home")
    save(config.model_copy(update={"transport": TransportConfig(host="127.0.0.1", port=free_port, **pair)}))
    monkeypatch.setattr("sys.argv", ["hearthnet", "run"])

    with pytest.raises(SystemExit) as caught:
        main()

    printed = capsys.readouterr().err
    assert caught.value.code == 1
    assert f"the key in {tmp_path}/other.key does not belong to the certificate in {tmp_path}/node.pem" in printed
    assert "hint: set two files that belong together" in printed
    assert not list(resolve_paths(config).observability.data_dir.glob("telemetry.*"))
    assert ServingPair.of(TransportConfig()) is None


async def test_renewed_pair_is_loaded_while_the_node_runs(free_port, tmp_path, monkeypatch, logged):
    """A new pair serves once both files are new; open connections stay, an unusable pair is logged once."""
    now = [0.0]
    monkeypatch.setattr(ServingPair.__init__, "__defaults__", (lambda: now[0],))
    pair = write_pair(tmp_path)
    first = der_of(pair)
    async with serving(free_port, pair) as in_use:
        kept = await connect(free_port, trusting(pair))
        new = write_pair(tmp_path, "new", for_days=400)
        second = der_of(new)
        new["tls_cert"].replace(pair["tls_cert"])

        assert await shown_to(free_port) == first  # not checked yet
        for _ in range(3):
            now[0] += CHECK_EVERY_S
            assert await shown_to(free_port) == first  # only one file is new
        new["tls_key"].replace(pair["tls_key"])
        now[0] += CHECK_EVERY_S
        assert await shown_to(free_port) == second
        assert in_use.certificate == read_certificate(pair["tls_cert"])
        pair["tls_cert"].unlink()
        now[0] += CHECK_EVERY_S
        assert await shown_to(free_port) == second
        assert await ask(kept) == b"https"
        kept[1].close()

    messages = [record.msg for record in logged if record.name == "hearthnet.transport.tls"]
    refused = "changed certificate is unusable, the old one stays"
    assert messages == [refused, "certificate reloaded", refused]


async def test_strangers_at_the_handshake_cost_nothing(free_port, tmp_path, monkeypatch, logged):
    """Plain HTTP, garbage and silence are disconnected, logged once a second, and others are served meanwhile."""
    monkeypatch.setattr(transport_server, "HANDSHAKE_TIMEOUT_S", 2.0)
    pair = write_pair(tmp_path)
    async with serving(free_port, pair):
        silent = [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(50)]
        for sent in (REQUEST, b"\x16\x03\x01\xff\xff" + bytes(500), b"\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
            writer.write(sent)
            silent.append((reader, writer))
        served = await connect(free_port, trusting(pair))
        assert await ask(served) == b"https"
        for reader, writer in silent:
            # Until the connection ends: long before asyncio's default of a minute.
            assert b"HTTP/" not in await asyncio.wait_for(reader.read(), 30)
            writer.close()
        served[1].close()

    warnings = [record for record in logged if record.levelname not in ("DEBUG", "INFO")]
    assert {(record.msg, record.reason) for record in warnings} == {("request refused", "handshake")}
    assert len(warnings) < 10  # 53 clients


def test_certificate_is_checked_by_its_dates():
    """Before, during and after its validity; soon is within 14 days."""
    begins = datetime(2026, 5, 1, tzinfo=UTC)
    made = Certificate(("a", "b", "c", "d"), begins, begins + timedelta(days=90), is_self_signed=True)

    assert "is not valid before 2026-05-01 00:00 UTC; is the clock wrong?" in made.trouble(begins - timedelta(days=9))
    assert made.trouble(begins) is made.trouble(made.not_after) is None
    assert "expired on 2026-07-30" in made.trouble(made.not_after + timedelta(seconds=1))
    assert [made.expires_soon(made.not_after - timedelta(days=days)) for days in (15, 13)] == [False, True]
    assert made.shown() == "certificate for a, b, c, … until 2026-07-30"


@pytest.mark.parametrize(("mode", "found"), [(0o600, None), (0o640, None), (0o644, "0644"), (0o660, "0660")])
def test_key_is_for_its_owner_and_group(tmp_path, mode, found):
    """The group may read it, as with Debian's ssl-cert; others may not, and only the owner may write."""
    key = write_pair(tmp_path)["tls_key"]
    key.chmod(mode)

    assert insecure_key_mode(key) == found
