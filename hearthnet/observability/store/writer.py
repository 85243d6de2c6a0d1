"""Takes batches from the recorder and commits them, on one connection, in the telemetry thread.

A flush is one transaction per batch: evicted rows, new traces, new log records, and a row in `gaps` for dropped
records. The records leave the buffer after COMMIT. When a commit fails they stay, and the next flush tries again.
Written here because a driver or ORM executes statements: it keeps no failed batch, no ring and no budget on a full
disk.

Guarantees:
    - Only this connection writes and checkpoints.
    - A failed flush drops nothing, is counted each time and logged once; the next success is logged too.
    - Database and WAL stay within their budget; on a full disk rows are replaced in place.
Assumes:
    - All methods run on one event loop; none is called while another is awaiting.

The first statement that writes begins an immediate transaction: each statement is a trip to the connection's thread,
and a flush of one batch makes three or four.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, islice
from operator import add, itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

import aiosqlite

from hearthnet.constants import MAX_GAP_ROWS, MAX_RUN_ROWS, TRACE_RING_BUFFER
from hearthnet.database import BUSY_TIMEOUT_S, WRITER_PRAGMAS, reason_of
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.buffer import Buffer
from hearthnet.observability.records.record import LogFields, LogRecord, TraceFields, TraceRecord
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.disk_quota import DiskQuota
from hearthnet.observability.store.ring import Range, Ring
from hearthnet.observability.store.rows import LOGS, TRACES, Table
from hearthnet.observability.store.wal import Wal, holders

__all__ = ["Writer"]

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

Record = TypeVar("Record", TraceFields, LogFields)

_written_traces = metrics.telemetry_written_total.labels(kind="trace")
_written_logs = metrics.telemetry_written_total.labels(kind="log")
_dropped = metrics.telemetry_dropped_total.labels(reason="buffer_full")
_poisoned = metrics.telemetry_dropped_total.labels(reason="poison")


class Writer:
    """Owns the one connection that writes telemetry.db.

    Args:
        path: of a database that `open_store` has prepared.
        recorder: whose buffers it empties.
        budget: the bounds of database and WAL.
        ring_rows: the size of either ring.
        floor_seq: records up to this number were numbered before the database could be read, and are renumbered.

    Attributes:
        failing: the reason why commits fail at present, in one word; None while they succeed.
        is_gentle: whether to pause for other threads now and then, because no caller waits for the commit.
        must_reopen: whether this connection is of no more use: the file is gone, damaged, or fails repeatedly.
    """

    def __init__(
        self,
        path: Path,
        recorder: Recorder,
        *,
        budget: Budget | None = None,
        ring_rows: int = TRACE_RING_BUFFER,
        floor_seq: int = 0,
    ) -> None:
        self._path = path
        self._recorder = recorder
        self._ring_rows = ring_rows
        self._floor_seq = floor_seq
        self._db: aiosqlite.Connection
        self._traces = Ring(ring_rows)
        self._logs = Ring(ring_rows)
        budget = budget or Budget(256)
        self.wal = Wal(path, budget)
        self.quota = DiskQuota(path, budget)
        self.failing: str | None = None
        self.must_reopen = False
        self.is_gentle = False
        self._failures = 0
        self._is_singly = False  # after a batch with a row that cannot be stored
        self._gaps: list[rows.Gap] = []
        self._commits = 0

    async def open(self, run: rows.Run) -> None:
        """Connects, reads the rings, and inserts the row of this run."""
        self._db = await aiosqlite.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level="IMMEDIATE")
        try:
            for pragma in WRITER_PRAGMAS:
                await self._db.execute(pragma)
            await self.read_rings()
            await self.wal.prepare(self._db)
            await self.quota.prepare(self._db)
            await self._begin_run(run)
            await self._db.commit()
        except BaseException:
            await self._db.close()
            raise

    async def read_rings(self) -> None:
        """Reads the rings' keys from the tables."""
        self._traces = Ring(self._ring_rows, await self._keys(TRACES))
        self._logs = Ring(self._ring_rows, await self._keys(LOGS))

    async def _keys(self, table: Table) -> list[tuple[int, int]]:
        async with self._db.execute(table.keys) as cursor:
            return [(seq, notable) for seq, notable in await cursor.fetchall()]

    async def _begin_run(self, run: rows.Run) -> None:
        await self._db.execute(rows.INSERT_RUN, run)
        # By rowid, the order of their start: ids of runs are ULIDs, which follow a clock that may be set.
        await self._db.execute("DELETE FROM runs WHERE rowid <= (SELECT max(rowid) FROM runs) - ?", (MAX_RUN_ROWS,))

    async def flush(self) -> bool:
        """Commits all that is buffered; returns True if that succeeded.

        If no caller waits (`is_gentle`), records that arrive during the last commit are left to the next flush: at a
        thousand calls a second there are always some, and each commit is an fsync.
        """
        buffered = len(self._recorder.traces) + len(self._recorder.logs)
        while True:
            traces, logs, row_bytes = self._take()
            self._record_drops()
            if not (traces or logs or self._gaps):
                return True
            if not self.quota.is_in_place():
                return self._fail(GONE, "the file was moved or removed")
            started = perf_counter()
            try:
                if not await self.wal.has_space(self._db, row_bytes):
                    return self._fail(PINNED, "a reader keeps the WAL from being reused")
                await self._commit(traces, logs, row_bytes)
            except Exception as error:  # any failure of SQLite or the disk; the records are kept  # noqa: BLE001
                if not await self._can_retry(error):
                    return self._fail(reason_of(error), str(error))
                continue
            self._confirm(traces, logs, row_bytes)
            metrics.telemetry_flush_seconds.observe(perf_counter() - started)
            await self._checkpoint()
            buffered -= len(traces) + len(logs)
            if self.is_gentle and buffered <= 0:
                return True

    def _take(self) -> tuple[list[TraceFields], list[LogFields], int]:
        limit = self.quota.batch_rows(BATCH_ROWS)
        traces, trace_bytes = _within(self._recorder.traces, limit, _trace_sizes)
        logs, log_bytes = _within(self._recorder.logs, limit, _log_sizes)
        if self._floor_seq:
            traces, logs = self._renumbered(TRACES, traces), self._renumbered(LOGS, logs)
        return traces, logs, trace_bytes + log_bytes

    def _renumbered(self, table: Table, records: list[Any]) -> list[Any]:
        return [
            table.renumbered(record, self._recorder.next_seq()) if table.seq_of(record) <= self._floor_seq else record
            for record in records
        ]

    def _record_drops(self) -> None:
        buffers: tuple[tuple[str, Buffer[Any]], ...] = (
            ("trace", self._recorder.traces),
            ("log", self._recorder.logs),
        )
        for kind, buffer in buffers:
            dropped = buffer.take_dropped()
            if dropped:
                _dropped.inc(dropped)
                if self._recorder.box is not None:  # counted here, so recovery must not count them again
                    is_trace = kind == "trace"
                    self._recorder.box.note_committed(dropped if is_trace else 0, 0 if is_trace else dropped, 0)
                self._gaps.append((self._recorder.next_seq(), rows.now_us(), kind, "buffer_full", dropped))
                log.warning("records were dropped: the buffer was full", extra={"kind": kind, "count": dropped})

    async def _commit(self, traces: list[TraceFields], logs: list[LogFields], row_bytes: int) -> None:
        db = self._db
        kept_traces = await self._replace(TRACES, self._traces, traces)
        kept_logs = await self._replace(LOGS, self._logs, logs)
        while await self.quota.is_short(db, row_bytes):
            if not await self._evict_oldest():
                break
        await self._insert(TRACES, kept_traces)
        await self._insert(LOGS, kept_logs)
        if self._gaps:
            await db.executemany(rows.INSERT_GAP, self._gaps)
            await db.execute(
                "DELETE FROM gaps WHERE seq <= (SELECT seq FROM gaps ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (MAX_GAP_ROWS,),
            )
        await db.commit()

    async def _replace(self, table: Table, ring: Ring, records: list[Record]) -> list[Record]:
        """Deletes the rows that `records` evict; returns those of `records` that are to be written."""
        if not records:
            return records
        evicted = ring.admit_all(list(map(table.keys_of, records)))
        await self._delete(table, evicted.ranges)
        if not evicted.unwritten:
            return records
        return [record for record in records if table.seq_of(record) not in evicted.unwritten]

    async def _delete(self, table: Table, ranges: list[Range]) -> None:
        if ranges:
            await self._db.executemany(table.delete_range, ranges)

    async def _evict_oldest(self) -> bool:
        """Evicts some of the oldest rows of the fuller ring, because the file must not grow."""
        ring, table = max((self._traces, TRACES), (self._logs, LOGS), key=lambda pair: len(pair[0]))
        ranges = ring.evict_oldest(max(50, len(ring) // 50)).ranges
        await self._delete(table, ranges)
        return bool(ranges)

    async def _insert(self, table: Table, kept: list[Any]) -> None:
        if not kept:
            return
        if self._is_singly:
            await self._insert_singly(table, kept)
            return
        many = len(kept) - len(kept) % rows.ROWS_AT_ONCE
        if many:
            pause_s = _PAUSE_S if self.is_gentle else 0.0
            await self._db.executemany(table.insert_many, _flat(map(table.values_of, kept[:many]), pause_s))
        if many < len(kept):
            await self._db.executemany(table.insert, kept[many:])

    async def _insert_singly(self, table: Table, kept: list[Any]) -> None:
        """Inserts row by row; a record that cannot be stored is dropped and counted."""
        for record in kept:
            try:
                # A failed statement is rolled back by itself; the transaction goes on.
                await self._db.execute(table.insert, record)
            except sqlite3.OperationalError:
                raise
            except Exception as error:  # a value that SQLite cannot bind or its schema refuses  # noqa: BLE001
                kind = "trace" if table is TRACES else "log"
                _poisoned.inc()
                gap = (self._recorder.next_seq(), rows.now_us(), kind, "poison", 1)
                await self._db.execute(rows.INSERT_GAP, gap)
                log.warning("a record cannot be stored", extra={"kind": kind, "error": str(error)})

    def _confirm(self, traces: list[TraceFields], logs: list[LogFields], row_bytes: int) -> None:
        if self.failing is not None:
            # Before the batch is confirmed: a caller that waits for that, and then closes, gets this record stored too.
            log.info("telemetry is written again", extra={"reason": self.failing})
            self.failing = None
        self._failures = 0
        self._is_singly = False
        self._recorder.traces.confirm()
        self._recorder.logs.confirm()
        box = self._recorder.box
        if box is not None:
            highest = max(*map(TRACES.seq_of, traces[-1:]), *map(LOGS.seq_of, logs[-1:]), 0)
            box.note_committed(len(traces), len(logs), highest)
        self._gaps.clear()
        self._commits += 1
        self.wal.add(row_bytes)
        _written_traces.inc(len(traces))
        _written_logs.inc(len(logs))
        metrics.telemetry_commits_total.inc()
        metrics.telemetry_fsyncs_total.inc()

    async def _checkpoint(self) -> None:
        try:
            if await self.quota.has_grown(self._db):
                await self.wal.checkpoint(self._db)
            await self.wal.checkpoint_if_due(self._db)
        except sqlite3.Error as error:  # the batch is committed; the next flush will meet the same error
            metrics.telemetry_flush_failures_total.labels(reason=reason_of(error)).inc()

    async def _can_retry(self, error: Exception) -> bool:
        """Rolls a failed commit back; returns True if the same batch should be tried again at once."""
        reason = reason_of(error)
        try:
            await self._db.rollback()
            await self.read_rings()  # they admitted rows that were not committed
            if reason == "disk_full":
                return await self._can_write_in_place()
        except Exception as second:  # the file is gone or damaged  # noqa: BLE001
            self.must_reopen = True
            log.warning("telemetry cannot be read", extra={"error": str(second), "path": str(self._path)})
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
        if reason in (GONE, "corrupt") or (self._failures > 1 and reason in ("io", "read_only", "other")):
            self.must_reopen = True
        if self.failing is None:
            fields: dict[str, Any] = {"reason": reason, "error": error, "path": str(self._path)}
            if reason in (PINNED, "locked"):
                fields["held_by"] = holders(self._path)
            log.warning("telemetry cannot be written", extra=fields)
        self.failing = reason
        return False

    async def record_wear(self, run_id: str) -> None:
        """Updates the run's row with its commits and the bytes it has written."""
        written = self.quota.written_bytes()
        await self._db.execute(rows.SET_WEAR, (self._commits, written, run_id))
        await self._db.commit()

    async def close(self, run_id: str) -> bool:
        """Commits the rest, marks the run clean, empties the WAL; returns True if all that succeeded."""
        try:
            if not await self.flush():
                return False
            await self.record_wear(run_id)
            await self._db.execute(rows.END_RUN, (rows.now_us(), rows.CLEAN, run_id))
            await self._db.commit()
            await self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._db.close()
        return True

    async def abandon(self) -> None:
        """Disconnects without writing anything."""
        await self._db.close()


def _within(
    buffer: Buffer[Record], max_rows: int, sizes_of: Callable[[list[Record]], list[int]]
) -> tuple[list[Record], int]:
    """Returns a batch of at most `max_rows` rows and `BATCH_BYTES` bytes, but at least one row, and its bytes."""
    records = buffer.take(max_rows)
    sizes = sizes_of(records)
    total = sum(sizes) + _ROW_BYTES * len(sizes)
    if total <= BATCH_BYTES:
        return records, total
    count = bisect_right(list(accumulate(size + _ROW_BYTES for size in sizes)), BATCH_BYTES) or 1
    buffer.put_back(count)
    return records[:count], sum(sizes[:count]) + _ROW_BYTES * count


_spans_of: Final = itemgetter(TraceRecord._fields.index("spans"))
_extras_of: Final = itemgetter(TraceRecord._fields.index("extras"))
_texts_of: Final = itemgetter(*map(LogRecord._fields.index, ("msg", "extras", "exc")))


def _trace_sizes(records: list[TraceFields]) -> list[int]:
    """Returns the bytes of JSON of each record."""
    return list(map(add, map(len, map(_spans_of, records)), map(len, map(_extras_of, records))))


def _log_sizes(records: list[LogFields]) -> list[int]:
    """Returns the characters of text plus bytes of JSON of each record."""
    return [len(msg) + len(extras) + len(exc or "") for msg, extras, exc in map(_texts_of, records)]


def _flat(values: Iterator[list[Any]], pause_s: float) -> Iterator[tuple[Any, ...]]:
    """Yields the values of `ROWS_AT_ONCE` records at a time; pauses in between."""
    while batch := tuple(chain.from_iterable(islice(values, rows.ROWS_AT_ONCE))):
        yield batch
        if pause_s:
            time.sleep(pause_s)
