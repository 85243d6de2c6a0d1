"""Decides when the telemetry thread works: on a schedule, when woken, and ever more slowly while commits fail."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hearthnet.observability.logging import check_set_up, log_dropped
from hearthnet.observability.records.recorder import Recorder

__all__ = ["Pace", "Pacer"]

FIRST_RETRY_S: Final = 0.1
_MIN_GAP_S: Final = 0.2  # between two commits, so that a storm of failures does not wear out a card
_ECO_INTERVAL_S: Final = 30.0
_ECO_GAP_S: Final = 5.0
_HOUSEKEEPING_S: Final = 60.0
_SUMMARY_S: Final = 1.0  # message budgets are per second
_LOOK_S: Final = 1.0  # in which a changed set-up of logging is noticed
_LAST_RETRY_S: Final = 5.0  # a lock or a full disk ends without notice; this is how long it then takes to notice
_REOPEN_RETRY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the store is written.

    Attributes:
        interval_s: seconds between commits.
        is_eco: commit rarely, to spare a slow card: every half minute, failures within five seconds.
        keep_free_mb: disk space that is kept free for the machine.
    """

    interval_s: float = 1.0
    is_eco: bool = False
    keep_free_mb: int = 128

    @property
    def commit_s(self) -> float:
        """The longest that a record waits, in seconds."""
        return max(self.interval_s, _ECO_INTERVAL_S) if self.is_eco else self.interval_s

    @property
    def gap_s(self) -> float:
        """The shortest time between two commits, in seconds."""
        return _ECO_GAP_S if self.is_eco else min(_MIN_GAP_S, self.interval_s)


class Pacer:
    """The clock of the telemetry thread. Any thread may call `wake` and `stop`, its own event loop the rest.

    Attributes:
        loop: the thread's event loop while it runs.
        is_stopping: whether `stop` was called.
        retry_s: seconds until the next try after a failure.
    """

    def __init__(self, recorder: Recorder, pace: Pace) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_stopping = False
        self.retry_s = FIRST_RETRY_S
        self._recorder = recorder
        recorder.wake = self.wake_for_record
        self._pace = pace
        self._event = asyncio.Event()
        self._wake_at_once = False
        self._skip_gap = False
        self._must_drain = False
        self._wake_pending = False
        self._flushed_at = self._kept_house_at = self._looked_at = time.monotonic()

    # --- from any thread

    def wake(self, at_once: bool = False, skip_gap: bool = False, one_commit: bool = False) -> None:
        """Wakes the thread; between two commits at most one call reaches its loop.

        Args:
            at_once: commit now instead of at the next interval.
            skip_gap: commit even if the last commit was a moment ago or failed: a caller is waiting.
            one_commit: the caller does not wait for records that arrive meanwhile.
        """
        self._wake_at_once = self._wake_at_once or at_once
        self._skip_gap = self._skip_gap or skip_gap
        self._must_drain = self._must_drain or (skip_gap and not one_commit)
        loop = self.loop
        if loop is not None and not self._wake_pending:
            self._wake_pending = True
            try:
                loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:  # the loop has just ended: `stop` has drained the buffers, or the process forks
                self._wake_pending = False

    def wake_for_record(self, at_once: bool, is_crowd: bool) -> None:
        """Wakes the thread as a recorder does; a crowd does not wait for the gap, unless the last commit failed."""
        self.wake(at_once, is_crowd and self.retry_s == FIRST_RETRY_S)

    def stop(self) -> None:
        """Wakes the thread for the last time."""
        self.is_stopping = True
        self._wake_pending = False
        self.wake(at_once=True)

    # --- from the thread's event loop

    def attach(self) -> None:
        """Starts delivering wakes to the running event loop, the first or another one."""
        self._event = asyncio.Event()
        self._wake_pending = False
        self.loop = asyncio.get_running_loop()

    def detach(self) -> None:
        """Stops delivering wakes."""
        self.loop = None

    async def wait(self, *, is_failing: bool) -> None:
        """Waits until there is something to do; after a failure, until it is time to try again."""
        recorder = self._recorder
        if is_failing:
            await self._pause(self.retry_s)
            return
        if not recorder.has_pending():
            recorder.is_idle = True
            if not recorder.has_pending():  # else its thread may have checked before the line above
                # A storm of log records that has just ended gets its summary soon.
                await self._wait_for_wake(_SUMMARY_S if log_dropped() else _HOUSEKEEPING_S)
            recorder.is_idle = False
        if recorder.has_pending() and not self._wake_at_once:
            await self._wait_for_wake(self._pace.commit_s)
        await self._pause(self._flushed_at + self._pace.gap_s - time.monotonic())

    async def _wait_for_wake(self, timeout_s: float) -> None:
        """Waits until `wake` is called; returns at once if it was called since the last wait."""
        ends_at = time.monotonic() + timeout_s
        while not (self.is_stopping or self._event.is_set()) and (left := ends_at - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), min(left, _LOOK_S))
            self._look()
        self._event.clear()
        self._wake_pending = False

    def _look(self) -> None:
        """Checks the set-up of logging, at most once a second: its locks are the program's."""
        now_s = time.monotonic()
        if now_s - self._looked_at >= _LOOK_S / 2:
            self._looked_at = now_s
            check_set_up()

    async def _pause(self, seconds: float) -> None:
        """Waits regardless of wakes, unless a caller waits for the commit or for the end."""
        ends_at = time.monotonic() + seconds
        while not (self._skip_gap or self.is_stopping) and (left := ends_at - time.monotonic()) > 0:
            await self._wait_for_wake(left)

    def begin(self) -> bool:
        """Begins a round of work; returns True if a caller waits until all is committed."""
        must_drain = self._must_drain or self.is_stopping
        self._wake_at_once = self._skip_gap = self._must_drain = False
        return must_drain

    def flushed(self, *, is_committed: bool) -> None:
        """Records the end of a flush; each failure in a row doubles `retry_s`."""
        self._flushed_at = time.monotonic()
        self.retry_s = FIRST_RETRY_S if is_committed else min(2 * self.retry_s, _LAST_RETRY_S)

    def open_failed(self) -> None:
        """Records that the store could not be opened."""
        self.retry_s = min(2 * self.retry_s, _REOPEN_RETRY_S)

    def back_off(self) -> None:
        """Makes the next try the latest: the error is unknown."""
        self.retry_s = _REOPEN_RETRY_S

    def is_housekeeping_due(self) -> bool:
        """Returns True once a minute, and counts the next minute from then."""
        if self._flushed_at - self._kept_house_at < _HOUSEKEEPING_S:
            return False
        self._kept_house_at = time.monotonic()
        return True
