"""How long calls wait for the event loop, and whether one more is refused for it.

One process works on one call at a time, so with more calls than it can serve a queue grows until nobody gets a
response in time. What keeps accepted calls quick is to refuse the rest early: before their bodies are parsed, verified
or routed.

A call waits from when its head was read until its task starts. How long it may depends on what went before: a burst
that meets a quiet node may queue up, for it will be worked off. Where waits have been long for a while the queue is a
standing one, which adds its length to every response: then it is kept short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import randrange
from typing import Any, Final, Literal

from hearthnet.errors import WireError
from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger

__all__ = ["LAST_WORDS_S", "STOP_LIMIT_S", "Load", "Refusal"]

Refusal = Literal["overload", "stopping"]

log = get_logger(__name__)
_often = RateLimitedLogger(log)

STOP_LIMIT_S: Final = 5.0  # what calls get to finish in; service managers wait 10 s (docker) to 90 s (systemd)
LAST_WORDS_S: Final = 0.5  # for a call that was cut short to say so
MAX_WORKING: Final = 1_000  # calls begun and not ended, most of them waiting for something: some 20 MB
BURST_S: Final = 0.25  # the wait that a quiet node allows: nobody notices a quarter of a second
STANDING_S: Final = 0.04  # the wait that a node which is always busy allows
PATIENCE_S: Final = 0.2  # so long must waits have been long before the node counts as always busy
# So many may always wait: 0.02 s of work on a desktop, 0.1 s on a Raspberry Pi. A loop that is late for other reasons
# (a flood that is refused, a slow handler, a machine busy elsewhere) must not refuse the few callers of a home.
MIN_WAITING: Final = 32
_REFUSED: Final = "other"  # the capability label: refused calls are not looked at closely enough to know


class Load:
    """What a server has to do now.

    Args:
        clock: monotonic seconds; tests pass their own.
        stop_limit_s: how long calls may go on after `stop`.

    Attributes:
        waiting: requests whose head was read and whose task has not started.
        is_stopping: new calls are refused.
        is_cut: calls that went on for too long after that were cancelled.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, stop_limit_s: float = STOP_LIMIT_S) -> None:
        self._clock = clock
        self._stop_limit_s = stop_limit_s
        self._working: set[asyncio.Task[Any]] = set()
        self._late_since = self._late_at = float("-inf")
        self.waiting = 0
        self.is_stopping = False
        self.is_cut = False

    def arrive(self) -> float | None:
        """Counts a request whose head was read; returns when, or None if too few wait for it to be refused."""
        self.waiting += 1
        return self._clock() if self.waiting > MIN_WAITING else None

    def begin(self) -> None:
        """Counts a request whose task has started."""
        self.waiting = max(0, self.waiting - 1)  # an application without our server has no queue

    def refusal(self, arrived_at: float | None) -> Refusal | None:
        """Returns why a call that begins now is refused, or None.

        Args:
            arrived_at: what `arrive` returned for it.
        """
        if self.is_stopping:
            return "stopping"
        if len(self._working) >= MAX_WORKING:
            return "overload"
        if arrived_at is None:
            return None
        now = self._clock()
        waited_s = now - arrived_at
        if waited_s <= STANDING_S:
            return None
        if now - self._late_at > PATIENCE_S:
            self._late_since = now
        self._late_at = now
        is_burst = now - self._late_since < PATIENCE_S
        return "overload" if waited_s > (BURST_S if is_burst else STANDING_S) else None

    def refuse(self, why: Refusal) -> WireError:
        """Counts a call that is refused; returns the error for its caller."""
        if why == "stopping":
            error = WireError("partition", "this node is stopping", retry_after_ms=int(STOP_LIMIT_S * 1_000))
        else:
            # Not all at the same moment, or they would be too many again.
            wait_ms = randrange(500, 1_500)  # noqa: S311  # no secret
            error = WireError("capacity_exceeded", "this node has more to do than it can", retry_after_ms=wait_ms)
        metrics.rate_limited_total.labels(_REFUSED, why).inc()
        metrics.requests_total.labels(_REFUSED, error.code).inc()
        figures = {"reason": why, "waiting": self.waiting, "working": len(self._working)}
        _often.warning("calls refused", key=why, extra=figures)
        return error

    @contextmanager
    def work(self) -> Iterator[None]:
        """Counts the current task as one that works on a call."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)

    async def stop(self) -> None:
        """Refuses new calls, gives those at work `stop_limit_s` to end, and cancels the rest."""
        self.is_stopping = True
        if self._working:
            log.info("waiting for calls to end", extra={"calls": len(self._working), "limit_s": self._stop_limit_s})
            await asyncio.wait(tuple(self._working), timeout=self._stop_limit_s)
        if self._working:
            self.is_cut = True
            log.warning("calls cut short: the node stops", extra={"calls": len(self._working)})
            for task in tuple(self._working):
                task.cancel()
            await asyncio.wait(tuple(self._working), timeout=2 * LAST_WORDS_S)
