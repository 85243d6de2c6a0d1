"""The application of a node as a whole: what it takes to make one."""

from __future__ import annotations

import httpx
from fastapi.routing import APIRoute

from hearthnet.bus.bus import CapabilityBus
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app


async def test_routes_are_built_once(monkeypatch):
    """Neither an application nor its first request builds a route again, which would take 2 ms of CPU each."""
    built = []

    def handler_of(route):
        built.append(route.path)
        return real(route)

    real = APIRoute.get_route_handler
    monkeypatch.setattr(APIRoute, "get_route_handler", handler_of)
    keys = KeyPair.generate()
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    app = build_app(Services(bus, None, lambda: manifest, print, dict, lambda only: []))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404

    assert built == []
