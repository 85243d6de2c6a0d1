"""How traces end: cancellation, timeouts and groups of errors, each produced by asyncio itself."""

from __future__ import annotations

import asyncio

import pytest

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor, RouteRequest
from hearthnet.errors import WireError
from hearthnet.observability import trace
from hearthnet.observability.records.results import decisive, result_of

CANCELLED = asyncio.CancelledError()
TIMEOUT = TimeoutError("late")
NOT_FOUND = WireError("not_found", "no such model")
BUG = ValueError("a bug")


def newest():
    """The trace that ended last."""
    return trace.get_recent(1)[0]


async def forever():
    """Waits until it is cancelled."""
    await asyncio.Event().wait()


async def fail(error):
    """Fails once its siblings wait."""
    await asyncio.sleep(0)
    raise error


async def in_trace(work):
    """Runs a coroutine as a trace of its own with one span."""
    with trace.new_trace("a.b"), trace.span("work"):
        return await work


async def test_cancelled_task_is_cancelled():
    """Cancelling the task that a trace runs in makes it `cancelled`, and neither failed nor notable."""
    task = asyncio.create_task(in_trace(forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (newest().result, newest().failed, newest().notable) == ("cancelled", False, 0)
    assert newest().spans[0].status == "cancelled"


async def test_expired_timeout_is_a_timeout():
    """`asyncio.timeout` around the trace's work: the work is cancelled, the trace timed out."""

    async def limited():
        async with asyncio.timeout(0):
            with trace.span("inner"):
                await forever()

    with pytest.raises(TimeoutError):
        await in_trace(limited())

    assert (newest().result, newest().failed) == ("timeout", True)
    assert {item.name: item.status for item in newest().spans} == {"work": "error", "inner": "cancelled"}


async def test_timeout_around_the_trace_cancels_it():
    """A time limit outside the trace is not its own: the trace saw a cancellation."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await in_trace(forever())

    assert newest().result == "cancelled"


async def test_wait_for_is_a_timeout():
    """`asyncio.wait_for` that gives up."""
    with pytest.raises(TimeoutError):
        await in_trace(asyncio.wait_for(forever(), 0))

    assert (newest().result, newest().error) == ("timeout", "TimeoutError")


async def test_timeout_that_was_handled_is_ok():
    """A limit that the work has an answer to leaves its trace ok."""

    async def limited():
        try:
            await asyncio.wait_for(forever(), 0)
        except TimeoutError:
            return "the second best"

    assert await in_trace(limited()) == "the second best"
    assert (newest().result, newest().error) == ("ok", None)


async def test_cancellation_that_was_caught_and_raised_again_is_one():
    """Cleaning up on the way out changes nothing; the trace is cancelled once."""

    async def tidy():
        try:
            await forever()
        except asyncio.CancelledError:
            with trace.span("tidy up"):
                await asyncio.sleep(0)
            raise

    task = asyncio.create_task(in_trace(tidy()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert newest().result == "cancelled"
    assert {item.name: item.status for item in newest().spans} == {"work": "cancelled", "tidy up": "ok"}


async def test_cancellation_that_was_swallowed_is_ok():
    """Work that finishes in spite of its cancellation has finished."""

    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            return "done all the same"

    task = asyncio.create_task(in_trace(stubborn()))
    await asyncio.sleep(0)
    task.cancel()

    assert await task == "done all the same"
    assert newest().result == "ok"


async def test_error_while_cleaning_up_counts():
    """A failure on the way out of a cancellation is a failure."""

    async def clumsy():
        try:
            await forever()
        finally:
            raise ValueError("cannot close")

    task = asyncio.create_task(in_trace(clumsy()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ValueError, match="cannot close"):
        await task

    assert newest().result == "internal_error"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), SystemExit(0), SystemExit(False), GeneratorExit()]
)
def test_end_of_the_program_is_no_failure(error):
    """What ends the program or the generator around a trace cuts it short."""

    def run():
        with trace.new_trace("a.b"):
            raise error

    with pytest.raises(type(error)):
        run()

    assert (newest().result, newest().failed) == ("cancelled", False)


class HostileExit(SystemExit):
    """One that cannot be asked for its status."""

    code = property(lambda self: 1 / 0)


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit("no bank"), SystemExit([]), HostileExit(2)])
def test_exit_with_a_failing_status_is_a_failure(error):
    """A script that ends so tells cron the same."""
    with pytest.raises(SystemExit), trace.new_trace("a.b"):
        raise error

    assert (newest().result, newest().failed) == ("internal_error", True)


@pytest.mark.parametrize(
    ("errors", "result"),
    [
        ([TIMEOUT], "timeout"),
        ([TIMEOUT, TimeoutError()], "timeout"),
        ([TIMEOUT, BUG], "internal_error"),
        ([NOT_FOUND], "not_found"),
        ([TIMEOUT, NOT_FOUND], "not_found"),
        ([NOT_FOUND, WireError("partition", "later")], "not_found"),
        ([NOT_FOUND, BUG, TIMEOUT], "internal_error"),
        ([WireError("internal_error", "theirs"), BUG], "internal_error"),
    ],
)
async def test_task_group_has_the_result_of_what_decides(errors, result):
    """Of a TaskGroup's errors the most telling one is the trace's; its siblings' cancellation is none of them."""

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())
            for error in errors:
                tasks.create_task(fail(error))

    with pytest.raises(ExceptionGroup):
        await in_trace(group())

    assert newest().result == result


async def test_cancelled_task_group_is_cancelled():
    """A group whose parent is cancelled ends without an error of its own."""

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())

    task = asyncio.create_task(in_trace(group()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert newest().result == "cancelled"


@pytest.mark.parametrize(
    ("group", "leaf"),
    [
        (BaseExceptionGroup("", [CANCELLED, KeyboardInterrupt()]), CANCELLED),
        (BaseExceptionGroup("", [CANCELLED, TIMEOUT]), TIMEOUT),
        (ExceptionGroup("", [ExceptionGroup("", [TIMEOUT, NOT_FOUND]), ExceptionGroup("", [BUG])]), BUG),
        (BUG, BUG),
    ],
)
def test_decisive_error_is_found_at_any_depth(group, leaf):
    """Groups in groups are looked into, in their order."""
    assert decisive(group) is leaf
    assert result_of(group) == result_of(leaf)


def test_groups_nested_without_end_are_read():
    """A thousand groups in each other are no recursion."""
    error: Exception = TIMEOUT
    for _ in range(5_000):
        error = ExceptionGroup("", [error])

    assert result_of(error) == "timeout"


@pytest.mark.parametrize(
    ("errors", "code", "text"),
    [
        ([TIMEOUT], "timeout", "TimeoutError: late"),
        ([NOT_FOUND, TIMEOUT], "not_found", "WireError: no such model"),
        ([NOT_FOUND, BUG], "internal_error", "ValueError: a bug"),
    ],
)
async def test_caller_and_trace_agree_on_a_group(errors, code, text):
    """A handler that fails with a group: the caller's code is the trace's result, and its error names the cause."""

    async def handler(_):
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))

    bus = CapabilityBus("node")
    bus.register(CapabilityDescriptor("experimental.group", (1, 0)), handler)
    with pytest.raises(WireError) as caught:
        await bus.handle_call(RouteRequest("experimental.group", (1, 0), {"params": {}}, "node"))

    assert (caught.value.code, newest().result, newest().error) == (code, code, text)
    assert "a bug" not in caught.value.message


@pytest.mark.parametrize(("errors", "counts"), [([NOT_FOUND, TIMEOUT], False), ([BUG, NOT_FOUND], True)])
async def test_group_counts_against_health_as_its_cause_does(errors, counts):
    """What the caller did wrong stays the caller's fault inside a group."""

    async def handler(_):
        raise ExceptionGroup("several", errors)

    bus = CapabilityBus("node")
    bus.register(CapabilityDescriptor("experimental.group", (1, 0)), handler)
    with pytest.raises(WireError):
        await bus.handle_call(RouteRequest("experimental.group", (1, 0), {"params": {}}, "node"))

    assert bus.stats()[0]["calls"] == int(counts)
