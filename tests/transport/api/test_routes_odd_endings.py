"""Calls whose handler raises something unusual: callers get a signed wire error without details."""

from __future__ import annotations

import asyncio
import hashlib

import httpx
import orjson
import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.signing import SIGNATURE, is_signed_end, is_signed_response, sign

ODD = CapabilityDescriptor("experimental.odd", (1, 0))
BODY = {"params": {}, "input": {}}
TOLD = {"error": "internal_error", "message": "the capability failed; the node's log has the cause"}


class UntellableError(Exception):
    """An exception whose text cannot be made."""

    def __str__(self):
        raise RuntimeError("secret")


ENDINGS = [
    SystemExit("secret"),
    KeyboardInterrupt("secret"),
    BaseExceptionGroup("secret", [SystemExit("secret"), ValueError("secret")]),
    asyncio.CancelledError("secret"),  # of a task that the handler waited for
    RecursionError("secret"),
    UntellableError(),
]


@pytest.fixture
def keys():
    """The node's key, which is the caller's too."""
    return KeyPair.generate()


@pytest.fixture
def call(keys):
    """Calls a handler through the whole application; returns the response and the signature of the request."""

    async def call_it(handler) -> tuple[httpx.Response, str]:
        manifest = Manifest.genesis("home", keys)
        bus = CapabilityBus(keys.node_id, manifest.level_of)
        bus.register(ODD, handler)
        services = Services(bus, None, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys)
        signed = sign(keys, keys.node_id, ODD.name, "1.0", BODY)
        headers = {"Content-Type": "application/json", **signed}
        # What it raises is raised here: the server behind it would respond with text of its own.
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(services)), base_url="http://node"
        ) as client:
            response = await client.post("/bus/v1/call", content=orjson.dumps(BODY), headers=headers)
        assert [entry.running for entry in bus.registry] == [0]
        return response, signed[SIGNATURE]

    return call_it


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: type(ending).__name__)
async def test_response_is_a_signed_wire_error(call, keys, logged, ending):
    """The response is a signed internal error; the cause is only in the log."""

    async def handler(_):
        raise ending

    response, asked = await call(handler)

    assert (response.status_code, response.json()) == (500, TOLD)
    assert is_signed_response(response.headers, 500, response.content, asked, keys.node_id)
    assert any(record.exc_info and record.exc_info[1] is ending for record in logged)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: type(ending).__name__)
async def test_stream_ends_with_an_error(call, keys, ending):
    """Earlier frames are kept; the last event is the wire error, signed."""

    async def frames():
        yield {"index": 0}
        raise ending

    async def handler(_):
        return frames()

    response, asked = await call(handler)
    _, last = response.content.rstrip(b"\n").rsplit(b"data: ", 1)

    assert response.content.startswith(b'event: frame\ndata: {"index":0}\n\nevent: error\n')
    data = orjson.loads(last)
    assert {name: data[name] for name in TOLD} == TOLD
    sent = hashlib.sha256(b'event: frame\ndata: {"index":0}\n\n').hexdigest()
    assert is_signed_end(data, sent, asked, keys.node_id)


async def test_cancelled_call_gets_no_response(call):
    """A call cancelled from outside ends as cancelled: the server stops, or its caller has left."""
    begun = asyncio.Event()

    async def handler(_):
        begun.set()
        await asyncio.Event().wait()

    calling = asyncio.create_task(call(handler))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
