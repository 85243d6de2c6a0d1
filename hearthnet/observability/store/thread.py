"""The telemetry thread: opens the store, commits buffered records, runs housekeeping, and reopens after a failure.

It has an event loop of its own, so records are committed whatever the program's loop is doing. When idle it sleeps
until the next record arrives, or for a minute.

Guarantees:
    - A record waits at most `interval_s` for its commit while the disk works; a notable one is committed at once.
    - The thread survives every failure of the disk: it tries again, ever more slowly, up to every few seconds.
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
from hearthnet.observability.store.pacer import Pace, Pacer
from hearthnet.observability.store.recovery.opening import log_recovery, open_store
from hearthnet.observability.store.recovery.recover import Recovery, leftover_boxes, recover_boxes
from hearthnet.observability.store.rows import LOGS, TRACES
from hearthnet.observability.store.writer import Writer

__all__ = ["StoreThread"]

log = get_logger(__name__)

_LASTING: Final = ("io", "read_only", "other")  # failures that reopening need not have ended
_NUMBERS_IN_HAND: Final = 100_000
_FLUSH_POLL_S: Final = 0.002  # a commit takes a millisecond or two; only tests and shutdown wait for one


class StoreThread:
    """Writes the store in `path` until it is stopped.

    Args:
        path: of the database.
        recorder: whose buffers it empties, and which gets its box here.
        run: the row of this run.
        budget: the bounds of everything on disk.
        pace: how often to commit.
        lock: of the store.

    Attributes:
        pacer: decides when to work.
        error: why there is no store at present, or None.
        recovered: the result of the last opening's recovery.
        is_clean: whether the run ended cleanly, with all records committed.
    """

    def __init__(
        self, path: Path, recorder: Recorder, run: rows.Run, budget: Budget, pace: Pace, lock: StoreLock
    ) -> None:
        self.path = path
        self.budget = budget
        self.error: str | None = None
        self.is_clean = False
        self.recovered = Recovery()
        self.writer: Writer | None = None
        self._recorder = recorder
        self._run = run
        self._keep_free_mb = pace.keep_free_mb
        self.pacer = Pacer(recorder, pace)
        self._lock = lock
        self._is_low = False
        self._was_open = False
        self._thread: threading.Thread | None = None

    # --- from other threads

    def start(self, timeout_s: float) -> None:
        """Starts the thread and waits until the store is open and recovery is committed.

        Raises:
            StoreInUseError: raised when another process writes the store; the thread has ended.
            HearthNetError: raised when the store cannot be opened now; the thread keeps trying.
        """
        ready: Future[None] = Future()
        # A daemon, so that a program that never closes still ends; `atexit` closes before daemon threads are stopped.
        # aiosqlite's own thread inherits this from the thread that starts it.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run_until_stopped(ready)), name="hearthnet-telemetry", daemon=True
        )
        self._thread.start()
        try:
            ready.result(timeout_s)
        except TimeoutError as error:
            raise StoreError(f"{self.path} could not be opened within {timeout_s:.0f} s") from error

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was recorded before this call is committed; returns False after `timeout_s`."""
        ends_at = time.monotonic() + timeout_s
        waited_for = self._pending()
        while self._thread is not None and self._thread.is_alive():
            if waited_for.isdisjoint(self._pending()):
                return True
            if time.monotonic() > ends_at:
                return False
            self.pacer.wake(at_once=True, skip_gap=True)
            time.sleep(_FLUSH_POLL_S)
        return waited_for.isdisjoint(self._pending())

    def _pending(self) -> set[int]:
        """Returns the numbers of the records that are not committed."""
        traces = {TRACES.seq_of(record) for record in self._recorder.traces.snapshot()}
        return traces | {LOGS.seq_of(record) for record in self._recorder.logs.snapshot()}

    def stop(self, timeout_s: float) -> None:
        """Ends the thread, after it has committed what it can of the buffers within `timeout_s`."""
        self.pacer.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)

    # --- in the thread

    async def _run_until_stopped(self, ready: Future[None]) -> None:
        self.pacer.attach()
        try:
            await self._open_first(ready)
            while not self.pacer.is_stopping:
                await self.pacer.wait(is_failing=self.writer is None or self.writer.failing is not None)
                await self._work_guarded()
        finally:
            await self._end()
            self.pacer.detach()
            # Last: only the holder of the lock may write, and until now this thread may have been writing.
            self._lock.release()

    async def _work_guarded(self) -> None:
        try:
            await self._work()
        except Exception as error:  # the thread must not end: it reopens the store later
            self.error = f"{type(error).__name__}: {error}"
            self.pacer.back_off()
            writer, self.writer = self.writer, None
            if writer is not None:
                await writer.abandon()
            log.exception("unexpected error in the telemetry thread")

    async def _open_first(self, ready: Future[None]) -> None:
        try:
            await self._open()
        except StoreInUseError as error:
            self.pacer.is_stopping = True
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
            failing: why commits failed, until a commit succeeds.

        Raises:
            HearthNetError: raised when it cannot be opened.
        """
        try:
            self._lock.acquire()
            box = self._recorder.box
            recovery = open_store(self.path, self.budget, self._run[0], box)
            if self.pacer.is_stopping and self._was_open:  # `close` has timed out: the next start finds the box
                raise StoreError("telemetry is closing")
            # Pending records were numbered before the database could be read.
            floor_seq = recovery.last_seq if self._recorder.has_pending() and not self._was_open else 0
            if not self._was_open and not self._recorder.has_pending():
                self._recorder.number_from(recovery.last_seq + 1)
            elif self._recorder.next_seq() <= recovery.last_seq:
                # Not just above: threads that hold the old counter use it for a moment longer.
                self._recorder.number_from(recovery.last_seq + _NUMBERS_IN_HAND)
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
        self.recovered = recovery
        self._was_open = True
        if (file := log_file()) is not None:
            file.limit(self.budget.rest - disk_bytes(self.path.parent, None)["quarantine"])
        self._ensure_box()
        self._check_disk()

    def _ensure_box(self) -> None:
        """Creates or restores the box if it is missing; if that fails, the next round tries again."""
        box = self._recorder.box
        try:
            if box is None:
                # The budget has space for it: the boxes of all ended processes have been recovered and removed.
                run_id, node_id, version = self._run[:3]
                header = new_header(layout.NODE, run_id, version, node_id, self.budget.primary_box())
                self._recorder.keep_in(BlackBox(box_path(self.path.parent, run_id), header))
            elif not box.is_in_place():
                box.restore()
        except OSError as error:
            log.warning(
                "there is no black box: a kill would cost pending records",
                extra={"error": str(error)},
            )

    def _check_disk(self) -> None:
        if self.writer is None:
            return
        is_low = self.writer.quota.check_free(self._keep_free_mb * MB)
        if is_low == self._is_low:
            return
        self._is_low = is_low
        if (file := log_file()) is not None:
            file.is_shedding = is_low
        log.warning(
            "the disk is nearly full: telemetry does not grow, the JSON log drops records below warning"
            if is_low
            else "the disk has space again",
            extra={"path": str(self.path.parent), "keep_free_mb": self._keep_free_mb},
        )

    async def _work(self) -> None:
        is_awaited = self.pacer.begin()
        if self.writer is None or self.writer.must_reopen:
            await self._reopen()
        if self.writer is None:
            return
        self._ensure_box()
        if self._recorder.box is not None:
            self._recorder.box.note_alive()
            self._recorder.box.prepare()
        self._check_disk()
        self.writer.is_gentle = not is_awaited and not self._recorder.is_filling()
        log_dropped()
        is_committed = await self.writer.flush()
        self.pacer.flushed(is_committed=is_committed)
        if is_committed and self.pacer.is_housekeeping_due():
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
            log.warning("telemetry.db cannot be reopened", extra={"error": error.message})
            self.pacer.open_failed()
            return
        if failing is None:
            log.warning("telemetry.db was reopened", extra={"path": str(self.path)})

    async def _keep_house(self) -> None:
        """Recovers the boxes of other processes that have ended, and records what this run has written."""
        self._ensure_box()
        writer = self.writer
        own = None if self._recorder.box is None else self._recorder.box.path
        if writer is None:
            return
        try:
            await writer.record_wear(self._run[0])
            if leftover_boxes(self.path.parent, own):
                # A second connection that writes, but never at the same time as the writer: this thread blocks here.
                with closing(open_database(self.path, TELEMETRY)) as connection:
                    connection.execute(f"PRAGMA max_page_count = {self.budget.pages:d}")
                    log_recovery(recover_boxes(connection, self.path.parent, own, self._recorder.next_seq))
                await writer.read_rings()
        except (sqlite3.Error, HearthNetError) as error:
            log.warning("a black box cannot be recovered", extra={"error": str(error)})

    async def _end(self) -> None:
        if self.writer is not None:
            try:
                self.is_clean = await self.writer.close(self._run[0])
            except sqlite3.Error as error:
                log.warning("telemetry could not be closed cleanly", extra={"error": str(error)})
