"""Takes the present trace along to where the context does not go by itself.

Tasks, `gather`, `asyncio.to_thread`, `call_soon` and the callbacks of asyncio's futures copy the context on their own.
A plain thread, a pool's thread, and the callbacks of a pool's futures start without one:

    Thread(target=carry(work)).start()
    future.add_done_callback(carry(report))

For pools there is `ContextExecutor`, which carries every call. A node makes it the default of its loop, for
`loop.run_in_executor` leaves the context behind.
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
    """Returns `function` bound to a copy of the present context: what it logs and measures belongs to this trace.

    May be called often, and from several threads at once. The trace is not ended by it, nor kept open: a span that
    opens after the trace has ended is an orphan.

    Raises:
        TypeError: raised for an asynchronous or a generator function. Calling one runs nothing, and what it returns
            runs in the context of whoever drives it.
    """
    import inspect  # only here: what every module imports must cost every module nothing

    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("carry() takes a plain function; for a coroutine: carry(asyncio.run), or a task")
    if inspect.isgeneratorfunction(function):
        raise TypeError("carry() takes a plain function, not a generator")
    context = copy_context()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context is entered by one thread at a time, so each call has its own copy: a constant step, not a walk.
        return context.copy().run(function, *args, **kwargs)

    return carried


class ContextExecutor(ThreadPoolExecutor):
    """Carries the context into each call, those of `map` included.

    Not into the callbacks of its futures: they run in the thread that finished the call, after it. `carry` does that.
    """

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Schedules a call in a copy of the present context.

        Raises:
            RuntimeError: raised when the pool is shut down.
        """
        return super().submit(copy_context().run, partial(function, *args, **kwargs))
