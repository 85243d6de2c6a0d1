"""aiohttp: websockets and wrong responses are passed through."""

from __future__ import annotations

import pytest
from support.web import made, only

from hearthnet.observability.logs.tracebacks import passed_by
from hearthnet.observability.middleware.aiohttp_server import aiohttp_middleware

aiohttp = pytest.importorskip("aiohttp")
from aiohttp.test_utils import make_mocked_request  # noqa: E402  # an optional library

HANDSHAKES = ["websocket", "WebSocket", "WEBSOCKET"]


@pytest.mark.parametrize("response", [None, "text", 7])
async def test_handler_that_returns_no_response(response):
    """Is passed on: aiohttp reports the mistake."""

    async def handler(_):
        return response

    assert await aiohttp_middleware(make_mocked_request("GET", "/"), handler) is response
    assert only().extras["http.request.method"] == "GET"


@pytest.mark.parametrize("upgrade", HANDSHAKES)
async def test_websocket_is_no_request(upgrade):
    """Nothing is recorded of a connection."""

    async def handler(_):
        return aiohttp.web.Response()

    await aiohttp_middleware(make_mocked_request("GET", "/", headers={"Upgrade": upgrade}), handler)

    assert made() == []


async def test_exception_is_not_told_twice():
    """`aiohttp.server` logs it, too."""

    async def failing(_):
        raise KeyError("shelf")

    with pytest.raises(KeyError) as raised:
        await aiohttp_middleware(make_mocked_request("GET", "/"), failing)
    error = raised.value

    assert passed_by((KeyError, error, error.__traceback__)).trace.trace_id == only().trace_id
