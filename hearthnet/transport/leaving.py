"""Ends a call whose caller has gone: nobody waits for its answer, so nothing should work on it any more.

A server tells of a closed connection only to those who ask. Asking costs a task, so calls that are over sooner than
anybody could lose patience never pay for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

__all__ = ["unless_caller_leaves", "wait_for_disconnect"]

T = TypeVar("T")

_PATIENCE_S: Final = 0.05  # most calls are over by then; one whose caller has left ends that much later


async def unless_caller_leaves(receive: Receive, answering: Awaitable[T]) -> T:
    """Returns what `answering` gives; it is cancelled when the client closes its connection first.

    Args:
        receive: of a request whose body was read.
        answering: the work; it goes on in the caller's task.

    Raises:
        ClientDisconnect: raised when the client has gone.
    """
    worker = asyncio.current_task()
    assert worker is not None
    watcher: asyncio.Task[None] | None = None
    is_over = has_left = False

    def tell(_: object) -> None:
        nonlocal has_left
        if not is_over and watcher is not None and not watcher.cancelled() and watcher.exception() is None:
            has_left = True
            worker.cancel()

    def watch() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(tell)

    patience = asyncio.get_running_loop().call_later(_PATIENCE_S, watch)
    try:
        return await answering
    except asyncio.CancelledError:
        if not has_left or worker.uncancel() > 0:
            raise  # cancelled from outside: the server stops
        raise ClientDisconnect from None
    finally:
        is_over = True
        patience.cancel()
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
