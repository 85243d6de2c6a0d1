"""Checks of the sockets, against real ones: shared, held for itself, silent, of another node, in TLS, without network.

Multicast stays on the loopback interface.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.waiting import a_moment

from hearthnet.checks import network
from hearthnet.checks.probes import lock_owner as holder
from hearthnet.checks.probes.lock_owner import live_nodes
from hearthnet.forensics.model import Vitals
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.node import open_node
from hearthnet.observability import doctor, telemetry
from hearthnet.observability.runtime import runtime
from hearthnet.transport.server import bind

MDNS_GROUP = "224.0.0.251"
LOOPBACK = "127.0.0.1"
# Holds a UDP port that it shares with nobody, or listens on a TCP port and hangs up, until its input is closed.
HOLDER = """
import socket, sys, threading
kind, host = sys.argv[1:]
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
held.bind((host, 0))
def hang_up():
    held.listen()
    while True:
        held.accept()[0].close()
if kind == "tcp":
    held.listen()
    threading.Thread(target=hang_up, daemon=True).start()
print(held.getsockname()[1], flush=True)
sys.stdin.read()
"""
# The doctor on a machine that has not even a loopback interface.
OFFLINE = """
from hearthnet import checks
from hearthnet.config import default_config, resolve_paths
from hearthnet.node import initialise
from hearthnet.observability import doctor
config = resolve_paths(default_config())
initialise(config, "home")
checks.register_all()
names = ["keys_loadable", "event_log_writable", "mdns_socket", "udp_multicast", "transport_port"]
print(*[f"{result.name}={result.status}" for result in doctor.run_all(config, only=names, deadline_s=60)])
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Loopback for multicast, and time limits that a loaded machine cannot exceed."""
    monkeypatch.setattr(network, "_INTERFACE", LOOPBACK)
    monkeypatch.setattr(network, "_TIMEOUT_S", 20.0)
    monkeypatch.setattr(holder, "_SEARCH_S", 20.0)


def run(name, config, bus=None):
    """Returns the finding of one check."""
    return doctor.run_one(name, config, bus, deadline_s=60)


def at(config, **transport):
    """Returns settings with another [transport]."""
    return config.model_copy(update={"transport": config.transport.model_copy(update=transport)})


def discovering(config, **discovery):
    """Returns settings with another [discovery]."""
    return config.model_copy(update={"discovery": config.discovery.model_copy(update=discovery)})


def has_ipv6():
    """Returns True if the loopback interface has an IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@contextmanager
def held(kind, host=""):
    """Another process that holds a port; yields the process and the port."""
    command = [sys.executable, "-c", HOLDER, kind, host]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, int(process.stdout.readline())
        process.stdin.close()
        process.wait(60)


@contextmanager
def listening(group, number):
    """Another program that shares the group's port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("", number))
        membership = socket.inet_aton(group) + socket.inet_aton(LOOPBACK)
        sharing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        yield


@pytest.fixture
def udp_port(monkeypatch):
    """A free UDP port, also for mDNS, so that the machine's own mDNS does not matter."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        number = probe.getsockname()[1]
    monkeypatch.setattr(network, "_MDNS_PORT", number)
    return number


def test_multicast_is_joined(node, udp_port):
    """Binding and joining pass; a shared port is harmless, and mentioned only while it is shared."""
    config = discovering(node[0], udp_port=udp_port)
    with listening(MDNS_GROUP, udp_port):
        shared = run("mdns_socket", config)
    alone = run("udp_multicast", config)

    assert (shared.status, shared.evidence) == ("pass", {"port": udp_port, "group": MDNS_GROUP})
    assert f"(pid {os.getpid()}, this process), which is harmless" in shared.detail
    assert (alone.status, "shared" in alone.detail) == ("pass", False)


def test_multicast_without_network_is_skipped(node, udp_port, monkeypatch):
    """Without an interface the check is skipped; a refused join fails."""
    config = discovering(node[0], udp_port=udp_port)
    monkeypatch.setattr(network, "_INTERFACE", "203.0.113.7")  # no address of this machine
    offline = run("udp_multicast", config)
    monkeypatch.setattr(network, "_is_group", lambda _: True)
    refused = run("udp_multicast", discovering(node[0], udp_port=udp_port, udp_multicast_group="10.1.2.3"))

    assert (offline.status, "offline" in offline.detail) == ("skip", True)
    assert refused.status == "fail"
    assert "10.1.2.3 cannot be joined: Invalid argument" in refused.detail


def test_multicast_settings(node):
    """Disabled discovery is skipped; an invalid group fails."""
    off = discovering(node[0], mdns_enabled=False, udp_enabled=False)
    assert run("mdns_socket", off).status == run("udp_multicast", off).status == "skip"

    for group in ("10.1.2.3", "nonsense", "ff02::fb"):
        result = run("udp_multicast", discovering(node[0], udp_multicast_group=group))
        assert (result.status, group in result.detail) == ("fail", True)


def test_udp_port_held_for_itself_fails(node, monkeypatch):
    """A program that does not share the port fails the check, and is named."""
    with held("udp") as (process, number):
        monkeypatch.setattr(network, "_MDNS_PORT", number)
        config = discovering(node[0], udp_port=number)
        results = [run("mdns_socket", config), run("udp_multicast", config)]

    for result in results:
        assert result.status == "fail"
        assert f"(pid {process.pid}), which does not share it" in result.detail
        assert result.evidence["pids"] == [process.pid]
        assert result.fix == f"sudo ss -ulpn sport = :{number}"
    assert run("udp_multicast", config).status == "pass"


def test_port_held_by_another_program_fails(node):
    """A program without HTTP is named; a released port, and the port of another address, are free."""
    with held("tcp", "127.0.0.1") as (process, number):
        for host in ("127.0.0.1", "0.0.0.0"):
            result = run("transport_port", at(node[0], host=host, port=number))
            assert result.status == "fail"
            assert f"another program, python{sys.version_info[0]}" in result.detail.replace("python (", "python3 (")
            assert (result.evidence["pids"], result.fix) == ([process.pid], f"sudo ss -tlpn sport = :{number}")
        assert run("transport_port", at(node[0], host="127.0.0.2", port=number)).status == "pass"
    assert run("transport_port", at(node[0], port=number)).evidence["holder"] is None


def test_port_held_by_this_process_without_a_node_is_no_node(node, taken_port):
    """A port held by the doctor's own process does not count as this node."""
    result = run("transport_port", at(node[0], port=taken_port), node[1])

    assert result.status == "fail"
    assert f"(pid {os.getpid()}, this process)" in result.detail


@needs_ipv6
def test_ipv6_port(node):
    """IPv6 addresses are handled, and not confused with IPv4."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as holding:
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("::1", 0))
        number = holding.getsockname()[1]
        config = at(node[0], host="::1", port=number)
        assert run("transport_port", config).status == "pass"  # bound, and nobody listens
        holding.listen()
        assert [found.pid for found in holder.port_holders("tcp", number, "::1")] == [os.getpid()]
        assert holder.port_holders("tcp", number, "127.0.0.1") == []
    assert run("transport_port", config).status == "pass"


def test_address_of_another_machine_fails(node):
    """A foreign address and an unknown name are reported as such."""
    for host in ("203.0.113.7", "2001:db8::7"):
        result = run("transport_port", at(node[0], host=host))
        assert (result.status, result.ok) == ("fail", False)
        assert host in result.detail
        assert result.fix == "ip -brief address"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may have any port")
def test_privileged_port_fails(node):
    """A privileged port is reported as such."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 81))
        except PermissionError:
            result = run("transport_port", at(node[0], port=81))
            assert result.status == "fail"
            assert "need root" in result.detail
            assert result.fix == "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=81"
            return
    pytest.skip("here anyone may have any port")


def certificate(folder):
    """A self-signed certificate for loopback with its key, as [transport] settings."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "home")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}


@asynccontextmanager
async def serving(config):
    """This node, running in this process."""
    stop = asyncio.Event()
    async with open_node(config) as running:
        task = asyncio.create_task(running.serve(bind(config.transport), stop))
        scheme = "https" if config.transport.tls_cert else "http"
        place = f"{config.transport.host.replace('::1', '[::1]')}:{config.transport.port}"
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=30) as client:
            while True:
                try:
                    await client.get(f"{scheme}://{place}/health")
                    break
                except httpx.TransportError:
                    assert not task.done()
                    await a_moment()
        try:
            yield running
        finally:
            stop.set()
            await task


@pytest.mark.parametrize(
    ("host", "with_tls"),
    [
        ("127.0.0.1", False),
        ("127.0.0.1", True),
        pytest.param("::1", False, marks=needs_ipv6),
    ],
    ids=["http", "tls", "ipv6"],
)
async def test_port_held_by_a_node(node, tmp_path, host, with_tls):
    """This node passes, from inside and outside; another is named by short id; without our key it is a warning."""
    config, bus = node
    tls = certificate(tmp_path) if with_tls else {}
    stranger = tmp_path / "stranger"
    KeyPair.generate().save(stranger)
    config = at(config, host=host, **tls)
    other, nobody = (
        config.model_copy(update={"identity": config.identity.model_copy(update={"keys_dir": folder})})
        for folder in (stranger, tmp_path / "nothing")
    )
    # Settings that changed since the node was started.
    changed = at(config, tls_cert=None, tls_key=None) if with_tls else at(config, **certificate(tmp_path))
    async with serving(config) as running:
        inside = await asyncio.to_thread(run, "transport_port", config, running.bus)
        ours = [await asyncio.to_thread(run, "transport_port", settings) for settings in (config, changed)]
        foreign = await asyncio.to_thread(run, "transport_port", other)
        unknown = await asyncio.to_thread(run, "transport_port", nobody)
    after = await asyncio.to_thread(run, "transport_port", config)

    for result in (inside, *ours):
        assert (result.status, result.evidence["holder"]) == ("pass", "self"), result.detail
        assert result.evidence["pids"] == [os.getpid()]
    assert (foreign.status, foreign.evidence["holder"]) == ("fail", short_id(bus.node_id))
    assert f"another HearthNet node, {short_id(bus.node_id)}" in foreign.detail
    assert (unknown.status, short_id(bus.node_id) in unknown.detail) == ("warn", True)
    assert after.detail == f"port {config.transport.port} is free"


def test_node_of_ours_that_does_not_answer_fails(node, monkeypatch):
    """A hung node is recognised by its black box, and so is one that is well and cannot be reached."""
    monkeypatch.setattr(network, "_TIMEOUT_S", 0.1)
    config = node[0]
    with socket.socket() as hanging, telemetry.open(config.observability, node_id="node"):
        hanging.bind(("127.0.0.1", config.transport.port))
        hanging.listen()
        runtime.recorder.box.note_vitals(Vitals(time.time_ns() // 1_000, loop_lag_s=0.0))
        well = run("transport_port", config)
        runtime.recorder.box.note_vitals(Vitals(time.time_ns() // 1_000, loop_lag_s=30.0))
        result = run("transport_port", config)
        recorded = live_nodes(config.observability.data_dir)

    assert (well.status, "kill" in well.fix) == ("fail", False)
    assert "its event loop responds" in well.detail

    assert recorded == [os.getpid()]
    assert result.status == "fail"
    assert result.detail.startswith(f"this node (pid {os.getpid()}) holds port {config.transport.port}")
    assert result.fix == f"kill -KILL {os.getpid()}"
    assert live_nodes(config.observability.data_dir) == []


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_machine_without_network(home):
    """Without any network nothing fails or warns."""
    command = ["unshare", "-n", sys.executable, "-c", OFFLINE]
    if os.geteuid() != 0:
        command.insert(1, "-r")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stderr.startswith("unshare"):
        pytest.skip(f"no network can be taken away here: {done.stderr.strip()}")

    assert done.stderr == ""
    assert done.stdout.split() == [
        "keys_loadable=pass",
        "event_log_writable=pass",
        "mdns_socket=skip",
        "udp_multicast=skip",
        "transport_port=pass",
    ]
