"""Lists which routes are reachable, by whom and from where, as read from the routes themselves.

The dependencies of a route decide who may use it. A route without any is open to everybody: either it is in
`EXPECTED_OPEN`, or it is a mistake that the doctor reports. The address of the port decides from where it is reachable;
a firewall may restrict that. Through a proxy on this machine everybody looks local, unless it names its clients
(`Forwarded`, `X-Forwarded-For`), as proxies do: such a request counts as remote.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from fastapi import APIRouter
from fastapi.routing import APIRoute

from hearthnet.config import Config, TransportConfig
from hearthnet.transport.api.routes import calls
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.tls import Certificate

__all__ = ["EVERYBODY", "EXPECTED_OPEN", "Reach", "unexpectedly_open", "listens", "reachable", "summary"]

EVERYBODY: Final = "everybody"
MEMBERS: Final = "signed calls of members"
LOOPBACK: Final = "loopback"
LOOPBACK_OR_MEMBERS: Final = "loopback, signed members"
TOOLS: Final = "loopback, no browser"
OWNER: Final = "the page's owner"  # on this machine, with a secret in a header
SHARED: Final = "everybody, while the page is shared"
SHARED_OWNER: Final = "holders of a secret, while the page is shared"
_WHOSE: Final = (
    EVERYBODY,
    SHARED,
    MEMBERS,
    LOOPBACK_OR_MEMBERS,
    SHARED_OWNER,
    LOOPBACK,
    TOOLS,
    OWNER,
)  # from the widest to the narrowest

# For scrapers, load balancers and nodes that want to join, which cannot authenticate.
EXPECTED_OPEN: Final = frozenset({"GET /health", "GET /manifest", "GET /metrics", "GET /ready"})
# The name of each dependency and whom it admits; of several the narrowest counts.
_GATES: Final = {
    "members_or_loopback": LOOPBACK_OR_MEMBERS,
    "loopback_only": LOOPBACK,
    "no_browser": TOOLS,
    "page_visitor": LOOPBACK,
    "page_holder": OWNER,
}
_WHILE_SHARED: Final = {"page_visitor": SHARED, "page_holder": SHARED_OWNER}
_SCRAPERS: Final = "scrapers"
_ALL_NETWORKS: Final = "every network of this machine"


@dataclass(frozen=True, slots=True)
class Reach:
    """A route (method and path), and who may use it."""

    route: str
    who: str


def reachable(routers: Iterable[APIRouter], config: Config) -> list[Reach]:
    """Returns every route with who may use it, the most open first."""
    found = [
        Reach(f"{method} {route.path}", _who(route, config, is_call=router is calls))
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]
    return sorted(found, key=lambda reach: (_WHOSE.index(reach.who), reach.route.partition(" ")[2], reach.route))


def _who(route: APIRoute, config: Config, *, is_call: bool) -> str:
    if is_call:
        return MEMBERS  # the signature covers the body, so the route itself verifies it
    gates = {getattr(gate.dependency, "__name__", "") for gate in route.dependencies}
    if _SCRAPERS in gates:
        return LOOPBACK if config.observability.metrics_loopback_only else EVERYBODY
    whose = _GATES | _WHILE_SHARED if _is_page_shared(config) else _GATES
    return max((whose[name] for name in gates & whose.keys()), key=_WHOSE.index, default=EVERYBODY)


def _is_page_shared(config: Config) -> bool:
    directory = config.observability.data_dir
    return directory is not None and Grants(directory).shared_until_us() is not None


def unexpectedly_open(reaches: Iterable[Reach]) -> list[str]:
    """Returns the routes that are open to everybody and not in `EXPECTED_OPEN`."""
    return [reach.route for reach in reaches if reach.who == EVERYBODY and reach.route not in EXPECTED_OPEN]


def listens(transport: TransportConfig) -> str:
    """Returns from where the port can be reached, as far as this machine decides."""
    host = transport.host
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "this machine" if host == "localhost" else f"wherever {host} is reachable" if host else _ALL_NETWORKS
    if address.is_loopback:
        return "this machine"
    return _ALL_NETWORKS if address.is_unspecified else f"the network of {host}"


def summary(reaches: Iterable[Reach], transport: TransportConfig, certificate: Certificate | None) -> str:
    """Returns one sentence on the routes reachable from each network; loopback counts as this machine."""
    shown = "http, not encrypted" if certificate is None else f"https, {certificate.shown()}"
    parts = []
    for who, group in groupby(reaches, key=lambda reach: _from_where(reach.who)):
        paths = list(dict.fromkeys(_top(reach.route) for reach in group))
        parts.append(f"{' '.join(paths)} for {who}")
    where = f"port {transport.port} ({shown}), reachable from {listens(transport)}"
    return f"{where}: {'; '.join(parts)}"


def _from_where(who: str) -> str:
    return "this machine only" if who in (LOOPBACK, TOOLS, OWNER) else who


def _top(route: str) -> str:
    """Returns the first part of a path: `/trace` for `/trace/recent`."""
    path = route.partition(" ")[2]
    return path if path.startswith("/bus") else "/" + path.split("/")[1]
