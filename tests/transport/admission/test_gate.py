"""Overload control: when a call is refused, and how running calls end when the server stops."""

from __future__ import annotations

import asyncio

import pytest

from hearthnet.transport.admission.gate import MAX_WORKING, MIN_WAITING, Load


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now_s


@pytest.fixture
def clock():
    """A clock that does not move."""
    return Clock()


@pytest.fixture
def load(clock):
    """The load of an idle server."""
    return Load(clock)


def waited(load, clock, wait_s: float):
    """Returns the outcome of a call that arrives behind many others and starts after a wait."""
    load.waiting = MIN_WAITING
    arrived_at = load.arrive()
    clock.now_s += wait_s
    return load.refusal(arrived_at)


def test_quiet_node_takes_a_burst(load, clock):
    """An idle node allows a wait of a quarter of a second; also after hours of nothing."""
    assert waited(load, clock, 0.249) is None
    clock.now_s += 10_000
    assert waited(load, clock, 0.251) == "overload"


def test_standing_queue_is_kept_short(load, clock):
    """A while of long waits shortens the allowed one; a moment without them restores it."""
    assert [waited(load, clock, 0.15) for _ in range(4)] == [None, None, "overload", "overload"]
    assert waited(load, clock, 0.039) is None
    clock.now_s += 0.2
    assert waited(load, clock, 0.1) is None


def test_few_are_never_refused(load, clock):
    """However late the loop is, a few calls may wait."""
    for _ in range(MIN_WAITING):
        arrived_at = load.arrive()
        clock.now_s += 1_000
        assert load.refusal(arrived_at) is None
    assert load.arrive() == clock.now_s


def test_begun_requests_do_not_wait(load):
    """Starting a request shortens the queue; without our server there is no queue, and no negative count."""
    load.arrive()
    load.begin()
    load.begin()
    assert load.waiting == 0


async def test_calls_at_work_are_bounded(load):
    """At the limit of running calls the next is refused; when one ends, one is accepted."""
    ended = asyncio.Event()

    async def call():
        with load.work():
            await ended.wait()

    tasks = [asyncio.create_task(call()) for _ in range(MAX_WORKING)]
    await asyncio.sleep(0)
    assert load.refusal(None) == "overload"
    tasks[0].cancel()
    await asyncio.wait({tasks[0]})
    assert load.refusal(None) is None
    ended.set()
    await asyncio.gather(*tasks[1:])


async def test_stop_waits_for_calls(load):
    """A call that ends in time ends normally; new ones are refused from the first moment on."""
    may_end, ended = asyncio.Event(), []

    async def call():
        with load.work():
            await may_end.wait()
            ended.append("ok")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(load.stop())
    await asyncio.sleep(0)
    assert load.refusal(None) == "stopping"
    assert not stopping.done()
    may_end.set()
    await stopping
    assert (ended, load.is_cut) == (["ok"], False)
    await task


async def test_stop_cuts_what_goes_on(logged):
    """A call that does not end is cancelled after the time limit, and that is logged."""
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
