"""Reads telemetry.db: each call is one short read-only statement, so that no reader pins the WAL.

One connection is kept and shared under a lock: opening a connection costs more than most queries.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from hearthnet.constants import SALVAGE
from hearthnet.database import STEPS_BETWEEN_CHECKS, connect_read_only, reason_of
from hearthnet.errors import StoreError
from hearthnet.observability.process.program import program_name
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.store.query.statement import QueryLimitError
from hearthnet.observability.store.rows import LOGS, TRACES
from hearthnet.sidecars import lengthen_shm

__all__ = ["Reader", "TraceFilter", "being_written"]

# Device and inode of each database that a writer of this process has open, by the path. To open another file at that
# path would cut the `-shm`, which has its name, while the writer's memory is mapped to it: the kernel would end the
# process (SIGBUS). Between processes SQLite's locks prevent that.
being_written: Final[dict[Path, tuple[int, int]]] = {}

_END_US: Final = "started_us + duration_ms * 1e3"
_IDS_AT_ONCE: Final = 500  # values of a statement: older versions of SQLite take 999


class TraceFilter(NamedTuple):
    """Selects traces; None selects any value.

    Attributes:
        capability: exact name.
        result: exact result, or `failed` for all but `ok` and `cancelled`.
        min_ms: shortest duration in milliseconds.
        since_us: earliest end in UTC microseconds.
        trace_id: an id, or the beginning of one.
        program: exact name of the program that recorded it.
        of_node: only of runs of the node.
        until_us: only those that ended before, UTC microseconds.
        seqs: only committed ones after the first of these, up to the second.
    """

    capability: str | None = None
    result: str | None = None
    min_ms: float | None = None
    since_us: int | None = None
    trace_id: str | None = None
    program: str | None = None
    of_node: bool = False
    until_us: int | None = None
    seqs: tuple[int, int] | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Returns the SQL condition and its values."""
        conditions: list[str] = []
        values: list[Any] = []
        if self.result == "failed":
            conditions.append("result NOT IN ('ok', 'cancelled')")
        if self.of_node:
            conditions.append("run_id IN (SELECT run_id FROM runs WHERE node_id IS NOT NULL)")
        first, last = self.seqs or (None, None)
        for condition, value in (
            ("capability = ?", self.capability),
            ("result = ?", None if self.result == "failed" else self.result),
            ("duration_ms >= ?", self.min_ms),
            (f"{_END_US} >= ?", self.since_us),
            (f"{_END_US} < ?", self.until_us),
            ("trace_id GLOB ? || '*'", self.trace_id),
            ("seq > ?", first),
            ("seq <= ?", last),
            ("run_id IN (SELECT run_id FROM runs WHERE program = ?)", self.program),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        return ("WHERE " + " AND ".join(conditions) if conditions else ""), values

    def accepts(self, record: TraceRecord) -> bool:
        """Returns True if a record of this process, not in the database yet, matches.

        The caller knows whether this process is the node.
        """
        failed = record.result not in ("ok", "cancelled")
        end_us = record.started_us + record.duration_ms * 1e3
        return (
            self.capability in (None, record.capability)
            and (self.result in (None, record.result) or (self.result == "failed" and failed))
            and (self.min_ms is None or record.duration_ms >= self.min_ms)
            and (self.since_us is None or end_us >= self.since_us)
            and (self.until_us is None or end_us < self.until_us)
            and (not self.trace_id or str(record.trace_id).startswith(self.trace_id))
            and self.program in (None, program_name())
        )


ANY = TraceFilter()
_NO_FILE: Final = (-1, -1)
_NO_TEXT: Final = "Could not decode to UTF-8"  # of the sqlite3 module, which has no code for it
_COLUMNS: Final = "/* of traces */"  # replaced by those that the database has
_HAS_NUMBERS: Final = "SELECT 1 FROM pragma_table_info('traces') WHERE name = 'number'"


def _joined(pending: list[TraceRecord], committed: list[TraceRecord]) -> list[TraceRecord]:
    """Returns pending and committed traces, newest first, each once.

    Pending ones come first: they will get a higher seq. But the writer may have committed some since they were copied,
    and newer ones with them: those belong among the others of their run.
    """
    known = {(record.run_id, record.number) for record in committed}
    left = [record for record in pending if (record.run_id, record.number) not in known]
    own = left[0].run_id if left else ""
    newest = max((record.number for record in committed if record.run_id == own), default=0)
    joined = [record for record in left if record.number > newest]
    left = left[len(joined) :]
    for record in committed:
        while left and record.run_id == own and left[0].number > record.number:
            joined.append(left.pop(0))
        joined.append(record)
    return joined + left


class Reader:
    """Read-only access to one telemetry.db.

    Args:
        path: of the database.
        on_damage: called when a query finds damage.
        within_s: limit of each query in seconds; None: no limit.

    Raises:
        StoreError: raised by every method when the database is missing or cannot be read.
        QueryLimitError: raised by every method when a query exceeds its limit.
    """

    def __init__(self, path: Path, on_damage: Callable[[], None] = lambda: None, within_s: float | None = None) -> None:
        self.path = path
        self._on_damage = on_damage
        self._within_s = within_s
        self._ends_at = 0.0
        self._shm = path.with_name(f"{path.name}-shm")
        self._lock = threading.Lock()
        self._reading: int | None = None  # the thread that has the lock
        self._is_paused = False
        self._connection: sqlite3.Connection | None = None
        self._identity = _NO_FILE
        self._columns = TRACES.columns
        tracked.add(self)

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Returns all rows of a query."""
        with self._lock:
            self._reading = threading.get_ident()
            try:
                # fetchall ends the statement, and with it the read transaction.
                self._ends_at = time.monotonic() + (self._within_s or 0.0)
                return self._fetched(self._connected(), sql.replace(_COLUMNS, self._columns), tuple(values))
            except sqlite3.Error as error:
                if self._within_s is not None and error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    message = f"the query takes longer than {self._within_s:g} s"
                    raise QueryLimitError(message, hint="try again: the machine is busy") from error
                self._disconnect()
                hint = SALVAGE if reason_of(error) == "corrupt" else None
                if hint is not None:
                    self._on_damage()
                raise StoreError(f"{self.path} cannot be read: {error}", hint=hint) from error
            finally:
                self._reading = None

    @staticmethod
    def _fetched(connection: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if not str(error).startswith(_NO_TEXT):
                raise
            # A byte that has flipped on the card: it must not hide the other rows. Only from now on, for it is slower.
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            return connection.execute(sql, values).fetchall()

    def _connected(self) -> sqlite3.Connection:
        """Returns a connection to the file now at the path: the store may have been moved aside since."""
        try:
            status = self.path.stat()
            identity = (status.st_dev, status.st_ino)
        except OSError:
            identity = _NO_FILE
        if self._connection is None or identity != self._identity:
            self._disconnect()
            if being_written.get(self.path.absolute(), identity) != identity and identity != _NO_FILE:
                raise StoreError(
                    f"{self.path} was replaced while this process writes it", hint="try again: the next commit opens it"
                )
            self._connection = connect_read_only(self.path)
            if self._within_s is not None:
                self._connection.set_progress_handler(lambda: time.monotonic() > self._ends_at, STEPS_BETWEEN_CHECKS)
            # Before a database of an older version is opened to write: its records' seq was their number.
            is_old = self._connection.execute(_HAS_NUMBERS).fetchone() is None
            self._columns = TRACES.columns.replace("number", "seq", 1) if is_old else TRACES.columns
            self._identity = identity
        lengthen_shm(self._shm)
        return self._connection

    def recent(self, n: int, wanted: TraceFilter = ANY) -> list[TraceRecord]:
        """Returns the newest `n` committed traces that match, newest first."""
        where, values = wanted.where()
        sql = f"SELECT {_COLUMNS} FROM traces {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608  # constants
        return [TRACES.record_of(row) for row in self.rows(sql, [*values, n])]

    def logs_of(self, trace_id: str, n: int) -> list[LogRecord]:
        """Returns the first `n` committed log records of a trace, oldest first."""
        sql = f"SELECT {LOGS.columns} FROM logs WHERE trace_id = ? ORDER BY seq LIMIT ?"  # noqa: S608  # constants
        return [LOGS.record_of(row) for row in self.rows(sql, (trace_id, n))]

    def runs_of(self, pid: int) -> set[str]:
        """Returns the ids of the runs of processes that had this number."""
        return {run_id for (run_id,) in self.rows("SELECT run_id FROM runs WHERE pid = ?", [pid])}

    def last_seq(self) -> int:
        """Returns the seq of the trace that was committed last; 0 without any."""
        return int(self.rows("SELECT ifnull(max(seq), 0) FROM traces")[0][0])

    def newest(self, pending: list[TraceRecord], n: int, wanted: TraceFilter = ANY) -> list[TraceRecord]:
        """Returns the newest `n` committed and `pending` traces that match, newest first.

        `pending` must have been taken before this call. A record committed in between is in both, and returned once.
        """
        tail = sorted(filter(wanted.accepts, pending), key=lambda record: record.number, reverse=True)
        return _joined(tail, self.recent(n, wanted))[:n]

    def pause(self) -> None:
        """Disconnects, and keeps other threads from connecting until `resume`.

        Not in the middle of this thread's own query, where a signal handler forks: that would wait for itself.
        """
        if self._reading != threading.get_ident():
            self._lock.acquire()
            self._is_paused = True
            self._disconnect()

    def resume(self) -> None:
        """Lets threads connect again."""
        if self._is_paused:
            self._is_paused = False
            self._lock.release()

    def renew_in_child(self) -> None:
        """Gives a forked child a lock of its own: its parent's was held at the fork."""
        self._lock = threading.Lock()
        self._is_paused = False

    def programs(self, run_ids: Collection[str]) -> dict[str, str]:
        """Returns the program of each of these runs, where it is known."""
        found: dict[str, str] = {}
        ids = list(run_ids) if self.knows_programs() else []
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            marks = ", ".join("?" * len(some))
            sql = f"SELECT run_id, program FROM runs WHERE run_id IN ({marks}) AND program NOT NULL"  # noqa: S608
            found.update(self.rows(sql, some))
        return found

    def knows_programs(self) -> bool:
        """Returns False for a database of an older version, whose runs have no program."""
        return bool(self.rows("SELECT 1 FROM pragma_table_info('runs') WHERE name = 'program'"))

    def program_names(self) -> list[str]:
        """Returns the names of the programs that have recorded into the store, in order."""
        if not self.knows_programs():
            return []
        return [
            name for (name,) in self.rows("SELECT DISTINCT program FROM runs WHERE program NOT NULL ORDER BY program")
        ]

    def has_node(self) -> bool:
        """Returns True if a run in the store is one of a node."""
        return bool(self.rows("SELECT 1 FROM runs WHERE node_id NOT NULL LIMIT 1"))

    def close(self) -> None:
        """Closes the connection; the next query opens a new one. One with a limit that runs ends at once."""
        self._ends_at = 0.0
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
