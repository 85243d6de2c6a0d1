"""A span as a decorator changes nothing: what is decorated does the same, to its end, as it does bare."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import sys
import warnings
import weakref

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.decorated import BOTH, bare, spanned, through_function, work
from support.programs import actions, bodies, drive

from hearthnet.observability import trace
from hearthnet.observability.records.context import current
from hearthnet.observability.traces.generators import Steps
from hearthnet.observability.traces.span import span


@pytest.mark.parametrize("form", [bare, functools.partial], ids=lambda form: form.__name__)
@pytest.mark.parametrize("kind", ["generator", "coroutine", "async generator"])
def test_program_does_the_same_bare_and_decorated(kind, form):
    """Whatever it does, and whatever is sent, thrown and closed, when, and by whom: nothing that is seen differs."""
    # From Python 3.12 on the collector may find a coroutine before its wrapper, in a cycle of an exception, and warns.
    compared = slice(1 if (kind, form) == ("coroutine", functools.partial) and sys.version_info >= (3, 12) else None)

    @settings(suppress_health_check=list(HealthCheck))
    @given(bodies(kind), actions(is_coroutine=kind == "coroutine"), st.booleans())
    def compare(body, script, is_handling):
        expected = drive(kind, body, form, script, is_handling=is_handling)
        # A program that goes on when it is closed is reported, and closed again when its wrapper is gone.
        assume("ignored GeneratorExit" not in repr(expected))
        with trace.new_trace("a.b") as started:
            found = drive(kind, body, lambda function: spanned(form(function)), script, is_handling=is_handling)
            outside = current.get()
        assert found[compared] == expected[compared]
        if kind != "coroutine":
            assert outside is started
        assert {item.status for item in trace.get_recent(1)[0].spans} <= {"ok", "error", "cancelled"}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        compare()


@BOTH
def test_generators_that_go_on_when_closed_are_reported(decorate):
    """`close` raises, once, and the generator can still be used."""

    @decorate
    def stubborn():
        for number in range(3):
            with contextlib.suppress(GeneratorExit):
                yield number

    items = stubborn()
    next(items)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        items.close()
    assert items.throw(GeneratorExit) == 2
    assert next(items, "end") == "end"


@BOTH
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, BaseException, StopIteration]
)
def test_context_manager_sees_what_its_block_raises(decorate, error):
    """What a `@contextmanager` catches stays caught, whatever its kind."""
    caught = []

    @contextlib.contextmanager
    @decorate
    def transaction():
        try:
            yield "begun"
        except BaseException as thrown:  # noqa: BLE001
            caught.append(type(thrown))

    with trace.new_trace("a.b"), transaction() as state:
        assert state == "begun"
        raise error

    assert caught == [error]


@BOTH
async def test_cancelled_block_of_an_async_context_manager(decorate):
    """A task that is cancelled inside one: the clean-up runs on the cancellation, not on a GeneratorExit."""
    caught = []
    inside = asyncio.Event()

    @contextlib.asynccontextmanager
    @decorate
    async def connection():
        try:
            yield
        except BaseException as thrown:
            caught.append(type(thrown))
            await asyncio.sleep(0)
            raise

    async def use():
        async with connection():
            inside.set()
            await asyncio.Event().wait()

    with trace.new_trace("a.b"):
        task = asyncio.create_task(use())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert caught == [asyncio.CancelledError]


@BOTH
async def test_stacks_of_context_managers(decorate):
    """Decorated ones in a stack are left in order, and see the exception that each of them makes of it."""
    left = []

    @contextlib.contextmanager
    @decorate
    def layer(number, caught, made):
        try:
            yield
        except caught as error:
            left.append((number, type(error)))
            raise made from error

    def run():
        with contextlib.ExitStack() as stack:
            stack.enter_context(layer(1, LookupError, KeyError("last")))
            stack.enter_context(layer(2, KeyboardInterrupt, LookupError()))
            stack.enter_context(layer(3, ValueError, KeyboardInterrupt()))
            raise ValueError

    with trace.new_trace("a.b"), pytest.raises(KeyError, match="last") as raised:
        run()

    assert left == [(3, ValueError), (2, KeyboardInterrupt), (1, LookupError)]
    assert isinstance(raised.value.__cause__, LookupError)


@BOTH
async def test_failure_of_a_forgotten_task_is_still_reported(decorate):
    """A loop reports an exception that was never retrieved: to watch a task is not to retrieve it."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))

    async def fail():
        raise ValueError

    @decorate
    def start():
        return asyncio.get_running_loop().create_task(fail())

    with trace.new_trace("a.b"):
        await asyncio.wait([start()])
        await asyncio.sleep(0)
    gc.collect()

    assert reported == ["Task exception was never retrieved"]


@BOTH
def test_future_of_a_closed_loop_is_returned(decorate):
    """Nothing can be told of it any more; the call returns it as it is."""
    loop = asyncio.new_event_loop()
    future, done = loop.create_future(), loop.create_future()
    done.set_result(1)
    loop.close()

    with trace.new_trace("a.b"):
        assert decorate(lambda: future)() is future
        assert decorate(lambda: done)() is done


class Refusing(concurrent.futures.Future):
    """A future that tells no one when it is done."""

    def add_done_callback(self, call):
        """Refuses."""
        raise NotImplementedError


def test_span_of_a_future_that_tells_nothing_ends_with_the_call(family):
    """When it is done is not to be known."""
    made = Refusing()
    with trace.new_trace("a.b"):
        assert spanned(lambda: made)() is made
        assert trace.span("after").__enter__().parent is None

    assert ("outer", None, "ok") in family()


@BOTH
@pytest.mark.parametrize("form", [bare, functools.partial, through_function], ids=lambda form: form.__name__)
def test_coroutine_that_never_runs(decorate, form):
    """Forgotten, it is warned of once and by its name; closed, not at all; and its span is closed."""
    function = decorate(form(work))
    with trace.new_trace("a.b"), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        function()
        gc.collect()
        function().close()
        gc.collect()

    assert [str(item.message) for item in warned] == ["coroutine 'work' was never awaited"]
    # The warning keeps the first one alive.
    assert [item.status for item in trace.get_recent(1)[0].spans] in ([], ["open", "ok"])


@BOTH
def test_forgotten_generators_clean_up(decorate):
    """One that was begun runs its clean-up when it is collected; one that was not runs nothing."""
    left = []

    @decorate
    def items():
        try:
            yield
        finally:
            left.append("clean-up")

    with trace.new_trace("a.b"):
        begun, never = items(), items()
        next(begun)
        del begun, never
        gc.collect()

    assert left == ["clean-up"]


@BOTH
@pytest.mark.parametrize("form", [bare, functools.partial], ids=lambda form: form.__name__)
def test_loop_closes_an_asynchronous_generator_once(decorate, form):
    """At the end of `asyncio.run` an unfinished generator cleans up, awaiting, and the loop has nothing to report."""
    seen = []

    async def items():
        try:
            yield 1
        finally:
            seen.append("begins")
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append("ends")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: seen.append(told))
        kept.append(decorate(form(items))())
        await anext(kept[0])

    kept = []
    with trace.new_trace("a.b"):
        asyncio.run(main())

    assert seen == ["begins", "ends"]


class Value:
    """Something that can be seen to go."""


@BOTH
def test_nothing_that_passes_is_kept_alive(decorate):
    """Neither an item, nor what was sent or thrown, nor an argument that the body has dropped."""

    @decorate
    def relay(value):
        del value
        for _ in range(2):
            with contextlib.suppress(ValueError):
                yield Value()
        yield

    argument, sent, thrown = Value(), Value(), ValueError()
    gone = [weakref.ref(argument), weakref.ref(sent)]
    with trace.new_trace("a.b"):
        items = relay(argument)
        gone.append(weakref.ref(next(items)))
        assert gone[-1]() is None
        gone.append(weakref.ref(items.send(sent)))
        assert gone[-1]() is None
        thrown.value = Value()
        gone.append(weakref.ref(thrown.value))
        items.throw(thrown)
        del argument, sent, thrown
        gc.collect()

        assert [reference() for reference in gone] == [None] * 5


@BOTH
async def test_asynchronous_generator_may_drop_its_arguments(decorate):
    """An argument that the body deletes is gone while it goes on."""

    @decorate
    async def relay(value):
        del value
        for number in range(2):
            yield number

    value = Value()
    gone = weakref.ref(value)
    with trace.new_trace("a.b"):
        items = relay(value)
        del value
        assert await anext(items) == 0
        assert gone() is None
        assert [number async for number in items] == [1]


@BOTH
async def test_coroutine_may_drop_its_arguments(decorate):
    """A large argument that the body deletes is gone while it waits."""
    waits, may_end = asyncio.Event(), asyncio.Event()

    @decorate
    async def serve(body):
        del body
        waits.set()
        await may_end.wait()

    body = Value()
    gone = weakref.ref(body)
    with trace.new_trace("a.b"):
        serving = serve(body)
        del body
        task = asyncio.create_task(serving)
        await waits.wait()
        assert gone() is None
        may_end.set()
        await task


@BOTH
def test_recursion_reaches_the_same_error(decorate):
    """A function that calls itself without end raises, and what it was called in goes on."""

    @decorate
    def again(n):
        return again(n + 1)

    with trace.new_trace("a.b"), pytest.raises(RecursionError):
        again(0)

    assert trace.current_trace() is None


@BOTH
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(4)])
def test_what_a_function_raises_leaves_it_unchanged(decorate, error):
    """The same object, with nothing added to it but its traceback."""

    @decorate
    def fail():
        raise error

    error.__traceback__ = None
    with trace.new_trace("a.b"), pytest.raises(type(error)) as raised:
        fail()

    assert raised.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", [])) == (None, None, [])


@BOTH
async def test_group_of_tasks_fails_as_it_does_bare(decorate):
    """One failure in a TaskGroup cancels the others, and its group has that failure alone."""
    seen = []

    @decorate
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("first")

    @decorate
    async def wait():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run():
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail())

    with trace.new_trace("a.b"), pytest.raises(ExceptionGroup) as raised:
        await run()

    assert [str(error) for error in raised.value.exceptions] == ["first"]
    assert seen == ["cancelled"]


def test_asynchronous_generator_that_ended_before_its_wrapper():
    """The garbage collector may end it first; what is thrown into the wrapper then still ends that, and the span."""

    async def work():
        yield 1

    with trace.new_trace("a.b") as started:
        inner = work()
        steps = Steps.begin(inner, span("work"))
        with contextlib.suppress(StopIteration):
            steps.run_async().send(None)
        with contextlib.suppress(StopIteration):
            inner.aclose().send(None)
        steps.throw(GeneratorExit())
        with pytest.raises(GeneratorExit):
            steps.run_async().send(None)
        assert current.get() is started
    assert [item.status for item in trace.get_recent(1)[0].spans] == ["ok"]
