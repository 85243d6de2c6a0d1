"""Decides which rows new ones replace: the oldest of the class that holds more than its share.

A ring holds `size` rows in two classes, ordinary and notable. While it is not full, either class may use the other's
slots; once full, a new row replaces the oldest of the class that is over its share, so neither class can evict the
newest rows of the other. Several processes write, so what must go is decided inside the transaction, by the counts
that the database holds then (its table `state`, see the migration).
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from hearthnet.constants import NOTABLE_SHARE
from hearthnet.database import TELEMETRY, Part, misfit, refusing
from hearthnet.observability.store import rows
from hearthnet.observability.store.rows import LOGS, TRACES, Table

__all__ = [
    "BEGIN",
    "READ",
    "RECOUNT",
    "SET",
    "Settled",
    "State",
    "cursor_name",
    "cursor_of",
    "is_record_at_fault",
    "lost_name",
    "oldest_of",
    "surplus",
    "trial",
    "without_oldest",
]

Counts = tuple[int, int]  # of ordinary and of notable rows

_ROWS: Final = "(SELECT json_group_object(name, value) FROM state)"
READ: Final = f"SELECT {_ROWS}"
# An update that changes nothing: with implicit transactions it begins an immediate one, and reads, in one trip. Returns
# the state, the pages of the database, and how many of these are free.
BEGIN: Final = (
    f"UPDATE state SET value = value WHERE name = 'seq' RETURNING {_ROWS},"  # noqa: S608  # constants
    " (SELECT page_count FROM pragma_page_count()), (SELECT freelist_count FROM pragma_freelist_count())"
)
SET: Final = "INSERT INTO state (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_FEW: Final = 1_000  # rows of the other class that a search for the oldest of a class may pass in vain
_BELOW_ALL: Final = -(2**63)  # that a seq can be


def _recount(table: str, notable: int) -> tuple[str, str]:
    of_class = f"FROM {table} WHERE notable = {notable})"
    count, lowest = f"(SELECT count(*) {of_class}", f"(SELECT ifnull(min(seq), 0) {of_class}"
    set_where = "UPDATE state SET value = {} WHERE name = '{}' AND {}"
    return (
        set_where.format(count, f"{table}.{notable}", f"value <> {count}"),
        set_where.format(lowest, f"{table}.{notable}.from", f"{lowest} NOT BETWEEN value AND value + {_FEW}"),
    )


# Once a minute, and after rows have been changed by other means than this module's. 1 ms for full rings; writes nothing
# if all is right.
RECOUNT: Final = tuple(
    statement for table in (TRACES, LOGS) for notable in (0, 1) for statement in _recount(table.name, notable)
)


class Settled:
    """Knows up to which number all records of a run are committed, or counted as dropped.

    Threads hand records over a little out of the order of their numbers. A record in the black box above this number
    is not committed, unless the database has it; below it, it has been, whatever the ring has evicted since.
    """

    def __init__(self) -> None:
        self.number = 0
        self._ahead: set[int] = set()
        self._waited_for = 0

    def after(self, numbers: Sequence[int]) -> int:
        """Returns what `number` will be once more are settled, given in order."""
        number = self.number
        if not self._ahead and numbers and numbers[0] > number and numbers[-1] == number + len(numbers):
            return numbers[-1]
        ahead = self._ahead.union(numbers)
        while number + 1 in ahead:
            number += 1
        return number

    def add(self, numbers: Sequence[int]) -> None:
        """Adds settled numbers, in order."""
        number = self.after(numbers)
        self._ahead.update(numbers[bisect_right(numbers, number) :])
        self.skip(number)

    def skip(self, number: int) -> None:
        """Takes all numbers up to this one as settled."""
        self.number = max(self.number, number)
        if self._ahead:
            self._ahead = {ahead for ahead in self._ahead if ahead > self.number}

    def highest(self) -> int:
        """Returns the highest settled number; some below it may not be."""
        return max(self._ahead, default=self.number)

    def give_up(self) -> None:
        """Gives up the numbers that were missing at the last call already: their thread was stopped half-way."""
        self.skip(self._waited_for)
        self.add(())
        self._waited_for = max(self._ahead, default=0)


def surplus(held: Counts, added: Counts, size: int) -> Counts:
    """Returns how many of the oldest rows of each class must go, for a ring of `size` rows to take `added` ones.

    The order in which they come makes no difference: in the end a class that is over its share has what the other
    leaves, or its share if both are over.
    """
    share = size - int(size * NOTABLE_SHARE)
    ordinary, notable = held[0] + added[0], held[1] + added[1]
    kept = min(ordinary, max(share, size - notable))
    return ordinary - kept, max(0, notable - (size - kept))


def oldest_of(held: Counts, size: int, count: int) -> Counts:
    """Returns how many rows of each class to evict where the disk has no space for as many as there are.

    They are of the class that is fuller, measured by its share.
    """
    share = size - int(size * NOTABLE_SHARE)
    is_ordinary = held[0] * (size - share) >= held[1] * share
    return (min(count, held[0]), 0) if is_ordinary else (0, min(count, held[1]))


def without_oldest(records: Sequence[Any], table: Table, notable: int, count: int) -> list[Any]:
    """Returns `records`, oldest first, without the first `count` of a class: a batch may be larger than its ring."""
    left = count
    kept = []
    for record in records:
        if left and table.notable_of(record) == notable:
            left -= 1
        else:
            kept.append(record)
    return kept


def cursor_name(table: str) -> str:
    """Returns the name, in `state`, of the seq up to which the rows of a table are exported; none: they are not."""
    return f"otlp.{table}"


def cursor_of(held: int | None) -> int | None:
    """Returns the seq of a cursor in `state`; None: there is none, or the export of its table has ended.

    One that has ended is there as its complement, which is negative.
    """
    return None if held is None or held < 0 else held


def lost_name(table: str) -> str:
    """Returns the name, in `state`, of the number of rows that were evicted before they were exported."""
    return f"otlp.{table}.lost"


class State:
    """The rows of `state` as a transaction has read them, and what it changes.

    Args:
        values: the JSON that `READ` and `BEGIN` return.

    Attributes:
        seq: the last one given.
    """

    def __init__(self, values: str) -> None:
        self._values: dict[str, int] = orjson.loads(values)
        self._changed: set[str] = {"seq"}

    @property
    def seq(self) -> int:
        """The last seq that was given."""
        return self._values["seq"]

    def take(self, highest: int) -> None:
        """Marks every seq up to `highest` as given."""
        self._values["seq"] = highest

    def next_seq(self) -> int:
        """Gives one seq."""
        self._values["seq"] += 1
        return self._values["seq"]

    def held(self, table: Table) -> Counts:
        """Returns the rows of each class."""
        return self._values[f"{table.name}.0"], self._values[f"{table.name}.1"]

    def first(self, table: Table, notable: int) -> int:
        """Returns a seq below which the class has no rows: its lowest one when the rows were last counted."""
        return self._values.get(f"{table.name}.{notable}.from", 0)

    def evicted(self, table: Table, notable: int, count: int) -> None:
        """Counts rows as deleted: the oldest of their class."""
        name = f"{table.name}.{notable}"
        self._set(name, max(0, self._values[name] - count))

    def added(self, table: Table, counts: Counts) -> None:
        """Counts rows as inserted."""
        for notable, count in enumerate(counts):
            if count:
                name = f"{table.name}.{notable}"
                self._set(name, self._values[name] + count)

    def correct(self, table: Table, counts: Sequence[float]) -> None:
        """Sets the rows of each class, counted anew: some were deleted or inserted by hand."""
        for notable, count in enumerate(counts):
            self._set(f"{table.name}.{notable}", int(count))
            self._set(f"{table.name}.{notable}.from", _BELOW_ALL)

    def cursor(self, table: Table) -> int | None:
        """Returns the seq up to which the rows of a table are exported; None: they are not."""
        return cursor_of(self._values.get(cursor_name(table.name)))

    def lose(self, table: Table, count: int) -> None:
        """Counts rows as evicted before they were exported, if they are to be exported."""
        if count and self.cursor(table) is not None:
            name = lost_name(table.name)
            self._set(name, self._values.get(name, 0) + count)

    def begin_export(self, table: str) -> None:
        """Begins to keep a cursor for a table: where it was when the export ended, else at its oldest row."""
        held = self._values.get(cursor_name(table))
        if held is None or held < 0:
            self._set(cursor_name(table), 0 if held is None else ~held)

    def end_export(self, table: str) -> None:
        """Keeps the cursor of a table for later, and forgets what was lost."""
        held = self._values.get(cursor_name(table))
        if held is not None and held >= 0:
            self._set(cursor_name(table), ~held)
            self._set(lost_name(table), 0)

    def move_cursor(self, table: str, start: int, end: int) -> None:
        """Moves a cursor, if it is where it is thought to be: the database may be another one by now.

        It stays below the seqs to come: of a damaged database, which had more rows, the last ones may not be there.
        """
        if self._values.get(cursor_name(table)) == start:
            self._set(cursor_name(table), min(end, self.seq))

    def resume_export(self, table: str, cursor: int, lost: int) -> None:
        """Takes over how far the export has come in a database that this one replaces, unless it has begun here."""
        if self._values.get(cursor_name(table), 0) == 0:
            self._set(cursor_name(table), cursor)
            self._set(lost_name(table), self._values.get(lost_name(table), 0) + lost)

    def tell_lost(self, table: str, count: int) -> None:
        """Takes evicted rows off the count: the backend knows of them."""
        name = lost_name(table)
        self._set(name, max(0, self._values.get(name, 0) - count))

    def marks(self, run_id: str) -> int:
        """Returns how many transactions of a run are marked."""
        return self._values.get(rows.TOLD + run_id, 0)

    def mark(self, run_id: str) -> int:
        """Marks this transaction, so that the next one knows whether it was committed; returns its mark."""
        self._set(rows.TOLD + run_id, self.marks(run_id) + 1)
        return self.marks(run_id)

    def is_open(self, run_id: str) -> bool:
        """Returns whether a run is open: its process has not closed it, and no other one has taken it for dead."""
        return run_id in self._values

    def settled(self, run_id: str) -> int:
        """Returns the number up to which all records of a run are committed, or counted as dropped; 0: none."""
        return self._values.get(run_id, 0)

    def settle(self, run_id: str, number: int) -> None:
        """Raises that number."""
        if number > self._values.get(run_id, 0):
            self._set(run_id, number)

    def _set(self, name: str, value: int) -> None:
        self._values[name] = value
        self._changed.add(name)

    def changes(self) -> list[tuple[str, int]]:
        """Returns the rows to write with `SET`."""
        return [(name, self._values[name]) for name in self._changed]


_STATE: Final = ("seq", "traces.0", "traces.1", "logs.0", "logs.1")


def trial(connection: sqlite3.Connection) -> None:
    """Writes rows of every kind, as telemetry does, into tables without rows: two alike, without values and with them.

    Alike in all that records may have in common; their numbers and times differ.

    Raises:
        sqlite3.Error: raised when a row or a statement is refused.
    """
    connection.executemany(SET, [(name, 0) for name in _STATE])
    connection.execute(rows.MARK_DATABASE)
    for seq in range(1, 5):
        run = str(seq)
        notable, some = (0, None) if seq < 3 else (1, "x")
        trace = ("run", seq, "id", some, "a.b", some, seq, seq, seq + 0.5, "ok", some, notable, b"[]", b"{}")
        entry = ("run", seq, seq, "info", "a", "m", some, some, notable, 0, b"{}", some)
        connection.execute(TRACES.insert, (seq, *trace))
        connection.execute(LOGS.insert, (seq, *entry))
        connection.execute(rows.INSERT_GAP, (seq, seq, "trace", "poison", 1, "run"))
        connection.execute(rows.INSERT_RUN, (run, some, "1", 1, some, seq, some, "node"))
        connection.execute(rows.FOLLOW_RUN, (run, 0))
        connection.execute(rows.SET_VITALS, (seq, some, run))
        connection.execute(rows.SET_WEAR, (1, None, run))
        connection.execute(rows.END_RUN, (seq, rows.CLEAN, run))
        connection.execute(rows.OPEN_RUN, (run,))
        connection.execute(rows.END_RUN, (seq, rows.UNCLEAN, run))
        connection.execute(rows.FORGET_RUN, (run,))
    for table in (TRACES, LOGS):
        connection.execute(table.delete_oldest, (0, 0, 0, 0, 0))
    connection.execute(rows.TRIM_GAPS, (1,))
    connection.execute(rows.TRIM_RUNS, {"node_id": "x", "size": 1})


_NEVER_OURS: Final = ("TRIGGER", "UNIQUE", "CHECK", "FOREIGNKEY", "FUNCTION")  # constraints that our schema lacks


def is_record_at_fault(error: Exception, parts: Iterable[Iterable[Any]]) -> bool:
    """Returns whether a record that was refused is at fault, and not a schema that others have changed. 10 ms."""
    if not isinstance(error, sqlite3.IntegrityError):  # a value that SQLite cannot bind
        return True
    if error.sqlite_errorname.endswith(_NEVER_OURS):
        return False
    found = [Part(*part) for part in parts]
    return misfit(found, TELEMETRY, trial) is None and not refusing(found, TELEMETRY, trial)
