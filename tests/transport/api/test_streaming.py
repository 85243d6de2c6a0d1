"""A call whose caller hangs up is cancelled; every other call ends as it would have."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from hearthnet.errors import WireError
from hearthnet.transport.api.streaming import unless_caller_leaves


class Connection:
    """A client that stays until it is told to go; what a server's `receive` tells of it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()

    async def receive(self) -> dict:
        """Waits for what the client does next."""
        self.asked.set()
        await self.gone.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
async def connection():
    """A client."""
    return Connection()


async def answer(value="answer", error=None):
    """Work that is over at once."""
    if error is not None:
        raise error
    return value


async def test_quick_work_asks_nobody(connection):
    """A call that is over at once never looks at the connection, and leaves no task behind."""
    assert await unless_caller_leaves(connection.receive, answer()) == "answer"
    assert not connection.asked.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_slow_work_of_a_patient_caller(connection):
    """The answer comes however long it takes, and the watcher goes with it."""

    async def slow():
        await connection.asked.wait()
        return "late"

    assert await unless_caller_leaves(connection.receive, slow()) == "late"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_caller_that_leaves_cancels_the_work(connection):
    """The work sees a cancellation, its surroundings a disconnect; the task itself is not cancelled."""
    seen = []

    async def endless():
        try:
            await connection.asked.wait()
            connection.gone.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(ClientDisconnect):
        await unless_caller_leaves(connection.receive, endless())
    assert seen == ["cancelled"]
    assert asyncio.current_task().cancelling() == 0


async def test_server_that_stops_is_no_caller_that_left(connection):
    """A cancellation from outside stays one."""
    working = asyncio.create_task(unless_caller_leaves(connection.receive, asyncio.Event().wait()))
    await connection.asked.wait()
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working


async def test_errors_pass(connection):
    """What the work raises is what the route sees."""
    with pytest.raises(WireError, match="all places"):
        await unless_caller_leaves(connection.receive, answer(error=WireError("capacity_exceeded", "all places")))


async def test_connection_that_cannot_be_watched_does_no_harm(connection):
    """A server that fails to tell leaves the call alone."""

    async def broken():
        connection.asked.set()
        raise OSError("no such connection")

    async def slow():
        await connection.asked.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "late"

    assert await unless_caller_leaves(broken, slow()) == "late"
