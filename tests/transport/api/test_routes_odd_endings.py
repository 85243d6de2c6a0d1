"""Calls that end in a way no capability may: callers are answered in the wire's form, signed, and told nothing."""

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
from hearthnet.transport.auth.response_signing import is_signed_answer, is_signed_end
from hearthnet.transport.auth.signing import SIGNATURE, sign

ODD = CapabilityDescriptor("experimental.odd", (1, 0))
BODY = {"params": {}, "input": {}}
TOLD = {"error": "internal_error", "message": "the capability failed; the node's log has the cause"}


class UntellableError(Exception):
    """Raised by what cannot even say what is wrong."""

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
    """The node's key, which calls it too."""
    return KeyPair.generate()


@pytest.fixture
def call(keys):
    """Calls a handler through the whole application; gives the answer and the signature of the request."""

    async def call_it(handler) -> tuple[httpx.Response, str]:
        manifest = Manifest.genesis("home", keys)
        bus = CapabilityBus(keys.node_id, manifest.level_of)
        bus.register(ODD, handler)
        services = Services(bus, None, lambda: manifest, lambda _: None, dict, lambda _: [], keys=keys)
        signed = sign(keys, keys.node_id, ODD.name, "1.0", BODY)
        headers = {"Content-Type": "application/json", **signed}
        # What it raises is raised here: the server behind it would answer with text of its own.
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(services)), base_url="http://node"
        ) as client:
            answer = await client.post("/bus/v1/call", content=orjson.dumps(BODY), headers=headers)
        assert [entry.running for entry in bus.registry] == [0]
        return answer, signed[SIGNATURE]

    return call_it


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: type(ending).__name__)
async def test_answer_is_the_wires(call, keys, logged, ending):
    """One closed code, signed; the cause is in the log alone."""

    async def handler(_):
        raise ending

    answer, asked = await call(handler)

    assert (answer.status_code, answer.json()) == (500, TOLD)
    assert is_signed_answer(answer.headers, 500, answer.content, asked, keys.node_id)
    assert any(record.exc_info and record.exc_info[1] is ending for record in logged)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: type(ending).__name__)
async def test_stream_ends_with_an_error(call, keys, ending):
    """What came before stands; the last event is the wire's error, signed."""

    async def frames():
        yield {"index": 0}
        raise ending

    async def handler(_):
        return frames()

    answer, asked = await call(handler)
    _, last = answer.content.rstrip(b"\n").rsplit(b"data: ", 1)

    assert answer.content.startswith(b'event: frame\ndata: {"index":0}\n\nevent: error\n')
    data = orjson.loads(last)
    assert {name: data[name] for name in TOLD} == TOLD
    sent = hashlib.sha256(b'event: frame\ndata: {"index":0}\n\n').hexdigest()
    assert is_signed_end(data, sent, asked, keys.node_id)


async def test_cancelled_call_is_not_answered(call):
    """A call that is cancelled from outside ends so: the server stops, or its caller has left."""
    begun = asyncio.Event()

    async def handler(_):
        begun.set()
        await asyncio.Event().wait()

    calling = asyncio.create_task(call(handler))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
