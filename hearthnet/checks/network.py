"""Checks of the sockets: discovery by multicast, and the port of the bus."""

from __future__ import annotations

import socket
from typing import Final

import httpx

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import found, keys_dir, skipped, warned
from hearthnet.config import Config
from hearthnet.errors import IdentityError
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport.signing import SENDER

__all__ = ["mdns_socket", "transport_port", "udp_multicast"]

_MDNS_GROUP: Final = "224.0.0.251"
_MDNS_PORT: Final = 5353
_ASK_TIMEOUT_S: Final = 2.0


def mdns_socket(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The mDNS socket can bind and join its group."""
    if not config.discovery.mdns_enabled:
        return skipped("switched off in [discovery]")
    return _multicast(_MDNS_GROUP, _MDNS_PORT)


def udp_multicast(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The UDP discovery socket can bind and join its group."""
    if not config.discovery.udp_enabled:
        return skipped("switched off in [discovery]")
    return _multicast(config.discovery.udp_multicast_group, config.discovery.udp_port)


def _multicast(group: str, port: int) -> CheckResult:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            return found(False, f"UDP port {port} cannot be bound: {error.strerror}", f"sudo ss -ulpn sport = :{port}")
        any_interface = socket.inet_aton(group) + socket.inet_aton("0.0.0.0")  # noqa: S104  # the system's choice
        try:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, any_interface)
        except OSError as error:
            detail = f"port {port} is free, but no interface takes multicast: {error.strerror}"
            return warned(detail, port=port, group=group)
    return found(True, f"bound {port}, joined {group}", port=port, group=group)


def transport_port(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The bus port is free, or owned by us."""
    transport = config.transport
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((transport.host, transport.port))
        except OSError as error:
            return _who_holds(config, error)
    return found(True, f"port {transport.port} is free", port=transport.port)


def _who_holds(config: Config, error: OSError) -> CheckResult:
    port = config.transport.port
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=_ASK_TIMEOUT_S, trust_env=False)
        holder = answer.headers.get(SENDER, "")
        if holder == KeyPair.load(keys_dir(config)).node_id:
            return found(True, f"port {port} is held by this node, which is running", holder="self")
    except (httpx.HTTPError, IdentityError):
        holder = ""
    who = "another HearthNet node" if holder else "another program"
    fix = f"see who it is: sudo ss -tlpn sport = :{port}; or set another [transport] port"
    return found(False, f"port {port} is held by {who} ({error.strerror})", fix, holder=holder or None)
