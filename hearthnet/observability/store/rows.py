"""Records to rows and back, side by side, and the SQL that moves them.

A record's fields are its table's columns in their order (a test compares them), so a row is the record itself with its
bytes decoded: SQLite stores text.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hearthnet.observability.record import LogRecord, TraceRecord

__all__ = [
    "CLEAN",
    "DELETE_LOG",
    "DELETE_LOGS",
    "DELETE_TRACE",
    "DELETE_TRACES",
    "END_RUN",
    "INSERT_GAP",
    "INSERT_LOG",
    "INSERT_RUN",
    "INSERT_TRACE",
    "LOG_COLUMNS",
    "NOTE_WEAR",
    "TRACE_COLUMNS",
    "UNCLEAN",
    "Gap",
    "Numbered",
    "Run",
    "log_from_row",
    "log_to_row",
    "now_us",
    "trace_from_row",
    "trace_to_row",
]

TRACE_COLUMNS: Final = ", ".join(TraceRecord._fields)
LOG_COLUMNS: Final = ", ".join(LogRecord._fields)


Run = tuple[str, str | None, str, int, str | None, int]  # the columns of `runs` down to started_us
Numbered = TraceRecord | LogRecord
Gap = tuple[int, int, str, str, int]  # the columns of `gaps`


def _insert(table: str, columns: str) -> str:
    marks = ", ".join("?" * (columns.count(",") + 1))
    # A number that is there already is that very record, taken in from the black box while its thread was on its way.
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT (seq) DO NOTHING"  # noqa: S608  # constants


INSERT_TRACE: Final = _insert("traces", TRACE_COLUMNS)
INSERT_LOG: Final = _insert("logs", LOG_COLUMNS)
INSERT_GAP: Final = _insert("gaps", "seq, ts_us, kind, reason, count")
INSERT_RUN: Final = (
    "INSERT INTO runs (run_id, node_id, version, pid, boot_id, started_us) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id) DO NOTHING"
)
END_RUN: Final = "UPDATE runs SET ended_us = ?, end_reason = ? WHERE run_id = ?"
NOTE_WEAR: Final = "UPDATE runs SET commits = ?, written_bytes = ? WHERE run_id = ?"
CLEAN: Final = "clean"
UNCLEAN: Final = "unclean"
DELETE_TRACE: Final = "DELETE FROM traces WHERE seq = ?"
DELETE_LOG: Final = "DELETE FROM logs WHERE seq = ?"
# The oldest of a class: a walk along the table, where a look-up for each row would cost twice as much.
DELETE_TRACES: Final = "DELETE FROM traces WHERE seq BETWEEN ? AND ? AND notable = ?"
DELETE_LOGS: Final = "DELETE FROM logs WHERE seq BETWEEN ? AND ? AND notable = ?"


def trace_to_row(record: TraceRecord) -> tuple[Any, ...]:
    """Returns the row of a trace."""
    return record[:-2] + (record[-2].decode(), record[-1].decode())  # noqa: RUF005  # half the time of unpacking


def trace_from_row(row: tuple[Any, ...]) -> TraceRecord:
    """Returns the record that a row of `TRACE_COLUMNS` tells of."""
    return TraceRecord._make((*row[:-2], row[-2].encode(), row[-1].encode()))


def log_to_row(record: LogRecord) -> tuple[Any, ...]:
    """Returns the row of a log record."""
    return (*record[:-2], record.extras.decode(), record.exc)


def log_from_row(row: tuple[Any, ...]) -> LogRecord:
    """Returns the record that a row of `LOG_COLUMNS` tells of."""
    return LogRecord._make((*row[:-2], row[-2].encode(), row[-1]))


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
