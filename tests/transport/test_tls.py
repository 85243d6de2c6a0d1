"""TLS of the port, over real sockets: old clients, pairs that cannot be served, renewals, strangers."""

from __future__ import annotations

import asyncio
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
from hearthnet.transport.tls import LOOK_EVERY_S, Certificate, ServingPair, loose_key, read_certificate

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def scheme_app(scope, receive, send):
    """Answers with the scheme that it was asked by."""
    body = scope["scheme"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(free_port, pair):
    """A server with this pair; gives the pair in use."""
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
    """A client that believes in this certificate alone, and compares the host."""
    return ssl.create_default_context(cafile=pair["tls_cert"])


async def connect(port, context):
    """A connection after its handshake."""
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def ask(connection) -> bytes:
    """The answer to a request."""
    reader, writer = connection
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return await reader.readexactly(5)


async def shown_to(port) -> bytes:
    """The certificate that a new client is shown."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    # Without a server name: as clients do that were given an address.
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=blind, server_hostname="")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def der_of(pair) -> bytes:
    """A certificate as it is shown."""
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
    """The key is not there."""
    pair["tls_key"].unlink()


def a_folder(pair, folder):
    """The certificate is a folder."""
    pair["tls_cert"] = folder


def no_certificate(pair, folder):
    """Something else lies where the certificate should."""
    pair["tls_cert"].write_text("dear diary")


def no_key(pair, folder):
    """The certificate stands in for the key as well."""
    pair["tls_key"].write_bytes(pair["tls_cert"].read_bytes())


def of_another(pair, folder):
    """The key is that of another certificate."""
    pair["tls_key"] = write_pair(folder, "other")["tls_key"]


def encrypted(pair, folder):
    """The key has a password."""
    pair.update(write_pair(folder, password=b"opensesame"))


def too_short(pair, folder):
    """An RSA key that was strong thirty years ago."""
    pair.update(write_pair(folder, key=rsa.generate_private_key(65537, 1024)))


UNUSABLE = [
    (missing, "tls_key", "cannot be read: No such file"),
    (a_folder, "tls_cert", "cannot be read: Is a directory"),
    (no_certificate, "tls_cert", "holds no certificate in PEM"),
    (no_key, "tls_key", "cannot be served: "),
    (of_another, "tls_key", "is not that of the certificate in"),
    (encrypted, "tls_key", "is encrypted, and nobody is there to type its password"),
    (too_short, "tls_key", "EE_KEY_TOO_SMALL"),
]


@pytest.mark.parametrize(("spoil", "setting", "message"), UNUSABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_pair_that_cannot_be_served_is_told(tmp_path, spoil, setting, message):
    """By the name of its setting, with what is wrong and a hint, before anybody waits for a password."""
    pair = write_pair(tmp_path)
    spoil(pair, tmp_path)

    with pytest.raises(ConfigError) as caught:
        ServingPair.of(TransportConfig(**pair))

    assert caught.value.field == f"transport.{setting}"
    assert message in caught.value.message
    assert caught.value.hint
    assert "opensesame" not in caught.value.message


def test_node_does_not_start_with_such_a_pair(home, free_port, tmp_path, capsys, monkeypatch):
    """`hearthnet run` says so and exits with 1 before it opens anything; without TLS there is no pair."""
    pair = write_pair(tmp_path)
    of_another(pair, tmp_path)
    config = load()
    initialise(resolve_paths(config), "home")
    save(config.model_copy(update={"transport": TransportConfig(host="127.0.0.1", port=free_port, **pair)}))
    monkeypatch.setattr("sys.argv", ["hearthnet", "run"])

    with pytest.raises(SystemExit) as caught:
        main()

    told = capsys.readouterr().err
    assert caught.value.code == 1
    assert f"the key in {tmp_path}/other.key is not that of the certificate in {tmp_path}/node.pem" in told
    assert "hint: set the two files that were made together" in told
    assert not list(resolve_paths(config).observability.data_dir.glob("telemetry.*"))
    assert ServingPair.of(TransportConfig()) is None


async def test_renewed_pair_is_taken_up_while_the_node_runs(free_port, tmp_path, monkeypatch, logged):
    """Once both files are new, and not before; a connection that is open stays, a bad pair is told once."""
    now = [0.0]
    monkeypatch.setattr(ServingPair.__init__, "__defaults__", (lambda: now[0],))
    pair = write_pair(tmp_path)
    first = der_of(pair)
    async with serving(free_port, pair) as in_use:
        kept = await connect(free_port, trusting(pair))
        new = write_pair(tmp_path, "new", for_days=400)
        second = der_of(new)
        new["tls_cert"].replace(pair["tls_cert"])

        assert await shown_to(free_port) == first  # nobody looked yet
        for _ in range(3):
            now[0] += LOOK_EVERY_S
            assert await shown_to(free_port) == first  # half of it
        new["tls_key"].replace(pair["tls_key"])
        now[0] += LOOK_EVERY_S
        assert await shown_to(free_port) == second
        assert in_use.certificate == read_certificate(pair["tls_cert"])
        pair["tls_cert"].unlink()
        now[0] += LOOK_EVERY_S
        assert await shown_to(free_port) == second
        assert await ask(kept) == b"https"
        kept[1].close()

    told = [record.msg for record in logged if record.name == "hearthnet.transport.tls"]
    refused = "changed certificate cannot be used, the old one is"
    assert told == [refused, "certificate taken up", refused]


async def test_strangers_at_the_handshake_cost_nothing(free_port, tmp_path, monkeypatch, logged):
    """Plain HTTP, garbage and silence are hung up on, a line a second tells it, and others are served meanwhile."""
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
            # To the end of the connection: long before the minute that asyncio would wait.
            assert b"HTTP/" not in await asyncio.wait_for(reader.read(), 30)
            writer.close()
        served[1].close()

    told = [record for record in logged if record.levelname not in ("DEBUG", "INFO")]
    assert {(record.msg, record.reason) for record in told} == {("request refused", "handshake")}
    assert len(told) < 10  # 53 strangers


def test_certificate_is_judged_by_its_dates():
    """Before, between and after them; soon is within 14 days."""
    begins = datetime(2026, 5, 1, tzinfo=UTC)
    made = Certificate(("a", "b", "c", "d"), begins, begins + timedelta(days=90), is_self_signed=True)

    assert "is not valid before 2026-05-01 00:00 UTC; or is the clock wrong?" in made.trouble(
        begins - timedelta(days=9)
    )
    assert made.trouble(begins) is made.trouble(made.not_after) is None
    assert "expired on 2026-07-30" in made.trouble(made.not_after + timedelta(seconds=1))
    assert [made.expires_soon(made.not_after - timedelta(days=days)) for days in (15, 13)] == [False, True]
    assert made.shown() == "certificate for a, b, c, … until 2026-07-30"


@pytest.mark.parametrize(("mode", "found"), [(0o600, None), (0o640, None), (0o644, "0644"), (0o660, "0660")])
def test_key_is_for_its_owner_and_group(tmp_path, mode, found):
    """A group may read it, as Debian's ssl-cert does; nobody else may, and none may write it."""
    key = write_pair(tmp_path)["tls_key"]
    key.chmod(mode)

    assert loose_key(key) == found
