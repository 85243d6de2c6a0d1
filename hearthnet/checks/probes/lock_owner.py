"""Finds the process that holds a port or locks a file, from /proc alone.

Another user's process is shown by its user only, and nothing is shown outside Linux. So a result may be empty or
name no process although the port is held.
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

from hearthnet.forensics.box import NODE, boxes_in, header_of, is_alive, is_locked

__all__ = ["Holder", "format_holders", "live_nodes", "lock_holders", "port_holders", "user_name"]

Kind = Literal["tcp", "udp"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTENING: Final = "0A"  # the kernel's code for a listening TCP socket
_SEARCH_S: Final = 0.5  # with very many processes; those not searched stay unnamed
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a port or lock. `pid` and `name` are None if the system does not show them."""

    pid: int | None
    name: str | None
    user: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of {self.user}"
        return f"{self.name or 'a process'} (pid {self.pid}{', this process' if self.pid == os.getpid() else ''})"


def format_holders(holders: Iterable[Holder]) -> str:
    """Returns the holders in words, each once; empty if none is known."""
    return ", ".join(dict.fromkeys(str(holder) for holder in holders))


def user_name(uid: int) -> str:
    """Returns the name of a user, or the uid if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def port_holders(kind: Kind, port: int, host: str = "") -> list[Holder]:
    """Returns the processes that listen on `port` at an address that collides with `host`; empty: any address."""
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
    """Returns the processes with a write lock on one of the files; missing files have none.

    The files are not opened: closing one would drop this process's own locks on it.
    """
    inodes = set()
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # missing or not accessible
            continue
        inodes.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
    rows = [row.split() for row in _lines(Path("/proc/locks")) if "->" not in row]  # an arrow marks a waiter
    pids = {int(row[4]) for row in rows if len(row) > 5 and row[3] == "WRITE" and row[5] in inodes}
    # Zero or less: a process of another container, or a lock that belongs to no single process.
    return [Holder(pid, _name(pid), None) for pid in sorted(pids) if pid > 0]


def _parsed(host: str) -> Address | None:
    """Returns the address, or None for a name or the unspecified address, which match any."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return None if address.is_unspecified else address


def _collides(local: str, port: int, wanted: Address | None) -> bool:
    """Returns True if a row's local address, in the kernel's spelling, collides with a socket at `wanted`."""
    spelled, _, number = local.partition(":")
    if int(number, 16) != port:
        return False
    # 32-bit words, each in host byte order.
    raw = b"".join(struct.pack("=I", int(spelled[at : at + 8], 16)) for at in range(0, len(spelled), 8))
    address = ipaddress.ip_address(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return wanted is None or address.is_unspecified or address == wanted


def _processes_with(inodes: set[int]) -> list[tuple[int, int]]:
    """Returns (inode, pid) pairs of open sockets, for the processes that we may inspect."""
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
    except OSError:  # another user's, gone since, or not Linux
        return []


def _lines(path: Path) -> list[str]:
    """Returns the rows of a kernel table without its heading; empty if there is no such table."""
    try:
        rows = path.read_text("ascii", "replace").splitlines()
    except OSError:  # not Linux, or IPv6 disabled
        return []
    return [row for row in rows if "local_address" not in row]


def _name(pid: int) -> str | None:
    """Returns the name of a program without its arguments, which may be secret."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return None


def live_nodes(directory: Path) -> list[int]:
    """Returns the pids of the live nodes that record into `directory`, as their black boxes say."""
    found = []
    for path in boxes_in(directory):
        header = header_of(path)
        if header is not None and header.role == NODE and (is_locked(path) or is_alive(header)):
            found.append(header.pid)
    return found
