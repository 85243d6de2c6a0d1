"""Reported exposure is real: each route is called by a stranger, by this machine, and by a browser on it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from hearthnet.bus.bus import CapabilityBus
from hearthnet.cli import serving
from hearthnet.config import TransportConfig, default_config
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import telemetry
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services, services_of
from hearthnet.transport.app import ROUTERS, build_app
from hearthnet.transport.auth import exposure
from hearthnet.transport.auth.exposure import (
    EVERYBODY,
    LOOPBACK,
    MEMBERS,
    OWNER,
    SHARED,
    SHARED_OWNER,
    TOOLS,
    Reach,
    listens,
    reachable,
    summary,
)
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings
from hearthnet.transport.tls import Certificate

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference.md").read_text("utf-8")
STRANGER, OURSELVES = "192.168.1.20", "127.0.0.1"
REFUSED = (401, 403)


def settings(*, metrics_loopback_only=False):
    """The configuration of a node."""
    config = default_config()
    changed = {"metrics_loopback_only": metrics_loopback_only}
    return config.model_copy(update={"observability": config.observability.model_copy(update=changed)})


@pytest.fixture(params=[False, True], ids=["as it comes", "metrics_loopback_only"])
def node_app(request, observability):
    """A configuration, and how its application responds: the status, or the failure inside a route."""
    config = settings(metrics_loopback_only=request.param)
    keys = KeyPair.generate()
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)

    page = Page(PageSettings(observability.data_dir, None, 256), Grants(None), list)
    secret = page.grants.claim(page.grants.offer()).secret

    async def ask(address: str, route: str, *, has_secret: bool = False, **headers: str) -> httpx.Response:
        load = Load()
        services = Services(bus, recording, lambda: manifest, print, dict, lambda only: [], request.param, page=page)
        app = build_app(services, load=load)
        for end in load.at_stop:  # or the stream would not
            end()
        if has_secret:
            headers = {"x-hearthnet-page": secret, "origin": "http://localhost", **headers}
        transport = httpx.ASGITransport(app, client=(address, 40_000), raise_app_exceptions=False)
        method, _, path = route.partition(" ")
        body = {"content": b"{}"} if method == "POST" else {}
        headers = {"content-type": "application/json", **headers}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            path = path.format(trace_id="1", seq=1, run_id=26 * "0", version="1", name="main.js")
            return await client.request(method, path, headers=headers, **body)

    with telemetry.open(observability) as recording:
        yield config, ask
    page.close()


async def test_each_route_admits_whom_it_lists(node_app):
    """Exactly the callers that a route is meant for are admitted."""
    config, ask = node_app
    asked = reachable(ROUTERS, config)
    is_other = config.observability.metrics_loopback_only  # by that setting, one route
    for reach in asked if not is_other else [one for one in asked if one.route == "GET /metrics"]:
        by_stranger = (await ask(STRANGER, reach.route)).status_code
        by_us = (await ask(OURSELVES, reach.route, has_secret="/page/" in reach.route)).status_code
        by_others_here = (await ask(OURSELVES, reach.route)).status_code
        by_page = (await ask(OURSELVES, reach.route, origin="http://evil.example")).status_code
        assert (by_stranger not in REFUSED) == (reach.who == EVERYBODY), reach
        assert (by_us not in REFUSED) == (reach.who != MEMBERS), reach
        assert reach.who != OWNER or by_others_here in REFUSED, reach
        assert by_page in REFUSED or reach.who not in (TOOLS, MEMBERS, OWNER), reach
    whose = {reach.route: reach.who for reach in asked}
    assert whose["GET /metrics"] == (LOOPBACK if config.observability.metrics_loopback_only else EVERYBODY)
    assert {whose["GET /openapi.json"], whose["GET /trace/recent"]}.isdisjoint({EVERYBODY})


@pytest.mark.parametrize("node_app", [False], indirect=True)
async def test_nothing_is_reachable_that_is_not_listed(node_app):
    """The application has no further route, page or socket; anything else is 404 for all."""
    _, ask = node_app
    document = (await ask(OURSELVES, "GET /openapi.json")).json()
    listed = {reach.route for reach in reachable(ROUTERS, default_config())}
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}

    assert listed - described == {"GET /openapi.json"}
    assert described < listed
    assert all(isinstance(route, APIRoute) for router in ROUTERS for route in router.routes)
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect", "/static", "/page", "/page/"):
        assert (await ask(OURSELVES, f"GET {path}")).status_code == 404


def test_reference_says_the_same():
    """The table of routes in the documentation says who is admitted, as the code does."""
    table = REFERENCE.partition("\n## HTTP\n")[2].partition("\n## ")[0]
    documented = {
        route: row.split("|")[2].strip()
        for row in table.splitlines()
        if row.startswith("| `")
        for route in re.findall(r"`([A-Z]+ [^`]+)`", row.split("|")[1])
    }

    assert documented == {reach.route: reach.who for reach in reachable(ROUTERS, default_config())}


def test_shared_page_is_listed_as_shared(observability):
    """While the page is shared, its routes are those of other machines too; none counts as open by mistake."""
    config = settings().model_copy(update={"observability": observability})
    Grants(observability.data_dir).share(60)
    whose = {reach.route: reach.who for reach in reachable(ROUTERS, config)}

    assert (whose["GET /"], whose["GET /page/v1/now"], whose["GET /status"]) == (SHARED, SHARED_OWNER, LOOPBACK)
    assert exposure.unexpectedly_open(reachable(ROUTERS, config)) == []


def test_route_without_a_gate_is_a_mistake():
    """A route with a missing dependency, or one that admits all, is reported as unexpectedly open."""
    router = APIRouter()
    router.get("/forgotten")(lambda: None)
    router.get("/gated", dependencies=[Depends(services_of)])(lambda: None)
    found = reachable((*ROUTERS, router), default_config())

    assert [reach for reach in found if reach.route == "GET /gated"] == [Reach("GET /gated", EVERYBODY)]
    assert exposure.unexpectedly_open(found) == ["GET /forgotten", "GET /gated"]
    assert exposure.unexpectedly_open(reachable(ROUTERS, default_config())) == []


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("0.0.0.0", "every network of this machine"),
        ("::", "every network of this machine"),
        ("", "every network of this machine"),
        ("127.0.0.1", "this machine"),
        ("::1", "this machine"),
        ("localhost", "this machine"),
        ("192.168.1.5", "the network of 192.168.1.5"),
        ("fe80::1%eth0", "the network of fe80::1%eth0"),
        ("hearth.local", "wherever hearth.local is reachable"),
    ],
)
def test_address_says_from_where(host, where):
    """Loopback is this machine, the unspecified address is every network."""
    transport = TransportConfig(host=host)

    assert listens(transport) == where
    assert f"reachable from {where}: /metrics for everybody" in summary(
        [Reach("GET /metrics", EVERYBODY)], transport, None
    )


def test_node_says_it_at_its_start(capsys):
    """The summary is one line; an expired certificate is reported, and does not stop the node."""
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    serving._print_reach(default_config(), Certificate(("hearth.local",), begins, begins, is_self_signed=True))
    told = capsys.readouterr()

    shown = "port 7080 (https, certificate for hearth.local until 2026-01-01), reachable from every network"
    assert told.out.startswith(f"reach      {shown} of this machine: /health /manifest /metrics /ready for everybody; ")
    assert told.err == "the certificate expired on 2026-01-01: replace it, a new one is loaded automatically\n"
