"""Records to rows and back, side by side, and the SQL that moves them.

A record's fields are its table's columns in their order (a test compares them), so the row to insert is the record
itself; the statement makes text of its bytes. By the batch another way is quicker, see `_insert_many`.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hearthnet.observability.records.record import LogFields, LogRecord, TraceFields, TraceRecord

__all__ = [
    "CLEAN",
    "DELETE_LOG",
    "DELETE_LOGS",
    "DELETE_TRACE",
    "DELETE_TRACES",
    "END_RUN",
    "INSERT_GAP",
    "INSERT_LOG",
    "INSERT_LOGS",
    "INSERT_RUN",
    "INSERT_TRACE",
    "INSERT_TRACES",
    "LOG_COLUMNS",
    "NOTE_VITALS",
    "NOTE_WEAR",
    "ROWS_AT_ONCE",
    "TRACE_COLUMNS",
    "UNCLEAN",
    "Gap",
    "Run",
    "log_from_row",
    "log_values",
    "now_us",
    "trace_from_row",
    "trace_values",
]

TRACE_COLUMNS: Final = ", ".join(TraceRecord._fields)
LOG_COLUMNS: Final = ", ".join(LogRecord._fields)


Run = tuple[str, str | None, str, int, str | None, int]  # the columns of `runs` down to started_us
Gap = tuple[int, int, str, str, int]  # the columns of `gaps`


# Rows that one statement inserts. SQLite gives the interpreter's lock back once a statement: not for a microsecond a
# row, which a thread that waits for it would sleep through.
ROWS_AT_ONCE: Final = 50
_JSON: Final = frozenset({"spans", "extras"})
_NULLABLE_OF_TRACES: Final = frozenset({"parent_id", "version", "error"})
_NULLABLE_OF_LOGS: Final = frozenset({"trace_id", "span_id", "exc"})
# A number that is there already is that very record, taken in from the black box while its thread was on its way.
_UNLESS_THERE: Final = "ON CONFLICT (seq) DO NOTHING"


def _insert(table: str, columns: str) -> str:
    """Returns what inserts a record as it is."""
    marks = ", ".join("CAST(? AS TEXT)" if name in _JSON else "?" for name in columns.split(", "))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) {_UNLESS_THERE}"  # noqa: S608  # constants


def _insert_many(table: str, columns: str, nullable: frozenset[str]) -> str:
    """Returns what inserts `ROWS_AT_ONCE` records, of the values that `trace_values` or `log_values` makes of each.

    The sqlite3 module looks for an adapter of each value that is None or bytes, which takes it as long as all else that
    it does for a row. So JSON comes as text, and for None a number that no text is equal to.
    """
    marks = ", ".join("NULLIF(?, 0)" if name in nullable else "?" for name in columns.split(", "))
    rows = ", ".join([f"({marks})"] * ROWS_AT_ONCE)
    return f"INSERT INTO {table} ({columns}) VALUES {rows} {_UNLESS_THERE}"  # noqa: S608  # constants


INSERT_TRACE: Final = _insert("traces", TRACE_COLUMNS)
INSERT_LOG: Final = _insert("logs", LOG_COLUMNS)
INSERT_TRACES: Final = _insert_many("traces", TRACE_COLUMNS, _NULLABLE_OF_TRACES)
INSERT_LOGS: Final = _insert_many("logs", LOG_COLUMNS, _NULLABLE_OF_LOGS)
INSERT_GAP: Final = _insert("gaps", "seq, ts_us, kind, reason, count")
INSERT_RUN: Final = (
    "INSERT INTO runs (run_id, node_id, version, pid, boot_id, started_us) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id) DO NOTHING"
)
END_RUN: Final = "UPDATE runs SET ended_us = ?, end_reason = ? WHERE run_id = ?"
NOTE_VITALS: Final = "UPDATE runs SET last_seen_us = ?, vitals = ? WHERE run_id = ?"
NOTE_WEAR: Final = "UPDATE runs SET commits = ?, written_bytes = ? WHERE run_id = ?"
CLEAN: Final = "clean"
UNCLEAN: Final = "unclean"
DELETE_TRACE: Final = "DELETE FROM traces WHERE seq = ?"
DELETE_LOG: Final = "DELETE FROM logs WHERE seq = ?"
# The oldest of a class: a walk along the table, where a look-up for each row would cost twice as much.
DELETE_TRACES: Final = "DELETE FROM traces WHERE seq BETWEEN ? AND ? AND notable = ?"
DELETE_LOGS: Final = "DELETE FROM logs WHERE seq BETWEEN ? AND ? AND notable = ?"


def trace_values(record: TraceFields) -> tuple[Any, ...]:
    """Returns the values of a record for `INSERT_TRACES`."""
    (
        seq, run_id, trace_id, parent_id, capability, version, started_us, started_mono_ns, duration_ms, result, error,
        notable, spans, extras,
    ) = record  # fmt: skip
    return (
        seq, run_id, trace_id, 0 if parent_id is None else parent_id, capability, 0 if version is None else version,
        started_us, started_mono_ns, duration_ms, result, 0 if error is None else error, notable,
        spans.decode(), extras.decode(),
    )  # fmt: skip


def log_values(record: LogFields) -> tuple[Any, ...]:
    """Returns the values of a record for `INSERT_LOGS`."""
    seq, run_id, ts_us, level, logger, msg, trace_id, span_id, notable, repeats, extras, exc = record
    return (
        seq, run_id, ts_us, level, logger, msg, 0 if trace_id is None else trace_id,
        0 if span_id is None else span_id, notable, repeats, extras.decode(), 0 if exc is None else exc,
    )  # fmt: skip


def trace_from_row(row: tuple[Any, ...]) -> TraceRecord:
    """Returns the record that a row of `TRACE_COLUMNS` tells of."""
    return TraceRecord._make((*row[:-2], row[-2].encode(), row[-1].encode()))


def log_from_row(row: tuple[Any, ...]) -> LogRecord:
    """Returns the record that a row of `LOG_COLUMNS` tells of."""
    return LogRecord._make((*row[:-2], row[-2].encode(), row[-1]))


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
