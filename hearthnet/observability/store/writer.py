"""Takes batches from the recorder and commits them, on one connection, in the telemetry thread.

A flush is one transaction: rows that must go, new traces, new log records, and a row in `gaps` for what was lost. The
records leave the buffer after COMMIT. When it fails they stay, the rings are read anew, and the next flush tries again.

Guarantees:
    - Only this connection writes and checkpoints.
    - A failed flush loses nothing and is logged once; the next success is logged too.
Assumes:
    - All methods run on one event loop; none is called while another of them waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

import aiosqlite

from hearthnet.constants import LOG_RING_BUFFER, MAX_GAP_ROWS, MAX_RUN_ROWS, TRACE_RING_BUFFER
from hearthnet.database import BUSY_TIMEOUT_S, WRITER_PRAGMAS
from hearthnet.observability import metrics
from hearthnet.observability.buffer import Buffer
from hearthnet.observability.logging import get_logger
from hearthnet.observability.record import LogRecord, TraceRecord
from hearthnet.observability.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.ring import Ring

__all__ = ["Run", "Writer"]

log = get_logger(__name__)

BATCH_ROWS: Final = 2_000  # about 10 ms of SQLite a transaction: short for readers, long enough to be cheap
CLEAN: Final = "clean"

Record = TypeVar("Record", TraceRecord, LogRecord)

_written_traces = metrics.telemetry_written_total.labels(kind="trace")
_written_logs = metrics.telemetry_written_total.labels(kind="log")
_dropped = metrics.telemetry_dropped_total.labels(reason="buffer_full")
_poisoned = metrics.telemetry_dropped_total.labels(reason="poison")

Run = tuple[str, str | None, str, int, str | None, int]  # the columns of `runs` down to started_us


class Writer:
    """Owns the one connection that writes telemetry.db.

    Args:
        path: of a database that is prepared already.
        recorder: whose buffers it empties.
    """

    def __init__(self, path: Path, recorder: Recorder) -> None:
        self._path = path
        self._recorder = recorder
        self._db: aiosqlite.Connection
        self._traces: Ring
        self._logs: Ring
        self._is_failing = False
        self._is_singly = False  # after a batch with a row that cannot be stored
        self._gaps: list[tuple[int, int, str, str, int]] = []

    async def open(self, run: Run) -> None:
        """Connects, reads the rings, and writes the row of this run."""
        self._db = await aiosqlite.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            for pragma in WRITER_PRAGMAS:
                await self._db.execute(pragma)
            await self._read_rings()
            await self._begin_run(run)
        except BaseException:
            await self._db.close()
            raise

    async def _read_rings(self) -> None:
        self._traces = Ring(TRACE_RING_BUFFER, await self._keys("traces"))
        self._logs = Ring(LOG_RING_BUFFER, await self._keys("logs"))

    async def _keys(self, table: str) -> Iterable[tuple[int, int]]:
        sql = f"SELECT seq, notable FROM {table} ORDER BY seq"  # noqa: S608  # one of two constants
        async with self._db.execute(sql) as cursor:
            return [(seq, notable) for seq, notable in await cursor.fetchall()]

    async def _begin_run(self, run: Run) -> None:
        await self._db.execute(
            "INSERT INTO runs (run_id, node_id, version, pid, boot_id, started_us) VALUES (?, ?, ?, ?, ?, ?)",
            run,
        )
        # Ids of runs are ULIDs of one machine's clock; the oldest go by their rowid, the order of their start.
        await self._db.execute("DELETE FROM runs WHERE rowid <= (SELECT max(rowid) FROM runs) - ?", (MAX_RUN_ROWS,))

    async def flush(self) -> bool:
        """Commits all that is buffered; returns whether that succeeded."""
        while True:
            traces, logs = self._recorder.traces.take(BATCH_ROWS), self._recorder.logs.take(BATCH_ROWS)
            self._note_losses()
            if not (traces or logs or self._gaps):
                return True
            started = perf_counter()
            try:
                await self._commit(traces, logs)
            except Exception as error:  # anything SQLite or the disk may say; the records are kept  # noqa: BLE001
                await self._recover_from(error)
                if isinstance(error, sqlite3.OperationalError) or self._is_singly:
                    return False
                self._is_singly = True  # not the disk: a row of this batch is the trouble
                continue
            self._is_singly = False
            self._confirm(len(traces), len(logs))
            metrics.telemetry_flush_seconds.observe(perf_counter() - started)

    def _note_losses(self) -> None:
        buffers: tuple[tuple[str, Buffer[Any]], ...] = (
            ("trace", self._recorder.traces),
            ("log", self._recorder.logs),
        )
        for kind, buffer in buffers:
            lost = buffer.take_lost()
            if lost:
                _dropped.inc(lost)
                self._gaps.append((self._recorder.next_seq(), rows.now_us(), kind, "buffer_full", lost))

    async def _commit(self, traces: list[TraceRecord], logs: list[LogRecord]) -> None:
        db = self._db
        await db.execute("BEGIN IMMEDIATE")
        await self._put(self._traces, traces, rows.trace_to_row, rows.INSERT_TRACE, rows.DELETE_TRACE)
        await self._put(self._logs, logs, rows.log_to_row, rows.INSERT_LOG, rows.DELETE_LOG)
        if self._gaps:
            await db.executemany(rows.INSERT_GAP, self._gaps)
            await db.execute(
                "DELETE FROM gaps WHERE seq <= (SELECT seq FROM gaps ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (MAX_GAP_ROWS,),
            )
        await db.execute("COMMIT")

    async def _put(
        self,
        ring: Ring,
        records: list[Record],
        to_row: Callable[[Record], tuple[Any, ...]],
        insert: str,
        delete: str,
    ) -> None:
        evicted = set(ring.shrink())
        for record in records:
            replaced = ring.admit(record.seq, record.notable)
            if replaced is not None:
                evicted.add(replaced)
        # A batch larger than a share evicts some of its own: those are never written.
        kept = [record for record in records if record.seq not in evicted]
        if evicted:
            await self._db.executemany(delete, ((seq,) for seq in evicted))
        if kept:
            if self._is_singly:
                await self._insert_singly(insert, [(record, to_row) for record in kept])
                return
            # A generator: the rows are made in the connection's thread, while it steps through them.
            await self._db.executemany(insert, (to_row(record) for record in kept))

    async def _insert_singly(self, insert: str, kept: list[tuple[Any, Callable[[Any], tuple[Any, ...]]]]) -> None:
        """Inserts row by row; one that cannot be is left out, and counted."""
        for record, to_row in kept:
            try:
                # A statement that fails undoes itself; the transaction goes on.
                await self._db.execute(insert, to_row(record))
            except sqlite3.OperationalError:
                raise
            except Exception as error:  # what SQLite cannot bind or its schema refuses  # noqa: BLE001
                kind = "trace" if isinstance(record, TraceRecord) else "log"
                _poisoned.inc()
                gap = (self._recorder.next_seq(), rows.now_us(), kind, "poison", 1)
                await self._db.execute(rows.INSERT_GAP, gap)
                log.warning("a record cannot be stored", extra={"kind": kind, "error": str(error)})

    def _confirm(self, traces: int, logs: int) -> None:
        if self._is_failing:
            # Before the batch is confirmed: whoever waits for that, and then closes, has this record in the store too.
            self._is_failing = False
            log.info("telemetry is written again")
        self._recorder.traces.confirm()
        self._recorder.logs.confirm()
        self._gaps.clear()
        _written_traces.inc(traces)
        _written_logs.inc(logs)

    async def _recover_from(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning("telemetry cannot be written", extra={"error": str(error), "path": str(self._path)})
        try:
            if self._db.in_transaction:
                await self._db.execute("ROLLBACK")
            # What the rings had admitted is not there.
            await self._read_rings()
        except Exception as second:  # the file is gone or broken: the next flush meets it again  # noqa: BLE001
            log.warning("telemetry cannot be read", extra={"error": str(second), "path": str(self._path)})

    async def close(self, run_id: str) -> None:
        """Commits the rest, marks the run clean, moves the WAL into the database, and disconnects."""
        try:
            if await self.flush():
                await self._db.execute(
                    "UPDATE runs SET ended_us = ?, end_reason = ? WHERE run_id = ?",
                    (rows.now_us(), CLEAN, run_id),
                )
                await self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._db.close()
