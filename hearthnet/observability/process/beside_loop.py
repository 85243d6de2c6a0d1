"""Work that takes a while, from a coroutine: in a thread of its own, where there can be one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread

__all__ = ["beside_loop"]


async def beside_loop(work: Callable[[], None]) -> None:
    """Does what takes a while in a thread of its own, or where there can be no more threads, in the loop's.

    Not in one of the loop's executor, which keeps what it could not start, and would do it later as well.
    """
    done: Future[None] = Future()
    context = copy_context()

    def run() -> None:
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(context.run(work))
            except BaseException as error:  # the waiting task's to raise  # noqa: BLE001
                done.set_exception(error)

    try:
        Thread(target=run, name="hearthnet-opening").start()
    except RuntimeError:
        work()
    else:
        await asyncio.wrap_future(done)
