"""Removes records for good: no byte of them is left in database, WAL, black boxes, quarantine and JSON logs.

Rows are deleted, what is left is written anew (see `vacuum.py`), and the WAL is cut to nothing. Doing all of it again
changes nothing, so what was interrupted is finished by the next purge.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, connect_read_only, open_database, store_error
from hearthnet.observability.budget import Budget
from hearthnet.observability.store import rows
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.purge_boxes import absorb, refuse_living, uncommitted
from hearthnet.observability.store.purge_logs import Progress, count_lines, learn_from_logs, purge_logs
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.store.selection import Selection
from hearthnet.observability.store.snapshot import sync_folder
from hearthnet.observability.store.vacuum import write_anew

__all__ = ["Places", "Purged", "count", "purge"]

_SIDECARS: Final = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is.

    Attributes:
        store: the database.
        log_dir: of the JSON logs.
        budget: the bounds of the store.
    """

    store: Path
    log_dir: Path | None
    budget: Budget


@dataclass(slots=True)
class Purged:
    """What goes, or went: rows by table, lines and files of the JSON log, quarantined databases."""

    traces: int = 0
    logs: int = 0
    gaps: int = 0
    runs: int = 0
    log_lines: int = 0
    log_files: int = 0
    quarantined: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing of it."""
        return not (self.traces or self.logs or self.gaps or self.runs or self.log_files or self.quarantined)


def count(places: Places, selection: Selection) -> Purged:
    """Returns what a purge would remove; changes nothing, and needs no lock.

    Raises:
        StoreError: raised when something cannot be read.
    """
    found = Purged()
    pending = uncommitted(places.store.parent)
    for trace in pending.traces:
        selection.learn_trace(trace)
    learn_from_logs(places.log_dir, selection)
    known: set[int] = set()
    if places.store.exists():
        try:
            with closing(connect_read_only(places.store)) as connection:
                known = {row[0] for row in connection.execute("SELECT seq FROM traces UNION ALL SELECT seq FROM logs")}
                _count_rows(connection, selection, found)
        except sqlite3.Error as error:
            raise store_error(places.store, error) from error
    found.traces += sum(selection.takes_trace(record) for record in pending.traces if record.seq not in known)
    found.logs += sum(selection.takes_log(record) for record in pending.logs if record.seq not in known)
    _count_files(places, selection, found)
    return found


def purge(places: Places, selection: Selection, *, agree: Callable[[Purged], None], progress: Progress) -> Purged:
    """Removes what `selection` takes, and every quarantined database whole.

    Args:
        places: where everything is.
        selection: what goes.
        agree: called with what will go, before anything does; raises to leave it all.
        progress: told of the bytes of logs that are done.

    Raises:
        StoreInUseError: raised when a process writes the store, or a living process has a black box in it.
        StoreError: raised when something cannot be written, or a reader keeps the WAL.
        DiskFullError: raised when there is no space to write anew what is left.
    """
    directory = places.store.parent
    lock = StoreLock(directory)
    try:
        lock.acquire()
    except StoreInUseError as error:
        raise StoreInUseError(error.message, hint="stop the node first, then try again") from error
    try:
        refuse_living(directory)
        absorb(places.store, places.budget, selection)
        found = count(places, selection)
        if not found.is_nothing:
            agree(found)
        _remove_files(places.store)  # first what frees space: what follows needs some
        if selection.knows_all:
            found.log_lines, found.log_files = purge_logs(places.log_dir, selection, progress)
        _purge_rows(places, selection, found, progress)
    finally:
        lock.release()
    return found


def _purge_rows(places: Places, selection: Selection, found: Purged, progress: Progress) -> None:
    """Purges the database, and the logs with it where its rows tell which lines go: the rows go last then."""
    store = places.store
    if not store.exists():
        _purge_lines(places, selection, found, progress)
        return
    try:
        if selection.everything:
            _start_anew(store)
            return
        with closing(open_database(store, TELEMETRY)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _delete_rows(connection, selection, found)
                _purge_lines(places, selection, found, progress)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            write_anew(connection, store)
    except (sqlite3.Error, OSError) as error:
        raise store_error(store, error) from error


def _start_anew(store: Path) -> None:
    """Puts an empty database in the place of this one; on a full disk there is no room to delete row by row."""
    for ending in reversed(_SIDECARS):
        store.with_name(store.name + ending).unlink(missing_ok=True)
    open_database(store, TELEMETRY).close()


def _purge_lines(places: Places, selection: Selection, found: Purged, progress: Progress) -> None:
    if not selection.knows_all:
        found.log_lines, found.log_files = purge_logs(places.log_dir, selection, progress)


def _chosen(connection: sqlite3.Connection, selection: Selection) -> tuple[list[tuple[int]], list[tuple[int]]]:
    """Returns the numbers of the traces and of the log records that go."""
    traces = f"SELECT {rows.TRACE_COLUMNS} FROM traces"  # noqa: S608  # constants
    logs = f"SELECT {rows.LOG_COLUMNS} FROM logs"  # noqa: S608  # constants
    if selection.capability is not None:
        for row in connection.execute(traces):
            selection.learn_trace(rows.trace_from_row(row))
    found = [record for record in map(rows.trace_from_row, connection.execute(traces)) if selection.takes_trace(record)]
    entries = [record for record in map(rows.log_from_row, connection.execute(logs)) if selection.takes_log(record)]
    return [(record.seq,) for record in found], [(record.seq,) for record in entries]


def _bounds(selection: Selection) -> dict[str, int]:
    """Returns before which moment gaps and runs go."""
    return {"before": 2**63 - 1 if selection.everything else selection.before_us or -1}


# A run goes when nothing of it is left; with everything, also one that has no end.
_OLD_GAPS: Final = "FROM gaps WHERE ts_us < :before"
_OLD_RUNS: Final = "FROM runs WHERE ifnull(ended_us, 9223372036854775806) < :before"


def _count_rows(connection: sqlite3.Connection, selection: Selection, found: Purged) -> None:
    traces, logs = _chosen(connection, selection)
    found.traces, found.logs = len(traces), len(logs)
    found.gaps = connection.execute(f"SELECT count(*) {_OLD_GAPS}", _bounds(selection)).fetchone()[0]
    found.runs = connection.execute(f"SELECT count(*) {_OLD_RUNS}", _bounds(selection)).fetchone()[0]


def _delete_rows(connection: sqlite3.Connection, selection: Selection, found: Purged) -> None:
    traces, logs = _chosen(connection, selection)
    found.traces = connection.executemany(rows.DELETE_TRACE, traces).rowcount if traces else 0
    found.logs = connection.executemany(rows.DELETE_LOG, logs).rowcount if logs else 0
    found.gaps = connection.execute(f"DELETE {_OLD_GAPS}", _bounds(selection)).rowcount
    found.runs = connection.execute(f"DELETE {_OLD_RUNS}", _bounds(selection)).rowcount


def _count_files(places: Places, selection: Selection, found: Purged) -> None:
    found.log_lines, found.log_files = count_lines(places.log_dir, selection)
    found.quarantined = [str(path) for path in quarantined(places.store) if path.is_file()]


def _remove_files(store: Path) -> None:
    """Removes what was moved aside, and copies that a killed process left unfinished."""
    try:
        for path in quarantined(store):
            if path.is_file():  # a folder that stood in the database's place is not ours
                for ending in _SIDECARS:
                    path.with_name(path.name + ending).unlink(missing_ok=True)
        for path in store.parent.glob(f".{store.name}-*"):
            path.unlink(missing_ok=True)
        sync_folder(store.parent)
    except OSError as error:
        raise store_error(store, error) from error
