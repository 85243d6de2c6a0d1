"""A bus with capabilities of a test, and requests for them."""

from __future__ import annotations

import asyncio

import pytest

from hearthnet.bus.capability import CapabilityDescriptor, RouteRequest
from hearthnet.errors import WireError
from hearthnet.observability import trace

ME = "ed25519:me"
LEVELS = {"ed25519:member": "member", "ed25519:trusted": "trusted", "ed25519:anchor": "anchor"}
BODY = {"params": {}, "input": {"text": "hi"}}


def offer(bus, handler, name="experimental.thing", **more):
    """Offers a handler; returns its entry."""
    return bus.registry.add(CapabilityDescriptor(name=name, version=(1, 0), **more), handler)


def request(name="experimental.thing", version=(1, 0), caller=ME, body=BODY, **more):
    """A request for the offered capability."""
    return RouteRequest(name, version, body, caller, **more)


async def fails(bus, *arguments, **more) -> WireError:
    """Makes a failing call and checks that its trace has the same result."""
    with pytest.raises(WireError) as caught:
        await bus.handle_call(request(*arguments, **more))
    assert trace.get_recent(1)[0].result == caught.value.code
    return caught.value


async def answer(_):
    """A handler that succeeds."""
    return {"done": True}


async def turns():
    """Lets ready tasks run as far as they get."""
    for _ in range(5):
        await asyncio.sleep(0)
