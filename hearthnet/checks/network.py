"""Checks of the sockets: discovery by multicast, and the port of the bus."""

from __future__ import annotations

import errno
import ipaddress
import shlex
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks import multicast
from hearthnet.checks.finding import found, skipped, warned
from hearthnet.checks.holder import Kind, named, port_holders
from hearthnet.checks.port import judge_holder
from hearthnet.config import Config, TransportConfig
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["mdns_socket", "transport_port", "udp_multicast"]

_MDNS_GROUP: Final = "224.0.0.251"
_MDNS_PORT: Final = 5353
_UNPRIVILEGED: Final = 1_024
_DNS_TXT, _DNS_INTERNET = 16, 1


def mdns_socket(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The mDNS socket can bind, join its group, and hear itself.

    What it sends to hear is a query for a random name under .local, which no other program has.
    """
    if not config.discovery.mdns_enabled:
        return skipped("switched off in [discovery]")
    return _multicast(_MDNS_GROUP, _MDNS_PORT, _query, "[discovery] mdns_enabled = false does without")


def udp_multicast(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The UDP discovery socket can bind, join its group, and hear itself.

    What it sends to hear begins with a word instead of a brace: no node takes it for an announcement, which is JSON.
    """
    discovery = config.discovery
    if not discovery.udp_enabled:
        return skipped("switched off in [discovery]")
    return _multicast(
        discovery.udp_multicast_group, discovery.udp_port, _greeting, "[discovery] udp_enabled = false does without"
    )


def _query(word: str) -> bytes:
    """Returns a standard DNS query with one question: TXT of hearthnet-doctor-<word>.local."""
    header = b"\0\0" + b"\0\0" + b"\0\1" + bytes(6)
    labels = (f"hearthnet-doctor-{word}".encode(), b"local", b"")
    name = b"".join(bytes([len(label)]) + label for label in labels)
    return header + name + _DNS_TXT.to_bytes(2, "big") + _DNS_INTERNET.to_bytes(2, "big")


def _greeting(word: str) -> bytes:
    return f"hearthnet-doctor echo {word}\n".encode()


def _multicast(group: str, port: int, payload: Callable[[str], bytes], without: str) -> CheckResult:
    if not _is_group(group):
        return found(False, f"{group} is no IPv4 multicast group, which are 224.0.0.0/4", _SETTINGS, group=group)
    try:
        multicast.check_bindable(port)
        echo = multicast.listen(group, port, multicast.interfaces(), payload)
    except OSError as error:
        return _not_bound(port, without, error)
    facts: dict[str, Any] = {
        "port": port,
        "group": group,
        "interface": None,
        "echo_ms": None,
        "interfaces": echo.heard_ms,
    }
    if echo.is_offline:
        return skipped(f"port {port} can be bound; no network that takes multicast: offline", **facts)
    if not echo.joined:
        why = "; ".join(f"{name}: {error.strerror}" for name, error in echo.errors.items())
        return found(False, f"port {port} can be bound, {group} cannot be joined: {why}", _show_groups(), **facts)
    names = ", ".join(way.name for way in echo.joined)
    if not echo.heard_ms:
        why = "".join(f"; {name}: {error.strerror}" for name, error in echo.errors.items())
        detail = f"bound {port}, joined {group} on {names}, and heard no echo: a firewall or container filters it{why}"
        return warned(detail, _show_rules(), **facts)
    fastest = min(echo.heard_ms, key=lambda name: echo.heard_ms[name])
    facts |= {"interface": fastest, "echo_ms": echo.heard_ms[fastest]}
    # An implementation that shares the port, as they all do, takes nothing from another.
    others = named(port_holders("udp", port))
    shared = f"; shared with {others}, which does no harm" if others else ""
    return found(True, f"bound {port}, joined {group}, heard itself on {', '.join(echo.heard_ms)}{shared}", **facts)


def _is_group(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_multicast
    except ValueError:
        return False


def _not_bound(port: int, without: str, error: OSError) -> CheckResult:
    if error.errno != errno.EADDRINUSE:
        why = _privileged(port) if error.errno == errno.EACCES else f": {error.strerror}"
        return found(False, f"UDP port {port} cannot be bound{why}", _show_holders("udp", port), port=port)
    holders = port_holders("udp", port)
    who = named(holders) or "another program"
    detail = f"UDP port {port} is held by {who}, which shares it with nobody; stop it, or {without}"
    facts: dict[str, Any] = {
        "port": port,
        "holder": who,
        "pids": [holder.pid for holder in holders if holder.pid is not None],
    }
    return found(False, detail, _show_holders("udp", port), **facts)


def transport_port(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The bus port is free, or owned by us."""
    transport = config.transport
    try:
        _bind_for_a_moment(transport)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return judge_holder(config, _show_holders("tcp", transport.port))
        return _not_ours(transport, error)
    return found(True, f"port {transport.port} is free", port=transport.port, holder=None)


def _bind_for_a_moment(transport: TransportConfig) -> None:
    """Binds as the node would; it does not listen, so a node that starts at this moment is not in our way."""
    family = socket.AF_INET6 if ":" in transport.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((transport.host, transport.port))


def _not_ours(transport: TransportConfig, error: OSError) -> CheckResult:
    host, port = transport.host, transport.port
    facts: dict[str, Any] = {"port": port, "host": host, "holder": None}
    if error.errno == errno.EACCES:
        detail = f"port {port} cannot be bound{_privileged(port)}; or set [transport] port to one above 1023"
        return found(False, detail, _allow_from(port), **facts)
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        detail = f"{host} is no address of this machine; set [transport] host to one that is"
        return found(False, detail, _show_addresses(), **facts)
    detail = f"cannot listen on {host}, port {port}: {error.strerror}; set another [transport] host"
    return found(False, detail, _show_addresses(), **facts)


def _privileged(port: int) -> str:
    return ": ports below 1024 are for root" if port < _UNPRIVILEGED else ": the system forbids it"


# What to paste on this system.

_SETTINGS: Final = "hearthnet paths"  # where config.toml is
_IS_LINUX: Final = sys.platform == "linux"


def _show_holders(kind: Kind, port: int) -> str:
    if _IS_LINUX:
        return f"sudo ss -{kind[0]}lpn sport = :{port}"
    return f"sudo lsof -nP -i{kind.upper()}:{port}"


def _show_groups() -> str:
    return "ip maddress show" if _IS_LINUX else "netstat -gn"


def _show_rules() -> str:
    return "sudo nft list ruleset" if _IS_LINUX else "sudo pfctl -s rules"


def _show_addresses() -> str:
    return "ip -brief address" if _IS_LINUX else "ifconfig"


def _allow_from(port: int) -> str | None:
    """Returns how a port below 1024 becomes free for all; macOS has no such setting."""
    return f"sudo sysctl -w {shlex.quote(f'net.ipv4.ip_unprivileged_port_start={port}')}" if _IS_LINUX else None
