"""A watchdog thread for an event loop: logs where the loop is stuck, and samples process health.

    with Watchdog(loop, stall_s=2.0, directory=data_dir):
        …                               inside the loop's own program

Once a second the loop is asked to respond. If it has not for `stall_s`, one record shows the stack of its thread, what
its tasks wait for, the traces in flight, and whether it is blocked or gets no CPU; another follows after ten times as
long, and one when it responds again. The black box has the record at once, whatever happens next. Every 2 s a sample of
the process (`vitals`) is written to the black box.
Written here because asyncio's debug mode reports a slow callback only after it ended, and faulthandler knows neither
tasks nor traces.

    idle: one wake-up of either thread a second, 38 ms of CPU in a minute (0.06 % of a core), the samples included

Guarantees:
    - Nothing here raises into the program, and `close` returns within 0.2 s.
    - A stopped process or a suspended machine is no stall.
    - A loop that only waits for a CPU has three times as long: it is slow, not stuck.
Assumes:
    - It is made in the thread that runs the loop.
    - No code holds the interpreter's lock while it sleeps: the watchdog would sleep as well.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Final, Self

from hearthnet.constants import WATCHDOG_LOGGER
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.process.stall import (
    STARVED,
    Use,
    cause_of,
    is_runnable,
    spans_in_flight,
    stack_of_thread,
    suspended_s,
    tasks_of,
    use_of,
)
from hearthnet.observability.process.vitals import Sampler
from hearthnet.observability.runtime import runtime

__all__ = ["Watchdog"]

log = get_logger(WATCHDOG_LOGGER)

VITALS_S: Final = 2.0  # the spacing that the rings in the black box are sized for
_ASK_S: Final = 1.0
_CHECK_S: Final = 0.25  # while a response is due
_MIN_CHECK_S: Final = 0.01
_STARVED_FACTOR: Final = 3
_AGAIN_FACTOR: Final = 10
_CLOSE_TIMEOUT_S: Final = 0.2
_LAGS: Final = 60  # kept for the metric: a minute of responses

metrics.event_loop_stalls_total.allow("cause", ("blocked", "starved"))


class _Question:
    """A question to the loop."""

    __slots__ = ("asked_s", "cause", "checks", "checks_runnable", "logged", "responded_s", "suspended_s", "used")

    def __init__(self, asked_s: float, used: Use | None) -> None:
        self.asked_s = asked_s
        self.used = used  # by the loop's thread until then
        self.responded_s: float | None = None
        self.suspended_s = 0.0
        self.checks = 0
        self.checks_runnable = 0
        self.logged = 0  # records logged about it
        self.cause = ""

    def respond(self) -> None:
        """Responds. Runs in the loop."""
        self.responded_s = monotonic()

    def lag_s(self, now_s: float) -> float:
        """Returns how long the loop has taken so far, without the time that the process was suspended."""
        return max(0.0, (self.responded_s or now_s) - self.asked_s - self.suspended_s)


class Watchdog:
    """Watches a loop within `with`.

    Args:
        loop: runs in this thread.
        stall_s: seconds without a response after which it counts as stuck; 0: only samples are taken.
        directory: of the store, for free disk space in the samples; None: none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stall_s: float = 2.0, directory: Path | None = None) -> None:
        self._loop = loop
        self._stall_s = stall_s
        self._ask_s = min(_ASK_S, stall_s / 2) if stall_s else VITALS_S
        self._look_s = max(_MIN_CHECK_S, min(_CHECK_S, stall_s / 8))
        self._sampler = Sampler(directory)
        self._ident, self._native_id = threading.get_ident(), threading.get_native_id()
        self._question: _Question | None = None
        self._lags: deque[float] = deque(maxlen=_LAGS)
        self._worst_lag_s = 0.0  # since the last sample
        self._sample_due_s = 0.0
        self._wait_s = 0.0
        self._looked_s = monotonic()
        self._own_used: Use | None = None
        self._process_cpu_s = 0.0
        self._has_failed = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the thread."""
        self._pid = os.getpid()
        self._stop_refreshing = metrics.on_scrape(self._refresh_metrics)
        self._thread = threading.Thread(target=self._live, name="hearthnet-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; one that is held up in the kernel ends by itself later. Idempotent."""
        if self._thread is None or os.getpid() != self._pid:  # in a forked child there is no thread to end
            return
        self._stop_refreshing()
        self._stopping.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._thread = None

    def _refresh_metrics(self) -> None:
        metrics.event_loop_lag_seconds.set(max(self._lags.copy(), default=0.0))

    # --- in the thread

    def _live(self) -> None:
        self._note_own_use()
        while not (self._stopping.wait(self._wait_s) or self._loop.is_closed()):
            try:
                self._look()
            except Exception:  # must not raise into the node; logged once
                self._wait_s = self._ask_s
                if not self._has_failed:
                    self._has_failed = True
                    log.exception("the watchdog met an error that it does not know")

    def _look(self) -> None:
        now_s = monotonic()
        suspended = self._was_suspended_s(now_s)
        question = self._question
        if question is not None:
            question.suspended_s += suspended
            self._consider(question, now_s)
        if self._stall_s and self._question is None:
            self._ask(now_s)
        if now_s >= self._sample_due_s:
            self._sample(now_s)
        is_waiting = self._question is not None and self._question.checks > 0
        self._wait_s = self._look_s if is_waiting else self._ask_s

    def _was_suspended_s(self, now_s: float) -> float:
        """Returns how long the process was suspended since the last check, beyond what load explains."""
        elapsed_s, self._looked_s = now_s - self._looked_s, now_s
        own, process_cpu_s = self._own_used, self._process_cpu_s
        self._note_own_use()
        used = self._own_used.since(own) if self._own_used and own else None
        return suspended_s(elapsed_s, self._wait_s, used, self._process_cpu_s - process_cpu_s)

    def _note_own_use(self) -> None:
        self._own_used = use_of(threading.get_native_id())
        self._process_cpu_s = time.process_time()

    def _ask(self, now_s: float) -> None:
        question = self._question = _Question(now_s, use_of(self._native_id))
        try:
            self._loop.call_soon_threadsafe(question.respond)
        except RuntimeError:  # closed since the check: the thread ends at the next one
            self._question = None

    def _consider(self, question: _Question, now_s: float) -> None:
        """Checks a question: the loop has responded, or the loop is late, or stuck."""
        lag_s = question.lag_s(now_s)
        self._worst_lag_s = max(self._worst_lag_s, lag_s)
        if question.responded_s is not None:
            self._question = None
            self._lags.append(lag_s)
            self._tell_end(question, lag_s)
            return
        question.checks += 1
        question.checks_runnable += is_runnable(self._native_id)
        factor = _AGAIN_FACTOR if question.logged else 1
        if question.logged < 2 and lag_s >= factor * self._stall_s:
            self._tell_stuck(question, lag_s)

    def _tell_stuck(self, question: _Question, lag_s: float) -> None:
        now = use_of(self._native_id)
        used = now.since(question.used) if now and question.used else None
        cause, state = cause_of(lag_s, used, question.checks_runnable / max(1, question.checks), self._stall_s)
        if cause == STARVED and lag_s < _STARVED_FACTOR * self._stall_s:
            return
        if question.responded_s is not None:  # during the check: the thread is doing something else by now
            return
        self._count(question, cause)
        fields = {
            "stuck_s": round(lag_s, 3),
            "cause": cause,
            "state": state,
            "cpu_s": used and round(used.cpu_s, 3),
            "waited_s": used and round(used.waited_s, 3),
            "stack": stack_of_thread(self._ident),
            "tasks": tasks_of(self._loop),
            "spans": spans_in_flight(),
        }
        log.error("event loop stuck", extra=fields)

    def _count(self, question: _Question, cause: str) -> None:
        if not question.logged:
            metrics.event_loop_stalls_total.labels(cause).inc()
        question.logged += 1
        question.cause = cause

    def _tell_end(self, question: _Question, lag_s: float) -> None:
        """Logs that the loop responds again; also after a stall that kept this thread from logging it."""
        if not question.logged:
            now = use_of(self._native_id)
            used = now.since(question.used) if now and question.used else None
            cause, _ = cause_of(lag_s, used, 0.0, self._stall_s)
            if lag_s < self._stall_s * (_STARVED_FACTOR if cause == STARVED else 1):
                return
            self._count(question, cause)
        log.warning("event loop responds again", extra={"stuck_s": round(lag_s, 3), "cause": question.cause})

    def _sample(self, now_s: float) -> None:
        self._sample_due_s = now_s + VITALS_S - self._ask_s / 2  # not a whole turn late for a timer's millisecond
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        box = runtime.recorder.box
        if box is not None:
            box.note_vitals(self._sampler.sample(lag_s if self._stall_s else None))
