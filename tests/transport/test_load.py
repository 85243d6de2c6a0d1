"""When a call is refused for the work that waits, and how the calls at work end when the server stops."""

from __future__ import annotations

import asyncio

import pytest

from hearthnet.transport.load import MAX_WORKING, MIN_WAITING, Load


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def load(clock):
    """The load of a server that has done nothing yet: a call counts as a millisecond."""
    return Load(clock)


async def turn(load, clock, requests: int, took_s: float) -> None:
    """A turn of the loop in which so many requests begin."""
    load.waiting = requests
    for _ in range(requests):
        load.begin()
    assert load.waiting == 0
    clock.now_s += took_s
    await asyncio.sleep(0)


def takes(load) -> int:
    """How many more requests may wait before one is refused."""
    load.waiting = 0
    while load.refusal() is None:
        load.waiting += 1
    found, load.waiting = load.waiting, 0
    return found


async def test_quiet_node_takes_a_burst(load, clock):
    """A node with time takes a quarter of a second's worth at once; also after hours of nothing."""
    assert takes(load) == 251
    clock.now_s += 10_000
    assert takes(load) == 251


async def test_standing_queue_is_kept_short(load, clock):
    """Turns that are long for a while make the queue short; one short turn makes it as it was."""
    for _ in range(4):
        await turn(load, clock, 50, 0.05)
    load.begin()  # in the next turn work goes on
    assert takes(load) == 41
    clock.now_s += 0.001
    await asyncio.sleep(0)
    load.begin()
    assert takes(load) > 240


async def test_cost_follows_what_requests_take(load, clock):
    """Where a call takes four times as long, a quarter of the calls may wait."""
    for _ in range(10):
        await turn(load, clock, 64, 0.256)
    assert takes(load) == 63


async def test_few_are_never_refused(load, clock):
    """However long turns take, a few calls may wait: the door is never closed."""
    for _ in range(10):
        await turn(load, clock, 100, 1_000.0)
    load.begin()
    assert takes(load) == MIN_WAITING


async def test_calls_at_work_are_bounded(load):
    """With so many calls begun and not ended, the next is refused; when one ends there is room."""
    ended = asyncio.Event()

    async def call():
        with load.work():
            await ended.wait()

    tasks = [asyncio.create_task(call()) for _ in range(MAX_WORKING)]
    await asyncio.sleep(0)
    assert load.refusal() == "overload"
    tasks[0].cancel()
    await asyncio.wait({tasks[0]})
    assert load.refusal() is None
    ended.set()
    await asyncio.gather(*tasks[1:])


async def test_stop_waits_for_calls(load):
    """A call that ends in time ends by itself; new ones are refused from the first moment on."""
    may_end, ended = asyncio.Event(), []

    async def call():
        with load.work():
            await may_end.wait()
            ended.append("ok")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(load.stop())
    await asyncio.sleep(0)
    assert load.refusal() == "stopping"
    assert not stopping.done()
    may_end.set()
    await stopping
    assert (ended, load.is_cut) == (["ok"], False)
    await task


async def test_stop_cuts_what_goes_on(logged):
    """A call that would go on for ever is cancelled when the time is over, and that is logged."""
    load = Load(stop_limit_s=0.0)

    async def call():
        with load.work():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    await load.stop()
    assert task.cancelled()
    assert load.is_cut
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == [
        "calls cut short: the node stops"
    ]
