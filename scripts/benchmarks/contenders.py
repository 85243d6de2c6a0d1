"""Two that write traces to SQLite: our writer over a full ring, and the floor, bare `sqlite3` without a ring.

Both start from a database with the same schema, pragmas and rows. Only what each does for a batch is timed; the records
and the floor's rows are made before.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol

from benchmarks.records import count_rows, framed, numbered
from hearthnet import __version__
from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.writer import Writer

__all__ = ["Contender", "Floor", "Ours", "fill"]

_FILL_ROWS: Final = 20_000  # a transaction
_INSERT: Final = f"INSERT INTO traces ({rows.TRACES.columns}) VALUES ({', '.join('?' * len(TraceRecord._fields))})"  # noqa: S608


class Contender(Protocol):
    """Writes batches, and tells how long that took."""

    async def write(self, batch_rows: int, batches: int) -> float:
        """Commits so many batches of so many rows; returns the seconds that the commits took."""

    async def close(self) -> None:
        """Lets go of the database."""


def fill(path: Path, record: TraceRecord, count: int) -> sqlite3.Connection:
    """Makes a database of `count` traces and returns its connection, set as every connection that writes is."""
    connection = open_database(path, TELEMETRY)
    connection.execute("PRAGMA synchronous = OFF")  # only while it is filled
    for first in range(1, count + 1, _FILL_ROWS):
        records = numbered(record, first, min(_FILL_ROWS, count + 1 - first))
        _insert(connection, map(_row, records))
    count_rows(connection)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _insert(connection: sqlite3.Connection, ready: Iterable[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, ready)
    connection.execute("COMMIT")


def _row(record: TraceRecord) -> tuple[Any, ...]:
    """Returns the record with its JSON as text, which SQLite stores as it is."""
    return (*record[:-2], record.spans.decode(), record.extras.decode())


class Floor:
    """Bare `sqlite3`: ready rows into a table that only grows."""

    def __init__(self, path: Path, record: TraceRecord, count: int) -> None:
        self._record = record
        self._next = count + 1
        self._connection = fill(path, record, count)

    async def write(self, batch_rows: int, batches: int) -> float:
        """Commits so many batches of so many rows; returns the seconds that the commits took."""
        total = 0.0
        for _ in range(batches):
            ready = [_row(record) for record in numbered(self._record, self._next, batch_rows)]
            self._next += batch_rows
            started = perf_counter()
            _insert(self._connection, ready)
            total += perf_counter() - started
        return total

    async def close(self) -> None:
        """Lets go of the database."""
        self._connection.close()


class Ours:
    """The writer of a node, its ring full."""

    def __init__(self, path: Path, record: TraceRecord, ring_rows: int, max_disk_mb: int = 256) -> None:
        fill(path, record, ring_rows).close()
        self._record = record
        self._next = 1
        # What it is woken by does not matter here; that it can be makes the buffers those of a store.
        self._recorder = Recorder(new_trace_id(), lambda *_: None)
        self._writer = Writer(path, self._recorder, budget=Budget(max_disk_mb), ring_rows=ring_rows)

    async def open(self) -> None:
        """Connects and reads the ring."""
        run_id = self._recorder.run_id
        await self._writer.open((run_id, None, __version__, os.getpid(), None, rows.now_us(), "bench", "library"))

    async def write(self, batch_rows: int, batches: int) -> float:
        """Commits so many batches of so many rows; returns the seconds that the commits took."""
        total = 0.0
        for _ in range(batches):
            for record in numbered(self._record, self._next, batch_rows):
                self._recorder.traces.offer(framed(record))
            self._next += batch_rows
            started = perf_counter()
            is_committed = await self._writer.flush()
            total += perf_counter() - started
            if not is_committed:
                raise RuntimeError(f"nothing was committed: {self._writer.failing}")
        return total

    async def close(self) -> None:
        """Lets go of the database."""
        await self._writer.disconnect()
