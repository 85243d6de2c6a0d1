"""Spans that close in any order, anywhere: a closed span is never current, and what follows is not filed below it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import forkserver

from hearthnet.observability import trace
from hearthnet.observability.logs.messages import place
from hearthnet.observability.records.context import current
from hearthnet.observability.traces import span as spans
from hearthnet.observability.traces.propagation import ContextExecutor
from hearthnet.observability.traces.span import MAX_SPANS
from hearthnet.observability.traces.traceparent import headers_for


def close(opened, error=None):
    """Leaves a span by hand."""
    opened.__exit__(None if error is None else type(error), error, None)


def parents():
    """The spans of the newest trace with the names of their parents."""
    finished = trace.get_recent(1)[0]
    names = {item.id: item.name for item in finished.spans}
    return {item.name: names.get(item.parent) for item in finished.spans}


def test_spans_closed_in_the_order_of_their_opening():
    """First in, first out: the next span and the next record are directly under the trace."""
    with trace.new_trace("a.b") as started:
        one, two = trace.span("one").__enter__(), trace.span("two").__enter__()
        close(one)
        close(two)
        assert place() == (started.trace_id, None, None)
        with trace.span("third"):
            pass

    assert parents() == {"one": None, "two": "one", "third": None}


def test_stack_that_closes_a_span_below_one_opened_by_hand():
    """An `ExitStack` leaves its span; one opened by hand on top of it goes with it."""
    with trace.new_trace("a.b"), trace.span("around"), contextlib.ExitStack() as stack:
        stack.enter_context(trace.span("in stack"))
        by_hand = trace.span("by hand").__enter__()
        stack.close()
        with trace.span("after the stack"):
            pass
        close(by_hand)
        with trace.span("after both"):
            pass

    assert parents() == {
        "around": None, "in stack": "around", "by hand": "in stack", "after the stack": "around",
        "after both": "around",
    }  # fmt: skip


async def test_plain_generators_closed_first_in_first_out():
    """Generators with a plain `with span(…)` around a `yield`, closed in the wrong order, leave nothing behind."""

    async def items(name):
        with trace.span(name):
            yield

    with trace.new_trace("a.b") as started:
        first, second = items("first"), items("second")
        await anext(first)
        await anext(second)
        await first.aclose()
        await second.aclose()
        assert place() == (started.trace_id, None, None)
        with trace.span("after"):
            pass

    assert parents()["after"] is None


@given(st.permutations(range(5)), st.integers(0, 5))
def test_any_order_of_closing(order, opened_between):
    """Whatever the order: at no time is a closed span current or a parent, and at the end none is."""
    with trace.new_trace("a.b") as started:
        spans = [trace.span(f"{number}").__enter__() for number in range(5)]
        for step, number in enumerate(order):
            close(spans[number])
            closed = {item.id for item in spans if item.duration_ms is not None}
            assert place()[1] not in closed
            if step == opened_between:
                with trace.span("between") as between:
                    assert between.parent not in closed
        assert place() == (started.trace_id, None, None)

    assert {item.status for item in trace.get_recent(1)[0].spans} == {"ok"}


def test_span_closed_inside_a_step_of_a_generator():
    """A decorated generator that closes its consumer's span: between its steps the closed span is not current."""
    outside = trace.span("outside")

    @trace.span("stream")
    def items():
        yield 1
        close(outside)
        yield 2

    with trace.new_trace("a.b") as started:
        outside.__enter__()
        for _ in items():
            pass
        assert place() == (started.trace_id, None, None)
        with trace.span("after"):
            pass

    assert parents()["after"] is None


async def test_task_that_outlives_the_span_it_began_in():
    """The task's own view still has the span as its innermost; closed, it is neither parent nor in a header."""
    may_go_on = asyncio.Event()

    async def straggler():
        await may_go_on.wait()
        with trace.span("late"):
            return place()[1]

    with trace.new_trace("a.b") as started:
        with trace.span("around"), trace.span("inside"):
            task = asyncio.create_task(straggler())
        may_go_on.set()
        assert await task is not None
        header = headers_for(started)

    assert parents()["late"] is None
    assert header


@pytest.mark.parametrize("elsewhere", ["thread", "thread in a copy", "task"])
async def test_span_closed_elsewhere(elsewhere):
    """Closed by another thread or task, it is over here too; its owner's own closing changes nothing."""
    with trace.new_trace("a.b") as started:
        with trace.span("step") as step:
            if elsewhere == "task":
                await asyncio.create_task(asyncio.to_thread(close, step, ValueError("there")))
            else:
                run = contextvars.copy_context().run if elsewhere == "thread in a copy" else lambda work, *of: work(*of)
                thread = threading.Thread(target=run, args=(close, step, ValueError("there")))
                thread.start()
                thread.join()
            took_ms = step.duration_ms
            assert place() == (started.trace_id, None, None)
            with trace.span("meanwhile"):
                pass
        assert (step.status, step.duration_ms) == ("error", took_ms)
        with trace.span("after"):
            pass

    assert parents() == {"step": None, "meanwhile": None, "after": None}


def test_pool_thread_keeps_no_span():
    """A span left open in a pool's thread is not current in the next call there."""
    with ContextExecutor(max_workers=1) as pool:
        with trace.new_trace("a.b"):
            pool.submit(trace.span("left open").__enter__).result(10)
            assert pool.submit(place).result(10)[1] is None
        assert pool.submit(place).result(10) == (None, None, None)


def test_trace_begun_in_a_span_that_has_closed_since():
    """`detach` of the inner trace puts back the outer one, not its closed span."""
    with trace.new_trace("outer.call") as outer:
        with trace.span("first"):
            inner = trace.new_trace("inner.call")
        assert place() == (inner.trace_id, None, None)
        trace.detach()
        assert place() == (outer.trace_id, None, None)


def test_span_is_closed_once():
    """A second closing changes neither its duration nor its status; opened again, it is another span."""
    with trace.new_trace("a.b"):
        step = trace.span("step").__enter__()
        close(step)
        took_ms = step.duration_ms
        close(step, ValueError("late"))
        assert (step.status, step.duration_ms) == ("ok", took_ms)
        with step:
            pass

    assert [item.status for item in trace.get_recent(1)[0].spans] == ["ok", "ok"]


def test_orphan_is_measured_each_time():
    """Outside any trace a span that is kept measures each use."""
    step = trace.span("step")
    for error in (None, ValueError("there")):
        step.__enter__()
        assert step.duration_ms is None
        close(step, error)
        assert step.duration_ms is not None


FINALIZERS = """
import gc
from contextvars import ContextVar
from hearthnet.observability import trace
from hearthnet.observability.logs.messages import place

class Resource:
    def __init__(self):
        self.itself = self
    def __del__(self):
        with trace.span("released"):
            pass

@trace.span("stream")
def stream():
    itself = yield  # a cycle, which the collector closes
    with trace.span("step"):
        yield

own = ContextVar("own")
for threshold in range(1, 60):
    gc.set_threshold(threshold)
    with trace.new_trace("a.b") as started:
        for _ in range(100):
            Resource()
            items = stream()
            next(items)
            items.send(items)
            del items
            own.set(object())
            with trace.span("work"):
                pass
            assert place() == (started.trace_id, None, None), threshold
gc.collect()
assert {item.status for found in trace.get_recent() for item in found.spans} <= {"ok", "cancelled", "open"}
"""


def test_finalizers_may_open_spans():
    """Spans in `__del__` and in forgotten generators, wherever the collector runs them: also while a variable is set.

    In a program of its own, because a fault is one of the interpreter, which crashes or loses context variables.
    """
    ran = forkserver.run([sys.executable, "-c", FINALIZERS], timeout=120)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), GeneratorExit()])
def test_program_that_is_ended_inside_a_span(error):
    """What ends a program passes through, and the span is cancelled, not failed."""
    with pytest.raises(type(error)) as raised, trace.new_trace("a.b"), trace.span("step"):
        raise error

    assert raised.value is error
    (step,) = trace.get_recent(1)[0].spans
    assert (step.status, trace.get_recent(1)[0].result) == ("cancelled", "cancelled")
    assert place() == (None, None, None)


def test_name_by_keyword():
    """`span(name=…)` is `span(…)`; beside a name it is a field."""
    with trace.new_trace("a.b"):
        with trace.span(name="x", size=1):
            pass
        with trace.span("x", name="y"):
            pass
        with trace.span(""):
            pass

    assert [(item.name, item.extras) for item in trace.get_recent(1)[0].spans] == [
        ("x", {"size": 1}), ("x", {"name": "y"}), ("", {}),
    ]  # fmt: skip
    with pytest.raises(TypeError, match="name"):
        trace.span(size=1)


@pytest.mark.parametrize("make", [trace.span, trace.trace])
def test_decorator_without_a_name_is_refused_at_once(make):
    """Not at the first call, and with the line to write."""

    def work():
        """Does nothing."""

    with pytest.raises(TypeError, match=rf'@{make.__name__}\("work"\)'):
        make(work)
    with pytest.raises(TypeError, match=rf'@{make.__name__}\("name"\)'):
        make(lambda: 1)


def test_span_of_a_class_of_the_programs_own():
    """What inherits from a span is one: others are opened inside it."""

    class Step(trace.Span):
        """As a span is."""

    with trace.new_trace("a.b"), Step("outer") as outer, trace.span("inner") as inner:
        assert inner.parent == outer.id

    (recorded,) = trace.get_recent(1)
    assert [item.name for item in recorded.spans] == ["outer", "inner"]


@pytest.mark.parametrize("depth", [1, 2])
def test_trace_that_ends_while_a_span_closes(monkeypatch, depth):
    """Another thread, or a signal handler, may do that at any moment: nothing raises."""
    set_scope = spans._set_scope
    with trace.new_trace("a.b") as made, contextlib.ExitStack() as stack:
        for number in range(depth):
            stack.enter_context(trace.span(f"s{number}"))
        monkeypatch.setattr(spans, "_set_scope", lambda scope: (set_scope(scope), made.end()))

    assert trace.get_recent(1)[0].trace_id == made.trace_id


def open_in(made):
    """The spans of a trace that are open, as the black box is to show them, the newest first."""
    found = [made._top]
    while found[-1] is not None:
        found.append(found[-1].below)
    return found[:-1]


def test_spans_that_nothing_closes_are_bounded():
    """Each in a context of its own, as of tasks that are dropped: no more are kept as open than as spans."""
    with trace.new_trace("a.b") as made, trace.span("known"):
        for _ in range(3 * MAX_SPANS):
            contextvars.copy_context().run(trace.span("known").__enter__)
        assert len(open_in(made)) <= MAX_SPANS
        assert len(made.spans) <= MAX_SPANS


def test_renamed_span_is_recorded_by_its_new_name():
    """As a bridge from another tracer renames it; any name is bounded text."""
    with trace.new_trace("a.b"), trace.span("first") as opened:
        opened.rename("second" * 100)

    (name,) = (item.name for item in trace.get_recent(1)[0].spans)
    assert name.startswith("secondsecond")
    assert len(name.encode()) <= 128


@pytest.mark.parametrize("name", ["around", "\ud800"])
def test_span_of_a_finalizer_is_current_to_no_one(name):
    """The collector may run it while a variable is being set; the span itself is recorded."""

    class Closing:
        """Opens a span when it is dropped."""

        def __init__(self):
            self.itself = self

        def __del__(self):
            with trace.span(name):
                pass

    with trace.new_trace("a.b"), trace.span("around") as around:
        Closing()
        gc.collect()
        assert current.get() is around

    assert len(trace.get_recent(1)[0].spans) == 2


def test_span_that_is_not_open_yet():
    """It has no time and no place."""
    made = trace.span("step")

    assert (made.started_ns, made.duration_ms, made.parent, made.id) == (0, None, None, "")


@pytest.mark.parametrize("name", [[1], {}, 7, None, b"x"], ids=repr)
def test_name_of_any_kind_is_text(name):
    """Whether or not it could be looked up."""
    with trace.new_trace("a.b"):
        for _ in range(2):
            with trace.span(name):
                pass

    assert [item.name for item in trace.get_recent(1)[0].spans] == [str(name) if name != b"x" else "b'x'"] * 2


def test_span_behind_another_keeps_nothing_of_it():
    """A trace of many spans, of which few are kept, would keep all of them else."""
    with trace.new_trace("a.b"):
        with trace.span("first") as first:
            pass
        with trace.span("second") as second, trace.span("inner") as inner:
            pass

    assert (first.below, second.below, inner.below) == (None, None, second)


def test_span_that_is_opened_elsewhere_is_not_current():
    """As by a bridge from another tracer: with the parent and the times that it says, closed once."""
    with trace.new_trace("a.b") as begun, trace.span("around") as around:
        opened = trace.span("elsewhere" * 100, size=1)
        opened.open_in(around, around.id, begun.started_ns + 1_000_000)
        assert current.get() is around
        opened.close(begun.started_ns + 3_000_000)
        opened.close(begun.started_ns + 9_000_000)

    kept = {item.name[:4]: item for item in trace.get_recent(1)[0].spans}["else"]
    assert (kept.parent, kept.offset_ms, kept.duration_ms, kept.extras) == (around.id, 1.0, 2.0, {"size": 1})
    assert len(kept.name.encode()) <= 128


def test_secret_that_another_part_tells_is_no_name_either():
    """By itself it is a name like any other, and was remembered as such."""
    for _ in range(2):
        with trace.new_trace("a.b"), trace.span("tiger12345"):
            pass
    with trace.new_trace("a.b") as begun, trace.span("tiger12345"):
        begun.extras["password"] = "tiger12345"

    assert [item.name for item in trace.get_recent(1)[0].spans] == ["[redacted]"]
    assert [item.name for item in trace.get_recent(2)[1].spans] == ["tiger12345"]


@pytest.mark.parametrize("how", ["here", "in a copy", "twice"])
def test_scope_around_is_put_back(how):
    """Also where the token is of another context, or has been used."""
    with trace.new_trace("a.b") as begun:
        token = current.set(trace.span("inside"))
        if how == "twice":
            assert spans.restore(token)
            current.set(trace.span("inside again"))

        def put_back():
            return spans.restore(token), current.get()

        is_own, scope = (contextvars.copy_context().run if how == "in a copy" else lambda call: call())(put_back)
        assert (is_own, scope) == (how == "here", begun)
        current.set(begun)


def test_span_in_a_context_whose_innermost_span_has_closed():
    """It is below the one around that, which is open."""
    with trace.new_trace("a.b"), trace.span("around"):
        with trace.span("closed"):
            copied = contextvars.copy_context()
        copied.run(lambda: close(trace.span("late").__enter__()))

    assert parents() == {"around": None, "closed": "around", "late": "around"}
