"""`trace(name)`: a trace around a block, and around each call of a function of any kind."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import threading

import pytest

from hearthnet.observability import tracing
from hearthnet.observability.otel.export.mapping import _link
from hearthnet.observability.tracing import Trace, current_trace, get_recent, new_trace, span, trace


def ended(n=1):
    """Name and result of the traces, oldest first."""
    return [(found.capability, found.result) for found in reversed(get_recent(n))]


def test_block_is_a_trace():
    """With its fields, and current inside."""
    with trace("nightly@2", host="den") as begun, span("step"):
        assert isinstance(begun, Trace)
        assert current_trace() is begun
    assert current_trace() is None

    (found,) = get_recent()
    assert (found.capability, found.version, found.result) == ("nightly", "2", "ok")
    assert (found.extras, [one.name for one in found.spans]) == ({"host": "den"}, ["step"])


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (KeyError, "internal_error"),
        (TimeoutError, "timeout"),
        (KeyboardInterrupt, "cancelled"),
        (SystemExit, "cancelled"),
    ],
)
def test_exception_decides_the_result_and_passes(error, result):
    """Out of a block, and out of a function."""

    @trace("function")
    def fail():
        raise error

    with pytest.raises(error), trace("block"):
        raise error
    with pytest.raises(error):
        fail()

    assert ended(2) == [("block", result), ("function", result)]


async def test_async_block():
    """As well."""
    async with trace("nightly") as begun:
        await asyncio.sleep(0)
        assert current_trace() is begun

    assert ended() == [("nightly", "ok")]


@trace("function")
def function(a, b=2):
    """A function."""
    assert current_trace().capability == "function"
    return a + b


@trace("coroutine")
async def coroutine():
    """A coroutine function."""
    await asyncio.sleep(0)
    return current_trace()


@trace("generator", n=1)
def generator():
    """A generator function."""
    with span("inside"):
        got = yield current_trace()
    return got


@trace("async generator")
async def async_generator():
    """An asynchronous generator function."""
    with span("inside"):
        yield current_trace()
        yield current_trace()


class Owner:
    """Methods of each kind."""

    @trace("method")
    def method(self):
        """A method."""
        return self

    @classmethod
    @trace("class method")
    def of_class(cls):
        """A class method."""
        return cls

    @trace("static method")
    @staticmethod
    def static():
        """A static method."""
        return current_trace().capability

    @property
    @trace("property")
    def attribute(self):
        """A property."""
        return current_trace().capability


def test_functions_methods_and_partials():
    """Each call is a trace, and returns what it returns."""
    owner = Owner()
    partial = trace("partial")(functools.partial(function, 1))

    assert function(1) == 3
    assert (owner.method(), Owner.of_class(), Owner.static(), owner.attribute) == (
        owner, Owner, "static method", "property",
    )  # fmt: skip
    assert partial(b=5) == 6
    assert [name for name, _ in ended(7)] == [
        "function", "method", "class method", "static method", "property", "function", "partial",
    ]  # fmt: skip


async def test_coroutines():
    """Each until it is done; at once, each has its own."""
    found = await asyncio.gather(coroutine(), coroutine())

    assert len({one.trace_id for one in found}) == 2
    assert ended(2) == [("coroutine", "ok")] * 2


def test_generator():
    """Its trace is current in its steps alone; it ends with the generator."""
    running = generator()
    with new_trace("consumer") as consumer:
        first = next(running)
        assert current_trace() is consumer
        with pytest.raises(StopIteration) as stopped:
            running.send("sent")
    assert first.capability == "generator"
    assert stopped.value.value == "sent"

    assert ended(2) == [("generator", "ok"), ("consumer", "ok")]
    assert [one.name for one in get_recent(2)[1].spans] == ["inside"]


async def test_async_generator():
    """Likewise; a consumer that stops early is no failure."""
    running = async_generator()
    assert (await anext(running)).capability == "async generator"
    assert current_trace() is None
    await running.aclose()
    async for _ in async_generator():
        pass

    assert ended(2) == [("async generator", "ok")] * 2


def test_forgotten_generator_ends_its_trace():
    """Also in a cycle, where the collector ends it."""
    running = generator()
    next(running)
    cycle = [running]
    cycle.append(cycle)
    del running, cycle
    gc.collect()

    assert ended() == [("generator", "ok")]
    assert current_trace() is None


def test_generator_driven_in_another_context():
    """A framework may take each step in a copy of some context."""
    running = generator()
    contextvars.copy_context().run(next, running)
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(next, running)

    assert ended() == [("generator", "ok")]


async def test_task_that_a_function_returns():
    """Its trace lasts until the task is done; cancelled, it is so recorded."""

    @trace("starter")
    def start(work):
        return asyncio.create_task(work)

    done = start(asyncio.sleep(0))
    cancelled = start(asyncio.Event().wait())
    assert current_trace() is None
    await done
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await asyncio.sleep(0)

    assert ended(2) == [("starter", "ok"), ("starter", "cancelled")]


def test_kind_and_name_stay():
    """`inspect` says of the decorated function what it says of the bare one."""
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert (function.__name__, function.__doc__) == ("function", "A function.")
    assert str(inspect.signature(function)) == "(a, b=2)"


def test_recursion():
    """Each call is a trace of its own."""

    @trace("countdown")
    def count(n):
        return n and count(n - 1)

    count(2)

    assert ended(3) == [("countdown", "ok")] * 3


def test_trace_within_a_trace_names_the_one_around_it():
    """The outer one is current again behind it; the link is one that the export understands."""
    with trace("outer") as outer, span("step") as step:
        with trace("inner") as inner:
            pass
        assert current_trace() is outer
    with new_trace("outer") as bare, trace("inner") as other:
        pass

    assert inner.trace_id != outer.trace_id
    assert inner.extras["link"] == {"trace_id": outer.trace_id, "span_id": step.id}
    assert other.extras["link"]["trace_id"] == bare.trace_id
    assert _link(inner.extras["link"])
    assert _link(other.extras["link"])
    assert "link" not in outer.extras


async def test_one_object_in_several_tasks():
    """Each task ends its own trace."""
    block = trace("shared")
    order = []

    async def work(steps):
        with block as begun:
            for _ in range(steps):
                await asyncio.sleep(0)
            assert current_trace() is begun
        order.append(begun)

    await asyncio.gather(work(3), work(1), work(2))

    assert [one.trace_id for one in reversed(get_recent(3))] == [one.trace_id for one in order]
    assert all(one.ended for one in order)


def test_one_object_in_several_threads():
    """As well, whichever ends first."""
    block = trace("shared")
    meeting = threading.Barrier(4, timeout=60)

    def work():
        with block as begun:
            meeting.wait()
            assert current_trace() is begun
            meeting.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ended(4) == [("shared", "ok")] * 4


def test_leaving_what_was_not_entered_does_nothing():
    """Nothing raises into the program."""
    with trace("outer") as outer:
        trace("other").__exit__(None, None, None)
        assert current_trace() is outer


@pytest.mark.parametrize("name", [len, Owner, lambda: None])
def test_name_is_needed(name):
    """`@trace` without a name would never call the function, and nothing would say so."""
    with pytest.raises(TypeError, match='@trace\\("'):
        trace(name)


@pytest.mark.parametrize("name", ["", "x" * 10_000, 5, None, "\ud800", "password=hunter2hunter2"])
def test_any_other_name_can_be_recorded(name):
    """As with `new_trace`."""
    with trace(name):
        pass

    assert len(get_recent()[0].capability) < 1_000
    assert "hunter2" not in get_recent()[0].capability


def test_secrets_in_fields_are_replaced():
    """As in any extras."""
    with trace("nightly", password="hunter2hunter2"):
        pass

    assert get_recent()[0].extras == {"password": "[redacted]"}


def test_module_is_what_it_was():
    """The contract's names are the module's; `trace` is one more."""
    assert tracing.trace is trace
    assert set(tracing.__all__) >= {"Trace", "attach", "current_trace", "detach", "get_recent", "new_trace", "span"}


def test_one_object_in_many_tasks_that_is_left_elsewhere():
    """A generator that is finished in another context ends no other's trace; the last one to be left ends all."""
    block = trace("shared")

    async def items():
        async with block as opened:
            yield opened

    async def work():
        first, second = items(), items()
        mine = await asyncio.create_task(anext(first))
        others = await asyncio.create_task(anext(second))
        await asyncio.create_task(first.aclose())
        seen = mine.ended, others.ended
        await asyncio.create_task(second.aclose())
        return seen, (mine.ended, others.ended), block._open

    assert asyncio.run(work()) == ((False, False), (True, True), [])
