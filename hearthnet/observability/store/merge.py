"""Inserts records that come from a box, a damaged database or a log, by the rule of the rings.

The writer does the same for its own records, over its own connection; `ring` has the rule.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hearthnet.database import CeilingError, parts_of
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store.budget import CROWDED, PAGES, foreign_pages, pages_for
from hearthnet.observability.store.ring import (
    BEGIN,
    READ,
    SET,
    State,
    is_record_at_fault,
    oldest_of,
    surplus,
    without_oldest,
)
from hearthnet.observability.store.rows import LOGS, TRACES, Table

__all__ = ["MAX_SEQ", "Record", "admit", "is_closed", "known_numbers", "merge", "transaction"]

log = get_logger(__name__)

Record = TraceRecord | LogRecord
_CHUNK_ROWS: Final = 1_000  # of a transaction: keeps the WAL of a recovery within its budget, whatever the rows hold
_ROW_BYTES: Final = 100  # a row's numbers
MAX_SEQ: Final = 2**53  # a greater one is damage; seqs must last for all records to come


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[State]:
    """Begins a transaction and yields the rings' state; writes that and commits, or rolls back what raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        ((state_rows, _, _),) = connection.execute(BEGIN).fetchall()
        state = State(state_rows)
        yield state
        connection.executemany(SET, state.changes())
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def known_numbers(connection: sqlite3.Connection, run_id: str, above: int) -> set[int]:
    """Returns the numbers above `above` of a run's rows."""
    return {
        number for table in (TRACES, LOGS) for (number,) in connection.execute(table.known, (run_id, above)).fetchall()
    }


def is_closed(connection: sqlite3.Connection, run_id: str) -> bool:
    """Returns whether the database has the end of a run."""
    found = connection.execute("SELECT 1 FROM runs WHERE run_id = ? AND ended_us IS NOT NULL", (run_id,))
    return found.fetchone() is not None


def merge(connection: sqlite3.Connection, records: Sequence[Record], *, run_id: str | None = None) -> int:
    """Inserts records that the database lacks, in their order, as far as the rings' rule has space for them.

    A record that is older than all that its full class holds would only evict a newer one: it is not inserted, as it
    would be gone by now. Each transaction deletes before it inserts, so a full ring stays within its file.

    Args:
        connection: to the database, without implicit transactions.
        records: in the order of their numbers.
        run_id: of them all; marks each as settled with its transaction. If the process is killed half-way, the next
            call gets the rest.

    Returns:
        How many were inserted.

    Raises:
        sqlite3.Error: raised when the database cannot be written; what was committed stays.
    """
    inserted = 0
    records = _young(connection, records)
    for start in range(0, len(records), _CHUNK_ROWS):
        chunk = records[start : start + _CHUNK_ROWS]
        with transaction(connection) as state:
            if run_id is not None:  # another process may recover it, too: the lock's file was removed meanwhile
                if is_closed(connection, run_id):
                    break
                chunk = [record for record in chunk if record.number > state.settled(run_id)]
                if not chunk:
                    continue
            inserted += admit(connection, state, chunk)
            if run_id is not None:
                state.settle(run_id, chunk[-1].number)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return inserted


def admit(connection: sqlite3.Connection, state: State, records: Sequence[Record]) -> int:
    """Inserts records within a transaction, as `merge` does; returns how many."""
    inserted = 0
    seqs = _seqs(state, records)
    for table, kind in ((TRACES, TraceRecord), (LOGS, LogRecord)):
        ours = [record for record in records if isinstance(record, kind)]
        kept = _fitting(connection, state, table, _make_space(connection, state, table, ours))
        inserted += _insert(connection, state, table, kept, seqs)
    return inserted


def _seqs(state: State, records: Sequence[Record]) -> dict[int, int]:
    """Returns the seq of each record by its identity in memory: its own if it has one that is still free."""
    seqs, highest = {}, state.seq
    for record in records:
        highest = max(highest + 1, record.seq if record.seq < MAX_SEQ else 0)
        seqs[id(record)] = highest
    state.take(highest)
    return seqs


def _young(connection: sqlite3.Connection, records: Sequence[Record]) -> Sequence[Record]:
    """Returns `records` without those that are older than all that a full class holds, and do not fit beside it.

    Of all records at once: were it decided for each transaction, the oldest would take the space of the newer ones.
    """
    ((state_rows,),) = connection.execute(READ).fetchall()
    state = State(state_rows)
    old: set[int] = set()
    for table, kind in ((TRACES, TraceRecord), (LOGS, LogRecord)):
        ours = [record for record in records if isinstance(record, kind)]
        for notable, count in enumerate(surplus(state.held(table), table.counts(ours), table.size)):
            if not count:
                continue
            oldest = connection.execute(table.oldest, (notable, state.first(table, notable))).fetchone()
            if oldest is not None:
                of_class = (record for record in ours if record.notable == notable)
                older = [id(record) for record in of_class if table.ended_us(record) < oldest[0]]
                old.update(older[:count])
    return [record for record in records if id(record) not in old]


def _make_space(connection: sqlite3.Connection, state: State, table: Table, records: Sequence[Any]) -> list[Any]:
    """Deletes the rows that `records` replace; returns those of `records` that are to be inserted."""
    kept = list(records)
    while any(counts := surplus(state.held(table), table.counts(kept), table.size)):
        for notable, count in enumerate(counts):
            if held := min(count, state.held(table)[notable]):
                _evict(connection, state, table, notable, held)
            elif count:  # there are more than the ring holds
                kept = without_oldest(kept, table, notable, count)
                state.lose(table, count)
    return kept


def _evict(connection: sqlite3.Connection, state: State, table: Table, notable: int, count: int) -> None:
    count = min(count, state.held(table)[notable])
    oldest, cursor = (notable, state.first(table, notable)), state.cursor(table)
    unsent = 0 if cursor is None else connection.execute(table.unsent, (0, *oldest, count, cursor)).fetchone()[0]
    gone = connection.execute(table.delete_oldest, (*oldest, *oldest, count - 1)).rowcount if count else 0
    state.evicted(table, notable, gone)
    state.lose(table, unsent if gone else 0)
    if not gone:  # there are fewer than were counted
        state.correct(table, connection.execute(table.count).fetchone())


def _fitting(connection: sqlite3.Connection, state: State, table: Table, records: list[Any]) -> list[Any]:
    """Evicts the oldest until `records` fit below the database's ceiling; returns those that do."""
    kept = records
    texts = [part for record in kept for part in record if isinstance(part, str | bytes)]
    needed = pages_for(_ROW_BYTES * len(kept) + sum(map(len, texts)))
    ((ceiling,),) = connection.execute("PRAGMA max_page_count").fetchall()
    while kept:
        ((pages, free),) = connection.execute(PAGES).fetchall()
        if free + ceiling - pages >= needed:
            break
        if foreign_pages(connection) > ceiling // 2:
            raise CeilingError(CROWDED)
        held = state.held(table)
        for notable, count in enumerate(oldest_of(held, table.size, max(50, sum(held) // 50))):
            if count:
                _evict(connection, state, table, notable, count)
        if not any(held):
            return []
    return kept


def _insert(
    connection: sqlite3.Connection, state: State, table: Table, records: Sequence[Any], seqs: dict[int, int]
) -> int:
    inserted = []
    for record in records:
        try:
            connection.execute(table.insert, table.with_seq(record, seqs[id(record)]))
            inserted.append(record)
        except (sqlite3.IntegrityError, sqlite3.InterfaceError, UnicodeError, OverflowError) as error:
            if not is_record_at_fault(error, parts_of(connection)):
                raise
            # One row of a damaged source with the wrong types; the rows beside it are good.
            log.warning("a record cannot be recovered", extra={"table": table.name, "error": error})
    state.added(table, table.counts(inserted))
    return len(inserted)
