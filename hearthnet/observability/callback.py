"""Functions of others that a scrape calls: gauges that compute their value, owners that refresh theirs, collectors.

Each runs in a thread of its own, one after the other, and has `DEADLINE_S`. One that raises costs its own metrics. One
that hangs costs the scrape its deadline once: it is not called again before it has returned. All functions of a scrape
have `ALL_S` together; those that it does not reach are called by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from time import monotonic
from typing import Any, Final, Generic, TypeVar

__all__ = ["ALL_S", "DEADLINE_S", "Callback", "call_all"]

T = TypeVar("T")

DEADLINE_S: Final = 1.0
ALL_S: Final = 5.0  # half of the time that Prometheus gives a scrape


class Callback(Generic[T]):
    """A function, its thread while it runs, and what came of its last call."""

    __slots__ = ("_error", "_function", "_thread", "_value")

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._thread: Thread | None = None
        self._error: Exception | None = LookupError("it was not called yet")
        self._value: T | None = None

    def call(self, deadline_s: float) -> None:
        """Calls the function, and waits for it at most `deadline_s`."""
        if self._thread is not None and self._thread.is_alive():  # in a forked child it is not
            self._error = TimeoutError("it still runs since an earlier scrape")
            return
        self._error = TimeoutError("no result in time")
        if deadline_s <= 0:
            return
        try:
            self._thread = Thread(target=self._run, name="hearthnet-scrape", daemon=True)
            self._thread.start()
            self._thread.join(deadline_s)
        except RuntimeError as error:  # no more threads
            self._error = error

    def _run(self) -> None:
        try:
            self._value = self._function()
            self._error = None
        except Exception as error:  # it is not ours  # noqa: BLE001
            self._error = error
        except BaseException as error:  # sys.exit too is its failure, and must not end the scrape  # noqa: BLE001
            self._error = RuntimeError(f"it raised {type(error).__name__}")

    def result(self) -> T:
        """Returns what the function returned.

        Raises:
            Exception: raised when the function raised it.
            TimeoutError: raised when it has not returned.
        """
        if self._error is not None:
            raise self._error
        value: Any = self._value
        found: T = value
        return found


def call_all(callbacks: Iterable[Callback[Any]]) -> None:
    """Calls each; see the module for how long."""
    end_s = monotonic() + ALL_S
    for callback in callbacks:
        callback.call(min(DEADLINE_S, end_s - monotonic()))
