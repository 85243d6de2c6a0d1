"""Recovers records of earlier runs into the database: from a box, a damaged database, or the JSON logs.

Old and new rows are ranked by their numbers, and the ring's rule is applied to all of them, so the result is the ring
that would have come of recording them in order. Running it again changes nothing. A row that the ring had evicted is
evicted again: its class was over its share then, and a class never falls below its share afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import LogRecord, TraceRecord
from hearthnet.observability.store.disk_quota import PAGES, pages_for
from hearthnet.observability.store.ring import Ring
from hearthnet.observability.store.rows import Table

__all__ = ["last_seq", "merge"]

log = get_logger(__name__)

# Records per transaction: keeps the WAL of a recovery within its budget, whatever the rows hold.
_CHUNK_ROWS: Final = 1_000
_ROW_BYTES: Final = 100  # a row's numbers


def merge(connection: sqlite3.Connection, table: Table, records: Sequence[TraceRecord | LogRecord]) -> int:
    """Inserts those of `records` that the table lacks and its ring has slots for; returns how many.

    Each transaction deletes before it inserts, so a full ring stays within its file. If the process is killed
    half-way, the next call does the rest.

    Raises:
        sqlite3.Error: raised when the database cannot be written; what was committed stays.
    """
    keys: list[tuple[int, int]] = connection.execute(table.keys).fetchall()
    known = {seq for seq, _ in keys}
    fresh = {record.seq: record for record in records if record.seq not in known}
    ring = Ring(table.size, sorted([*keys, *((seq, record.notable) for seq, record in fresh.items())]))
    evicted = set(ring.shrink())
    wanted = [fresh[seq] for seq in sorted(fresh.keys() - evicted)]
    deleted = sorted(evicted & known)
    for start in range(0, max(len(wanted), len(deleted)), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(table.delete, ((seq,) for seq in deleted[chunk]))
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
    """Evicts the oldest until `records` fit below the database's ceiling; returns those that were not evicted."""
    kept = list(records)
    texts = [part for record in kept for part in record if isinstance(part, str | bytes)]
    needed = pages_for(_ROW_BYTES * len(kept) + sum(map(len, texts)))
    ((ceiling,),) = connection.execute("PRAGMA max_page_count").fetchall()
    while kept:
        ((pages, free),) = connection.execute(PAGES).fetchall()
        ranges = ring.evict_oldest(max(50, len(ring) // 50)).ranges if free + ceiling - pages < needed else []
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
        # One row of a damaged source with the wrong types; the rows beside it are good.
        log.warning("a record cannot be recovered", extra={"table": table.name, "error": str(error)})


def last_seq(connection: sqlite3.Connection) -> int:
    """Returns the highest number in the database, 0 in an empty one."""
    found: int = connection.execute(
        "SELECT max((SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs),"
        " (SELECT ifnull(max(seq), 0) FROM gaps))"
    ).fetchone()[0]
    return found
