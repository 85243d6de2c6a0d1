"""The names under which a node may be called.

A page of an attacker may have its own name resolve to this machine (DNS rebinding): to the browser node and page are
one then, and the page reads what the node answers. What gives it away is the name it was asked by. A name counts as
ours where nobody from outside can have it resolved elsewhere first: loopback's, this machine's host name by itself,
below the endings that public DNS does not have, and below the search domains of this network. So is each name in the
node's own certificate: whoever had that signed has the name.

An address is ours when it is loopback's, or the one that the connection came in at: that is always right, whatever
DHCP hands out meanwhile. Where somebody in between translates addresses or passes requests on, `transport.hosts` names
theirs.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hearthnet.errors import ConfigError
from hearthnet.transport.tls import read_certificate

__all__ = ["MalformedHostError", "OwnHosts", "own_names", "without_port"]

_RESOLVER: Final = Path("/etc/resolv.conf")
_MAX_RESOLVER_BYTES: Final = 65_536
# Of RFC 6762, RFC 8375, ICANN's private-use domain, and what routers hand out; none is delegated.
_PRIVATE_ENDINGS: Final = ("local", "home.arpa", "internal", "lan", "home", "localdomain")
_LOOK_EVERY_S: Final = 10.0  # a laptop that was carried elsewhere; three cheap reads
_MAX_KNOWN: Final = 256  # callers spell the same name with any port
# No part may match what the next one does too: trying every border between them takes 0.4 s for a head that is full.
_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}(?:%[a-z0-9%._-]{0,64})?\]|[a-z0-9._-]{1,254})(?::([0-9]{0,5}))?")


class MalformedHostError(ValueError):
    """Raised when a `Host` header names no host."""


def without_port(host: str) -> str:
    """Returns the host of a `Host` header, in lower case, without brackets and without the dot of the root.

    Raises:
        MalformedHostError: raised for what is no host: nothing, user names, spaces, other than ASCII.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        raise MalformedHostError
    return found[1].strip("[]").removesuffix(".")


def own_names(tls_cert: Path | None = None) -> frozenset[str]:
    """Returns the names that this machine has on its network, as it is set up now, and those of its certificate.

    Asks nobody: a name server may take long to answer, and may be another's.
    """
    return _machine_names() | _certified_names(tls_cert)


def _machine_names() -> frozenset[str]:
    full = socket.gethostname().lower().removesuffix(".")
    short = full.partition(".")[0]
    if not short or _is_address(full):
        return frozenset()
    return frozenset({full, short, *(f"{short}.{ending}" for ending in (*_PRIVATE_ENDINGS, *_search_domains()))})


def _certified_names(tls_cert: Path | None) -> frozenset[str]:
    try:
        certified = () if tls_cert is None else read_certificate(tls_cert).names
    except ConfigError:  # it is being replaced; whoever serves it says so if it stays like this
        return frozenset()
    return frozenset(name.lower() for name in certified)


def _search_domains() -> list[str]:
    try:
        with _RESOLVER.open(encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file.read(_MAX_RESOLVER_BYTES).lower().splitlines()]
    except OSError:  # none: a machine may do without it
        return []
    words = [word for line in lines if line and line[0] in ("search", "domain") for word in line[1:]]
    return [word.strip(".") for word in words if word.strip(".")]


class OwnHosts:
    """Tells whether a `Host` header names this node; ports do not matter.

    Args:
        more: names and addresses besides its own, `transport.hosts`.
        names: what the machine is called now; asked again, now and then, when an unknown name comes.
        clock: monotonic seconds; tests hand in their own.
    """

    def __init__(
        self,
        more: Iterable[str] = (),
        names: Callable[[], frozenset[str]] = own_names,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._more = frozenset(_plain(host.lower().strip("[]").removesuffix(".")) for host in more)
        self._read_names = names
        self._clock = clock
        self._names = names()
        self._read_at = clock()
        self._known: set[tuple[bytes, str]] = set()

    def has(self, host: bytes, address: str) -> bool:
        """Tells whether a request for `host`, over a connection to our `address`, is meant for this node.

        Raises:
            MalformedHostError: raised for what is no host at all.
        """
        if (host, address) in self._known:
            return True
        name = _plain(without_port(host.decode("latin-1")))
        is_own = self._is_own(name, address) or (self._read_again() and name in self._names)
        if is_own:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known.add((host, address))
        return is_own

    def _is_own(self, name: str, address: str) -> bool:
        if name in self._names or name in self._more or name == "localhost" or name.endswith(".localhost"):
            return True
        return name == _plain(address.lower()) or (_is_address(name) and ipaddress.ip_address(name).is_loopback)

    def _read_again(self) -> bool:
        if self._clock() - self._read_at < _LOOK_EVERY_S:
            return False
        self._read_at = self._clock()
        self._names = self._read_names()
        self._known.clear()  # what it was called before is not its name any more
        return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    """Returns an address in its one spelling, without its zone, an IPv4 address as such; a name as it is."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)
