"""Tells which process holds a port or locks a file, from what the kernel shows in /proc, without other programs.

What belongs to another user is shown by its owner only, and on other systems than Linux nothing is shown: an answer may
be empty, or name no process, where a port is held all the same.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Literal

__all__ = ["Holder", "lock_holders", "named", "port_holders", "user_name"]

Kind = Literal["tcp", "udp"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTENING: Final = "0A"  # the state of a TCP socket that listens, as the kernel spells it
_SEARCH_S: Final = 0.5  # a machine with very many processes; those that were not looked at stay unnamed
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds something. `pid` and `name` are None where the system does not show them."""

    pid: int | None
    name: str | None
    user: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of {self.user}"
        return f"{self.name or 'a process'} (pid {self.pid}{', this very one' if self.pid == os.getpid() else ''})"


def named(holders: Iterable[Holder]) -> str:
    """Returns the holders in words, each once; empty where none is known."""
    return ", ".join(dict.fromkeys(str(holder) for holder in holders))


def user_name(uid: int) -> str:
    """Returns the name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def port_holders(kind: Kind, port: int, host: str = "") -> list[Holder]:
    """Returns who listens on `port` at an address that collides with `host`; an empty one is every address."""
    wanted = _parsed(host)
    owners: dict[int, int] = {}
    for table in (kind, f"{kind}6"):
        for row in _lines(Path("/proc/net", table)):
            fields = row.split()
            if len(fields) > 9 and (kind == "udp" or fields[3] == _LISTENING) and _collides(fields[1], port, wanted):
                owners[int(fields[9])] = int(fields[7])
    if not owners:
        return []
    pids = _processes_with(set(owners))
    known = {Holder(pid, _name(pid), user_name(owners[inode])) for inode, pid in pids}
    shown = {inode for inode, _ in pids}
    unknown = {Holder(None, None, user_name(uid)) for inode, uid in owners.items() if inode not in shown}
    return sorted(known | unknown, key=lambda holder: (holder.pid is None, holder.pid or 0))


def lock_holders(*paths: Path) -> list[Holder]:
    """Returns who has one of the files locked for writing; files that are not there have no lock.

    The files are not opened: to close one would drop the locks that this process itself has on it.
    """
    places = set()
    for path in paths:
        try:
            about = path.stat()
        except OSError:  # not there; what cannot be looked at cannot be asked for either
            continue
        places.add(f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}")
    rows = [row.split() for row in _lines(Path("/proc/locks")) if "->" not in row]  # an arrow: it only waits
    pids = {int(row[4]) for row in rows if len(row) > 5 and row[3] == "WRITE" and row[5] in places}
    # Zero or less is a process of another container, or a lock of no one process.
    return [Holder(pid, _name(pid), None) for pid in sorted(pids) if pid > 0]


def _parsed(host: str) -> Address | None:
    """Returns the address, or None for any, a name's too."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return None if address.is_unspecified else address


def _collides(place: str, port: int, wanted: Address | None) -> bool:
    """Tells whether a row's local address, as the kernel spells it, is in the way of a socket at `wanted`."""
    spelled, _, number = place.partition(":")
    if int(number, 16) != port:
        return False
    # Words of 32 bits, each in this machine's order.
    raw = b"".join(struct.pack("=I", int(spelled[at : at + 8], 16)) for at in range(0, len(spelled), 8))
    address = ipaddress.ip_address(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return wanted is None or address.is_unspecified or address == wanted


def _processes_with(inodes: set[int]) -> list[tuple[int, int]]:
    """Returns pairs of an open socket's inode and a process that has it, of the processes that we may look into."""
    ends_at = monotonic() + _SEARCH_S
    pairs = []
    for directory in _listed(Path("/proc")):
        if monotonic() > ends_at:
            break
        if directory.name.isdecimal():
            pairs += [(inode, int(directory.name)) for inode in _sockets(directory / "fd") if inode in inodes]
    return pairs


def _sockets(directory: Path) -> Iterator[int]:
    for link in _listed(directory):
        try:
            match = _SOCKET.fullmatch(str(link.readlink()))
        except OSError:  # closed since it was listed
            continue
        if match is not None:
            yield int(match[1])


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # of another user, gone since, or another system
        return []


def _lines(path: Path) -> list[str]:
    """Returns the rows of a table of the kernel, its heading left out; none where there is no such table."""
    try:
        rows = path.read_text("ascii", "replace").splitlines()
    except OSError:  # another system, or IPv6 switched off
        return []
    return [row for row in rows if "local_address" not in row]


def _name(pid: int) -> str | None:
    """Returns the name of a program, not its arguments: they may hold what is secret."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return None
