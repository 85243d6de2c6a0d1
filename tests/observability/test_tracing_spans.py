"""Spans: how long they last, whose child each is, and what a program may do with them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from types import SimpleNamespace

import pytest

from hearthnet.observability import get_logger, metrics, trace


def test_span_outside_a_trace_measures_and_is_counted():
    """An orphan has a duration, is stored nowhere, and is counted."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    with trace.span("alone", n=1) as orphan:
        pass

    assert orphan.duration_ms is not None
    assert trace.get_recent() == []
    assert b"hearthnet_telemetry_orphan_spans_total 1.0" in metrics.exposition()[0]


async def test_span_after_the_end_of_its_trace_is_an_orphan():
    """A task that outlives its trace neither adds to it nor fails."""
    gate = asyncio.Event()

    async def straggler():
        await gate.wait()
        with trace.span("late") as late:
            pass
        return late

    with trace.new_trace("a.b"):
        task = asyncio.create_task(straggler())
        await asyncio.sleep(0)
    gate.set()

    assert (await task).id == ""
    assert trace.get_recent(1)[0].spans == []


def test_span_still_open_is_stored_as_open():
    """A span that the end of its trace cuts short lasts until then and says so; the context is clean after."""
    trace.new_trace("a.b")
    trace.span("forgotten").__enter__()
    trace.detach()

    (item,) = trace.get_recent(1)[0].spans
    assert item.status == "open"
    assert item.duration_ms is not None
    assert trace.current_trace() is None


async def test_span_decorates_functions_of_every_kind():
    """As a decorator a span wraps each call, of a plain, an async and an async generator function."""

    @trace.span("plain", kind=1)
    def plain(value):
        return value

    @trace.span("coroutine")
    async def coroutine(value):
        await asyncio.sleep(0)
        return value

    @trace.span("generator")
    async def generator(count):
        for number in range(count):
            yield number

    with trace.new_trace("a.b"):
        assert (plain(1), plain(2), await coroutine(3)) == (1, 2, 3)
        assert [number async for number in generator(2)] == [0, 1]

    finished = trace.get_recent(1)[0]
    assert [item.name for item in finished.spans] == ["plain", "plain", "coroutine", "generator"]
    assert len({item.id for item in finished.spans}) == 4


def test_one_large_span_does_not_cost_the_others():
    """A span that does not fit a row is left out; those that do are kept."""
    with trace.new_trace("a.b"):
        with trace.span("large", **{f"k{number}": "x" * 2_000 for number in range(4)}):
            pass
        for number in range(5):
            with trace.span("small", number=number):
                pass

    finished = trace.get_recent(1)[0]
    assert [item.name for item in finished.spans] == ["small"] * 5
    assert finished.extras == {"truncated": 1}


def test_span_that_ends_after_its_trace_restores_nothing():
    """A span left open, closed after `detach`, does not bring the ended trace back."""
    trace.new_trace("a.b")
    late = trace.span("late").__enter__()
    trace.detach()
    late.__exit__(None, None, None)

    assert trace.current_trace() is None


async def test_generators_have_their_span_only_while_they_run():
    """Between two items the consumer's spans are not the generator's children, and after it nothing is left open."""

    @trace.span("made")
    async def items():
        for number in range(3):
            with trace.span("step"):
                yield number

    @trace.span("plain")
    def plain_items():
        yield 1
        yield 2

    with trace.new_trace("a.b"):
        async for _ in items():
            with trace.span("use"):
                pass
        for _ in plain_items():
            with trace.span("use"):
                pass
        stopped_early = items()
        async for _ in stopped_early:
            break
        await stopped_early.aclose()
        with trace.span("after"):
            pass

    finished = trace.get_recent(1)[0]
    names = {item.id: item.name for item in finished.spans}
    parents = {(item.name, names.get(item.parent)) for item in finished.spans}
    assert parents == {("made", None), ("step", "made"), ("use", None), ("plain", None), ("after", None)}
    assert {item.status for item in finished.spans} <= {"ok", "cancelled"}


async def test_generators_get_what_is_sent_thrown_and_closed():
    """A wrapped generator still receives values and exceptions, returns its value, and is closed at once."""
    closed = []

    @trace.span("echo")
    def echoes():
        got = None
        try:
            while got != "stop":
                try:
                    got = yield got
                except KeyError:
                    got = "caught"
        finally:
            closed.append("plain")
        return "returned"

    @trace.span("echo")
    async def async_echoes():
        got = None
        try:
            while True:
                try:
                    got = yield got
                except KeyError:
                    got = "caught"
        finally:
            closed.append("async")

    with trace.new_trace("a.b"):
        plain = echoes()
        assert (next(plain), plain.send("x"), plain.throw(KeyError())) == (None, "x", "caught")
        with pytest.raises(StopIteration) as stop:
            plain.send("stop")
        generator = async_echoes()
        assert [await anext(generator), await generator.asend("x"), await generator.athrow(KeyError())] == [
            None,
            "x",
            "caught",
        ]
        await generator.aclose()

    assert stop.value.value == "returned"
    assert closed == ["plain", "async"]


def test_generator_that_fails_marks_its_span():
    """An error inside a wrapped generator reaches the consumer and the span."""

    @trace.span("broken")
    def broken():
        yield 1
        raise ValueError("inside")

    with trace.new_trace("a.b"), pytest.raises(ValueError, match="inside"):
        list(broken())

    assert trace.get_recent(1)[0].spans[0].status == "error"


class Ambiguous:
    """A value that has no truth, as an array has none."""

    def __bool__(self):
        raise ValueError("the truth value is ambiguous")


@pytest.mark.parametrize("status", [object(), "\ud800", 7])
def test_span_status_of_any_kind_costs_no_trace(status):
    """A status that is no JSON is written as text; nothing raises into the program."""
    with trace.new_trace("a.b"), trace.span("step") as step:
        step.status = status

    assert [part.name for part in trace.get_recent(1)[0].spans] == ["step"]


def test_extras_of_any_kind_never_raise():
    """Extras that are no dictionary, or have no truth value, cost at most themselves."""
    started = trace.new_trace("a.b")
    started.extras = Ambiguous()
    with pytest.raises(KeyError, match="the program's own"), trace.span("step") as step:  # noqa: PT012
        step.extras = None
        raise KeyError("the program's own")
    trace.detach()
    get_logger("hearthnet.x").warning("careful", extra=Ambiguous())

    assert trace.get_recent(1)[0].trace_id == started.trace_id


def test_span_opened_again_inside_itself_is_two_spans():
    """One span object around a function that calls itself: each opening is a span, and `detach` comes to an end."""
    step = trace.span("step", depth="any")
    trace.new_trace("a.b")
    with step, trace.span("between"), step as inner:
        inner.extras["deep"] = True
    ending = threading.Thread(target=contextvars.copy_context().run, args=(trace.detach,), daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()
    trace.detach()

    outer, between, second = trace.get_recent(1)[0].spans
    assert (between.parent, second.parent) == (outer.id, between.id)
    assert (outer.extras, second.extras) == ({"depth": "any"}, {"depth": "any", "deep": True})
    assert outer.id != second.id
    assert {item.status for item in (outer, between, second)} == {"ok"}
    assert trace.current_trace() is None


def test_span_used_one_after_the_other_is_two_spans():
    """A span object that is kept and used again does not rewrite what it measured before."""
    step = trace.span("step")
    with trace.new_trace("a.b"):
        for _ in range(2):
            with step:
                pass

    first, second = trace.get_recent(1)[0].spans
    assert first.id != second.id
    assert first.offset_ms + first.duration_ms <= second.offset_ms


async def test_span_shared_by_tasks_leaves_each_in_its_own_trace():
    """Two requests that open one span object at the same time stay apart, also when it fails in one of them."""
    step = trace.span("step")
    both = asyncio.Barrier(2)

    async def serve(capability, error):
        with contextlib.suppress(ValueError), trace.new_trace(capability) as own:
            with step:
                await both.wait()
                if error:
                    await both.wait()
                    raise ValueError
            assert trace.current_trace() is own
            await both.wait()

    await asyncio.gather(serve("a.a", None), serve("b.b", True))

    finished = {item.capability: item for item in trace.get_recent()}
    assert [(item.result, [each.status for each in item.spans]) for item in (finished["a.a"], finished["b.b"])] == [
        ("ok", ["ok"]),
        ("internal_error", ["error"]),
    ]


def test_generator_that_ends_after_the_trace_around_it_leaves_the_outer_one():
    """A generator's own trace, begun inside a trace and ended after it, does not put the ended one back."""

    def stream():
        with trace.new_trace("stream.call"):
            yield

    with trace.new_trace("outer.call") as outer:
        items = stream()
        with trace.new_trace("middle.call"):
            next(items)
        assert trace.current_trace() is outer
        items.close()
        assert trace.current_trace() is outer

    assert trace.current_trace() is None
    assert {item.capability for item in trace.get_recent()} == {"outer.call", "middle.call", "stream.call"}


def test_generator_that_fails_while_it_is_closed_has_a_closed_span():
    """An error in a generator's clean-up passes on, and its span ends there, failed."""

    @trace.span("stream")
    def stream():
        try:
            yield
        finally:
            raise ValueError("in the clean-up")

    with trace.new_trace("a.b"):
        items = stream()
        next(items)
        with pytest.raises(ValueError, match="clean-up"):
            items.close()

    (only,) = trace.get_recent(1)[0].spans
    assert only.status == "error"
