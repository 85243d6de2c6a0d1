"""What of the node is reachable, by whom and from where: read off the routes themselves, so that no list can be wrong.

Who may is decided by the dependencies of a route; a route without one of those is everybody's: it is `EXPECTED_OPEN`,
or a mistake that the doctor tells. From where is decided by the address that the port listens on. A firewall may let
less through. A proxy on this machine makes everybody a caller from this machine, unless it says for whom it asks
(`Forwarded`, `X-Forwarded-For`), as they do: such a request is one from elsewhere.
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
from hearthnet.transport.tls import Certificate

__all__ = ["EVERYBODY", "EXPECTED_OPEN", "Reach", "everybodys_mistakes", "listens", "reachable", "summary"]

EVERYBODY: Final = "everybody"
MEMBERS: Final = "signed calls of members"
LOOPBACK: Final = "loopback"
LOOPBACK_OR_MEMBERS: Final = "loopback, signed members"
TOOLS: Final = "loopback, no browser"
_WHOSE: Final = (EVERYBODY, MEMBERS, LOOPBACK_OR_MEMBERS, LOOPBACK, TOOLS)  # from the widest to the narrowest

# What scrapers, load balancers and nodes that want to join ask before anybody could know them.
EXPECTED_OPEN: Final = frozenset({"GET /health", "GET /manifest", "GET /metrics", "GET /ready"})
# A dependency by its name, and whom it lets in; of several the narrowest counts.
_GATES: Final = {"members_or_loopback": LOOPBACK_OR_MEMBERS, "loopback_only": LOOPBACK, "no_browser": TOOLS}
_SCRAPERS: Final = "scrapers"
_ALL_NETWORKS: Final = "every network of this machine"


@dataclass(frozen=True, slots=True)
class Reach:
    """A route (method and path), and who may use it."""

    route: str
    who: str


def reachable(routers: Iterable[APIRouter], config: Config) -> list[Reach]:
    """Returns every route with who may use it, the widest open first."""
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
        return MEMBERS  # the signature covers the body, so the route itself looks at it
    gates = {getattr(gate.dependency, "__name__", "") for gate in route.dependencies}
    if _SCRAPERS in gates:
        return LOOPBACK if config.observability.metrics_loopback_only else EVERYBODY
    return max((_GATES[name] for name in gates & _GATES.keys()), key=_WHOSE.index, default=EVERYBODY)


def everybodys_mistakes(reaches: Iterable[Reach]) -> list[str]:
    """Returns the routes that everybody may use, and that are for nobody in particular to decide so."""
    return [reach.route for reach in reaches if reach.who == EVERYBODY and reach.route not in EXPECTED_OPEN]


def listens(transport: TransportConfig) -> str:
    """Returns from where the port can be reached, as far as this machine decides."""
    host = transport.host
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "this machine" if host == "localhost" else f"wherever {host} is reached" if host else _ALL_NETWORKS
    if address.is_loopback:
        return "this machine"
    return _ALL_NETWORKS if address.is_unspecified else f"the network of {host}"


def summary(reaches: Iterable[Reach], transport: TransportConfig, certificate: Certificate | None) -> str:
    """Returns in a sentence what is reachable from where; who is on loopback is on this machine."""
    shown = "http, not encrypted" if certificate is None else f"https, {certificate.shown()}"
    parts = []
    for who, group in groupby(reaches, key=lambda reach: _from_where(reach.who)):
        paths = list(dict.fromkeys(_top(reach.route) for reach in group))
        parts.append(f"{' '.join(paths)} for {who}")
    where = f"port {transport.port} ({shown}), reachable from {listens(transport)}"
    return f"{where}: {'; '.join(parts)}"


def _from_where(who: str) -> str:
    return "this machine alone" if who in (LOOPBACK, TOOLS) else who


def _top(route: str) -> str:
    """Returns a path without what varies below it: `/trace/recent` is `/trace`."""
    path = route.partition(" ")[2]
    return path if path.startswith("/bus") else "/" + path.split("/")[1]
