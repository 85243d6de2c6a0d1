"""Checks of the sockets: multicast discovery and the port of the bus."""

from __future__ import annotations

import errno
import ipaddress
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.probes.lock_owner import Holder, Kind, format_holders, live_nodes, port_holders
from hearthnet.checks.probes.silence import explain_silence
from hearthnet.checks.results import found, keys_dir, skipped, warned
from hearthnet.config import Config, TransportConfig
from hearthnet.constants import SENDER
from hearthnet.errors import IdentityError
from hearthnet.identity.keys import KeyPair, is_node_id, short_id
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["mdns_socket", "transport_port", "udp_multicast"]

_MDNS_GROUP: Final = "224.0.0.251"
_MDNS_PORT: Final = 5353
_UNPRIVILEGED: Final = 1_024
_INTERFACE: Final = "0.0.0.0"  # noqa: S104  # lets the system choose it, by the route to the group
# The kernel's errors for a machine without a multicast route: not our fault, just no network.
_OFFLINE: Final = frozenset({errno.ENODEV, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})


def mdns_socket(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The mDNS socket can bind and join its group."""
    if not config.discovery.mdns_enabled:
        return skipped("switched off in [discovery]")
    return _multicast(_MDNS_GROUP, _MDNS_PORT, "set [discovery] mdns_enabled = false")


def udp_multicast(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The UDP discovery socket can bind and join its group."""
    discovery = config.discovery
    if not discovery.udp_enabled:
        return skipped("switched off in [discovery]")
    without = "set [discovery] udp_enabled = false"
    return _multicast(discovery.udp_multicast_group, discovery.udp_port, without)


def _multicast(group: str, port: int, without: str) -> CheckResult:
    if not _is_group(group):
        return found(False, f"{group} is not an IPv4 multicast group (224.0.0.0/4)", _SETTINGS, group=group)
    facts: dict[str, Any] = {"port": port, "group": group}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # The options by which all implementations share the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return _not_bound(port, without, error)
        try:
            membership = socket.inet_aton(group) + socket.inet_aton(_INTERFACE)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        except OSError as error:
            if error.errno in _OFFLINE:
                return skipped(f"port {port} can be bound, but no network takes multicast: offline", **facts)
            detail = f"port {port} can be bound, but {group} cannot be joined: {error.strerror}"
            return found(False, detail, _SHOW_GROUPS, **facts)
    # Sharing the port is normal: each implementation gets all messages.
    others = format_holders(port_holders("udp", port))
    shared = f"; shared with {others}, which is harmless" if others else ""
    return found(True, f"bound {port}, joined {group}{shared}", **facts)


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
    who = format_holders(holders) or "another program"
    detail = f"UDP port {port} is held by {who}, which does not share it; stop it, or {without}"
    facts: dict[str, Any] = {
        "port": port,
        "holder": who,
        "pids": [holder.pid for holder in holders if holder.pid is not None],
    }
    return found(False, detail, _show_holders("udp", port), **facts)


def transport_port(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The bus port is free, or this node listens on it."""
    transport = config.transport
    try:
        _bind_for_a_moment(transport)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _check_holder(config)
        return _not_bindable(transport, error)
    return found(True, f"port {transport.port} is free", port=transport.port, holder=None)


def _bind_for_a_moment(transport: TransportConfig) -> None:
    """Binds as the node would, without listening, so that it does not block a node that starts at this moment."""
    family = socket.AF_INET6 if ":" in transport.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((transport.host, transport.port))


def _not_bindable(transport: TransportConfig, error: OSError) -> CheckResult:
    host, port = transport.host, transport.port
    facts: dict[str, Any] = {"port": port, "host": host, "holder": None}
    if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is known of the port then
        raise error
    if error.errno == errno.EACCES:
        detail = f"port {port} cannot be bound{_privileged(port)}; allow it, or set [transport] port above 1023"
        return found(False, detail, _allow_from(port), **facts)
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        detail = f"{host} is not an address of this machine; set [transport] host to one that is"
        return found(False, detail, _SHOW_ADDRESSES, **facts)
    detail = f"cannot listen on {host}, port {port}: {error.strerror}; set a different [transport] host"
    return found(False, detail, _SHOW_ADDRESSES, **facts)


def _privileged(port: int) -> str:
    return ": ports below 1024 need root" if port < _UNPRIVILEGED else ": the system forbids it"


# Commands to paste on this system.

_SETTINGS: Final = "hearthnet paths"  # where config.toml is
_IS_LINUX: Final = sys.platform == "linux"
_SHOW_GROUPS: Final = "ip maddress show" if _IS_LINUX else "netstat -gn"
_SHOW_ADDRESSES: Final = "ip -brief address" if _IS_LINUX else "ifconfig"


def _show_holders(kind: Kind, port: int) -> str:
    if _IS_LINUX:
        return f"sudo ss -{kind[0]}lpn sport = :{port}"
    return f"sudo lsof -nP -i{kind.upper()}:{port}"


def _allow_from(port: int) -> str | None:
    """Returns the command that allows ports from `port` on without root; macOS has no such setting."""
    return f"sudo sysctl -w {shlex.quote(f'net.ipv4.ip_unprivileged_port_start={port}')}" if _IS_LINUX else None


_TIMEOUT_S: Final = 1.0  # a healthy node takes a few milliseconds, one on a busy Raspberry Pi a few hundred
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to connect to, not to bind


def _check_holder(config: Config) -> CheckResult:
    """Returns the finding about a port in use: by this node, another one, a hung node of ours, or another program."""
    port = config.transport.port
    holders = port_holders("tcp", port, config.transport.host)
    pids = [holder.pid for holder in holders if holder.pid is not None]
    facts: dict[str, Any] = {"port": port, "host": config.transport.host, "pids": pids}
    node_id = _ask(config.transport)
    if node_id is not None:
        return _check_node(config, node_id, holders, facts)
    for pid in live_nodes(config.observability.data_dir or Path()):
        if pid in pids:
            why, fix = explain_silence(config.observability.data_dir or Path(), pid, config.transport.host)
            detail = f"this node (pid {pid}) holds port {port}, but no response came within {_TIMEOUT_S:g} s: {why}"
            return found(False, detail, fix, holder="self", **facts)
    who = format_holders(holders)
    detail = (
        f"port {port} is held by another program{f', {who}' if who else ''}; stop it, or set another [transport] port"
    )
    return found(False, detail, _show_holders("tcp", port), holder=who or None, **facts)


def _check_node(config: Config, node_id: str, holders: list[Holder], facts: dict[str, Any]) -> CheckResult:
    port, pids = config.transport.port, ", ".join(str(holder.pid) for holder in holders if holder.pid is not None)
    where = f" (pid {pids})" if pids else ""
    try:
        ours = KeyPair.load(keys_dir(config)).node_id
    except IdentityError:
        detail = f"port {port} is held by {short_id(node_id)}{where}; without the device key it may be this node or not"
        return warned(detail, None, holder=short_id(node_id), **facts)
    if node_id == ours:
        return found(True, f"port {port} is held by this node{where}", holder="self", **facts)
    detail = f"port {port} is held by another HearthNet node, {short_id(node_id)}{where}; set another [transport] port"
    return found(False, detail, _show_holders("tcp", port), holder=short_id(node_id), **facts)


def _ask(transport: TransportConfig) -> str | None:
    """Returns the id of the node that responds on the port, or None if none does."""
    import httpx  # late: not needed if the port is free

    host = _ANY_ADDRESS.get(transport.host, transport.host)
    address = f"{f'[{host}]' if ':' in host else host}:{transport.port}"
    # A node that was started before TLS was switched on or off still uses the other scheme.
    schemes = ("https", "http") if transport.tls_cert else ("http", "https")
    for scheme in schemes:
        try:
            # The certificate is not verified: it is our own, and the connection stays on this machine.
            with (
                httpx.Client(timeout=_TIMEOUT_S, verify=scheme == "http", trust_env=False) as client,
                client.stream("GET", f"{scheme}://{address}/health") as response,  # a body may be endless
            ):
                node_id = response.headers.get(SENDER, "")
                return node_id if is_node_id(node_id) else None
        except httpx.TimeoutException:
            return None
        except (httpx.HTTPError, httpx.InvalidURL):
            continue
    return None
