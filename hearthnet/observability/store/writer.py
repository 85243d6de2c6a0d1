"""Takes batches from the recorder and commits them, on one connection, in the telemetry thread.

A flush is one transaction per batch: evicted rows, new traces, new log records, a row in `gaps` for dropped records,
and the rings' state. The records leave the buffer after COMMIT. When a commit fails they stay, and the next flush tries
again. Other processes write in transactions of their own, so nothing about the database is remembered from one to the
next.
Written here because a driver or ORM executes statements: it keeps no failed batch, no ring and no budget on a full
disk.

Guarantees:
    - In this process only this connection writes and checkpoints, but for housekeeping, which runs between flushes.
    - A failed flush drops nothing, is counted each time and logged once; the next success is logged too.
    - Database and WAL stay within their budget; on a full disk rows are replaced in place.
Assumes:
    - All methods run on one event loop; none is called while another is awaiting.

The first statement that writes begins an immediate transaction: each statement is a trip to the connection's thread,
and a flush of one batch makes half a dozen.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

import aiosqlite
import orjson

from hearthnet.constants import MAX_GAP_ROWS, MAX_RUN_ROWS, TRACE_RING_BUFFER
from hearthnet.database import (
    BUSY_TIMEOUT_S,
    PARTS,
    PATIENT_S,
    WRITER_PRAGMAS,
    CeilingError,
    Connection,
    connect_read_only,
    connected_beside,
    reason_of,
    words_of,
)
from hearthnet.errors import StoreError
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.process.threads import has_ended
from hearthnet.observability.records.record import KeptTrace, LogFields
from hearthnet.observability.records.recorder import Buffer, Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import (
    CROWDED,
    NODE_DUE_BYTES,
    Budget,
    DiskQuota,
    Wal,
    damage_in,
    holders,
)
from hearthnet.observability.store.cursors import Cursors, Evicted, Moves
from hearthnet.observability.store.reader import being_written
from hearthnet.observability.store.ring import (
    BEGIN,
    SET,
    Settled,
    State,
    is_record_at_fault,
    oldest_of,
    surplus,
    without_oldest,
)
from hearthnet.observability.store.rows import LOGS, TRACES, Table
from hearthnet.sidecars import because

__all__ = ["BATCH_BYTES", "CORRUPT", "GONE", "Writer"]

log = get_logger(__name__)

# About 5 ms of SQLite per transaction: short for readers, and for threads that wait for the interpreter's lock.
BATCH_ROWS: Final = 1_000
BATCH_BYTES: Final = 2_000_000  # a transaction's share of the WAL
_ROW_BYTES: Final = 250  # ids, names and numbers of a row, without its JSON
# Between two statements. They release the interpreter's lock for a little less than a thread takes to wake up: without
# a pause, the loop's lag while a batch is written is twice as high in one case of ten.
_PAUSE_S: Final = 0.000_1
PINNED: Final = "wal_pinned"
GONE: Final = "gone"
CORRUPT: Final = "corrupt"
LOCKED: Final = "locked"
SETTLED: Final = "SELECT (SELECT value FROM state WHERE name = ?)"
_PATIENT_TRIES: Final = 3  # another process that commits takes milliseconds: a lock that lasts is worth a word

Record = TypeVar("Record", KeptTrace, LogFields)

_written_traces = metrics.telemetry_written_total.labels(kind="trace")
_written_logs = metrics.telemetry_written_total.labels(kind="log")
_dropped = metrics.telemetry_dropped_total.labels(reason="buffer_full")
_poisoned = metrics.telemetry_dropped_total.labels(reason="poison")


class RunClosedError(Exception):
    """Raised when this run was taken for dead, or did not end in time: its records may be in the database already."""


class Writer:
    """Owns the one connection with which this process writes telemetry.db.

    Args:
        path: of a database that is open to this program.
        recorder: whose buffers it empties.
        budget: the bounds of database and WAL.
        ring_rows: the size of either ring.
        settled: of this run.
        doubtful_to: the number up to which the database may have pending records: the store is opened again.
        wal_due: bytes of WAL that this process writes between two checkpoints.
        cursors: what the exporter has sent, to be committed too.

    Attributes:
        failing: the reason why commits fail at present, in one word; None while they succeed.
        error: the same in SQLite's words.
        held: how many traces and log records the database had after the last commit.
        is_suspect: whether damage was seen, in this process or by the doctor: the next flush checks that.
        is_gentle: whether to pause for other threads now and then, because no caller waits for the commit.
        must_yield: whether to leave the rest to the next flush, because the process is about to fork.
        must_reopen: whether this connection is of no more use: the file is gone, damaged, or fails repeatedly.
    """

    def __init__(
        self,
        path: Path,
        recorder: Recorder,
        *,
        budget: Budget | None = None,
        ring_rows: int = TRACE_RING_BUFFER,
        settled: Settled | None = None,
        doubtful_to: int = 0,
        wal_due: int = NODE_DUE_BYTES,
        cursors: Cursors | None = None,
    ) -> None:
        self._path = path
        self._recorder = recorder
        self._ring_rows = ring_rows
        self._db: aiosqlite.Connection
        self._worker: threading.Thread | None = None
        budget = budget or Budget(256)
        self.wal = Wal(path, budget, wal_due)
        self.quota = DiskQuota(path, budget)
        self.settled = settled or Settled()
        self.cursors = cursors or Cursors()
        self.failing: str | None = None
        self.error: str | None = None
        self.held = (0, 0)
        self._committed_to = 0
        self.is_suspect = False
        self.must_reopen = False
        self.must_yield = False
        self.is_gentle = False
        self._failures = 0
        self._is_told = False  # that commits fail
        self._doubtful_to = doubtful_to
        self._is_doubtful = doubtful_to > 0
        self._is_singly = False  # after a batch with a row that cannot be stored
        self._gaps: list[rows.Gap] = []
        self._poisoned: list[rows.Gap] = []  # for the records of this batch that cannot be stored
        self._evicted: Evicted = []  # those that may be on their way to a backend
        self._batches_after_drops = 0
        self._commits = self._commits_told = 0

    def keep_failing(self, reason: str | None, error: str | None) -> None:
        """Takes over, from the writer before it, that commits fail and that this was logged."""
        self.failing, self.error, self._is_told = reason, error, reason is not None

    async def open(self, run: rows.Run, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Connects, and inserts the row of this run.

        Args:
            run: its row.
            is_wanted: asked last, while no other process can write. False: this one has stopped meanwhile, and left its
                box to the others, which close the run.

        Raises:
            StoreError: raised when it is not wanted any more; the database is as it was.
        """
        await self.connect()
        try:
            await self._be_patient(PATIENT_S)
            await self._db.execute(rows.INSERT_RUN, run)
            if (await self._db.execute(rows.OPEN_RUN, run[:1])).rowcount > 0:  # it was taken for dead, and recovered
                self._doubtful_to = max([self._doubtful_to, *self._recorder.pending_numbers()])
                self._is_doubtful = True
            await self._db.execute(rows.FOLLOW_RUN, (run[0], self.settled.number))
            await self._db.execute(rows.MARK_DATABASE)
            await self._db.execute(rows.TRIM_RUNS, {"node_id": run[1], "size": MAX_RUN_ROWS})
            if not is_wanted():
                raise StoreError("telemetry is closing")
            await self._db.commit()
            await self._be_patient(BUSY_TIMEOUT_S)
        except BaseException:
            await self.disconnect()
            raise

    async def _be_patient(self, seconds: float) -> None:
        """Sets how long a statement waits for another process that writes."""
        await self._db.execute(f"PRAGMA busy_timeout = {int(seconds * 1_000):d}")

    async def connect(self) -> None:
        """Connects, for the first time or after `disconnect`."""
        self._db = await aiosqlite.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level="IMMEDIATE", factory=self._make
        )
        try:
            for pragma in WRITER_PRAGMAS:
                await self._db.execute(pragma)
            await self._db.execute_fetchall("SELECT count(*) FROM state")  # opens the WAL
            await self.wal.prepare(self._db)
            await self.quota.prepare(self._db)
            being_written[self._path.absolute()] = self.quota.identity()
        except BaseException:
            await self._db.close()
            raise

    def _make(self, *arguments: Any, **options: Any) -> Connection:
        """Makes the connection, in the thread that executes its statements."""
        self._worker = threading.current_thread()
        return Connection(*arguments, **options)

    async def disconnect(self) -> None:
        """Disconnects. Where damage was found nothing is written: the last connection's checkpoint would spread it."""
        with connected_beside(self._path) if self.failing == CORRUPT else nullcontext():
            await self._db.close()
        if self._worker is not None:
            has_ended(self._worker, 1.0)  # it has nothing left to do
        being_written.pop(self._path.absolute(), None)

    async def flush(self, *, is_last: bool = False) -> bool:
        """Commits all that is buffered; returns True if that succeeded.

        If no caller waits (`is_gentle`), records that arrive during the last commit are left to the next flush: at a
        thousand calls a second there are always some, and each commit is an fsync. The last flush takes everything.
        """
        buffered = len(self._recorder.traces) + len(self._recorder.logs)
        while True:
            if not self._has_its_files():
                return False
            traces, logs, row_bytes = self._take()
            self._record_drops()
            if not (traces or logs or self._gaps or self._must_save_cursors(is_last=is_last)):
                return True
            started = perf_counter()
            try:
                if not await self.wal.has_space(self._db, row_bytes):
                    return self._fail(PINNED, "a reader keeps the WAL from being reused")
                numbers = await self._commit(traces, logs, row_bytes)
            except Exception as error:  # any failure of SQLite or the disk; the records are kept  # noqa: BLE001
                if not await self._can_retry(error):
                    return self._fail(*self._told(error))
                continue
            self._confirm(traces, logs, row_bytes, numbers)
            metrics.telemetry_flush_seconds.observe(perf_counter() - started)
            await self._checkpoint()
            buffered -= len(traces) + len(logs)
            if not is_last and (self.must_yield or (self.is_gentle and buffered <= 0)):
                return True

    def _must_save_cursors(self, *, is_last: bool) -> bool:
        return self.cursors.has_moves and self.cursors.is_due(is_last=is_last)

    def _has_its_files(self) -> bool:
        """Returns whether database, WAL and -shm are those that this process uses, and whole; else the flush fails."""
        is_whole = self.quota.is_whole()
        if is_whole is None:
            return self._fail(GONE, "the file was moved or removed")
        if not is_whole or self.is_suspect:
            if found := damage_in(self._path):
                return self._fail(CORRUPT, found)
            self.is_suspect = False
            self.quota.note_sizes()
        return True

    def _told(self, error: Exception) -> tuple[str, str]:
        """Returns the reason of an error, and its words. SQLite says of a file at its ceiling that the disk is full."""
        reason = reason_of(error)
        if reason == "disk_full" and not self.quota.is_disk_short and self.quota.has_foreign_tables():
            return "ceiling", CROWDED
        return reason, words_of(error) + because(self._path, error)

    def _take(self) -> tuple[list[KeptTrace], list[LogFields], int]:
        limit = self.quota.batch_rows(BATCH_ROWS)
        traces, trace_bytes = _within(self._recorder.traces, self._recorder.traces.take(limit), rows.trace_sizes)
        logs, log_bytes = _within(self._recorder.logs, self._recorder.logs.take(limit), rows.log_sizes)
        return traces, logs, trace_bytes + log_bytes

    def _record_drops(self) -> None:
        buffers = {"trace": self._recorder.traces, "log": self._recorder.logs}
        for kind, buffer in buffers.items():
            dropped = buffer.take_dropped()
            if dropped:
                _dropped.inc(dropped)
                # The batch in flight may be older than what was dropped; the one after it is newer.
                self._batches_after_drops = 2
                self._gaps.append((rows.now_us(), kind, "buffer_full", dropped, self._recorder.run_id))
                log.warning("records were dropped: the buffer was full", extra={"kind": kind, "count": dropped})

    async def _commit(self, traces: list[KeptTrace], logs: list[LogFields], row_bytes: int) -> list[int]:
        """Commits a batch; returns the numbers of its records."""
        db = self._db
        numbers = sorted([*map(TRACES.number_of, traces), *map(LOGS.number_of, logs)])
        if numbers and self._batches_after_drops:  # lower ones are committed or dropped
            self.settled.skip(numbers[0] - 1)
        ((state_rows, _, free_pages),) = await db.execute_fetchall(BEGIN)
        state = State(state_rows)
        self._evicted.clear()
        if not state.is_open(self._recorder.run_id):
            raise RunClosedError("another process has closed this run, and recovered its box")
        if self.cursors.has_tried:
            self.cursors.settle_tried(state, self._recorder.run_id)
        if self._is_doubtful:  # a COMMIT that failed may have been written all the same
            traces, logs = await self._unknown(TRACES, traces), await self._unknown(LOGS, logs)
        moves = self.cursors.applied(state) if self.cursors.has_moves else None  # first: rows sent may be evicted now
        # Orders the records of a batch as they were made, whatever their table.
        before = state.seq - (numbers[0] - 1 if numbers else 0)
        traces = await self._make_space(state, TRACES, traces)
        logs = await self._make_space(state, LOGS, logs)
        if not self.quota.fits(free_pages, row_bytes):
            await self._evict_for_space(state, row_bytes)
        self._poisoned = [*await self._insert(TRACES, traces, before), *await self._insert(LOGS, logs, before)]
        state.added(TRACES, TRACES.counts(traces))
        state.added(LOGS, LOGS.counts(logs))
        if self._is_singly:  # not all of them may be there
            await self._recount(state)
        state.take(before + numbers[-1] if numbers else state.seq)
        if gaps := [*self._gaps, *self._poisoned]:
            await db.executemany(rows.INSERT_GAP, [(state.next_seq(), *gap) for gap in gaps])
            await db.execute(rows.TRIM_GAPS, (MAX_GAP_ROWS,))
        state.settle(self._recorder.run_id, self.settled.after(numbers))
        await self._commit_state(state, moves)
        return numbers

    async def _commit_state(self, state: State, moves: Moves | None) -> None:
        """Writes the state and ends the transaction; then what it did for the export is confirmed."""
        is_of_export = moves is not None or bool(self._evicted)
        if is_of_export:
            self.cursors.note_tried(state, self._recorder.run_id, moves, self._evicted)
        await self._db.executemany(SET, state.changes())
        await self._db.commit()
        self.held = sum(state.held(TRACES)), sum(state.held(LOGS))
        self._committed_to = state.settled(self._recorder.run_id)
        if is_of_export:
            self.cursors.committed(moves, self._evicted)

    async def _unknown(self, table: Table, records: list[Record]) -> list[Record]:
        """Returns those of `records` that the database lacks."""
        known = await self._db.execute_fetchall(table.known, (self._recorder.run_id, 0))
        numbers = {number for (number,) in known}
        return [record for record in records if table.number_of(record) not in numbers]

    async def _make_space(self, state: State, table: Table, records: list[Record]) -> list[Record]:
        """Deletes the rows that `records` replace; returns those of `records` that are to be written."""
        while True:
            counts = surplus(state.held(table), table.counts(records), self._ring_rows)
            for notable, count in enumerate(counts):
                if held := min(count, state.held(table)[notable]):
                    await self._evict(state, table, notable, held)
                elif count:  # the batch is larger than the ring
                    records = without_oldest(records, table, notable, count)
                    state.lose(table, count)
            if not any(counts):
                return records

    async def _evict(self, state: State, table: Table, notable: int, count: int) -> None:
        """Deletes the oldest rows of a class."""
        oldest = (notable, state.first(table, notable))
        unsent, flying = 0, "[]"
        if (cursor := state.cursor(table)) is not None:
            given = (self.cursors.last_sent(table.name), *oldest, count, cursor)
            ((unsent, flying),) = await self._db.execute_fetchall(table.unsent, given)
        gone = (await self._db.execute(table.delete_oldest, (*oldest, *oldest, count - 1))).rowcount
        state.evicted(table, notable, gone)
        if gone:
            state.lose(table, unsent)
            if seqs := orjson.loads(flying):
                self._evicted.append((table.name, seqs))
        else:  # there are fewer than were counted
            await self._recount(state)

    async def _recount(self, state: State) -> None:
        for table in (TRACES, LOGS):
            for counts in await self._db.execute_fetchall(table.count):
                state.correct(table, tuple(counts))

    async def _evict_for_space(self, state: State, row_bytes: int) -> None:
        """Evicts the oldest rows of the fuller ring for as long as the file would grow too large, or there are none."""
        while await self.quota.is_short(self._db, row_bytes):
            if not self.quota.is_disk_short and self.quota.is_crowded():
                raise CeilingError(CROWDED)
            table = max(TRACES, LOGS, key=lambda table: sum(state.held(table)))
            held = state.held(table)
            counts = oldest_of(held, self._ring_rows, max(50, sum(held) // 50))
            for notable, count in enumerate(counts):
                if count:
                    await self._evict(state, table, notable, count)
            if not any(counts):
                return

    async def _insert(self, table: Table, records: list[Any], before: int) -> list[rows.Gap]:
        """Inserts records, the seq of each being `before` and its number; returns gaps for those that cannot be."""
        if not records:
            return []
        number_of = table.number_of
        many = 0 if self._is_singly else len(records) - len(records) % rows.ROWS_AT_ONCE
        if many:
            pause_s = _PAUSE_S if self.is_gentle else 0.0
            values = (table.values_of(record, before) for record in records[:many])
            await self._db.executemany(table.insert_many, rows.flat(values, pause_s))
        rest = [table.with_seq(record, before + number_of(record)) for record in records[many:]]
        if self._is_singly:
            return await self._insert_singly(table, rest)
        if rest:
            await self._db.executemany(table.insert, rest)
        return []

    async def _insert_singly(self, table: Table, values: list[tuple[Any, ...]]) -> list[rows.Gap]:
        """Inserts row by row; a record that cannot be stored is dropped and counted, unless the schema is at fault."""
        gaps: list[rows.Gap] = []
        for row in values:
            try:
                # A failed statement is rolled back by itself; the transaction goes on.
                await self._db.execute(table.insert, row)
            except sqlite3.OperationalError:
                raise
            except Exception as error:  # a value that SQLite cannot bind or its schema refuses
                if not gaps and not is_record_at_fault(error, await self._db.execute_fetchall(PARTS)):
                    raise
                kind = "trace" if table is TRACES else "log"
                gaps.append((rows.now_us(), kind, "poison", 1, self._recorder.run_id))
                log.warning("a record cannot be stored", extra={"kind": kind, "error": error})
        return gaps

    def _confirm(self, traces: list[KeptTrace], logs: list[LogFields], row_bytes: int, numbers: list[int]) -> None:
        if self.failing is not None and self._is_told:
            # Before the batch is confirmed: a caller that waits for that, and then closes, gets this record stored too.
            log.info("telemetry is written again", extra={"reason": self.failing})
        self.failing, self.error, self._is_told = None, None, False
        self._failures = 0
        self._is_singly = False
        self._recorder.traces.confirm()
        self._recorder.logs.confirm()
        if numbers and self._batches_after_drops:
            self._batches_after_drops -= 1
        self.settled.add(numbers)
        self._is_doubtful = self.settled.number < self._doubtful_to
        box = self._recorder.box
        if box is not None:
            # Dropped ones are in `gaps` now, so recovery must not count them again; until now it must.
            gone = Counter[str]()
            for _, kind, _, count, _ in self._gaps:
                gone[kind] += count
            box.note_committed(len(traces) + gone["trace"], len(logs) + gone["log"], self.settled.number)
        self._gaps.clear()
        self._commits += 1
        self.wal.add(row_bytes)
        lost = Counter(kind for _, kind, *_ in self._poisoned)
        _poisoned.inc(lost.total())
        _written_traces.inc(len(traces) - lost["trace"])
        _written_logs.inc(len(logs) - lost["log"])
        metrics.telemetry_commits_total.inc()
        metrics.telemetry_fsyncs_total.inc()

    async def _checkpoint(self) -> None:
        try:
            if await self.quota.has_grown(self._db):
                await self.wal.checkpoint(self._db)
            await self.wal.checkpoint_if_due(self._db)
            self.quota.note_growth()
        except sqlite3.Error as error:  # the batch is committed; the next flush will meet the same error
            metrics.telemetry_flush_failures_total.labels(reason=reason_of(error)).inc()

    async def _can_retry(self, error: Exception) -> bool:
        """Rolls a failed commit back; returns True if the same batch should be tried again at once."""
        reason = reason_of(error)
        self._is_doubtful = True
        try:
            await self._db.rollback()
            if isinstance(error, RunClosedError):  # opened again, it asks which records the database has
                self.must_reopen = True
                return False
            if reason == "disk_full":
                return await self._can_write_in_place()
        except Exception as second:  # the file is gone or damaged  # noqa: BLE001
            self.must_reopen = True
            log.warning("telemetry cannot be read", extra={"error": second, "path": str(self._path)})
            return False
        if reason == "other" and not isinstance(error, sqlite3.OperationalError) and not self._is_singly:
            self._is_singly = True  # a row of this batch is at fault, not the disk
            return True
        return False

    async def _can_write_in_place(self) -> bool:
        """Returns True if another try may succeed: with the WAL free for reuse, in small batches."""
        was_tight = self.quota.is_tight
        self.quota.forbid_growth()
        try:
            await self.wal.checkpoint(self._db)
        except sqlite3.OperationalError:  # no space even for that: wait until there is
            return False
        return not was_tight

    def _fail(self, reason: str, error: str) -> bool:
        metrics.telemetry_flush_failures_total.labels(reason=reason).inc()
        self._failures += 1
        # A lock, a full disk and a reader end by themselves; anything else may be the connection's own fault.
        if reason in (GONE, CORRUPT) or (self._failures > 1 and reason in ("io", "read_only", "other")):
            self.must_reopen = True
        if not self._is_told and (reason != LOCKED or self._failures >= _PATIENT_TRIES):
            self._is_told = True
            fields: dict[str, Any] = {"reason": reason, "error": error, "path": str(self._path)}
            if reason in (PINNED, LOCKED):
                fields["held_by"] = holders(self._path)
            log.warning("telemetry cannot be written", extra=fields)
        self.failing, self.error = reason, error
        return False

    async def record_wear(self, run_id: str) -> None:
        """Updates the run's row with its commits and the bytes it has written, if it has committed since."""
        self.settled.give_up()
        if self._commits != self._commits_told:
            self._commits_told = self._commits
            await self._set_wear(run_id)
            await self._db.commit()

    async def _set_wear(self, run_id: str) -> None:
        await self._db.execute(rows.SET_WEAR, (self._commits, self.quota.written_bytes(), run_id))

    async def close(self, run_id: str, within_s: float) -> bool:
        """Commits the rest and marks the run clean; returns True if all that succeeded.

        Args:
            run_id: of this run.
            within_s: how long to wait for other processes that write.
        """
        ends_at = time.monotonic() + within_s
        try:
            while not await self.flush(is_last=True):
                if self.failing != LOCKED or time.monotonic() > ends_at:
                    return False
            if not self._has_committed():  # its box has it
                return False
            await self._be_patient(max(BUSY_TIMEOUT_S, ends_at - time.monotonic()))
            await self._set_wear(run_id)
            await self._db.execute(rows.END_RUN, (rows.now_us(), rows.CLEAN, run_id))
            await self._db.execute(rows.FORGET_RUN, (run_id,))
            await self._db.commit()
        finally:
            # The last connection of all processes takes the WAL with it.
            await self.disconnect()
        return True

    def _has_committed(self) -> bool:
        """Returns whether a new connection finds what this run has committed, unless it was evicted; else this fails.

        This connection may have in its cache what the files have lost.
        """
        if not self._has_its_files():
            return False
        try:
            with closing(connect_read_only(self._path)) as connection:
                row = connection.execute(f"{SETTLED}, count(*) FROM traces", (self._recorder.run_id,)).fetchone()
                connection.execute("SELECT count(*) FROM logs").fetchone()
        except StoreError as error:
            return self._fail(GONE, error.message)
        except sqlite3.Error as error:
            if reason_of(error) not in (CORRUPT, "io", "other"):  # locked, say: not lost
                return True
            return self._fail(CORRUPT, str(error))
        is_there = row[0] is not None and row[0] >= self._committed_to
        return is_there or self._fail(CORRUPT, "it lacks what was committed")


def _within(
    buffer: Buffer, records: list[Record], sizes_of: Callable[[list[Record]], list[int]]
) -> tuple[list[Record], int]:
    """Returns the first of the records taken from a buffer, `BATCH_BYTES` bytes but at least one row, and their bytes.

    The others are put back.
    """
    sizes = sizes_of(records)
    total = sum(sizes) + _ROW_BYTES * len(sizes)
    if total <= BATCH_BYTES:
        return records, total
    count = bisect_right(list(accumulate(size + _ROW_BYTES for size in sizes)), BATCH_BYTES) or 1
    buffer.put_back(count)
    return records[:count], sum(sizes[:count]) + _ROW_BYTES * count
