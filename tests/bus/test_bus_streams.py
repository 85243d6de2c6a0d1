"""Streams over the bus: recorded, counted and ended as one call, however their consumers behave."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace

import pytest
from support.capabilities import BODY, offer, request, turns

from hearthnet.errors import WireError
from hearthnet.observability import metrics, trace


async def frames(_):
    """A handler that yields three frames, each made inside a span."""
    for index in range(3):
        with trace.span("frame", index=index):
            await asyncio.sleep(0)
        yield {"index": index}


async def test_stream_is_recorded_before_its_end_is_seen(bus):
    """Frames arrive one by one; at the end the trace is recorded, with the spans of all steps."""
    entry = offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    assert trace.get_recent() == []
    assert entry.running == 1

    assert [frame async for frame in stream] == [{"index": 0}, {"index": 1}, {"index": 2}]

    (item,) = trace.get_recent()
    (whole,) = [part for part in item.spans if part.name == "stream"]
    assert whole.extras == {"frames": 3}
    assert [part.parent for part in item.spans if part.name == "frame"] == [whole.id] * 3
    assert (item.result, entry.running, entry.health.success_rate) == ("ok", 0, 1.0)


async def test_stream_and_its_consumer_do_not_mix(bus):
    """Between two frames the consumer's own trace is current, not the call's."""
    offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    with trace.new_trace("experimental.consumer") as mine:
        async for frame in stream:
            assert trace.current_trace() is mine
            with trace.span("use", index=frame["index"]):
                pass

    consumer, call = trace.get_recent()
    assert [part.name for part in consumer.spans] == ["use"] * 3
    assert "use" not in [part.name for part in call.spans]


async def test_stream_consumed_in_another_task(bus):
    """Its frames belong to the call, whichever task asks for them; the call ends with its last frame."""
    offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    assert trace.current_trace() is None

    async def consume():
        with trace.new_trace("a.consumer"):
            async for _ in stream:
                with trace.span("use"):
                    await asyncio.sleep(0)

    await asyncio.create_task(consume())
    consumer, call = trace.get_recent(2)
    assert [item.name for item in consumer.spans] == ["use"] * 3
    assert [item.name for item in call.spans].count("frame") == 3
    assert (call.result, [item.status for item in call.spans if item.status != "ok"]) == ("ok", [])


async def test_stream_closed_early_by_another_task(bus):
    """Closing a stream elsewhere ends the call as cancelled, and gives its place back."""
    offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    await anext(stream)

    await asyncio.create_task(stream.aclose())

    assert (trace.get_recent(1)[0].result, bus.stats()[0]["running"]) == ("cancelled", 0)
    assert trace.current_trace() is None


async def breaks_after_one(_):
    """A handler that fails after its first frame."""
    yield {"index": 0}
    raise ValueError("in the middle")


async def ends_with_code_after_one(_):
    """A handler that raises a wire error after its first frame."""
    yield {"index": 0}
    raise WireError("capacity_exceeded", "enough")


async def yields_no_json(_):
    """A handler whose second frame cannot be encoded."""
    yield {"index": 0}
    yield {"index": {1, 2}}


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (breaks_after_one, "internal_error"),
        (ends_with_code_after_one, "capacity_exceeded"),
        (yields_no_json, "internal_error"),
    ],
)
async def test_stream_that_fails_in_the_middle(bus, handler, code):
    """Consumer and trace get the same error code; the slot is freed."""
    entry = offer(bus, handler)
    stream = await bus.handle_call(request(stream=True))
    assert await anext(stream) == {"index": 0}
    with pytest.raises(WireError) as caught:
        await anext(stream)

    assert caught.value.code == trace.get_recent(1)[0].result == code
    assert entry.running == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_stream_that_stalls_is_ended(bus):
    """The timeout applies to each frame."""

    async def stalls(_):
        yield {"index": 0}
        await asyncio.Event().wait()

    offer(bus, stalls, timeout_seconds=0.02)
    stream = await bus.handle_call(request(stream=True))
    await anext(stream)
    with pytest.raises(WireError) as caught:
        await anext(stream)

    assert caught.value.code == trace.get_recent(1)[0].result == "timeout"


async def test_stream_that_is_closed_is_cancelled_once(bus):
    """Closing early, even twice at once, ends the call once and lets the handler clean up."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    cleaned = []

    async def careful(_):
        try:
            for index in range(3):
                yield {"index": index}
        finally:
            await asyncio.sleep(0)
            cleaned.append(trace.current_trace().capability)

    entry = offer(bus, careful)
    stream = await bus.handle_call(request(stream=True))
    await anext(stream)
    await asyncio.gather(stream.aclose(), stream.aclose())
    await stream.aclose()

    assert [item.result for item in trace.get_recent()] == ["cancelled"]
    assert (cleaned, entry.running, entry.health.calls) == (["experimental.thing"], 0, 0)
    assert b'hearthnet_active_streams{capability="experimental.thing"} 0.0' in metrics.exposition()[0]


async def test_abandoned_stream_frees_its_slot(bus):
    """An abandoned stream leaves a cancelled trace and a free slot."""
    entry = offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    async for _ in stream:
        break
    del stream
    gc.collect()

    assert entry.running == 0
    assert trace.get_recent(1)[0].result == "cancelled"


async def test_deadline_of_the_caller_does_not_count_against_a_stream(bus):
    """A caller's shorter deadline on a stream does not count against the capability either."""

    async def stalls(_):
        yield {"index": 0}
        await asyncio.Event().wait()

    entry = offer(bus, stalls)
    stream = await bus.handle_call(request(stream=True, deadline_ms=20))
    await anext(stream)
    with pytest.raises(WireError) as caught:
        await anext(stream)

    assert caught.value.code == "timeout"
    assert (entry.running, entry.health.calls) == (0, 0)


async def test_cancelled_step_ends_the_stream_as_cancelled(bus):
    """Cancelling a consumer that waits for a frame cancels the call, once."""
    cleaned = []

    async def stalls(_):
        try:
            yield {"index": 0}
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    entry = offer(bus, stalls)
    stream = await bus.handle_call(request(stream=True))
    await anext(stream)

    async def step():
        return await anext(stream)

    task = asyncio.create_task(step())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.aclose()

    assert [item.result for item in trace.get_recent()] == ["cancelled"]
    assert (cleaned, entry.running, entry.health.calls) == ([True], 0, 0)


async def test_frame_that_breaks_its_promise_lets_the_handler_clean_up(bus):
    """A frame that does not match the schema ends the stream, after the handler has cleaned up."""
    cleaned = []

    async def careless(_):
        try:
            yield {"index": 0}
            yield {"wrong": 1}
        finally:
            cleaned.append(True)

    offer(bus, careless, stream_schema={"required": ["index"]})
    stream = await bus.handle_call(request(stream=True))
    await anext(stream)
    with pytest.raises(WireError) as caught:
        await anext(stream)
    await stream.aclose()

    assert caught.value.code == "internal_error"
    assert cleaned == [True]


async def test_abandoned_stream_leaves_its_consumers_trace_alone(bus):
    """Dropping a stream ends the call's trace; the consumer's trace stays current."""
    offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    with trace.new_trace("experimental.consumer") as mine:
        await anext(stream)
        del stream
        gc.collect()
        assert trace.current_trace() is mine
        with trace.span("after"):
            pass

    results = {item.capability: item for item in trace.get_recent()}
    assert results["experimental.thing"].result == "cancelled"
    assert [part.name for part in results["experimental.consumer"].spans] == ["after"]


async def test_closing_before_the_first_frame_is_cancelled(bus):
    """A stream that was never read is a cancelled call, and its slot is freed."""
    entry = offer(bus, frames)
    stream = await bus.handle_call(request(stream=True))
    await stream.aclose()

    assert [item.result for item in trace.get_recent()] == ["cancelled"]
    assert entry.running == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_stream_inside_a_trace_is_part_of_it(bus):
    """A capability that streams from another records one trace, including the inner frames' spans."""

    async def outer(_):
        stream = await bus.call("experimental.inner", "1.0", BODY, stream=True)
        return {"frames": [frame["index"] async for frame in stream]}

    offer(bus, outer)
    inner = offer(bus, frames, name="experimental.inner")
    assert await bus.handle_call(request()) == {"frames": [0, 1, 2]}

    (item,) = trace.get_recent()
    names = {part.id: part.name for part in item.spans}
    assert [names[part.parent] for part in item.spans if part.name in ("frame", "stream")] == ["call", *["stream"] * 3]
    assert (item.result, inner.running) == ("ok", 0)


async def test_stream_is_counted_once(bus):
    """A stream counts as one call, however many frames; while it runs it is an active stream."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    offer(bus, frames, name="experimental.counted")
    stream = await bus.handle_call(request("experimental.counted", stream=True))
    await anext(stream)
    assert b'hearthnet_active_streams{capability="experimental.counted"} 1.0' in metrics.exposition()[0]
    async for _ in stream:
        pass

    page = metrics.exposition()[0].decode()
    assert 'hearthnet_active_streams{capability="experimental.counted"} 0.0' in page
    assert 'hearthnet_requests_total{capability="experimental.counted",result="ok"} 1.0' in page
    assert 'hearthnet_request_duration_ms_count{capability="experimental.counted"} 1.0' in page
