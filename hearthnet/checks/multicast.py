"""Binds, joins and listens to a multicast group as discovery does, and hears its own echo.

A datagram of the doctor never leaves this machine: with a TTL of 0 the kernel hands the copy that it makes for local
listeners to them and drops the rest. No switch would send it back anyway, so with a larger one nothing more were known.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from fcntl import ioctl
from time import monotonic
from typing import Final

__all__ = ["Echo", "Interface", "check_bindable", "interfaces", "listen"]

ECHO_WITHIN_S: Final = 0.5  # it takes a fraction of a millisecond; this is for a machine under heavy load
MAX_INTERFACES: Final = 8  # of a machine with many containers; each costs a membership, of which the kernel gives 20
_TTL: Final = 0
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_UP, _LOOPBACK, _RUNNING, _MULTICAST = 0x1, 0x8, 0x40, 0x1000
_REQUEST: Final = "16s24x"  # struct ifreq: a name, and room for the answer
_MEMBERSHIP: Final = struct.Struct("=4s4si")  # struct ip_mreqn: group, address, index of the interface
_MAX_DATAGRAM_BYTES: Final = 9_000
# What the kernel says where there is no way out for multicast: not an error of ours, but no network.
OFFLINE: Final = frozenset({errno.ENODEV, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})


@dataclass(frozen=True, slots=True)
class Interface:
    """A way out of this machine. Index 0 is the system's choice."""

    name: str
    index: int


@dataclass(slots=True)
class Echo:
    """What came of it.

    Attributes:
        heard_ms: by interface, how long the echo took.
        joined: the interfaces on which the group was joined.
        errors: by interface, why it was not joined, or nothing was sent.
    """

    heard_ms: dict[str, float] = field(default_factory=dict)
    joined: list[Interface] = field(default_factory=list)
    errors: dict[str, OSError] = field(default_factory=dict)

    @property
    def is_offline(self) -> bool:
        """No interface was joined, for there is no network."""
        return not self.joined and all(error.errno in OFFLINE for error in self.errors.values())


def interfaces() -> list[Interface]:
    """Returns the interfaces that discovery would use: they are up, take multicast, and have an IPv4 address."""
    if sys.platform != "linux":
        return [Interface("default", 0)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        usable = [Interface(name, index) for index, name in socket.if_nameindex() if _is_usable(asked, name)]
    return usable[:MAX_INTERFACES]


def _is_usable(asked: socket.socket, name: str) -> bool:
    request = struct.pack(_REQUEST, name.encode())
    try:
        (flags,) = struct.unpack_from("=H", ioctl(asked, _SIOCGIFFLAGS, request), 16)
        ioctl(asked, _SIOCGIFADDR, request)
    except OSError:  # without an IPv4 address, or gone since it was listed
        return False
    needed = _UP | _RUNNING | _MULTICAST
    return flags & needed == needed and not flags & _LOOPBACK


def check_bindable(port: int) -> None:
    """Binds the port of every address for a moment, with the options of an implementation that shares it.

    Raises:
        OSError: raised when another program holds it for itself, or only root may have it.
    """
    with _sharing() as probe:
        probe.bind(("", port))


def _sharing() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def listen(group: str, port: int, ways: Iterable[Interface], payload: Callable[[str], bytes]) -> Echo:
    """Joins the group on each interface, sends it what `payload` makes of a random word, and waits for that to come.

    Returns:
        What was joined and heard, after `ECHO_WITHIN_S` seconds at the latest.

    Raises:
        OSError: raised when the group's port cannot be bound.
    """
    echo = Echo()
    with ExitStack() as stack:
        # Bound to the group, not to every address: a datagram for one of the others that share the port stays theirs.
        listener = stack.enter_context(_sharing())
        listener.bind((group, port))
        for way in ways:
            _join(listener, group, way, echo)
        sent = {}
        for way in echo.joined:
            word = secrets.token_hex(16)
            try:
                _send(payload(word), group, port, way)
            except OSError as error:  # a firewall
                echo.errors[way.name] = error
            else:
                sent[word.encode()] = (way.name, monotonic())
        _hear(listener, sent, echo, monotonic() + ECHO_WITHIN_S)
    return echo


def _join(listener: socket.socket, group: str, way: Interface, echo: Echo) -> None:
    try:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(group, way))
        echo.joined.append(way)
    except OSError as error:
        echo.errors[way.name] = error


def _membership(group: str, way: Interface) -> bytes:
    return _MEMBERSHIP.pack(socket.inet_aton(group), bytes(4), way.index)


def _send(datagram: bytes, group: str, port: int, way: Interface) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _membership("0.0.0.0", way))  # noqa: S104  # none
        sender.sendto(datagram, (group, port))


def _hear(listener: socket.socket, sent: dict[bytes, tuple[str, float]], echo: Echo, ends_at: float) -> None:
    """Notes which of the words came back; a group that others fill with theirs does not prolong it."""
    while sent and (left_s := ends_at - monotonic()) > 0:
        listener.settimeout(left_s)
        try:
            datagram = listener.recv(_MAX_DATAGRAM_BYTES)
        except TimeoutError:
            return
        for word in [word for word in sent if word in datagram]:
            name, sent_at = sent.pop(word)
            echo.heard_ms[name] = round((monotonic() - sent_at) * 1_000, 3)
