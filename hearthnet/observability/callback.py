"""Functions of others that a scrape calls: gauges that compute their value, owners that refresh theirs, collectors.

Each runs in a thread of its own, one after the other, and has `DEADLINE_S`. One that raises costs its own metrics. One
that hangs costs the scrape its deadline once: it is not called again before it has returned. All functions of a scrape
have `ALL_S` together; those that it does not reach keep what they had, and are called by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["ALL_S", "DEADLINE_S", "Callback", "call_all"]


DEADLINE_S: Final = 1.0
ALL_S: Final = 5.0  # half of the time that Prometheus gives a scrape


class Callback:
    """A function, its thread while it runs, and what came of its last call."""

    __slots__ = ("_began_s", "_error", "_function", "_is_late", "_thread", "_value")

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._thread: Thread | None = None
        self._began_s = 0.0
        self._is_late = False
        self._error: Exception | None = LookupError("it was not called yet")
        self._value: object = None

    def call(self, deadline_s: float) -> None:
        """Calls the function, or joins a call under way, and waits until `deadline_s` after its beginning at most."""
        thread = self._thread
        if thread is None or not thread.is_alive():  # in a forked child its parent's is not
            thread = self._thread = Thread(target=self._run, name="hearthnet-scrape", daemon=True)
            self._began_s = monotonic()
            try:
                thread.start()
            except RuntimeError as error:  # no more threads
                self._thread, self._is_late, self._error = None, False, error
                return
        thread.join(max(0.0, self._began_s + deadline_s - monotonic()))
        self._is_late = thread.is_alive()

    def _run(self) -> None:
        try:
            self._value = self._function()
            self._error = None
        except Exception as error:  # it is not ours  # noqa: BLE001
            self._error = error
        except BaseException as error:  # sys.exit too is its failure, and must not end the scrape  # noqa: BLE001
            self._error = RuntimeError(f"it raised {type(error).__name__}")

    def result(self) -> Any:
        """Returns what the function returned.

        Raises:
            Exception: raised when the function raised it.
            TimeoutError: raised when it has not returned.
        """
        if self._is_late:
            raise TimeoutError("no result in time")
        if self._error is not None:
            raise self._error
        return self._value


def call_all(callbacks: Iterable[Callback]) -> None:
    """Calls each; see the module for how long."""
    end_s = monotonic() + ALL_S
    for callback in callbacks:
        if (left_s := end_s - monotonic()) > 0:
            callback.call(min(DEADLINE_S, left_s))
