"""The tables of telemetry.db: their SQL, and how a record becomes a row and back.

A record's fields are its table's columns in their order (a test compares them), so the row to insert is the record
itself, and columns, JSON and NULLs follow from its annotations. Batches are inserted in a quicker way, see
`Table.insert_many`.
"""

from __future__ import annotations

import time
from operator import itemgetter
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

from hearthnet.constants import LIBRARY_ROLE, LOG_RING_BUFFER, NODE_ROLE, TRACE_RING_BUFFER
from hearthnet.observability.records.record import LogRecord, TraceRecord

__all__ = [
    "CLEAN",
    "END_RUN",
    "INSERT_GAP",
    "INSERT_RUN",
    "LOGS",
    "ROWS_AT_ONCE",
    "SET_VITALS",
    "SET_WEAR",
    "TRACES",
    "UNCLEAN",
    "Gap",
    "Run",
    "Table",
    "now_us",
    "role_of",
]

# run_id, node_id, version, pid, boot_id, started_us, program, role
Run = tuple[str, str | None, str, int, str | None, int, str | None, str]
Gap = tuple[int, int, str, str, int]  # the columns of `gaps`

# Rows that one statement inserts. SQLite releases the interpreter's lock once per statement, not for a microsecond per
# row, which a waiting thread would sleep through.
ROWS_AT_ONCE: Final = 50
# A duplicate number is the same record, recovered from the box while its thread was still handing it over.
_SKIP_KNOWN: Final = "ON CONFLICT (seq) DO NOTHING"

INSERT_GAP: Final = f"INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (?, ?, ?, ?, ?) {_SKIP_KNOWN}"  # noqa: S608
INSERT_RUN: Final = (
    "INSERT INTO runs (run_id, node_id, version, pid, boot_id, started_us, program, role)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id) DO NOTHING"
)
END_RUN: Final = "UPDATE runs SET ended_us = ?, end_reason = ? WHERE run_id = ?"
SET_VITALS: Final = "UPDATE runs SET last_seen_us = ?, vitals = ? WHERE run_id = ?"
SET_WEAR: Final = "UPDATE runs SET commits = ?, written_bytes = ? WHERE run_id = ?"
CLEAN: Final = "clean"
UNCLEAN: Final = "unclean"


class Table:
    """The table of one ring.

    Args:
        name: of the table.
        size: the ring's size in rows.
        record: the type of its records. Fields of type `bytes` are JSON, text in the database.

    Attributes:
        columns: their names, comma-separated.
        insert: the statement that inserts one record as it is.
        insert_many: the statement that inserts `ROWS_AT_ONCE` records, given what `values_of` returns for each. The
            sqlite3 module looks for an adapter of each value that is None or bytes, which takes as long as all its
            other work on a row; so JSON is passed as text, and None as a number, which no text equals.
        delete: the statement that deletes one row, given its number.
        delete_range: the statement that deletes a `Range` of the ring. It walks along the table; looking each row up
            would cost twice as much.
        keys: the query for `(seq, notable)` of every row, oldest first.
        keys_of: returns the same of a record.
        seq_of: returns a record's number.
    """

    def __init__(self, name: str, size: int, record: type[TraceRecord | LogRecord]) -> None:
        hints = get_type_hints(record)
        nullable = [NoneType in get_args(hint) for hint in hints.values()]
        is_json = [hint is bytes for hint in hints.values()]
        self.name = name
        self.size = size
        self.columns = ", ".join(record._fields)
        self._make = record._make
        self._json = [at for at, is_it in enumerate(is_json) if is_it]
        self._nullable = [at for at, is_it in enumerate(nullable) if is_it]

        one = ", ".join("CAST(? AS TEXT)" if is_it else "?" for is_it in is_json)
        each = ", ".join("NULLIF(?, 0)" if is_it else "?" for is_it in nullable)
        many = ", ".join([f"({each})"] * ROWS_AT_ONCE)
        # Names of tables and columns are constants of this program.
        self.insert = f"INSERT INTO {name} ({self.columns}) VALUES ({one}) {_SKIP_KNOWN}"  # noqa: S608
        self.insert_many = f"INSERT INTO {name} ({self.columns}) VALUES {many} {_SKIP_KNOWN}"  # noqa: S608
        self.delete = f"DELETE FROM {name} WHERE seq = ?"  # noqa: S608
        self.delete_range = f"DELETE FROM {name} WHERE seq BETWEEN ? AND ? AND notable = ?"  # noqa: S608
        self.keys = f"SELECT seq, notable FROM {name} ORDER BY seq"  # noqa: S608
        self._seq = record._fields.index("seq")
        self.seq_of = itemgetter(self._seq)
        self.keys_of = itemgetter(self._seq, record._fields.index("notable"))

    def values_of(self, record: tuple[Any, ...]) -> list[Any]:
        """Returns the values of a record for `insert_many`. About 0.3 us."""
        values = list(record)
        for at in self._nullable:
            if values[at] is None:
                values[at] = 0
        for at in self._json:
            values[at] = values[at].decode()
        return values

    def renumbered(self, record: tuple[Any, ...], seq: int) -> tuple[Any, ...]:
        """Returns a copy of a record with another number."""
        values = list(record)
        values[self._seq] = seq
        return tuple(values)

    def record_of(self, row: tuple[Any, ...]) -> Any:
        """Returns the record of a row, which has the values of `columns`."""
        values = list(row)
        for at in self._json:
            values[at] = values[at].encode()
        return self._make(values)


TRACES: Final = Table("traces", TRACE_RING_BUFFER, TraceRecord)
LOGS: Final = Table("logs", LOG_RING_BUFFER, LogRecord)


def role_of(node_id: str | None) -> str:
    """Returns the role of a run: that of a node has the node's id."""
    return NODE_ROLE if node_id else LIBRARY_ROLE


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
