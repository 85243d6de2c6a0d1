"""Puts records of earlier runs into the database: from a black box, a damaged database, or the JSON logs.

Old and new rows are ranked by their numbers and the ring's rule is applied to all of them, so the outcome is what the
ring would be had each come in its turn; doing it again changes nothing. A row that the ring had given up is given up
again: its class was over its share then, and a class never falls below its share afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import LogRecord, TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.ring import Ring
from hearthnet.observability.store.room import PAGES, pages_for

__all__ = ["LOGS", "TRACES", "Table", "last_seq", "merge"]

log = get_logger(__name__)

# Records a transaction: keeps the WAL of a recovery within its budget, whatever the rows hold.
_CHUNK_ROWS: Final = 1_000
_ROW_BYTES: Final = 100  # a row's numbers


@dataclass(frozen=True, slots=True)
class Table:
    """A ring's table: what it holds and how records get in and out.

    Attributes:
        insert_many: inserts `ROWS_AT_ONCE` rows, of what `values_of` returns of their records.
        keys_of: returns a record's number and whether it is notable.
    """

    name: str
    size: int
    insert: str
    insert_many: str
    delete: str
    delete_range: str
    values_of: Callable[[Any], Sequence[Any]]
    keys_of: Callable[[Any], tuple[int, int]]

    def keys(self) -> str:
        """Returns the query for `(seq, notable)` of every row, oldest first."""
        return f"SELECT seq, notable FROM {self.name} ORDER BY seq"  # noqa: S608  # one of two constants


TRACES: Final = Table(
    "traces", TRACE_RING_BUFFER, rows.INSERT_TRACE, rows.INSERT_TRACES, rows.DELETE_TRACE, rows.DELETE_TRACES,
    rows.trace_values, itemgetter(TraceRecord._fields.index("seq"), TraceRecord._fields.index("notable")),
)  # fmt: skip
LOGS: Final = Table(
    "logs", LOG_RING_BUFFER, rows.INSERT_LOG, rows.INSERT_LOGS, rows.DELETE_LOG, rows.DELETE_LOGS,
    rows.log_values, itemgetter(LogRecord._fields.index("seq"), LogRecord._fields.index("notable")),
)  # fmt: skip


def merge(connection: sqlite3.Connection, table: Table, records: Sequence[TraceRecord | LogRecord]) -> int:
    """Inserts those of `records` that the table lacks and its ring has room for; returns how many.

    Each transaction removes before it adds, so a full ring stays within its file. Killed half-way, the next call does
    the rest.

    Raises:
        sqlite3.Error: raised when the database cannot be written; what was committed stays.
    """
    keys: list[tuple[int, int]] = connection.execute(table.keys()).fetchall()
    known = {seq for seq, _ in keys}
    fresh = {record.seq: record for record in records if record.seq not in known}
    ring = Ring(table.size, sorted([*keys, *((seq, record.notable) for seq, record in fresh.items())]))
    gone = set(ring.shrink())
    wanted = [fresh[seq] for seq in sorted(fresh.keys() - gone)]
    leaving = sorted(gone & known)
    for start in range(0, max(len(wanted), len(leaving)), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(table.delete, ((seq,) for seq in leaving[chunk]))
            for record in _fitting(connection, table, ring, wanted[chunk]):
                _insert(connection, table, record)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return len(wanted)


def _fitting(
    connection: sqlite3.Connection, table: Table, ring: Ring, records: Sequence[TraceRecord | LogRecord]
) -> list[TraceRecord | LogRecord]:
    """Makes room for `records` below the database's ceiling, from the oldest; returns those that are not given up."""
    kept = list(records)
    texts = [part for record in kept for part in record if isinstance(part, str | bytes)]
    needed = pages_for(_ROW_BYTES * len(kept) + sum(map(len, texts)))
    ((ceiling,),) = connection.execute("PRAGMA max_page_count").fetchall()
    while kept:
        ((pages, free),) = connection.execute(PAGES).fetchall()
        ranges = ring.give_up(max(50, len(ring) // 50)).ranges if free + ceiling - pages < needed else []
        if not ranges:
            break
        connection.executemany(table.delete_range, ranges)
        for first, last, notable in ranges:
            kept = [record for record in kept if not (first <= record.seq <= last and record.notable == notable)]
    return kept


def _insert(connection: sqlite3.Connection, table: Table, record: TraceRecord | LogRecord) -> None:
    try:
        connection.execute(table.insert, record)
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, UnicodeError, OverflowError) as error:
        # One row of a damaged source that is not what its table holds; its neighbours are.
        log.warning("a record cannot be taken over", extra={"table": table.name, "error": str(error)})


def last_seq(connection: sqlite3.Connection) -> int:
    """Returns the highest number in the database, 0 in an empty one."""
    found: int = connection.execute(
        "SELECT max((SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs),"
        " (SELECT ifnull(max(seq), 0) FROM gaps))"
    ).fetchone()[0]
    return found
