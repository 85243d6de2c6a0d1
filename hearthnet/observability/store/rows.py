"""The tables of telemetry.db: their SQL, and how a record becomes a row and back.

A record's fields are its table's columns in their order (a test compares them), so the row to insert is the record
itself, and columns, JSON and NULLs follow from its annotations. Batches are inserted in a quicker way, see
`Table.insert_many`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import orjson

from hearthnet.constants import LIBRARY_ROLE, LOG_RING_BUFFER, NODE_ROLE, TRACE_RING_BUFFER
from hearthnet.moments import ended_us
from hearthnet.observability.records.record import WHOLE_ITEMS, LogFields, fields_of, json_texts_of
from hearthnet.observability.records.stored import LogRecord, TraceRecord

__all__ = [
    "CLEAN",
    "END_RUN",
    "FOLLOW_RUN",
    "FORGET_RUN",
    "INSERT_GAP",
    "INSERT_RUN",
    "LOGS",
    "LOST",
    "OF_THE_EXPORT",
    "MARK_DATABASE",
    "OPEN_RUN",
    "ROWS_AT_ONCE",
    "SET_VITALS",
    "SET_WEAR",
    "TRACES",
    "TRIM_GAPS",
    "TRIM_RUNS",
    "UNCLEAN",
    "Gap",
    "Run",
    "Table",
    "as_dict",
    "flat",
    "log_sizes",
    "now_us",
    "role_of",
    "trace_sizes",
]

# run_id, node_id, version, pid, boot_id, started_us, program, role
Run = tuple[str, str | None, str, int, str | None, int, str | None, str]
Gap = tuple[int, str, str, int, str]  # the columns of `gaps` but its seq

# Rows that one statement inserts. SQLite releases the interpreter's lock once per statement, not for a microsecond per
# row, which a waiting thread would sleep through.
ROWS_AT_ONCE: Final = 50

INSERT_GAP: Final = "INSERT INTO gaps (seq, ts_us, kind, reason, count, run_id) VALUES (?, ?, ?, ?, ?, ?)"
TRIM_GAPS: Final = "DELETE FROM gaps WHERE seq <= (SELECT seq FROM gaps ORDER BY seq DESC LIMIT 1 OFFSET ?)"
INSERT_RUN: Final = (
    "INSERT INTO runs (run_id, node_id, version, pid, boot_id, started_us, program, role)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id) DO NOTHING"
)
# The oldest of its kind (nodes, other programs) that have ended; by rowid, the order of their start: ids of runs are
# ULIDs, which follow a clock that may be set.
TRIM_RUNS: Final = (
    "DELETE FROM runs WHERE ended_us IS NOT NULL AND (node_id IS NULL) = (:node_id IS NULL) AND rowid <="
    " (SELECT rowid FROM runs WHERE (node_id IS NULL) = (:node_id IS NULL) ORDER BY rowid DESC LIMIT 1 OFFSET :size)"
)
END_RUN: Final = "UPDATE runs SET ended_us = ?, end_reason = ? WHERE run_id = ?"
# A run that was taken for dead is open again.
OPEN_RUN: Final = "UPDATE runs SET ended_us = NULL, end_reason = NULL WHERE run_id = ? AND ended_us IS NOT NULL"
FOLLOW_RUN: Final = "INSERT INTO state (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"  # while it is open
# A number that tells this database from one that is made in its place.
MARK_DATABASE: Final = "INSERT INTO state (name, value) VALUES ('epoch', random()) ON CONFLICT (name) DO NOTHING"
SET_VITALS: Final = "UPDATE runs SET last_seen_us = ?, vitals = ? WHERE run_id = ?"
SET_WEAR: Final = "UPDATE runs SET commits = ?, written_bytes = ? WHERE run_id = ?"
LOST: Final = "lost."  # before the id of a run in `state`
TOLD: Final = "told."  # likewise: how many transactions of the run must not be repeated, for the export
# A run that is closed. Not by ?1 twice: Python 3.12.0 to 3.12.3 take numbered placeholders for named ones, and warn.
FORGET_RUN: Final = (
    "WITH run (id) AS (VALUES (?)) DELETE FROM state"  # noqa: S608
    f" WHERE name IN (SELECT id FROM run UNION ALL SELECT '{LOST}' || id FROM run"
    f" UNION ALL SELECT '{TOLD}' || id FROM run)"
)
# Log records that are exported. What the export itself logs would be exported without end.
OF_THE_EXPORT: Final = (
    "logger <> 'httpx' AND logger NOT GLOB 'httpcore*' AND logger NOT GLOB 'hearthnet.observability.otel.export*'"
)
CLEAN: Final = "clean"
UNCLEAN: Final = "unclean"
# When a record's subject ended, which is when the record was made.
_ENDED: Final = {"traces": "started_us + CAST(duration_ms * 1000 AS INTEGER)", "logs": "ts_us"}


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
        delete_oldest: the statement that deletes the oldest rows of a class, given the class and a seq below which it
            has none, both twice, and one less than their number; it deletes none if there are fewer. It walks along the
            table; looking each row up would cost twice as much, and so would returning their seqs.
        unsent: the query for how many of the rows that `delete_oldest` would delete are to be exported and above a
            seq, and, as JSON, the seqs of those up to another, given that other, the class, a seq below which it has
            none, how many to delete, and the first seq.
        count: the query for the number of rows of each class.
        known: the query for the numbers of a run's rows, above a number.
        instead: the SQL expression for a column that a damaged database lacks, by name.
        oldest: the query for the time in UTC microseconds when the oldest row of a class ended.
        number_of: returns a record's number.
        notable_of: returns 1 for a notable record, 0 for an ordinary one.
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

        substitutes = {int: "0", float: "0.0", str: "'unknown'", bytes: "'{}'"}
        self.instead = {name: substitutes.get(hint, "NULL") for name, hint in hints.items()}
        one = ", ".join("CAST(? AS TEXT)" if is_it else "?" for is_it in is_json)
        each = ", ".join("NULLIF(?, 0)" if is_it else "?" for is_it in nullable)
        many = ", ".join([f"({each})"] * ROWS_AT_ONCE)
        # Names of tables and columns are constants of this program.
        self.insert = f"INSERT INTO {name} ({self.columns}) VALUES ({one})"  # noqa: S608
        self.insert_many = f"INSERT INTO {name} ({self.columns}) VALUES {many}"  # noqa: S608
        self.delete_oldest = (
            f"DELETE FROM {name} WHERE notable = ? AND seq >= ? AND seq <= (SELECT seq FROM {name}"  # noqa: S608
            f" WHERE notable = ? AND seq >= ? ORDER BY seq LIMIT 1 OFFSET ?)"
        )
        kept = "seq, logger" if name == "logs" else "seq"
        self.unsent = (
            f"SELECT count(*), json_group_array(seq) FILTER (WHERE seq <= ?) FROM (SELECT {kept} FROM {name}"  # noqa: S608
            " WHERE notable = ? AND seq >= ? ORDER BY seq LIMIT ?) WHERE seq > ?"
            + (f" AND {OF_THE_EXPORT}" if name == "logs" else "")
        )
        of_class = "count(*) FILTER (WHERE notable = {})"
        self.count = f"SELECT {of_class.format(0)}, {of_class.format(1)} FROM {name}"  # noqa: S608
        self.known = f"SELECT number FROM {name} WHERE run_id = ? AND number > ?"  # noqa: S608
        self.oldest = f"SELECT {_ENDED[name]} FROM {name} WHERE notable = ? AND seq >= ? ORDER BY seq LIMIT 1"  # noqa: S608
        self.number_of = itemgetter(record._fields.index("number"))
        self.notable_of = itemgetter(record._fields.index("notable"))

    def counts(self, records: Sequence[tuple[Any, ...]]) -> tuple[int, int]:
        """Returns how many of `records` are ordinary, and how many notable."""
        notable = sum(map(self.notable_of, records))
        return len(records) - notable, notable

    def values_of(self, record: tuple[Any, ...], before: int) -> list[Any]:
        """Returns the values of a record for `insert_many`, its seq being `before` and its number.

        About 0.4 us, 0.8 with a frame.
        """
        values = list(record)
        if len(values) == WHOLE_ITEMS:
            values[-1], extras = json_texts_of(values[-1])
            values.append(extras)
        else:
            for at in self._json:
                values[at] = values[at].decode()
        values[_SEQ] = before + values[_NUMBER]
        for at in self._nullable:
            if values[at] is None:
                values[at] = 0
        return values

    def ended_us(self, record: Any) -> int:
        """Returns when a record's subject ended, in UTC microseconds, as `oldest` does of a row."""
        return ended_us(record.started_us, record.duration_ms) if self.name == "traces" else int(record.ts_us)

    def with_seq(self, record: tuple[Any, ...], seq: int) -> tuple[Any, ...]:
        """Returns the values of a record for `insert`."""
        fields = fields_of(record) if len(record) == WHOLE_ITEMS else record
        return (seq, *fields[_SEQ + 1 :])

    def record_of(self, row: tuple[Any, ...]) -> Any:
        """Returns the record of a row, which has the values of `columns`."""
        values = list(row)
        for at in self._json:
            values[at] = values[at].encode()
        return self._make(values)


_SEQ: Final = 0
_NUMBER: Final = 2

TRACES: Final = Table("traces", TRACE_RING_BUFFER, TraceRecord)
LOGS: Final = Table("logs", LOG_RING_BUFFER, LogRecord)


_texts_of: Final = itemgetter(*map(LogRecord._fields.index, ("msg", "extras", "exc")))


def trace_sizes(records: Sequence[tuple[Any, ...]]) -> list[int]:
    """Returns the bytes of JSON of each record; of its whole frame where it has one."""
    return [len(made[-1]) if len(made) == WHOLE_ITEMS else len(made[-1]) + len(made[-2]) for made in records]


def log_sizes(records: list[LogFields]) -> list[int]:
    """Returns the characters of text plus bytes of JSON of each record."""
    return [len(msg) + len(extras) + len(exc or "") for msg, extras, exc in map(_texts_of, records)]


def flat(values: Iterator[list[Any]], pause_s: float) -> Iterator[tuple[Any, ...]]:
    """Yields the values of `ROWS_AT_ONCE` records at a time; pauses in between."""
    while batch := tuple(chain.from_iterable(islice(values, ROWS_AT_ONCE))):
        yield batch
        if pause_s:
            time.sleep(pause_s)


def role_of(node_id: str | None) -> str:
    """Returns the role of a run: that of a node has the node's id."""
    return NODE_ROLE if node_id else LIBRARY_ROLE


def as_dict(record: TraceRecord) -> dict[str, Any]:
    """Returns the fields by name, spans and extras decoded: what `Trace.as_dict` returns of the same trace."""
    return {**record._asdict(), "spans": orjson.loads(record.spans), "extras": orjson.loads(record.extras)}


def now_us() -> int:
    """Returns UTC microseconds since 1970."""
    return time.time_ns() // 1_000
