"""The context is not lost: every way in which work moves on, in tasks, generators, threads and callbacks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.node import initialise, open_node
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.traces.propagation import ContextExecutor, carry

log = get_logger("hearthnet.test.hops")


def work(name="work"):
    """Opens and closes a span, and says in which trace it was."""
    with trace.span(name):
        current = trace.current_trace()
        return None if current is None else current.trace_id


async def work_async(name="work"):
    """The same, with a switch to other tasks inside."""
    async with trace.span(name):
        await asyncio.sleep(0)
        current = trace.current_trace()
        return None if current is None else current.trace_id


@trace.span("produce")
async def numbers(count, until=None):
    """An asynchronous generator with a span around its life and one around each step."""
    try:
        for number in range(count):
            async with trace.span("step"):
                await asyncio.sleep(0)
            yield number
            if until is not None:
                await until.wait()
    finally:
        work("tidy up")


def family():
    """The spans of the newest trace with the names of their parents, in the order of their start."""
    finished = trace.get_recent(1)[0]
    names = {item.id: item.name for item in finished.spans}
    return [(item.name, names.get(item.parent)) for item in finished.spans]


def open_spans():
    """The names of spans that the newest trace had not closed."""
    return [item.name for item in trace.get_recent(1)[0].spans if item.status == "open"]


async def test_task():
    """A task copies the context at its creation: its span hangs under what was open then."""
    with trace.new_trace("a.b") as started, trace.span("outer"):
        task = asyncio.create_task(work_async())
        with trace.span("other"):
            assert await task == started.trace_id

    assert sorted(family()) == [("other", "outer"), ("outer", None), ("work", "outer")]


async def test_task_made_outside_is_outside():
    """A task that is older than the trace is not drawn into it by being awaited there."""
    task = asyncio.create_task(work_async())
    with trace.new_trace("a.b"):
        assert await task is None

    assert family() == []


async def test_gather():
    """Coroutines gathered side by side are siblings, and each keeps its own children."""

    async def parent(name):
        async with trace.span(name):
            await work_async(f"{name}.child")

    with trace.new_trace("a.b"), trace.span("all"):
        await asyncio.gather(*(parent(name) for name in "xyz"))

    found = family()
    assert {item for item in found if "." not in item[0]} == {("all", None), ("x", "all"), ("y", "all"), ("z", "all")}
    assert {item for item in found if "." in item[0]} == {("x.child", "x"), ("y.child", "y"), ("z.child", "z")}


async def test_task_group():
    """So are the tasks of a group; one that fails has its siblings closed before the trace ends."""

    async def failing():
        with trace.span("failing"):
            await asyncio.sleep(0)
            raise ValueError("broken")

    async def waiting():
        with trace.span("waiting"):
            await asyncio.Event().wait()

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(failing())
            tasks.create_task(waiting())

    with trace.new_trace("a.b"), trace.span("group"), pytest.raises(ExceptionGroup):
        await group()

    finished = trace.get_recent(1)[0]
    assert family() == [("group", None), ("failing", "group"), ("waiting", "group")]
    assert [item.status for item in finished.spans] == ["ok", "error", "cancelled"]
    assert finished.result == "ok"


async def test_eager_steps_leave_the_context_alone():
    """A coroutine that is awaited, not made a task, gives the context back as it was."""
    with trace.new_trace("a.b"), trace.span("outer"):
        await work_async("first")
        await work_async("second")

    assert family() == [("outer", None), ("first", "outer"), ("second", "outer")]


async def test_async_generator():
    """A generator's steps are its own; what its consumer does between them is the consumer's."""
    with trace.new_trace("a.b"), trace.span("consume"):
        async for _ in numbers(2):
            await work_async()

    assert family() == [
        ("consume", None),
        ("produce", "consume"),
        ("step", "produce"),
        ("work", "consume"),
        ("step", "produce"),
        ("work", "consume"),
        ("tidy up", "produce"),
    ]
    assert open_spans() == []


async def test_generator_consumed_in_another_task():
    """A generator begun in one task and finished in another, of no trace, measures itself where it began."""
    with trace.new_trace("a.b") as started:
        produced = numbers(3)
        await anext(produced)

        async def rest():
            assert trace.current_trace() is None
            found = [number async for number in produced]
            assert trace.current_trace() is None
            return found, work()

        task = asyncio.get_running_loop().create_task(rest(), context=contextvars.Context())
        assert await task == ([1, 2], None)
        assert trace.current_trace() is started

    assert family() == [
        ("produce", None),
        ("step", "produce"),
        ("step", "produce"),
        ("step", "produce"),
        ("tidy up", "produce"),
    ]
    assert open_spans() == []


async def test_generator_in_a_consumer_of_another_trace():
    """Two traces that meet in one generator do not mix."""
    with trace.new_trace("a.producer"):
        produced = numbers(2)
        await anext(produced)

        async def consume():
            with trace.new_trace("a.consumer"):
                async for _ in produced:
                    await work_async()

        await asyncio.get_running_loop().create_task(consume(), context=contextvars.Context())

    producer, consumer = trace.get_recent(2)
    assert [item.name for item in consumer.spans] == ["work"]
    assert [item.name for item in producer.spans] == ["produce", "step", "step", "tidy up"]


async def test_generator_closed_early():
    """`aclose` before the end: the span ends as ok, and what the generator does then is still its trace's."""
    with trace.new_trace("a.b"):
        produced = numbers(5)
        await anext(produced)
        await produced.aclose()
        work()

    assert family() == [("produce", None), ("step", "produce"), ("tidy up", "produce"), ("work", None)]
    assert open_spans() == []


async def test_generator_closed_early_from_another_task():
    """The same from a task that knows nothing of the trace; its own context stays empty."""
    with trace.new_trace("a.b"):
        produced = numbers(5)
        await anext(produced)

        async def close():
            await produced.aclose()
            return trace.current_trace()

        assert await asyncio.get_running_loop().create_task(close(), context=contextvars.Context()) is None

    assert family() == [("produce", None), ("step", "produce"), ("tidy up", "produce")]
    assert open_spans() == []


async def test_generator_that_was_forgotten():
    """A generator that a consumer broke off and lost is closed by the loop; the consumer's context is unharmed."""
    with trace.new_trace("a.b"):

        async def first():
            async for _ in numbers(5):
                break

        await first()
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work()

    assert ("work", None) in family()
    assert ("tidy up", "produce") in family()


async def test_generator_whose_consumer_is_cancelled():
    """Cancelled inside a step: the step and the generator are closed, in their trace."""
    with trace.new_trace("a.b"):
        never = asyncio.Event()

        async def consume():
            async for _ in numbers(2, never):
                pass

        task = asyncio.create_task(consume())
        while not task.done() and len(trace.current_trace().spans) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert family() == [("produce", None), ("step", "produce"), ("tidy up", "produce")]
    assert open_spans() == []


async def test_to_thread():
    """`asyncio.to_thread` copies the context by itself."""
    with trace.new_trace("a.b") as started, trace.span("outer"):
        assert await asyncio.to_thread(work) == started.trace_id

    assert family() == [("outer", None), ("work", "outer")]


async def test_default_executor_of_python_loses_the_context():
    """What `ContextExecutor` is there for: `run_in_executor` as Python has it leaves the trace behind."""
    with trace.new_trace("a.b"):
        assert await asyncio.get_running_loop().run_in_executor(None, work) is None


async def test_run_in_executor():
    """With `ContextExecutor` as the loop's default, a call in its thread is in the trace."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ContextExecutor(max_workers=2))

    with trace.new_trace("a.b") as started, trace.span("outer"):
        found = await asyncio.gather(*(loop.run_in_executor(None, work, f"w{number}") for number in range(5)))
        assert found == [started.trace_id] * 5
    assert await loop.run_in_executor(None, work) is None

    assert sorted(family()) == [("outer", None), *((f"w{number}", "outer") for number in range(5))]


async def test_node_carries_into_its_threads(config):
    """A handler of a running node that uses the loop's default executor stays in its call's trace."""

    async def handler(_):
        return {"trace_id": await asyncio.get_running_loop().run_in_executor(None, work)}

    initialise(config, "home")
    async with open_node(config) as node:
        node.bus.register(CapabilityDescriptor("experimental.threaded", (1, 0)), handler)
        answer = await node.bus.call("experimental.threaded", "1.0", {"params": {}})

        assert answer == {"trace_id": trace.get_recent(1)[0].trace_id}
        assert ("work", "handle") in family()


def test_pool():
    """`submit` and `map` carry it; a thread that served a trace keeps nothing of it for the next call."""
    with ContextExecutor(max_workers=1) as pool:
        with trace.new_trace("a.b") as started:
            assert pool.submit(work, name="submitted").result() == started.trace_id
            assert list(pool.map(work, ["m1", "m2"])) == [started.trace_id] * 2
        assert pool.submit(work).result() is None

    assert family() == [("submitted", None), ("m1", None), ("m2", None)]


def test_pool_hands_on_errors_and_arguments():
    """The pool is a pool: positional and named arguments, and the exception that a call ends with."""
    with ContextExecutor(max_workers=1) as pool:
        assert pool.submit(int, "11", base=2).result() == 3
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_any_pool_with_carry():
    """In another library's pool `carry` does it; the function may run in many threads at once."""
    together = threading.Barrier(4, timeout=10)

    def meet(name):
        together.wait()
        return work(name)

    with ThreadPoolExecutor(4) as pool, trace.new_trace("a.b") as started:
        assert pool.submit(work).result() is None
        assert list(pool.map(carry(meet), "wxyz")) == [started.trace_id] * 4

    assert sorted(family()) == [("w", None), ("x", None), ("y", None), ("z", None)]


def test_thread():
    """A plain thread starts without a trace; with `carry` its spans are in it."""
    found = []

    def target_work():
        found.append(work())

    with trace.new_trace("a.b") as started, trace.span("outer"):
        for target in (target_work, carry(target_work)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert found == [None, started.trace_id]
    assert family() == [("outer", None), ("work", "outer")]


def test_thread_logs_in_the_trace(observability):
    """The stored records of a carried thread have the trace's id and the id of the span that was open."""
    with telemetry.open(observability), trace.new_trace("a.b") as started, trace.span("outer") as outer:
        span_id = outer.id
        for name, target in (("lost", log.warning), ("kept", carry(log.warning))):
            thread = threading.Thread(target=target, args=(name,))
            thread.start()
            thread.join()

    with closing(sqlite3.connect(observability.data_dir / "telemetry.db")) as database:
        rows = database.execute("SELECT msg, trace_id, span_id FROM logs WHERE logger = ? ORDER BY seq", (log.name,))
        assert rows.fetchall() == [("lost", None, None), ("kept", started.trace_id, span_id)]


def test_carried_function_is_itself():
    """Name, arguments, result and errors pass through."""
    carried = carry(int)

    assert (carried("11", base=2), carry(work).__name__) == (3, "work")
    with pytest.raises(ValueError, match="invalid literal"):
        carried("x")


def test_carried_function_leaves_the_caller_alone():
    """What it changes in its context is gone when it returns, and its trace does not stay with the caller."""
    with trace.new_trace("a.b") as started:

        def careless():
            trace.detach()
            trace.new_trace("a.forgotten")

        carried = carry(careless)
        carried()
        assert trace.current_trace() is started
    carried()

    assert trace.current_trace() is None
    assert family() == []


def test_carry_after_the_end_of_the_trace():
    """A thread that outlives its trace neither adds to it nor fails: it is an orphan."""
    with trace.new_trace("a.b"):
        carried = carry(work)

    assert carried() is None
    assert family() == []


class Work:
    """Is called, and works asynchronously."""

    async def __call__(self):
        """Works."""
        return await work_async()


class Numbers:
    """Is called for a generator."""

    def __call__(self):
        """Yields."""
        yield 1


@pytest.mark.parametrize(
    "function", [work_async, numbers, partial(work_async, "x"), (lambda: (yield)), Work(), Numbers(), Work().__call__]
)
def test_carry_refuses_what_runs_elsewhere(function):
    """A coroutine or a generator runs where it is driven, so binding the call to a context would carry nothing."""
    with pytest.raises(TypeError, match="plain function"):
        carry(function)


def test_carry_takes_a_class():
    """A class is called to make an instance, whatever calling that one does."""
    assert isinstance(carry(Work)(), Work)


def test_loop_in_a_thread():
    """`asyncio.run` in a carried thread: its tasks are in the trace."""

    async def main():
        return await asyncio.gather(work_async("one"), asyncio.create_task(work_async("two")))

    found = []
    with trace.new_trace("a.b") as started, trace.span("outer"):
        thread = threading.Thread(target=carry(lambda: found.extend(asyncio.run(main()))))
        thread.start()
        thread.join()

    assert found == [started.trace_id] * 2
    assert sorted(family()) == [("one", "outer"), ("outer", None), ("two", "outer")]


async def test_loop_callbacks():
    """`call_soon` and `call_later` run in their caller's context."""
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    found = []

    def note(name):
        found.append(work(name))
        if len(found) == 3:
            seen.set()

    with trace.new_trace("a.b") as started, trace.span("outer"):
        loop.call_soon(note, "soon")
        loop.call_later(0, note, "later")
        loop.call_soon_threadsafe(note, "threadsafe")
        await seen.wait()

    assert found == [started.trace_id] * 3
    assert sorted(family()) == [("later", "outer"), ("outer", None), ("soon", "outer"), ("threadsafe", "outer")]


async def test_done_callback():
    """A callback of an asyncio future has the context it was added in, though another task completes it."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    called = asyncio.Event()

    def report(_):
        work("report")
        called.set()

    async def complete():
        future.set_result(None)

    with trace.new_trace("a.b"):
        future.add_done_callback(report)
        await loop.create_task(complete(), context=contextvars.Context())
        await called.wait()

    assert family() == [("report", None)]


async def test_done_callback_from_another_thread():
    """Nor does it matter that a thread completes it."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    called = asyncio.Event()

    def report(done):
        work(done.result())
        called.set()

    with trace.new_trace("a.b"):
        future.add_done_callback(report)
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "report"))
        thread.start()
        await called.wait()
        thread.join()

    assert family() == [("report", None)]


def test_callback_of_a_pools_future():
    """A pool's future calls back in the pool's thread, without a trace, unless the callback is carried."""
    may_end = threading.Event()
    found = []
    with ContextExecutor(max_workers=1) as pool, trace.new_trace("a.b") as started:
        future = pool.submit(may_end.wait, 10)
        for callback in (lambda _: found.append(work("lost")), carry(lambda _: found.append(work("kept")))):
            future.add_done_callback(callback)
        may_end.set()
        pool.shutdown()

    assert found == [None, started.trace_id]
    assert family() == [("kept", None)]


async def test_coroutine_sent_from_a_thread():
    """`run_coroutine_threadsafe` from a carried thread brings the trace back to the loop."""
    loop = asyncio.get_running_loop()

    def from_thread():
        return asyncio.run_coroutine_threadsafe(work_async(), loop).result(10)

    with trace.new_trace("a.b") as started:
        assert await asyncio.to_thread(carry(from_thread)) == started.trace_id

    assert family() == [("work", None)]


async def test_decorated_functions():
    """A decorator's span holds for the call, of a coroutine in a task and of a function in a thread alike."""

    @trace.span("decorated")
    def plain():
        return work("inner")

    @trace.span("decorated async")
    async def coroutine():
        return await work_async("inner async")

    with trace.new_trace("a.b"):
        await asyncio.gather(asyncio.to_thread(plain), coroutine())

    assert sorted(family()) == [
        ("decorated", None),
        ("decorated async", None),
        ("inner", "decorated"),
        ("inner async", "decorated async"),
    ]


async def test_attached_task_of_no_context():
    """A worker that is older than every trace joins each one it serves by `attach`, and is free of it after."""
    waiting: asyncio.Queue = asyncio.Queue()

    async def worker():
        while (item := await waiting.get()) is not None:
            started, done = item
            trace.attach(started)
            await work_async(started.capability)
            trace.detach()
            done.set_result(trace.current_trace())

    task = asyncio.create_task(worker())
    for capability in ("a.one", "a.two"):
        with trace.new_trace(capability) as started:
            done = asyncio.get_running_loop().create_future()
            waiting.put_nowait((started, done))
            assert await done is None
    waiting.put_nowait(None)
    await task

    assert [[item.name for item in found.spans] for found in trace.get_recent(2)] == [["a.two"], ["a.one"]]
