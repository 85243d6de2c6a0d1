"""Records to rows and back, side by side, and the SQL that moves them.

A record's fields are its table's columns in their order (a test compares them), so the row to insert is the record
itself; the statement makes text of its bytes.
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
    "INSERT_LOGS",
    "INSERT_RUN",
    "INSERT_TRACE",
    "INSERT_TRACES",
    "LOG_COLUMNS",
    "NOTE_WEAR",
    "ROWS_AT_ONCE",
    "TRACE_COLUMNS",
    "UNCLEAN",
    "Gap",
    "Numbered",
    "Run",
    "log_from_row",
    "now_us",
    "trace_from_row",
]

TRACE_COLUMNS: Final = ", ".join(TraceRecord._fields)
LOG_COLUMNS: Final = ", ".join(LogRecord._fields)


Run = tuple[str, str | None, str, int, str | None, int]  # the columns of `runs` down to started_us
Numbered = TraceRecord | LogRecord
Gap = tuple[int, int, str, str, int]  # the columns of `gaps`


# Rows that one statement inserts. SQLite gives the interpreter's lock back once a statement: for 0.2 ms now, in which
# another thread can take its turn, and not for a few microseconds a row, which it would sleep through.
ROWS_AT_ONCE: Final = 50


def _insert(table: str, columns: str, row_count: int = 1) -> str:
    # The JSON of a record is bytes. Cast by SQLite, it costs the interpreter nothing.
    marks = ", ".join("CAST(? AS TEXT)" if name in ("spans", "extras") else "?" for name in columns.split(", "))
    rows = ", ".join([f"({marks})"] * row_count)
    # A number that is there already is that very record, taken in from the black box while its thread was on its way.
    return f"INSERT INTO {table} ({columns}) VALUES {rows} ON CONFLICT (seq) DO NOTHING"  # noqa: S608  # constants


INSERT_TRACE: Final = _insert("traces", TRACE_COLUMNS)
INSERT_LOG: Final = _insert("logs", LOG_COLUMNS)
INSERT_TRACES: Final = _insert("traces", TRACE_COLUMNS, ROWS_AT_ONCE)
INSERT_LOGS: Final = _insert("logs", LOG_COLUMNS, ROWS_AT_ONCE)
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


def trace_from_row(row: tuple[Any, ...]) -> TraceRecord:
    """Returns the record that a row of `TRACE_COLUMNS` tells of."""
    return TraceRecord._make((*row[:-2], row[-2].encode(), row[-1].encode()))


def log_from_row(row: tuple[Any, ...]) -> LogRecord:
    """Returns the record that a row of `LOG_COLUMNS` tells of."""
    return LogRecord._make((*row[:-2], row[-2].encode(), row[-1]))


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
