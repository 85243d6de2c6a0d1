"""How much work waits for the event loop, and whether one more call is refused for it.

One process works on one call at a time, so under more calls than it can serve a queue grows until nobody gets an answer
in time. What keeps accepted calls quick is to refuse the rest early: before they are parsed, verified or routed.

A request waits from when its bytes were read until its task starts. The loop's turns (from the first task that starts
in it to the end of its reading) tell what one request costs, so `waiting * cost` is how long the next one would wait.
How long it may depends on what went before: a burst into a quiet node may queue up, it will be worked off. Where the
turns have been long for a while the queue is a standing one, which only adds its length to every answer: then it is
kept short. A single short turn ends that, so a node that was overloaded is itself again at once.
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

__all__ = ["STOP_LIMIT_S", "Load", "Refusal"]

Refusal = Literal["overload", "stopping"]

log = get_logger(__name__)
_often = RateLimitedLogger(log)

STOP_LIMIT_S: Final = 5.0  # what calls get to finish in; service managers wait 10 s (docker) to 90 s (systemd)
LAST_WORDS_S: Final = 0.5  # for a call that was cut short to say so
MAX_WORKING: Final = 1_000  # calls begun and not ended, most of them waiting for something: some 20 MB
BURST_S: Final = 0.25  # the queue that a quiet node takes: nobody notices a quarter of a second
STANDING_S: Final = 0.04  # the queue of a node that is always busy; answers take about two turns of this length
PATIENCE_S: Final = 0.1  # so long must turns have been long before the node counts as always busy
# So many may always wait: 0.02 s of work on a desktop, 0.1 s on a Raspberry Pi. A turn that is long for other reasons
# (a refused flood, a slow handler, a machine busy elsewhere) must not close the door to the few callers of a home.
MIN_WAITING: Final = 32
_FIRST_COST_S: Final = 0.001  # until turns tell: a call takes 0.5 ms on a desktop, 3 ms on a Raspberry Pi
_FORGET_CALLS: Final = 64  # the cost is about the mean over so many calls
_REFUSED: Final = "other"  # the capability label: the refused are not looked at closely enough to know


class Load:
    """What a server has to do now.

    Args:
        clock: monotonic seconds; tests hand in their own.
        stop_limit_s: how long calls may go on after `stop`.

    Attributes:
        waiting: requests that were read and have not begun.
        is_stopping: new calls are refused.
        is_cut: calls that went on for too long after that were cancelled.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, stop_limit_s: float = STOP_LIMIT_S) -> None:
        self._clock = clock
        self._stop_limit_s = stop_limit_s
        self._working: set[asyncio.Task[Any]] = set()
        self._cost_s = _FIRST_COST_S
        self._calm_at = clock()
        self._turn_at = 0.0
        self._begun = 0  # requests in this turn
        self.waiting = 0
        self.is_stopping = False
        self.is_cut = False

    def refusal(self) -> Refusal | None:
        """Returns why a call that arrives now is refused, or None. Cheap: asked for each piece that is read."""
        if self.is_stopping:
            return "stopping"
        if len(self._working) >= MAX_WORKING:
            return "overload"
        if self.waiting < MIN_WAITING:
            return None
        # Where nothing has begun in this turn, the loop had time.
        is_calm = not self._begun or self._clock() - self._calm_at < PATIENCE_S
        return "overload" if self.waiting * self._cost_s > (BURST_S if is_calm else STANDING_S) else None

    def refuse(self, why: Refusal) -> WireError:
        """Counts a call that is refused; returns what its caller is told."""
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

    def begin(self) -> None:
        """Notes that the task of a request has started."""
        self.waiting = max(0, self.waiting - 1)  # an application without a server of ours in front of it has no queue
        if not self._begun:
            self._turn_at = self._clock()
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._begun += 1

    def _end_turn(self) -> None:
        now = self._clock()
        took_s = now - self._turn_at
        weight = min(1.0, self._begun / _FORGET_CALLS)
        self._cost_s += weight * (took_s / self._begun - self._cost_s)
        self._begun = 0
        if took_s < STANDING_S / 2:
            self._calm_at = now

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
