"""A thread pool whose calls run in the context of whoever submitted them.

`loop.run_in_executor` leaves the context behind, so a span in a pool's thread would be an orphan. The node makes this
pool the default of its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["ContextExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


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
