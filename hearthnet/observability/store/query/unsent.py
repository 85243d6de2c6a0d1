"""Rows for the export by OTLP: those behind a cursor, or of a time, with the runs that they are of."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from hearthnet.observability.otel.export.mapping import Gap, Origin
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.store.ring import cursor_name, cursor_of, lost_name
from hearthnet.observability.store.rows import LOGS, OF_THE_EXPORT, TRACES

__all__ = [
    "ALL",
    "Progress",
    "Selected",
    "State",
    "count",
    "last_seq",
    "logs_after",
    "origins",
    "progress",
    "state",
    "traces_after",
]

_RUNS_AT_ONCE: Final = 500  # values of a statement
_STATE: Final = "SELECT name, value FROM state WHERE name = 'seq' OR name GLOB 'otlp.*'"
_HAS_STATE: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'state'"
_LAST: Final = (
    "SELECT max((SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs),"
    " (SELECT ifnull(max(seq), 0) FROM gaps))"
)
_ENDED: Final = {"traces": "started_us + CAST(duration_ms * 1000 AS INTEGER)", "logs": "ts_us", "gaps": "ts_us"}


class State(NamedTuple):
    """How far the export has come: the last seq given, and by table its cursor and the evicted rows to tell of."""

    seq: int
    cursors: dict[str, int]
    lost: dict[str, int]


class Selected(NamedTuple):
    """Which rows: None selects any.

    Attributes:
        since_us: earliest end of the subject, UTC microseconds.
        until_us: only those that ended before.
        trace_id: an id, or the beginning of one.
    """

    since_us: int | None = None
    until_us: int | None = None
    trace_id: str | None = None

    def where(self, table: str) -> tuple[str, list[Any]]:
        """Returns a condition that begins with AND, and its values."""
        of_trace = None if table == "gaps" else self.trace_id
        given = (
            (f"{_ENDED[table]} >= ?", self.since_us), (f"{_ENDED[table]} < ?", self.until_us),
            ("trace_id GLOB ? || '*'", of_trace),
        )  # fmt: skip
        conditions = [condition for condition, value in given if value is not None]
        if table == "gaps" and self.trace_id is not None:
            conditions.append("0")  # a gap is of no trace
        return "".join(f" AND {one}" for one in conditions), [value for _, value in given if value is not None]


ALL: Final = Selected()


class Progress(NamedTuple):
    """The export of one table: its cursor, rows behind it, the end of the oldest (UTC us), and rows evicted unsent."""

    cursor: int
    unsent: int
    oldest_us: int | None
    lost: int


def state(reader: Reader) -> State:
    """Returns how far the export has come.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    return _state(reader.rows(_STATE))


def _state(rows: Iterable[tuple[str, int]]) -> State:
    values = dict(rows)
    found = {name: cursor_of(values.get(cursor_name(name))) for name in ("traces", "logs")}
    cursors = {name: cursor for name, cursor in found.items() if cursor is not None}
    return State(values.get("seq", 0), cursors, {name: values.get(lost_name(name), 0) for name in cursors})


def last_seq(reader: Reader) -> int:
    """Returns the highest seq of any row: rows committed later are not counted.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    return int(reader.rows(_LAST)[0][0])


def traces_after(reader: Reader, seq: int, last: int, limit: int, wanted: Selected = ALL) -> list[TraceRecord]:
    """Returns the first traces behind `seq`, up to `last`, oldest first.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    where, values = wanted.where("traces")
    sql = f"SELECT {TRACES.columns} FROM traces WHERE seq > ? AND seq <= ?{where} ORDER BY seq LIMIT ?"  # noqa: S608
    return [TRACES.record_of(row) for row in reader.rows(sql, (seq, last, *values, limit))]


def logs_after(reader: Reader, seq: int, last: int, limit: int, wanted: Selected = ALL) -> list[LogRecord | Gap]:
    """Returns the first log records and gaps behind `seq`, up to `last`, oldest first.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    where, values = wanted.where("logs")
    sql = (
        f"SELECT {LOGS.columns} FROM logs WHERE seq > ? AND seq <= ?"  # noqa: S608
        f" AND {OF_THE_EXPORT}{where} ORDER BY seq LIMIT ?"
    )
    logs = [LOGS.record_of(row) for row in reader.rows(sql, (seq, last, *values, limit))]
    where, values = wanted.where("gaps")
    sql = (
        "SELECT ifnull(run_id, ''), seq, ts_us, kind, reason, count FROM gaps"  # noqa: S608
        f" WHERE seq > ? AND seq <= ?{where} ORDER BY seq LIMIT ?"
    )
    gaps = [Gap(*row) for row in reader.rows(sql, (seq, last, *values, limit))]
    return sorted([*logs, *gaps], key=lambda record: record.seq)[:limit]


def origins(reader: Reader, run_ids: Collection[str]) -> dict[str, Origin]:
    """Returns the runs of these ids, as far as they are known.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    found: dict[str, Origin] = {}
    ids = list(run_ids)
    for start in range(0, len(ids), _RUNS_AT_ONCE):
        some = ids[start : start + _RUNS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        sql = f"SELECT {', '.join(Origin._fields)} FROM runs WHERE run_id IN ({marks})"  # noqa: S608
        found.update((row[0], Origin(*row)) for row in reader.rows(sql, some))
    return found


def count(reader: Reader, wanted: Selected) -> dict[str, int]:
    """Returns how many traces, and how many log records and gaps, are selected.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    found = {}
    for table in ("traces", "logs", "gaps"):
        where, values = wanted.where(table)
        of_export = f" AND {OF_THE_EXPORT}" if table == "logs" else ""
        found[table] = reader.rows(f"SELECT count(*) FROM {table} WHERE 1{of_export}{where}", values)[0][0]  # noqa: S608
    return {"traces": found["traces"], "logs": found["logs"] + found["gaps"]}


def progress(connection: sqlite3.Connection) -> dict[str, Progress]:
    """Returns how far the export of each table has come; nothing where none was set up, or of an older version. 2 ms.

    Raises:
        sqlite3.Error: raised when the database cannot be read.
    """
    found: dict[str, Progress] = {}
    if connection.execute(_HAS_STATE).fetchone() is None:
        return found
    known = _state(connection.execute(_STATE).fetchall())
    for table, cursor in known.cursors.items():
        of_export = f" AND {OF_THE_EXPORT}" if table == "logs" else ""
        sql = f"SELECT count(*), min({_ENDED[table]}) FROM {table} WHERE seq > ?{of_export}"  # noqa: S608
        unsent, oldest_us = connection.execute(sql, (cursor,)).fetchone()
        found[table] = Progress(cursor, unsent, oldest_us, known.lost[table])
    return found
