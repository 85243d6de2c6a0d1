"""Changing log levels over HTTP: access rules and responses, with clients of various addresses."""

from __future__ import annotations

import httpx
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import get_logger
from hearthnet.observability.logs.levels import Levels
from hearthnet.observability.telemetry import Telemetry
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app

PATH = "/control/log-level"
JSON = "application/json"
DEBUG = '{"logger": "test_control", "level": "debug", "for_s": 60}'


@pytest.fixture
def levels():
    """Levels that do not revert within a test."""
    get_logger("hearthnet.test_control")
    made = Levels(start_timer=lambda delay_s, function: lambda: None)
    yield made
    made.close()


@pytest.fixture
def ask(levels, observability):
    """Reads levels, or changes them, as a client of some address."""
    keys = KeyPair.generate()
    manifest = Manifest.genesis("home", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    services = Services(bus, Telemetry(observability), lambda: manifest, lambda caller: None, dict, lambda only: [])
    app = build_app(services, levels)

    async def ask_as(address: str = "127.0.0.1", content: str | None = None, kind: str = JSON, **headers: str):
        transport = httpx.ASGITransport(app, client=(address, 40_000))
        if content is not None and kind:
            headers["content-type"] = kind
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request("GET" if content is None else "POST", PATH, content=content, headers=headers)

    return ask_as


async def test_level_is_set_listed_and_reset(ask):
    """The response to a change lists all changed levels; a level of null reverts one."""
    response = await ask(content=DEBUG)
    assert response.status_code == 200
    (item,) = response.json()
    assert (item["logger"], item["level"], item["was"]) == ("hearthnet.test_control", "debug", "warning")
    assert 59 < item["left_s"] <= 60
    assert [item["logger"] for item in (await ask()).json()] == ["hearthnet.test_control"]

    assert (await ask(content='{"logger": "test_control"}')).json() == []
    assert (await ask()).json() == []


async def test_all_levels_are_reset_at_once(ask, levels):
    """A reset without a logger reverts all of them."""
    levels.set("test_control", "debug")
    levels.set("httpx", "debug")

    assert (await ask(content="{}")).json() == []
    assert levels.current() == []


@pytest.mark.parametrize("address", ["192.168.1.20", "::ffff:10.0.0.1", "2001:db8::1", "testclient", ""])
@pytest.mark.parametrize("content", [None, DEBUG])
async def test_strangers_are_refused(ask, levels, address, content):
    """From any address that is not loopback, levels are neither shown nor changed."""
    response = await ask(address, content)

    assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
    assert levels.current() == []


@pytest.mark.parametrize("origin", ["https://example.com", "http://node", "null"])
@pytest.mark.parametrize("content", [None, DEBUG])
async def test_browser_is_refused(ask, levels, origin, content):
    """A request with browser headers is refused, whatever its page."""
    response = await ask(content=content, origin=origin)

    assert (response.status_code, response.json()["error"]) == (403, "bad_request")
    assert levels.current() == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_other_content_types_are_refused(ask, levels, kind):
    """A body that a page can send without a preflight request, a form or plain text, changes nothing."""
    response = await ask(content=DEBUG, kind=kind)

    assert (response.status_code, response.json()["error"]) == (415, "bad_request")
    assert levels.current() == []


async def test_content_type_with_a_charset_is_json(ask):
    """Content type parameters, and upper case, do not matter."""
    assert (await ask(content=DEBUG, kind="Application/JSON; charset=utf-8")).status_code == 200


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"logger": "test_control", "level": "loud"}', "level"),
        ('{"logger": "tets_control", "level": "debug"}', "hearthnet.test_control"),
        ('{"logger": "tets_control"}', "no logger is named"),
        ('{"logger": "aiosqlite", "level": "debug"}', "stays at warning"),
        ('{"logger": "", "level": "debug"}', "logger"),
        ('{"level": "debug"}', "needs a logger"),
        ('{"logger": "test_control", "level": "debug", "for_s": 0}', "for_s"),
        ('{"logger": "test_control", "level": "debug", "for_s": 86401}', "for_s"),
        ('{"logger": "test_control", "level": "debug", "for_s": NaN}', "not JSON"),
        ('{"logger": "test_control", "level": "debug", "minutes": 1}', "minutes"),
        ("[]", "body"),
        ("{", ""),
    ],
)
async def test_nonsense_is_a_bad_request(ask, levels, content, word):
    """An invalid change is a wire error and changes nothing."""
    response = await ask(content=content)

    assert (response.status_code, response.json()["error"]) == (400, "bad_request")
    assert word in response.json()["message"]
    assert levels.current() == []
