"""The contract of tracing: what starts, ends and restores a trace, who is whose parent, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.constants import MAX_TRACE_ROW_BYTES
from hearthnet.errors import WireError
from hearthnet.observability import trace
from hearthnet.observability.logs.messages import Entry, find
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces import trace as traces


class Counting:
    """A whole number of another library, such as NumPy's."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def names_and_parents(finished):
    """The spans of a trace with the names of their parents."""
    names = {item.id: item.name for item in finished.spans}
    return {item.name: names.get(item.parent) for item in finished.spans}


def test_detach_records_the_trace():
    """A trace that was started and detached is the newest in `get_recent`, with its facts."""
    started = trace.new_trace("llm.chat@1.2")
    trace.detach()

    (finished,) = trace.get_recent(1)

    assert finished.trace_id == started.trace_id
    assert (finished.capability, finished.version, finished.result, finished.error) == ("llm.chat", "1.2", "ok", None)
    assert finished.duration_ms >= 0
    assert finished.started_at == started.started_at
    assert finished.started_at_utc.tzinfo is not None
    assert finished.run_id == runtime.recorder.run_id


def test_detach_with_none_current_does_nothing():
    """Detaching outside any trace changes nothing and raises nothing."""
    trace.detach()

    assert trace.current_trace() is None
    assert trace.get_recent() == []


def test_nested_trace_returns_to_the_outer_one():
    """A trace started inside another ends alone; the outer one is current again."""
    outer = trace.new_trace("outer.call")
    inner = trace.new_trace("inner.call")
    assert trace.current_trace() is inner
    trace.detach()

    assert trace.current_trace() is outer
    trace.detach()
    assert [item.capability for item in trace.get_recent()] == ["outer.call", "inner.call"]


async def test_trace_context_propagation():
    """`attach` and `detach` round-trip across `asyncio.gather`: the children's spans join, only the starter ends."""
    started = trace.new_trace("llm.chat")

    async def child(name):
        trace.attach(started)
        with trace.span(name):
            await asyncio.sleep(0)
            with trace.span(f"{name}.inner"):
                await asyncio.sleep(0)
        trace.detach()
        return trace.current_trace()

    with trace.span("around"):
        assert await asyncio.gather(child("a"), child("b")) == [started, started]
    assert trace.get_recent() == []
    assert trace.current_trace() is started
    trace.detach()

    (finished,) = trace.get_recent()
    assert names_and_parents(finished) == {"around": None, "a": None, "b": None, "a.inner": "a", "b.inner": "b"}


async def test_attach_in_another_task_reaches_the_trace():
    """A task that shares no context with the starter joins by `attach`, and `detach` leaves it with none."""
    started = trace.new_trace("llm.chat")

    async def stranger():
        assert trace.current_trace() is None
        trace.attach(started)
        with trace.span("theirs"):
            pass
        trace.detach()
        return trace.current_trace()

    task = asyncio.get_running_loop().create_task(stranger(), context=contextvars.Context())
    assert await task is None
    trace.detach()

    assert [item.name for item in trace.get_recent(1)[0].spans] == ["theirs"]


def test_attach_of_a_trace_begun_here_changes_nothing():
    """`new_trace`, `attach`, `detach`, the order of a transport that begins a trace itself, records the trace."""
    started = trace.new_trace("llm.chat")
    trace.attach(started)
    assert trace.current_trace() is started
    trace.detach()

    assert trace.current_trace() is None
    assert [item.trace_id for item in trace.get_recent()] == [started.trace_id]


def test_attach_of_a_trace_begun_here_within_its_span():
    """Within a span of its own the trace is current too: the span stays the parent of what follows."""
    started = trace.new_trace("llm.chat")
    with trace.span("around"):
        trace.attach(started)
        with trace.span("inner"):
            pass
    trace.detach()

    assert trace.current_trace() is None
    (finished,) = trace.get_recent()
    assert names_and_parents(finished) == {"around": None, "inner": "around"}


def test_attach_of_a_trace_begun_here_below_another():
    """The outer trace, attached within an inner one, is not current already: each attach has its `detach`."""
    outer = trace.new_trace("outer.call")
    inner = trace.new_trace("inner.call")
    trace.attach(outer)
    trace.attach(outer)
    trace.detach()
    trace.detach()
    assert trace.current_trace() is inner
    trace.detach()
    assert trace.current_trace() is outer
    trace.detach()

    assert [item.capability for item in trace.get_recent()] == ["outer.call", "inner.call"]


async def test_attach_in_a_copied_context_is_no_attach_of_the_starter():
    """A task that inherited the trace attaches and detaches it as a pair; the trace is the starter's to end."""
    started = trace.new_trace("llm.chat")

    async def child():
        trace.attach(started)
        trace.detach()
        return trace.current_trace()

    assert await asyncio.create_task(child()) is started
    assert await asyncio.to_thread(contextvars.copy_context().run, asyncio.run, child()) is started
    trace.attach(started)
    trace.detach()

    assert [item.trace_id for item in trace.get_recent()] == [started.trace_id]


@given(st.lists(st.tuples(st.sampled_from(["new", "attach", "detach", "span"]), st.integers(0, 4)), max_size=24))
def test_calls_in_any_order_record_each_trace_once(calls):
    """Whatever the order of calls in one context, each trace begun is recorded once, and none stays current."""
    runtime.reset()
    begun = []

    def play():
        for call, which in calls:
            if call == "new":
                begun.append(trace.new_trace(f"a.{which}"))
            elif call == "attach" and begun:
                trace.attach(begun[which % len(begun)])
            elif call == "span":
                trace.span("left.open").__enter__()
            else:
                trace.detach()
        for _ in calls:
            trace.detach()
        return trace.current_trace()

    assert contextvars.Context().run(play) is None
    recorded = [item.trace_id for item in trace.get_recent()]
    assert sorted(recorded) == sorted(item.trace_id for item in begun)


@pytest.mark.parametrize("n", [2.0, 1.5, "2", None])
def test_number_of_traces_is_a_whole_number(n):
    """What is no whole number is refused by name, where it is passed."""
    with pytest.raises(TypeError, match=f"n is the number of traces, an int: got {type(n).__name__}"):
        trace.get_recent(n)


@pytest.mark.parametrize(("n", "found"), [(0, 0), (-1, 0), (-(10**20), 0), (True, 1), (Counting(2), 2), (10**20, 3)])
def test_whole_numbers_of_traces(n, found):
    """Anything that is a whole number will do; below one there is nothing."""
    for _ in range(3):
        trace.new_trace("a.b")
        trace.detach()

    assert len(trace.get_recent(n)) == found


async def test_child_that_inherited_the_trace_cannot_end_it():
    """`detach` in a task that merely copied the context restores there and records nothing."""
    started = trace.new_trace("llm.chat")

    async def child():
        trace.detach()
        return trace.current_trace()

    assert await asyncio.create_task(child()) is None
    assert trace.get_recent() == []
    assert trace.current_trace() is started
    trace.detach()
    assert len(trace.get_recent()) == 1


async def test_parallel_spans_know_their_parent():
    """Spans opened side by side in tasks hang under the span that was open when the tasks began."""
    with trace.new_trace("llm.chat"), trace.span("parent"):

        async def child(name):
            async with trace.span(name):
                await asyncio.sleep(0)

        await asyncio.gather(child("left"), child("right"))
        with trace.span("after"):
            pass

    parents = names_and_parents(trace.get_recent(1)[0])
    assert parents == {"parent": None, "left": "parent", "right": "parent", "after": "parent"}


async def test_to_thread_carries_the_trace():
    """`asyncio.to_thread` copies the context, so a span there joins."""
    with trace.new_trace("llm.chat"):
        await asyncio.to_thread(lambda: trace.span("in thread").__enter__().__exit__(None, None, None))

    assert [item.name for item in trace.get_recent(1)[0].spans] == ["in thread"]


def test_other_threads_have_no_trace():
    """A plain thread starts without a trace."""
    found = []
    with trace.new_trace("llm.chat"):
        thread = threading.Thread(target=lambda: found.append(trace.current_trace()))
        thread.start()
        thread.join()

    assert found == [None]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ValueError("bad"), "internal_error"),
        (TimeoutError(), "timeout"),
        (WireError("not_found", "no"), "not_found"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_exception_that_leaves_sets_the_result(error, result):
    """What leaves the root decides the result, through `with` and through `try … finally` alike."""

    def by_with():
        with trace.new_trace("a.b"):
            raise error

    def by_hand():
        trace.new_trace("a.b")
        try:
            with trace.span("s"):
                raise error
        finally:
            trace.detach()

    for run in (by_with, by_hand):
        with pytest.raises(type(error)):
            run()

    assert [item.result for item in trace.get_recent()] == [result, result]
    assert all(item.error.startswith(type(error).__name__) for item in trace.get_recent())


def test_exception_that_was_handled_does_not_count():
    """An exception that was caught inside leaves the trace ok, and its span failed."""
    with trace.new_trace("a.b"):
        try:
            with trace.span("s"):
                raise ValueError("handled")
        except ValueError:
            pass

    (finished,) = trace.get_recent(1)
    assert finished.result == "ok"
    assert finished.spans[0].status == "error"
    assert finished.spans[0].extras == {"error": "ValueError: handled"}


def test_error_that_was_there_before_is_not_the_traces():
    """A trace that begins and ends while an older exception is handled is ok."""
    try:
        raise ValueError("older")
    except ValueError:
        trace.new_trace("a.b")
        trace.detach()

    assert trace.get_recent(1)[0].result == "ok"


@pytest.mark.parametrize("code", [[], {}, 5, None, b"timeout"], ids=repr)
def test_fail_takes_whatever_it_is_given(code):
    """Unknown codes, and values that are no text, are recorded as `internal_error`."""
    with trace.new_trace("a.b") as started:
        started.fail(code)

    assert trace.get_recent(1)[0].result == "internal_error"


def test_attach_of_no_trace_records_nothing():
    """`attach(current_trace())` where there was none: spans and records belong to nothing, `detach` takes it back."""
    with trace.new_trace("a.b") as started:
        trace.attach(None)
        with trace.span("lost"):
            assert Entry(find("hearthnet.x", 30, "nobody's"), {}, None, 0).trace_id is None
        assert trace.current_trace() is None
        trace.detach()
        assert trace.current_trace() is started

    assert trace.get_recent(1)[0].spans == []


def test_fail_wins_over_a_later_exception():
    """A result that was set is kept."""

    def fail_twice():
        with trace.new_trace("a.b") as started:
            started.fail("rate_limited", "too many")
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fail_twice()

    (finished,) = trace.get_recent(1)
    assert (finished.result, finished.error, finished.failed) == ("rate_limited", "too many", True)


def test_unknown_code_becomes_internal_error():
    """`fail` with a code that no other node knows does not raise; the code is kept as the error."""
    with trace.new_trace("a.b") as started:
        started.fail("my_own_code")

    assert (trace.get_recent(1)[0].result, trace.get_recent(1)[0].error) == ("internal_error", "my_own_code")


def test_cancelled_is_not_a_failure():
    """Cancelled traces are neither failed nor notable."""
    with trace.new_trace("a.b") as started:
        started.fail("cancelled")

    assert not trace.get_recent(1)[0].failed
    assert trace.get_recent(1)[0].notable == 0


def test_slow_trace_is_notable():
    """A trace that takes as long as `slow_ms` is notable."""
    runtime.slow_ms = 0.0
    with trace.new_trace("a.b"):
        pass

    assert trace.get_recent(1)[0].notable == 1


def test_extras_may_have_any_name():
    """A field may be called like a parameter."""
    with trace.new_trace("a.b"), trace.span("s", name="x", self="y"):
        pass

    assert trace.get_recent(1)[0].spans[0].extras == {"name": "x", "self": "y"}


def test_secrets_in_spans_are_redacted():
    """The value under a secret's name is not in the record."""
    with trace.new_trace("a.b") as started, trace.span("s", api_key="hunter2"):
        started.extras["password"] = "hunter2"

    assert b"hunter2" not in b"".join(runtime.recorder.pending_traces()[0][-2:])


@pytest.mark.parametrize("given", ["../../etc/passwd", "\x1b[2J", "0" * 200_000, "01hxr4z6w5s9e2jq4y0t7b3m1c", ""])
def test_foreign_id_that_is_no_ulid_is_replaced(given):
    """An invalid trace id is never recorded."""
    with trace.new_trace("a.b", trace_id=given) as started:
        assert started.trace_id != given

    assert len(trace.get_recent(1)[0].trace_id) == 26


def test_foreign_ulid_is_kept():
    """A caller's id and span are recorded."""
    with trace.new_trace("a.b", trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M1C", parent_id="00f067aa0ba902b7"):
        pass

    finished = trace.get_recent(1)[0]
    assert (finished.trace_id, finished.parent_id) == ("01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "00f067aa0ba902b7")


@pytest.mark.parametrize("spans", [70, 2_000])
def test_row_is_cut_at_its_limit(spans):
    """Spans beyond 8 KiB are cut, and their number is kept; those that stay are in order."""
    with trace.new_trace("a.b"):
        for number in range(spans):
            with trace.span("work", number=number, text="ü" * 100):
                pass

    record = runtime.recorder.pending_traces()[0]
    kept = orjson.loads(record.spans)
    assert sum(len(str(value).encode()) if not isinstance(value, bytes) else len(value) for value in record) <= (
        MAX_TRACE_ROW_BYTES
    )
    numbers = [item["extras"]["number"] for item in kept]
    assert numbers == sorted(set(numbers))
    assert numbers
    assert orjson.loads(record.extras)["truncated"] == spans - len(kept)


def test_huge_extras_of_a_trace_do_not_crowd_out_everything():
    """A trace whose own fields are too large keeps within its row."""
    with trace.new_trace("a.b") as started:
        started.extras.update({f"k{number}": "x" * 2_000 for number in range(60)})
        started.fail("internal_error", "y" * 100_000)

    record = runtime.recorder.pending_traces()[0]
    assert sum(len(value) for value in (record.spans, record.extras, record.error.encode())) < MAX_TRACE_ROW_BYTES


def test_hostile_names_are_bounded():
    """A capability or a span name from outside is cut and made valid."""
    with trace.new_trace("x" * 1_000 + "\ud800"), trace.span("\ud800" * 1_000):
        pass

    finished = trace.get_recent(1)[0]
    assert len(finished.capability) <= 64
    assert len(finished.spans[0].name.encode()) <= 128


def test_get_recent_bounds_n():
    """The newest n come newest first; nothing for none or less."""
    for number in range(5):
        with trace.new_trace(f"a.n{number}"):
            pass

    assert [item.capability for item in trace.get_recent(2)] == ["a.n4", "a.n3"]
    assert trace.get_recent(0) == trace.get_recent(-1) == []
    assert len(trace.get_recent(10**9)) == 5


def test_memory_keeps_the_newest_ten_thousand():
    """Without a store the ring in memory holds 10,000 traces and no more."""
    for _ in range(10_005):
        trace.new_trace("a.b")
        trace.detach()

    assert len(trace.get_recent(20_000)) == 10_000


def test_result_without_a_failure_has_no_error():
    """`cancelled` needs no error text."""
    with trace.new_trace("a.b") as started:
        started.fail("cancelled")

    assert trace.get_recent(1)[0].error is None


def test_new_error_at_the_old_ones_address_counts():
    """An exception that was handled when the trace began hides no later one, even at the same address."""

    def real():
        try:
            raise ValueError("old")
        except ValueError:
            trace.new_trace("a.b")
        try:
            raise ValueError("real")
        finally:
            trace.detach()

    with pytest.raises(ValueError, match="real"):
        real()

    assert trace.get_recent(1)[0].error == "ValueError: real"


@pytest.mark.parametrize("capability", [None, 5, b"x", "@", "@1.0", "a@" + "9" * 100_000, "x@\ud800"])
def test_any_capability_is_recorded(capability):
    """Any value for a name becomes a short, valid one; nothing raises."""
    with trace.new_trace(capability, trace_id=7, parent_id="\ud800" * 1_000):
        pass

    record = runtime.recorder.pending_traces()[0]
    assert all(len(str(value).encode("utf-8")) <= 64 for value in record[1:6])


def test_trace_that_was_never_detached_ends_at_the_block_around_it():
    """An exception kept an inner trace from being detached: the block around it leaves nothing of it behind."""
    with trace.new_trace("outer.call") as outer:
        with contextlib.suppress(ValueError), trace.new_trace("middle.call"):
            trace.new_trace("inner.call")
            raise ValueError
        assert trace.current_trace() is outer

    assert trace.current_trace() is None
    assert [item.capability for item in trace.get_recent()] == ["outer.call", "middle.call"]


def test_detach_puts_no_closed_span_back():
    """A trace begun inside a span and detached after it: what follows is under the outer trace, not in that span."""
    trace.new_trace("outer.call")
    with trace.span("first"):
        trace.new_trace("inner.call")
    trace.detach()
    with trace.span("second"):
        pass
    trace.detach()

    assert names_and_parents(trace.get_recent(1)[0]) == {"first": None, "second": None}


def test_trace_ended_while_it_ends_is_recorded_once(monkeypatch):
    """A signal handler, or another thread, that ends the trace in the middle of its end makes no second record."""
    started = trace.new_trace("a.b")
    clock = traces.monotonic_ns

    def interrupted() -> int:
        monkeypatch.setattr(traces, "monotonic_ns", clock)
        started.end()
        return clock()

    monkeypatch.setattr(traces, "monotonic_ns", interrupted)
    trace.detach()

    assert len(trace.get_recent()) == 1
