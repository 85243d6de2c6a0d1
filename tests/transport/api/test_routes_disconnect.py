"""A call is cancelled when its client disconnects; every other call ends normally."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from hearthnet.errors import WireError
from hearthnet.transport.api.routes import cancel_on_disconnect


class Connection:
    """A client that stays until told to leave; provides a server's `receive`."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()

    async def receive(self) -> dict:
        """Waits for the client's next event."""
        self.asked.set()
        await self.gone.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
async def connection():
    """A client."""
    return Connection()


async def response(value="response", error=None):
    """Work that ends at once."""
    if error is not None:
        raise error
    return value


async def test_quick_work_starts_no_watcher(connection):
    """A call that ends at once never checks the connection, and leaves no task behind."""
    assert await cancel_on_disconnect(connection.receive, response()) == "response"
    assert not connection.asked.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_slow_work_of_a_patient_caller(connection):
    """A slow result is returned, and the watcher ends with it."""

    async def slow():
        await connection.asked.wait()
        return "late"

    assert await cancel_on_disconnect(connection.receive, slow()) == "late"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_caller_that_leaves_cancels_the_work(connection):
    """The work sees a cancellation, its caller a disconnect; the task itself is not cancelled."""
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
        await cancel_on_disconnect(connection.receive, endless())
    assert seen == ["cancelled"]
    assert asyncio.current_task().cancelling() == 0


async def test_server_that_stops_is_no_caller_that_left(connection):
    """A cancellation from outside stays a cancellation."""
    working = asyncio.create_task(cancel_on_disconnect(connection.receive, asyncio.Event().wait()))
    await connection.asked.wait()
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working


async def test_errors_pass(connection):
    """Exceptions of the work reach the route."""
    with pytest.raises(WireError, match="all places"):
        await cancel_on_disconnect(connection.receive, response(error=WireError("capacity_exceeded", "all places")))


async def test_connection_that_cannot_be_watched_does_no_harm(connection):
    """A failing `receive` does not affect the call."""

    async def broken():
        connection.asked.set()
        raise OSError("no such connection")

    async def slow():
        await connection.asked.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "late"

    assert await cancel_on_disconnect(broken, slow()) == "late"
