"""The telemetry thread: opens the store, commits what is buffered, keeps house, and opens it again when it must.

It has an event loop of its own, so records are committed whatever the program's loop is doing. With nothing to do it
sleeps until the next record comes, or a minute has passed.

Guarantees:
    - A record waits at most `interval_s` for its commit while the disk answers; a notable one is committed at once.
    - Whatever the disk does, the thread goes on: it tries again, ever more slowly, up to every few seconds.
Assumes:
    - The recorder's buffers are emptied by this thread alone.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability.logging import get_logger, log_dropped, log_file
from hearthnet.observability.records.blackbox import BlackBox, box_path, new_header
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import MB, Budget, disk_bytes
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.recovery.opening import open_store, tell
from hearthnet.observability.store.recovery.recover import Recovered, dead_boxes, recover
from hearthnet.observability.store.writer import Writer

__all__ = ["Pace", "StoreThread"]

log = get_logger(__name__)

_MIN_GAP_S: Final = 0.2  # between two commits, so that a storm of failures does not wear out a card
_ECO_INTERVAL_S: Final = 30.0
_ECO_GAP_S: Final = 5.0
_HOUSEKEEPING_S: Final = 60.0
_TELLING_S: Final = 1.0  # the budgets of messages are of a second
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0  # a lock or a full disk ends unannounced; this is how long it then takes to notice
_REOPEN_RETRY_S: Final = 30.0
_LASTING: Final = ("io", "read_only", "other")  # what opening again need not have ended
_NUMBERS_IN_HAND: Final = 100_000
_FLUSH_POLL_S: Final = 0.002  # a commit takes a millisecond or two; only tests and shutdown wait for one


@dataclass(frozen=True, slots=True)
class Pace:
    """How the store is written.

    Attributes:
        interval_s: seconds between commits.
        is_eco: commit rarely, for the sake of a slow card: every half minute, failures within five seconds.
        keep_free_mb: what is left to the machine.
    """

    interval_s: float = 1.0
    is_eco: bool = False
    keep_free_mb: int = 128

    @property
    def commit_s(self) -> float:
        """Seconds that a record may wait."""
        return max(self.interval_s, _ECO_INTERVAL_S) if self.is_eco else self.interval_s

    @property
    def gap_s(self) -> float:
        """Seconds between two commits at least."""
        return _ECO_GAP_S if self.is_eco else min(_MIN_GAP_S, self.interval_s)


class StoreThread:
    """Writes the store in `path` until it is stopped.

    Args:
        path: of the database.
        recorder: whose buffers it empties; gets its black box here.
        run: the row of this run.
        budget: the bounds of everything on disk.
        pace: how often to commit.
        lock: of the store.

    Attributes:
        error: why there is no store at present, or None.
        recovered: what the last opening took in.
        is_clean: whether the run was ended in good order, all of it committed.
    """

    def __init__(
        self, path: Path, recorder: Recorder, run: rows.Run, budget: Budget, pace: Pace, lock: StoreLock
    ) -> None:
        self.path = path
        self.budget = budget
        self.error: str | None = None
        self.is_clean = False
        self.recovered = Recovered()
        self.writer: Writer | None = None
        self._recorder = recorder
        self._run = run
        self._pace = pace
        self._lock = lock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._is_urgent = False
        self._hurry = False
        self._is_low = False
        self._stopping = False
        self._wake_pending = False
        self._flushed_at = self._kept_house_at = time.monotonic()
        self._was_open = False
        self._thread: threading.Thread | None = None

    # --- from other threads

    def start(self, timeout_s: float) -> None:
        """Starts the thread and waits until the store is open, recovery committed.

        Raises:
            StoreInUseError: raised when another process writes the store; the thread has ended.
            HearthNetError: raised when it cannot be opened now; the thread goes on trying.
        """
        ready: Future[None] = Future()
        # A daemon, so that a program that never closes still ends; `atexit` closes before daemons are stopped.
        # aiosqlite's own thread inherits this from the thread that makes it.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(ready)), name="hearthnet-telemetry", daemon=True
        )
        self._thread.start()
        try:
            ready.result(timeout_s)
        except TimeoutError as error:
            raise StoreError(f"{self.path} could not be opened within {timeout_s:.0f} s") from error

    def wake(self, is_urgent: bool) -> None:
        """Has the thread commit soon, or at once; from any thread, at most one call a commit reaches the loop."""
        self._is_urgent = self._is_urgent or is_urgent
        loop = self._loop
        if loop is not None and not self._wake_pending:
            self._wake_pending = True
            with suppress(RuntimeError):  # the loop has just ended: `stop` has drained what was there
                loop.call_soon_threadsafe(self._event.set)

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was recorded before this call is committed; returns whether it is."""
        ends_at = time.monotonic() + timeout_s
        waited_for = self._pending()
        while self._thread is not None and self._thread.is_alive():
            if waited_for.isdisjoint(self._pending()):
                return True
            if time.monotonic() > ends_at:
                return False
            self._hurry = True
            self.wake(True)
            time.sleep(_FLUSH_POLL_S)
        return waited_for.isdisjoint(self._pending())

    def _pending(self) -> set[int]:
        """Returns the numbers of what is not committed."""
        traces = {record[0] for record in self._recorder.traces.snapshot()}
        return traces | {record[0] for record in self._recorder.logs.snapshot()}

    def stop(self, timeout_s: float) -> None:
        """Ends the thread: what is buffered is committed first, as far as that can be done in time."""
        self._stopping = True
        self._wake_pending = False
        self.wake(True)
        if self._thread is not None:
            self._thread.join(timeout_s)

    # --- in the thread

    async def _live(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._open_first(ready)
            while not self._stopping:
                await self._wait()
                await self._work_guarded()
        finally:
            await self._end()
            self._loop = None
            # Not before: whoever holds it is the one that writes, and this thread may have been in the middle of it.
            self._lock.release()

    async def _work_guarded(self) -> None:
        try:
            await self._work()
        except Exception as error:  # the thread must not end: it opens the store anew, later
            self.error = f"{type(error).__name__}: {error}"
            self._retry_s = _REOPEN_RETRY_S
            writer, self.writer = self.writer, None
            if writer is not None:
                await writer.abandon()
            log.exception("telemetry met an error that it does not know")

    async def _open_first(self, ready: Future[None]) -> None:
        try:
            await self._open()
        except StoreInUseError as error:
            self._stopping = True
            ready.set_exception(error)
        except HearthNetError as error:
            ready.set_exception(error)
        except Exception as error:  # reported to the thread that waits in `start`  # noqa: BLE001
            self.error = str(error)
            ready.set_exception(StoreError(f"{self.path} could not be opened: {error}"))
        else:
            ready.set_result(None)

    async def _open(self, failing: str | None = None) -> None:
        """Opens the store, for the first time or again.

        Args:
            failing: why nothing could be committed, until a commit shows that it is over.

        Raises:
            HearthNetError: raised when it cannot be opened.
        """
        try:
            self._lock.acquire()
            box = self._recorder.box
            opening = open_store(self.path, self.budget, self._run[0], box)
            if self._stopping and self._was_open:  # `close` did not wait so long: the next start finds the box
                raise StoreError("telemetry is closing")
            # Records that wait were numbered without knowing the database.
            floor_seq = opening.last_seq if self._recorder.has_pending() and not self._was_open else 0
            if not self._was_open and not self._recorder.has_pending():
                self._recorder.number_from(opening.last_seq + 1)
            elif self._recorder.next_seq() <= opening.last_seq:
                # Not just above: threads that hold the old counter go on with it for a moment.
                self._recorder.number_from(opening.last_seq + _NUMBERS_IN_HAND)
            writer = Writer(self.path, self._recorder, budget=self.budget, floor_seq=floor_seq)
            await writer.open(self._run)
        except (sqlite3.Error, OSError) as error:
            self.error = str(error)
            raise StoreError(f"{self.path} could not be opened: {error}") from error
        except HearthNetError as error:
            self.error = error.message
            raise
        writer.failing = failing
        self.writer = writer
        self.error = None
        self.recovered = opening.recovered
        self._was_open = True
        if (file := log_file()) is not None:
            file.limit(self.budget.rest - disk_bytes(self.path.parent, None)["quarantine"])
        self._keep_box()
        self._look_at_disk()

    def _keep_box(self) -> None:
        """Sees to it that there is a black box; one that cannot be made now is tried again later."""
        box = self._recorder.box
        try:
            if box is None:
                # With the budget's other boxes: each process that ended has been taken in, so there is room.
                run_id, node_id, version = self._run[:3]
                header = new_header(layout.PRIMARY, run_id, version, node_id, self.budget.primary_box())
                self._recorder.keep_in(BlackBox(box_path(self.path.parent, run_id), header))
            elif not box.is_in_place():
                box.restore()
        except OSError as error:
            log.warning("there is no black box: a kill would cost what is not committed", extra={"error": str(error)})

    def _look_at_disk(self) -> None:
        if self.writer is None:
            return
        is_low = self.writer.room.look(self._pace.keep_free_mb * MB)
        if is_low == self._is_low:
            return
        self._is_low = is_low
        if (file := log_file()) is not None:
            file.is_shedding = is_low
        log.warning(
            "the disk is nearly full: telemetry does not grow, the JSON log takes warnings alone"
            if is_low
            else "the disk has space again",
            extra={"path": str(self.path.parent), "keep_free_mb": self._pace.keep_free_mb},
        )

    async def _wait(self) -> None:
        """Waits until there is something to do."""
        recorder = self._recorder
        writer = self.writer
        if writer is None or writer.failing is not None:
            await self._pause(self._retry_s)
            return
        if not recorder.has_pending():
            recorder.is_idle = True
            if not recorder.has_pending():  # else its thread may have looked before the line above
                # A storm of log records that has just ended is told of soon.
                await self._woken(_TELLING_S if log_dropped() else _HOUSEKEEPING_S)
            recorder.is_idle = False
        if recorder.has_pending() and not self._is_urgent:
            await self._woken(self._pace.commit_s)
        await self._pause(self._flushed_at + self._pace.gap_s - time.monotonic())

    async def _woken(self, timeout_s: float) -> None:
        """Waits until `wake` is called; returns at once after a call that nobody waited for."""
        if not self._stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), timeout_s)
        self._event.clear()
        self._wake_pending = False

    async def _pause(self, seconds: float) -> None:
        """Waits, whoever calls `wake`, unless somebody waits for the commit or for the end."""
        ends_at = time.monotonic() + seconds
        while not (self._hurry or self._stopping) and (left := ends_at - time.monotonic()) > 0:
            await self._woken(left)

    _retry_s: float = _FIRST_RETRY_S

    async def _work(self) -> None:
        is_hurried = self._hurry or self._stopping
        self._is_urgent = self._hurry = False
        if self.writer is None or self.writer.must_reopen:
            await self._reopen()
        if self.writer is None:
            return
        self._keep_box()
        if self._recorder.box is not None:
            self._recorder.box.note_alive()
            self._recorder.box.prepare()
        self._look_at_disk()
        self.writer.is_gentle = not is_hurried and not self._recorder.is_filling()
        log_dropped()
        is_committed = await self.writer.flush()
        self._flushed_at = time.monotonic()
        self._retry_s = _FIRST_RETRY_S if is_committed else min(2 * self._retry_s, _LAST_RETRY_S)
        if self._flushed_at - self._kept_house_at >= _HOUSEKEEPING_S and is_committed:
            await self._keep_house()

    async def _reopen(self) -> None:
        writer, self.writer = self.writer, None
        failing = None
        if writer is not None:
            self.error = writer.failing
            failing = writer.failing if writer.failing in _LASTING else None
            with suppress(sqlite3.Error):
                await writer.abandon()
        try:
            await self._open(failing)
        except HearthNetError as error:
            log.warning("telemetry.db cannot be opened again", extra={"error": error.message})
            self._retry_s = min(2 * self._retry_s, _REOPEN_RETRY_S)
            return
        if failing is None:
            log.warning("telemetry.db was opened again", extra={"path": str(self.path)})

    async def _keep_house(self) -> None:
        """Takes in the boxes of other processes that have ended, and notes what this run cost the disk."""
        self._kept_house_at = time.monotonic()
        self._keep_box()
        writer = self.writer
        own = None if self._recorder.box is None else self._recorder.box.path
        if writer is None:
            return
        try:
            await writer.note_wear(self._run[0])
            if dead_boxes(self.path.parent, own):
                # A second connection writes, but not at the same time: this thread is waiting here.
                with closing(open_database(self.path, TELEMETRY)) as connection:
                    connection.execute(f"PRAGMA max_page_count = {self.budget.pages:d}")
                    tell(recover(connection, self.path.parent, own, self._recorder.next_seq))
                await writer.read_rings()
        except (sqlite3.Error, HearthNetError) as error:
            log.warning("a black box cannot be taken in", extra={"error": str(error)})

    async def _end(self) -> None:
        if self.writer is not None:
            try:
                self.is_clean = await self.writer.close(self._run[0])
            except sqlite3.Error as error:
                log.warning("telemetry could not be closed in good order", extra={"error": str(error)})
