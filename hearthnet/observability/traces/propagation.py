"""Propagation of the current trace to threads and pools, which do not inherit the context.

Tasks, `gather`, `asyncio.to_thread`, `call_soon` and the callbacks of asyncio's futures copy the context on their own.
A plain thread, a pool's thread, and the callbacks of a pool's futures start without one:

    Thread(target=carry(work)).start()
    future.add_done_callback(carry(report))

`ContextExecutor` is a pool that does this for every call. A node makes it the default of its loop, because
`loop.run_in_executor` does not copy the context.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import ParamSpec, TypeVar

__all__ = ["ContextExecutor", "carry"]

P = ParamSpec("P")
R = TypeVar("R")


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function` bound to a copy of the current context: its records and spans belong to this trace.

    May be called often, and from several threads at once. It neither ends the trace nor keeps it open: a span that
    opens after its end is an orphan.

    Raises:
        TypeError: raised for an asynchronous or a generator function. Calling one runs nothing; its result
            runs in the context of its consumer.
    """
    import inspect  # only here: what every module imports must cost every module nothing

    for called in (function, type(function).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise TypeError("carry() takes a plain function; for a coroutine: carry(asyncio.run), or a task")
        if inspect.isgeneratorfunction(called):
            raise TypeError("carry() takes a plain function, not a generator")
    context = copy_context()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context is entered by one thread at a time, so each call has its own copy: a constant step, not a walk.
        return context.copy().run(function, *args, **kwargs)

    return carried


class ContextExecutor(ThreadPoolExecutor):
    """Copies the context into each call, also those of `map`.

    Not into callbacks of its futures, which run later, in the thread that finished the call: use `carry` there.
    """

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Schedules a call in a copy of the present context.

        Raises:
            RuntimeError: raised when the pool is shut down.
        """
        return super().submit(copy_context().run, partial(function, *args, **kwargs))
