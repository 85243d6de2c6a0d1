"""Records to rows and back, side by side, and the SQL that moves them.

A record's fields are its table's columns in their order (a test compares them), so the row to insert is the record
itself; the statement makes text of its bytes. By the batch another way is quicker, see `_insert_many`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Final, TypeVar

from hearthnet.observability.records.record import LogFields, LogRecord, TraceFields, TraceRecord, column_types

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
R = TypeVar("R", TraceRecord, LogRecord)
_TRACE_TYPES: Final = column_types(TraceRecord)
_LOG_TYPES: Final = column_types(LogRecord)
# A number that is there already is that very record, taken in from the black box while its thread was on its way.
_UNLESS_THERE: Final = "ON CONFLICT (seq) DO NOTHING"


def _insert(table: str, types: dict[str, tuple[type, ...]]) -> str:
    """Returns the statement that inserts a record as it is."""
    marks = ", ".join("CAST(? AS TEXT)" if bytes in kind else "?" for kind in types.values())
    return f"INSERT INTO {table} ({', '.join(types)}) VALUES ({marks}) {_UNLESS_THERE}"  # noqa: S608  # constants


def _insert_many(table: str, types: dict[str, tuple[type, ...]]) -> str:
    """Returns the statement that inserts `ROWS_AT_ONCE` records, each by the values of `trace_values` or `log_values`.

    The sqlite3 module looks for an adapter of each value that is None or bytes, which takes it as long as all else that
    it does for a row. So JSON comes as text, and for None a number that no text is equal to.
    """
    marks = ", ".join("NULLIF(?, 0)" if NoneType in kind else "?" for kind in types.values())
    rows = ", ".join([f"({marks})"] * ROWS_AT_ONCE)
    return f"INSERT INTO {table} ({', '.join(types)}) VALUES {rows} {_UNLESS_THERE}"  # noqa: S608  # constants


INSERT_TRACE: Final = _insert("traces", _TRACE_TYPES)
INSERT_LOG: Final = _insert("logs", _LOG_TYPES)
INSERT_TRACES: Final = _insert_many("traces", _TRACE_TYPES)
INSERT_LOGS: Final = _insert_many("logs", _LOG_TYPES)
INSERT_GAP: Final = "INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (?, ?, ?, ?, ?) " + _UNLESS_THERE  # noqa: S608
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


def _values_of(types: dict[str, tuple[type, ...]]) -> Callable[[Any], Sequence[Any]]:
    """Returns what makes the values for `INSERT_TRACES` or `INSERT_LOGS` of a record's fields."""
    nullable = [at for at, kind in enumerate(types.values()) if NoneType in kind]
    encoded = [at for at, kind in enumerate(types.values()) if bytes in kind]

    def values_of(fields: TraceFields | LogFields) -> Sequence[Any]:
        values: list[Any] = list(fields)
        for at in nullable:
            if values[at] is None:
                values[at] = 0
        for at in encoded:
            values[at] = values[at].decode()
        return values

    return values_of


trace_values: Final = _values_of(_TRACE_TYPES)
log_values: Final = _values_of(_LOG_TYPES)


def _from_row(record: type[R]) -> Callable[[Sequence[Any]], R]:
    """Returns what makes a record of a row with its columns."""
    encoded = [at for at, kind in enumerate(column_types(record).values()) if bytes in kind]

    def from_row(row: Sequence[Any]) -> R:
        values = list(row)
        for at in encoded:
            values[at] = values[at].encode()
        return record._make(values)

    return from_row


trace_from_row: Final = _from_row(TraceRecord)
log_from_row: Final = _from_row(LogRecord)


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
