"""The context of the API and ours: each side finds what the other has opened, and nothing that has ended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading

import pytest
from opentelemetry import baggage
from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.trace import NonRecordingSpan, SpanContext
from support.open_telemetry import fresh_api, installed, newest, spans_by_name

from hearthnet.observability import get_logger, otel, trace
from hearthnet.observability.otel.bridge.context import RuntimeContext
from hearthnet.observability.traces.propagation import carry

__all__ = ["fresh_api", "installed"]  # fixtures

REMOTE = SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, is_remote=True)


def current_id():
    """The id of the API's current span; of no span all zeros."""
    return f"{api.get_current_span().get_span_context().span_id:016x}"


def test_each_side_sees_the_other(installed):
    """Spans opened in turn, by ours and by theirs, are each other's parents, and each is current on both sides."""
    with trace.new_trace("a.b") as started:
        with installed.start_as_current_span("one") as one:
            assert trace.current_trace() is started
            with trace.span("two") as two:
                assert current_id() == two.id
                with installed.start_as_current_span("three"), trace.span("four") as four:
                    assert current_id() == four.id
                assert current_id() == two.id
            assert api.get_current_span() is one
        assert api.get_current_span().is_recording()
        assert api.get_current_span().name == "a.b"
    assert api.get_current_span() is api.INVALID_SPAN

    spans = spans_by_name(newest())
    parents = {name: spans[name]["parent"] for name in spans}
    assert parents == {
        "one": None,
        "two": spans["one"]["id"],
        "three": spans["two"]["id"],
        "four": spans["three"]["id"],
    }


def test_root_of_theirs_is_a_trace_of_ours(installed):
    """Our spans and log records within it belong to it."""
    with installed.start_as_current_span("job") as job:
        assert trace.current_trace() is job.trace
        with trace.span("step"):
            get_logger("tests").warning("seen")
    assert trace.current_trace() is None

    assert (newest()["capability"], list(spans_by_name(newest()))) == ("job", ["step"])


def test_other_values_of_a_context_stay(installed):
    """Baggage and keys of the program survive a span of ours, and are gone when they are detached."""
    token = context_api.attach(baggage.set_baggage("user", "7"))
    with trace.new_trace("a.b"), trace.span("ours") as ours:
        assert baggage.get_baggage("user") == "7"
        inner = context_api.attach(context_api.set_value("key", "value"))
        assert (context_api.get_value("key"), current_id()) == ("value", ours.id)
        with trace.span("deeper") as deeper:
            assert (context_api.get_value("key"), current_id()) == ("value", deeper.id)
        context_api.detach(inner)
        assert (context_api.get_value("key"), current_id()) == (None, ours.id)
    context_api.detach(token)

    assert baggage.get_baggage("user") is None


def test_attaching_a_value_is_no_second_trace(installed):
    """A trace that is current stays as it is when a context of it is attached: our `detach` ends it."""
    trace.new_trace("a.b")
    token = context_api.attach(context_api.set_value("key", "value"))
    trace.detach()
    context_api.detach(token)

    assert [found.capability for found in trace.get_recent()] == ["a.b"]


def test_a_given_context_counts(installed):
    """Its span is the parent, whatever is current; an empty one begins a trace, and takes nothing from ours."""
    with trace.new_trace("a.b") as started:
        first = installed.start_span("first")
        with installed.start_as_current_span("second"):
            installed.start_span("under first", api.set_span_in_context(first)).end()
            token = context_api.attach(context_api.Context())
            assert api.get_current_span() is api.INVALID_SPAN
            assert trace.current_trace() is started
            installed.start_span("other").end()
            context_api.detach(token)
        first.end()

    spans = spans_by_name(newest())
    assert spans["under first"]["parent"] == spans["first"]["id"]
    assert newest(2)["capability"] == "other"


def test_remote_parent_in_the_context(installed):
    """What `extract` yields: current for them, a parent for what they begin, and nothing to a trace of ours."""
    token = context_api.attach(api.set_span_in_context(NonRecordingSpan(REMOTE)))
    assert trace.current_trace() is None
    with trace.new_trace("a.b") as started:
        assert current_id() != f"{REMOTE.span_id:016x}"
        assert trace.current_trace() is started
    assert current_id() == f"{REMOTE.span_id:016x}"
    trace.attach(started)  # which has ended
    assert current_id() == f"{REMOTE.span_id:016x}"
    trace.detach()
    with installed.start_as_current_span("served"):
        pass
    context_api.detach(token)

    assert newest()["parent_id"] == f"{REMOTE.span_id:016x}"


async def test_tasks_have_contexts_of_their_own(installed):
    """Spans side by side find their parents, and leave those of others alone."""

    async def work(name):
        with installed.start_as_current_span(name) as made:
            await asyncio.sleep(0)
            with trace.span(f"in {name}") as inner:
                await asyncio.sleep(0)
                assert current_id() == inner.id
            assert api.get_current_span() is made

    with trace.new_trace("a.b"):
        await asyncio.gather(*(work(name) for name in "abc"))

    spans = spans_by_name(newest())
    assert [spans[f"in {name}"]["parent"] for name in "abc"] == [spans[name]["id"] for name in "abc"]


def test_thread_has_neither_unless_it_is_carried(installed):
    """As with our own spans."""
    seen = []
    with trace.new_trace("a.b"), installed.start_as_current_span("work") as work:
        for target in (lambda: seen.append(api.get_current_span()), carry(lambda: seen.append(api.get_current_span()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert seen == [api.INVALID_SPAN, work]


def test_context_attached_in_a_thread_takes_our_trace_with_it(installed):
    """As the instrumentation of threads and pools does."""
    with trace.new_trace("a.b"), installed.start_as_current_span("work"):
        context = context_api.get_current()

        def target():
            token = context_api.attach(context)
            with trace.span("ours"):
                installed.start_span("theirs").end()
            context_api.detach(token)
            assert trace.current_trace() is None

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    spans = spans_by_name(newest())
    assert spans["ours"]["parent"] == spans["work"]["id"]
    assert spans["theirs"]["parent"] == spans["ours"]["id"]


@pytest.mark.parametrize("is_in_a_trace", [True, False])
async def test_generator_that_is_left_early(installed, logged, is_in_a_trace):
    """Its span ends once, as cancelled, when it is collected; nothing is logged; the next span has the right parent."""

    async def numbers():
        with installed.start_as_current_span("numbers"):
            for number in range(3):
                yield number

    async def read():
        async for _ in numbers():
            break
        gc.collect()
        while api.get_current_span().is_recording() and "numbers" in repr(api.get_current_span().name):
            await asyncio.sleep(0)
        outside = api.get_current_span()
        with installed.start_as_current_span("next"), trace.span("ours"):
            pass
        return outside

    if is_in_a_trace:
        with trace.new_trace("a.b") as started:
            outside = await asyncio.create_task(read())
        spans = spans_by_name(newest())
        assert outside.trace is started
        assert (spans["numbers"]["status"], spans["next"]["parent"]) == ("cancelled", None)
        assert len(newest()["spans"]) == 3
    else:
        assert await asyncio.create_task(read()) is api.INVALID_SPAN
        assert (newest(2)["capability"], newest(2)["result"]) == ("numbers", "cancelled")
        assert (newest()["capability"], newest()["parent_id"]) == ("next", None)
        assert newest()["trace_id"] != newest(2)["trace_id"]
    assert [record.getMessage() for record in logged if record.name.startswith("opentelemetry")] == []


async def test_what_was_opened_since_goes_on(installed):
    """A forgotten generator ends while its consumer is in a span of its own: that stays the current one."""

    async def numbers():
        with installed.start_as_current_span("numbers") as made:
            yield made

    async def read():
        seen = []
        async for made in numbers():
            seen.append(made)
            break
        with trace.span("ours") as ours:
            while seen[0].is_recording():
                await asyncio.sleep(0)
            assert current_id() == ours.id
            installed.start_span("theirs").end()
        installed.start_span("after").end()

    with trace.new_trace("a.b"):
        await asyncio.create_task(read())

    spans = spans_by_name(newest())
    assert (spans["theirs"]["parent"], spans["after"]["parent"]) == (spans["ours"]["id"], None)


def test_detaching_elsewhere_or_twice_is_harmless(installed, logged):
    """No error is logged, and what is attached here stays."""
    here = context_api.attach(context_api.set_value("place", "here"))
    elsewhere = contextvars.Context().run(context_api.attach, context_api.set_value("place", "elsewhere"))
    context_api.detach(elsewhere)
    assert context_api.get_value("place") == "here"
    context_api.detach(here)
    context_api.detach(here)
    assert context_api.get_value("place") is None
    assert [record for record in logged if record.name.startswith("opentelemetry")] == []


def test_detached_in_the_wrong_order(installed):
    """What was attached last stays until it goes; then what is left is what was there before both, on our side too."""
    with trace.new_trace("a.b") as started:
        made = [installed.start_span(name) for name in ("one", "two")]
        first, second = [context_api.attach(api.set_span_in_context(span)) for span in made]
        context_api.detach(first)
        assert api.get_current_span() is made[1]
        context_api.detach(second)
        assert api.get_current_span().name == "a.b"
        with trace.span("ours"):
            assert trace.current_trace() is started
    assert trace.current_trace() is None

    assert spans_by_name(newest())["ours"]["parent"] is None


def test_what_was_attached_before_stays(fresh_api):
    """Contexts from before the installation are current, and can be detached."""
    outer = context_api.attach(context_api.set_value("when", "before"))

    assert otel.install()
    assert isinstance(context_api._RUNTIME_CONTEXT, RuntimeContext)
    assert context_api.get_value("when") == "before"
    inner = context_api.attach(context_api.set_value("when", "after"))
    context_api.detach(inner)
    assert context_api.get_value("when") == "before"
    context_api.detach(outer)
    assert context_api.get_value("when") is None


def test_ended_spans_are_passed_over(installed):
    """A span that has ended while it was current is no parent of what follows; its trace goes on without it."""
    with trace.new_trace("a.b"), installed.start_as_current_span("outer"):
        token = context_api.attach(api.set_span_in_context(inner := installed.start_span("inner")))
        inner.end()
        installed.start_span("at once").end()
        with trace.span("ours"), installed.start_as_current_span("theirs"):
            pass
        context_api.detach(token)

    spans = spans_by_name(newest())
    assert spans["at once"]["parent"] == spans["outer"]["id"]
    assert spans["ours"]["parent"] == spans["outer"]["id"]
    assert spans["theirs"]["parent"] == spans["ours"]["id"]
