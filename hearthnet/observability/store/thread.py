"""The telemetry thread: opens the store, commits buffered records, runs housekeeping, and reopens after a failure.

It has an event loop of its own, so records are committed whatever the program's loop is doing. When idle it sleeps
until the next record arrives, or for a minute.

Each process of a store has such a thread, and commits what it has recorded itself. The store's lock is for
housekeeping alone: the process that gets it recovers the boxes of ended processes, or moves a damaged database aside.

Guarantees:
    - A record waits at most `interval_s` for its commit while the disk works; a notable one is committed at once.
    - The thread survives every failure of the disk: it tries again, ever more slowly, up to every few seconds.
Assumes:
    - The recorder's buffers are emptied by this thread alone.
    - `pause` is called before the process forks, `resume` after it: a child that opens the database while its parent's
      connection is open would get no real lock. The thread ends, too, and another goes on after the fork: a process
      with several threads is not safe to fork, and from Python 3.12 on is warned of it.
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

from hearthnet.database import PATIENT_S, TELEMETRY, open_database
from hearthnet.errors import HearthNetError, StoreError, UnusableStoreError
from hearthnet.forensics import box as layout
from hearthnet.observability.logging import get_logger, log_dropped, log_file
from hearthnet.observability.process.threads import has_ended
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, box_path, new_header
from hearthnet.observability.records.record import error_text
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import MB, NODE_DUE_BYTES, PROGRAM_DUE_BYTES, Budget, disk_bytes
from hearthnet.observability.store.cursors import Cursors
from hearthnet.observability.store.lock import StoreInUseError, StoreLock, turn_in
from hearthnet.observability.store.pacer import Pace, Pacer
from hearthnet.observability.store.recovery.box_budget import compact, keep_boxes_within
from hearthnet.observability.store.recovery.opening import NODE_RESERVE, Own, join_store, keep_house, open_store
from hearthnet.observability.store.recovery.recover import Recovery, has_leftovers
from hearthnet.observability.store.ring import Settled
from hearthnet.observability.store.writer import CORRUPT, GONE, Writer

__all__ = ["StoreThread"]

log = get_logger(__name__)

_LASTING: Final = ("io", "read_only", "other")  # failures that reopening need not have ended
_PROGRAM_RESERVE: Final = 1_000_000  # of the database, by a program that is no node: a cron job must not cost 16 MB
_END_S: Final = 1.5  # for which a clean stop waits for other processes that write
_HOUSE_S: Final = 50.0  # a little less than between two rounds of a process
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
        was_open: whether the store has been open: the database knows this run.
        cursors: what the exporter has sent, to be committed too.
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
        self._is_node = run[1] is not None
        self._settled = Settled()
        self.cursors = Cursors()
        self._keep_free_mb = pace.keep_free_mb
        self.pacer = Pacer(recorder, pace)
        self._lock = lock
        self._is_low = False
        self.was_open = False
        self._lasting: tuple[str | None, str | None] = (None, None)  # a failure that reopening need not end: told once
        self._lost: tuple[int, int] | None = None  # what the database held that was lost or damaged since
        self._doubtful_to = 0
        self._is_without_box = False
        self._told: str | None = None  # the last failure to work, or to open the store again; None: it was opened
        self._is_abandoned = False
        self._thread: threading.Thread | None = None
        self._is_refused = False  # this process got no thread, for this or for SQLite
        self._turn = threading.Lock()  # of the two that follow
        self._pause_wanted = False
        self._is_standing = False  # the thread has ended for a fork, and `resume` starts another
        self._resumed = threading.Event()
        self._resumed.set()

    # --- from other threads

    @property
    def error_text(self) -> str | None:
        """Why commits fail at present, in SQLite's words, or None."""
        writer = self.writer
        return self._lasting[1] if writer is None else writer.error

    def start(self, timeout_s: float | None) -> None:
        """Starts the thread and waits until the store is open and recovery is committed; None: does not wait.

        Raises:
            HearthNetError: raised when the store cannot be opened now; the thread keeps trying. Where none can be
                started there is a box all the same, for the next process that opens the store.
        """
        ready: Future[None] = Future()
        try:
            self._begin(ready)
        except (RuntimeError, MemoryError) as error:  # the limit of threads; with Python 3.12, the interpreter ends
            self._is_refused = True
            self.error = f"no thread can be started: {error or 'no memory'}"
            self.ensure_box()
            raise StoreError(self.error) from error
        if timeout_s is None:
            return
        try:
            ready.result(timeout_s)
        except TimeoutError as error:
            raise StoreError(f"{self.path} could not be opened within {timeout_s:.0f} s") from error

    def _begin(self, ready: Future[None] | None) -> None:
        """Starts the thread; `ready` is for the opening, None to go on after a fork.

        Raises:
            RuntimeError: raised when this process gets no thread.
        """
        before = self._thread

        def live() -> None:
            if before is not None:  # a pause may have been too short for its end
                before.join()
            # A program that debugs its own loop (-X dev) need not hear that a commit was slow.
            asyncio.run(self._run_until_stopped(ready), debug=False)

        # A daemon, so that a program that never closes still ends; `atexit` closes before daemon threads are stopped.
        # aiosqlite's own thread inherits this from the thread that starts it.
        thread = threading.Thread(target=live, name="hearthnet-telemetry", daemon=True)
        thread.start()
        self._thread = thread

    def _is_at_work(self) -> bool:
        """Returns whether there is a thread, or will be one after a fork."""
        return self._thread is not None and (not self._resumed.is_set() or self._thread.is_alive())

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was recorded before this call is committed; returns False after `timeout_s`."""
        ends_at = time.monotonic() + timeout_s
        waited_for = self._pending()
        while self._is_at_work():
            if waited_for.isdisjoint(self._pending()):
                return True
            if time.monotonic() > ends_at:
                return False
            self.pacer.wake(at_once=True, skip_gap=True)
            time.sleep(_FLUSH_POLL_S)
        return waited_for.isdisjoint(self._pending())

    def _pending(self) -> set[int]:
        """Returns the numbers of the records that are not committed."""
        return set(self._recorder.pending_numbers())

    def stop(self, timeout_s: float) -> None:
        """Ends the thread, after it has committed what it can of the buffers within `timeout_s`."""
        self.pacer.stop()
        ends_at = time.monotonic() + timeout_s
        while self._thread is not None and self._is_at_work() and (left := ends_at - time.monotonic()) > 0:
            self._resumed.wait(left)  # another thread forks
            self._thread.join(max(0.0, ends_at - time.monotonic()))
        self._is_abandoned = self._is_at_work()  # it must not open the store any more: the box is left to others

    def suspect(self) -> None:
        """Has the next round check the database, because damage was seen: it is opened anew if that is so."""
        if (writer := self.writer) is not None:
            writer.is_suspect = True
            self.pacer.wake(at_once=True, skip_gap=True)

    def pause(self, timeout_s: float) -> bool:
        """Makes the thread disconnect and end until `resume`; returns False if it has not within `timeout_s`."""
        thread = self._thread
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            return thread is not threading.current_thread()
        self._resumed.clear()
        self._pause_wanted = True
        if (writer := self.writer) is not None:
            writer.must_yield = True
        self.pacer.wake(at_once=True, skip_gap=True)
        return has_ended(thread, timeout_s)

    def resume(self) -> None:
        """Has another thread connect again and go on."""
        with self._turn:
            self._pause_wanted = False
            is_standing, self._is_standing = self._is_standing, False
        try:
            if is_standing:
                self._begin(None)
        except RuntimeError as error:  # no more threads: the box has the records
            self._is_refused = True
            self.error = str(error)
            log.warning("telemetry is kept in the black box only", extra={"reason": self.error})
        finally:
            self._resumed.set()

    # --- in the thread

    async def _run_until_stopped(self, ready: Future[None] | None) -> None:
        is_leaving = False
        self.pacer.attach()
        try:
            if ready is None:
                await self._reconnect()
                await self._work_guarded()
            else:
                await self._open_first(ready)
            is_leaving = await self._work_until_stopped()
        finally:
            if not is_leaving:
                await self._end()
            self.pacer.detach()

    async def _work_until_stopped(self) -> bool:
        """Works; returns True if it ends for a fork, False if for good."""
        while not self.pacer.is_stopping:
            if not self._pause_wanted:  # a round of work takes a wake that was meant for this
                await self.pacer.wait(is_failing=self.writer is None or self.writer.failing is not None)
            if self._pause_wanted and await self._stand_aside():
                return True
            await self._work_guarded()
        return False

    async def _stand_aside(self) -> bool:
        """Disconnects; returns whether the process still waits for that to fork, otherwise connects again."""
        if self.writer is not None:
            await self.writer.disconnect()
        with self._turn:
            self._is_standing = self._pause_wanted
            if self._is_standing:
                return True
        await self._reconnect()
        return False

    async def _reconnect(self) -> None:
        writer = self.writer
        if writer is not None and not writer.must_reopen:
            writer.must_yield = False
            try:
                await writer.connect()
            except Exception as error:  # the thread must not end: the next round reopens, and reports it  # noqa: BLE001
                self._is_refused = isinstance(error, RuntimeError)
                writer.must_reopen = True

    async def _work_guarded(self) -> None:
        try:
            await self._work()
        except Exception as error:  # the thread must not end: it reopens the store later
            self.error = error_text(error)
            self.pacer.back_off()
            writer, self.writer = self.writer, None
            if writer is not None:
                await writer.disconnect()
            if self._is_news(self.error):
                log.exception("unexpected error in the telemetry thread")

    def _is_news(self, error: str) -> bool:
        """Returns whether this failure is another than the last one logged: each try that fails would log it again.

        Each is a record, so hours of them would take the place of the program's.
        """
        is_news = error != self._told
        self._told = error
        return is_news

    async def _open_first(self, ready: Future[None]) -> None:
        try:
            await self._open()
        except HearthNetError as error:
            ready.set_exception(error)
        except Exception as error:  # reported to the thread that waits in `start`  # noqa: BLE001
            self.error = error_text(error)
            ready.set_exception(StoreError(f"{self.path} could not be opened: {error}"))
        else:
            ready.set_result(None)

    async def _open(self) -> None:
        """Opens the store, for the first time or again.

        Raises:
            HearthNetError: raised when it cannot be opened.
        """
        try:
            recovery = self._prepare()
            if self._is_abandoned or (self.pacer.is_stopping and self.was_open):  # the next start finds the box
                raise StoreError("telemetry is closing")
            self.ensure_box()  # first: a run that is in the database and has no box is not known as dead for a minute
            writer = Writer(
                self.path,
                self._recorder,
                budget=self.budget,
                settled=self._settled,
                doubtful_to=self._doubtful_to,
                wal_due=NODE_DUE_BYTES if self._is_node else PROGRAM_DUE_BYTES,
                cursors=self.cursors,
            )
            await writer.open(self._run, lambda: not self._is_abandoned)
        except (sqlite3.Error, OSError, RuntimeError, MemoryError) as error:  # no memory; no more threads
            self._is_refused = isinstance(error, RuntimeError)
            self.error = str(error) or type(error).__name__
            raise StoreError(f"{self.path} could not be opened: {self.error}") from error
        except HearthNetError as error:
            self.error = error.message
            raise
        self._told = None
        writer.keep_failing(*self._lasting)
        self.writer = writer
        self.error = None
        self._lost = None
        if recovery is not None:
            self.recovered = recovery
        self.was_open = True
        if (file := log_file()) is not None:
            aside = disk_bytes(self.path.parent, None)["quarantine"]
            file.limit(self.budget.rest - min(aside, self.budget.quarantine))  # more only where others' tables are kept
        self._check_disk()

    def _prepare(self) -> Recovery | None:
        """Checks the database and recovers ended runs, or leaves that to the process that does it at this moment."""
        box = self._recorder.box
        own = None
        if box is not None and self.was_open:  # else nothing is committed
            pending = self._pending()
            self._doubtful_to = max(self._settled.highest(), max(pending, default=0))
            own = Own(box, pending, self._doubtful_to, self._lost or (0, 0))
        reserve = NODE_RESERVE if self._is_node else _PROGRAM_RESERVE
        try:
            # A short program must not pay for it each time; but a store that failed since may be damaged.
            if not (self._is_node or self.was_open or self._is_house_due()):
                with suppress(UnusableStoreError):  # then it is: the file must be moved aside
                    join_store(self.path, own, reserve)
                    return None
            self._lock.acquire()
        except StoreError as error:  # another process keeps house; or there can be no lock, which commits do not need
            try:
                join_store(self.path, own, reserve)
            except HearthNetError as second:
                raise (second if isinstance(error, StoreInUseError) else error) from second
            if not isinstance(error, StoreInUseError):
                fields = {"error": error.message, "hint": error.hint}
                log.warning("black boxes of ended runs cannot be recovered", extra=fields)
            return None
        try:
            recovery = open_store(self.path, self.budget, self._run[0], own, reserve)
            self._lock.mark()
            return recovery
        finally:
            self._lock.release()

    def _is_house_due(self) -> bool:
        own = None if self._recorder.box is None else self._recorder.box.path
        return self._lock.age_s() > _HOUSE_S or not self.path.exists() or has_leftovers(self.path.parent, own)

    def ensure_box(self) -> None:
        """Creates or restores the box if it is missing; if that fails, the next round tries again."""
        box = self._recorder.box
        try:
            if box is None:
                with turn_in(self.path.parent):  # else those that begin at once would all find space for one more
                    self._make_box()
            elif not box.is_in_place():
                was_cut = box.was_cut
                box.restore()
                self._is_without_box = False
                if was_cut:  # pending records are written once more, as others may be lost
                    box.note_committed(len(self._recorder.traces), len(self._recorder.logs), 0)
                    self._recorder.keep_in(box)
            elif not self._is_node and self._recorder.is_filling():
                with turn_in(self.path.parent):
                    self._grow_box(box)
        except OSError as error:
            self._tell_boxless(str(error))

    def _make_box(self) -> None:
        self._shrink_dead_boxes()
        programs = self._boxes_of_programs()
        sizes = self.budget.node_box(programs) if self._is_node else self.budget.program_box()
        if not self._is_node and programs + sizes.total > self.budget.program_boxes:
            self._tell_boxless("there are as many boxes as max_disk_mb allows")
            return
        self._recorder.keep_in(self._new_box(sizes))
        self._is_without_box = False

    def _tell_boxless(self, reason: str) -> None:
        """Logs it once: a warning is a record, whose commit is the next round, which would tell it again."""
        if not self._is_without_box:
            self._is_without_box = True
            log.warning(
                "there is no black box: a kill would cost pending records",
                extra={"error": reason, "path": str(self.path.parent)},
            )

    def _grow_box(self, box: BlackBox) -> None:
        """Gives a program that records fast a larger box, as far as the budget of all boxes goes."""
        held = box.header
        sizes = Sizes(4 * held.trace_bytes, 4 * held.log_bytes, held.entries)
        taken = disk_bytes(self.path.parent, None)["box"]
        # Both files are there for a moment.
        if taken + sizes.total <= self.budget.boxes:
            box.grow(sizes)
            self._recorder.fit(box)

    def _new_box(self, sizes: Sizes) -> BlackBox:
        run_id, node_id, version = self._run[:3]
        role = layout.NODE if self._is_node else layout.LIBRARY
        header = new_header(role, run_id, version, node_id, sizes, self._run[-2] or "")
        return BlackBox(box_path(self.path.parent, run_id), header)

    def keep_pending(self) -> None:
        """Leaves a box with what could not be committed, for the next process that can; the thread has ended.

        Raises:
            OSError: raised when the disk has no space for it.
        """
        box = self._recorder.box
        if box is None:
            box = self._new_box(self.budget.program_box())
            self._recorder.keep_in(box)
        # The next database may lack committed records, too: then all of the box stays, and the next start recovers it.
        is_suspect = self._lost is not None or (self.writer is not None and self.writer.failing in (GONE, CORRUPT))
        if is_suspect:
            box.forget_committed()
        box.note_ended(rows.now_us(), is_committed=False)
        box.close(remove=False)
        if not is_suspect:
            compact(box.path)
            self._shrink_dead_boxes()

    def recover_own(self) -> bool:
        """Recovers the box that `keep_pending` has left, without a thread if there could be none; returns whether.

        As the next process would: a child that records something and ends, with Python 3.12, is too late for any.
        """
        if not self._is_refused:
            return False
        try:
            self._lock.acquire()
            try:
                open_store(self.path, self.budget, self._run[0], None, _PROGRAM_RESERVE)
                self._lock.mark()
            finally:
                self._lock.release()
        except (HearthNetError, OSError):  # then the next process does
            return False
        return self._recorder.box is not None and not self._recorder.box.path.exists()

    def _shrink_dead_boxes(self) -> None:
        """Makes the boxes of ended runs fit into the budget, beside a node's."""
        try:
            self._lock.acquire()
        except HearthNetError:  # another process keeps house, or the folder cannot be written
            return
        try:
            keep_boxes_within(self.path.parent, self.budget.program_boxes, None)
        finally:
            self._lock.release()

    def _boxes_of_programs(self) -> int:
        """Returns the bytes of all boxes but a node's."""
        total = 0
        for path in layout.boxes_in(self.path.parent):
            header = layout.header_of(path)
            if header is None or header.role != layout.NODE:
                with suppress(OSError):  # recovered since it was listed
                    total += path.stat().st_size
        return total

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
        must_drain = self.pacer.begin()
        self.ensure_box()
        if self.writer is None or self.writer.must_reopen:
            await self._reopen()
        if self.writer is None:
            return
        if self._recorder.box is not None:
            self._recorder.box.note_alive()
            self._recorder.box.prepare()
        self._check_disk()
        self.writer.is_gentle = not must_drain and not self._recorder.is_filling()
        log_dropped()
        is_committed = await self.writer.flush()
        self.pacer.flushed(is_committed=is_committed)
        if is_committed and self.pacer.is_housekeeping_due():
            await self._keep_house()

    async def _reopen(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            self.error = writer.failing
            self._lasting = (writer.failing, writer.error) if writer.failing in _LASTING else (None, None)
            if writer.failing in (GONE, CORRUPT):
                self._lost = writer.held
            with suppress(sqlite3.Error):
                await writer.disconnect()
        try:
            await self._open()
        except HearthNetError as error:
            if self._is_news(error.message):
                log.warning("telemetry.db cannot be reopened", extra={"error": error.message})
            self.pacer.open_failed()
            return
        if self._lasting[0] is None:
            log.warning("telemetry.db was reopened", extra={"path": str(self.path)})

    async def _keep_house(self) -> None:
        """Records what this run has written, and recovers the boxes of other processes that have ended."""
        if self.writer is None:
            return
        own = None if self._recorder.box is None else self._recorder.box.path
        try:
            await self.writer.record_wear(self._run[0])
            if not self._is_house_due():  # another process has done it
                return
            self._lock.acquire()
            try:
                # A second connection that writes, but never at the same time as the writer: this thread blocks here.
                with closing(open_database(self.path, TELEMETRY, PATIENT_S)) as connection:
                    connection.execute(f"PRAGMA max_page_count = {self.budget.pages:d}")
                    keep_house(connection, self.path.parent, self._run[0], own)
                self._lock.mark()
            finally:
                self._lock.release()
        except StoreInUseError:  # another process keeps house
            return
        except (sqlite3.Error, HearthNetError) as error:
            log.warning("a black box cannot be recovered", extra={"error": error})

    async def _end(self) -> None:
        if self.writer is not None:
            try:
                self.is_clean = await self.writer.close(self._run[0], _END_S)
            except Exception as error:  # no memory, say: the box has all that is not committed  # noqa: BLE001
                self.error = error_text(error)
                log.warning("telemetry could not be closed cleanly", extra={"error": self.error})
