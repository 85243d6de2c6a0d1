"""The host names and addresses of this node.

With DNS rebinding, an attacker's page makes its own host name resolve to this machine: the browser then takes node and
page for one origin and lets the page read responses. The Host header reveals it. A name counts as ours only if no one
outside can make it resolve elsewhere first: loopback's names, this machine's host name alone, below suffixes that
public DNS does not have, and below the search domains of this network. The names in the node's own certificate count
too: the one who got it signed controls them.

An address is ours if it is a loopback one, or the one that the connection was made to: that is correct whatever DHCP
assigns. Names and addresses of a NAT or proxy in front of the node are set in `transport.hosts`.
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

__all__ = ["MalformedHostError", "OwnHosts", "own_host_names", "without_port"]

_RESOLVER: Final = Path("/etc/resolv.conf")
_MAX_RESOLVER_BYTES: Final = 65_536
# From RFC 6762, RFC 8375, ICANN's private-use domain, and defaults of routers; none is delegated.
_PRIVATE_ENDINGS: Final = ("local", "home.arpa", "internal", "lan", "home", "localdomain")
_CHECK_EVERY_S: Final = 10.0  # for a laptop that moves between networks; three cheap reads
_MAX_KNOWN: Final = 256  # callers may add any port to the same name
# No part may match what the next one can match: trying every split between them takes 0.4 s for a full head.
_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}(?:%[a-z0-9%._-]{0,64})?\]|[a-z0-9._-]{1,254})(?::([0-9]{0,5}))?")


class MalformedHostError(ValueError):
    """Raised when a `Host` header names no host."""


def without_port(host: str) -> str:
    """Returns the host of a `Host` header: lower case, without brackets, port and trailing dot.

    Raises:
        MalformedHostError: raised for an invalid host: empty, with a user name, spaces, or not ASCII.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        raise MalformedHostError
    return found[1].strip("[]").removesuffix(".")


def own_host_names(tls_cert: Path | None = None) -> frozenset[str]:
    """Returns the names that this machine currently has on its network, and those in its certificate.

    Sends no query: a name server may be slow, and may be under an attacker's control.
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
    except ConfigError:  # it is being replaced; `ServingPair` logs it if it stays unusable
        return frozenset()
    return frozenset(name.lower() for name in certified)


def _search_domains() -> list[str]:
    try:
        with _RESOLVER.open(encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file.read(_MAX_RESOLVER_BYTES).lower().splitlines()]
    except OSError:  # no resolver configuration: allowed
        return []
    words = [word for line in lines if line and line[0] in ("search", "domain") for word in line[1:]]
    return [word.strip(".") for word in words if word.strip(".")]


class OwnHosts:
    """Recognizes `Host` headers that name this node; ports are ignored.

    Args:
        more: further names and addresses, `transport.hosts`.
        names: returns the machine's current names; called again now and then when an unknown name arrives.
        clock: monotonic seconds; for tests.
    """

    def __init__(
        self,
        more: Iterable[str] = (),
        names: Callable[[], frozenset[str]] = own_host_names,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._more = frozenset(_plain(host.lower().strip("[]").removesuffix(".")) for host in more)
        self._read_names = names
        self._clock = clock
        self._names = names()
        self._read_at = clock()
        self._known: set[tuple[bytes, str]] = set()

    def has(self, host: bytes, address: str) -> bool:
        """Returns True if a request for `host`, over a connection to our `address`, is meant for this node.

        Raises:
            MalformedHostError: raised for an invalid host.
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
        if self._clock() - self._read_at < _CHECK_EVERY_S:
            return False
        self._read_at = self._clock()
        self._names = self._read_names()
        self._known.clear()  # old names are not valid any more
        return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    """Returns an address in normal form (no zone, IPv4-mapped as IPv4); other names unchanged."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)
