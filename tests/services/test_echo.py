"""The echo service."""

from __future__ import annotations

import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import RouteRequest
from hearthnet.errors import HTTP_STATUS, WireError
from hearthnet.observability import trace
from hearthnet.services import echo


@pytest.fixture
def call():
    """Calls the echo service on its own bus."""
    bus = CapabilityBus("ed25519:me")
    bus.register(echo.DESCRIPTOR, echo.echo)
    return lambda **wanted: bus.handle_call(
        RouteRequest("experimental.echo", (1, 0), {"params": {}, "input": wanted}, "ed25519:me")
    )


async def test_input_comes_back(call):
    """The response equals the input."""
    wanted = {"text": "ü 🜨", "delay_ms": 0, "fail": None, "frames": 0}

    assert await call(**wanted) == wanted


async def test_delay_is_a_span(call):
    """Waiting takes at least as long as requested, and has its own span."""
    await call(text="x", delay_ms=15)

    (wait,) = [part for part in trace.get_recent(1)[0].spans if part.name == "wait"]
    assert wait.duration_ms >= 14
    assert wait.extras == {"delay_ms": 15}


@pytest.mark.parametrize("code", HTTP_STATUS)
async def test_it_fails_as_requested(call, code):
    """Every wire code can be simulated, for a call and at the end of a stream."""
    with pytest.raises(WireError) as caught:
        await call(text="x", fail=code)
    assert caught.value.code == code

    stream = await call(text="x", fail=code, frames=1)
    assert await anext(stream) == {"index": 0, "text": "x"}
    with pytest.raises(WireError):
        await anext(stream)
    assert [item.result for item in trace.get_recent()] == [code, code]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"text": 1},
        {"text": "x", "delay_ms": -1},
        {"text": "x", "delay_ms": 60_001},
        {"text": "x", "fail": "nonsense"},
        {"text": "x", "frames": -1},
        {"text": "x", "frames": 1.5},
        {"text": "x", "more": 1},
    ],
)
async def test_what_does_not_fit_is_refused(call, wanted):
    """Input that does not match the schema is the caller's error."""
    with pytest.raises(WireError) as caught:
        await call(**wanted)

    assert caught.value.code == "schema_mismatch"


async def test_stream_has_the_requested_frames(call):
    """Numbered from 0, each with the text."""
    stream = await call(text="x", frames=3)

    assert [frame async for frame in stream] == [{"index": index, "text": "x"} for index in range(3)]
    assert trace.get_recent(1)[0].result == "ok"


async def test_simulated_failure_does_not_count_for_health(call):
    """Simulated failures never lead to a quarantine."""
    for _ in range(30):
        with pytest.raises(WireError, match="simulated failure"):
            await call(text="x", fail="internal_error")

    assert await call(text="x") == {"text": "x"}


async def test_frame_number_is_bounded(call):
    """At most a thousand frames are allowed."""
    await (await call(text="x", frames=1_000)).aclose()
    with pytest.raises(WireError, match="1000"):
        await call(text="x", frames=1_001)


def test_descriptor_is_that_of_the_protocol():
    """Name, version, slots and timeout are what other nodes rely on."""
    descriptor = echo.DESCRIPTOR

    assert (descriptor.name, descriptor.version, descriptor.max_concurrent) == ("experimental.echo", (1, 0), 64)
    assert descriptor.timeout_seconds > 60
    assert descriptor.idempotent
