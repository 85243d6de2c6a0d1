"""Erases records permanently: no byte of them remains in database, WAL, boxes, quarantine and JSON logs.

A purge by capability keeps the JSON logs and reports that. Rows are deleted, the remaining rows are rewritten, and the
WAL is truncated: `secure_delete` overwrites what a DELETE frees, but a page that a b-tree has rebalanced keeps bytes of
rows that were moved away; with rows of mixed sizes, nine databases of twenty still had some. The boxes of ended runs
are recovered first, and their bytes overwritten. A purge may be repeated, so the next one completes one that was
interrupted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, add_free_pages, connect_read_only, open_database, store_error
from hearthnet.errors import DiskFullError, StoreError
from hearthnet.files import open_regular, sync_folder, why_no_file
from hearthnet.forensics.box import boxes_in
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.store.budget import Budget, holders
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.purge.log_files import count_lines, days_left, paths_of, purge_logs
from hearthnet.observability.store.purge.selection import TRACE_END, Selection
from hearthnet.observability.store.recovery.living import refuse_living
from hearthnet.observability.store.recovery.opening import open_store
from hearthnet.observability.store.recovery.quarantine import set_aside
from hearthnet.observability.store.recovery.recover import leftover_boxes
from hearthnet.observability.store.ring import RECOUNT

__all__ = ["Places", "Purged", "count", "purge"]

_SIDECARS: Final = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Places:
    """Paths and bounds of a store.

    Attributes:
        store: the database.
        log_dir: folder of the JSON logs.
        budget: the bounds of the store.
    """

    store: Path
    log_dir: Path | None
    budget: Budget


@dataclass(slots=True)
class Purged:
    """The records that a purge erases or has erased.

    Attributes:
        traces: rows of that table; `logs`, `gaps` and `runs` likewise.
        log_lines: lines of the JSON log, in `log_files` files.
        quarantined: databases that were moved aside, because they could not be used or were rebuilt.
        boxes: boxes of killed runs, whose records are not counted; a purge recovers them first.
        skipped: pipes, folders and the like at names of boxes, logs and quarantined databases, and why.
        days_left: UTC days whose JSON logs stay and may have lines of the capability.
    """

    traces: int = 0
    logs: int = 0
    gaps: int = 0
    runs: int = 0
    log_lines: int = 0
    log_files: int = 0
    quarantined: list[str] = field(default_factory=list)
    boxes: int = 0
    skipped: list[str] = field(default_factory=list)
    days_left: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to erase."""
        return not (self.traces or self.logs or self.gaps or self.runs or self.log_files or self.quarantined)


def count(places: Places, selection: Selection) -> Purged:
    """Returns what a purge would erase; changes nothing, and needs no lock.

    Raises:
        StoreError: raised when a file cannot be read.
    """
    found = Purged(boxes=len(leftover_boxes(places.store.parent)))
    days: set[str] = set()
    if places.store.exists():
        try:
            with closing(connect_read_only(places.store)) as connection:
                for table, condition in selection.conditions.items():
                    sql = f"SELECT count(*) FROM {table} WHERE {condition}"  # noqa: S608  # constants
                    setattr(found, table, connection.execute(sql, selection.values).fetchone()[0])
                days = _days(connection, selection)
        except sqlite3.Error as error:
            raise store_error(places.store, error) from error
    found.log_lines, found.log_files = count_lines(places.log_dir, selection)
    found.days_left = days_left(places.log_dir, selection, days)
    found.skipped = _skipped(places, selection)
    found.quarantined = [str(path) for path in set_aside(places.store) if path.is_file()]
    return found


def _skipped(places: Places, selection: Selection) -> list[str]:
    paths = [*boxes_in(places.store.parent), *set_aside(places.store), *paths_of(places.log_dir, selection)]
    return [f"{path}: {trouble}" for path in paths if (trouble := why_no_file(path))]


def _days(connection: sqlite3.Connection, selection: Selection) -> set[str]:
    """Returns the UTC days of the selected records."""
    sql = " UNION ".join(
        f"SELECT date(({moment}) / 1000000, 'unixepoch') FROM {table} WHERE {selection.conditions[table]}"  # noqa: S608  # constants
        for table, moment in (("logs", "ts_us"), ("traces", TRACE_END))
    )
    return {row[0] for row in connection.execute(sql, selection.values)}


def purge(places: Places, selection: Selection, *, agree: Callable[[Purged], None]) -> Purged:
    """Erases the selected records, and all quarantined databases.

    Args:
        places: paths and bounds of the store.
        selection: the records to erase.
        agree: called with what will be erased before anything is; raises to cancel.

    Raises:
        StoreInUseError: raised when a process records into the store, or keeps house in it.
        StoreError: raised when a file cannot be written, or a reader pins the WAL.
        DiskFullError: raised when there is no space to rewrite the remaining rows.
    """
    directory = places.store.parent
    lock = StoreLock(directory)
    lock.acquire()
    try:
        refuse_living(directory)
        _recover_boxes(places.store, places.budget, is_kept=not selection.everything)
        found = count(places, selection)
        if not found.is_nothing:
            agree(found)
        _remove_files(places.store)  # first, because it frees space that the next steps need
        purge_logs(places.log_dir, selection)
        if places.store.exists():
            _purge_rows(places.store, selection)
    finally:
        lock.release()
    return found


def _purge_rows(store: Path, selection: Selection) -> None:
    try:
        if selection.everything:
            _replace_with_empty(store)
            return
        with closing(open_database(store, TELEMETRY)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, condition in selection.conditions.items():
                connection.execute(f"DELETE FROM {table} WHERE {condition}", selection.values)  # noqa: S608  # constants
            for statement in RECOUNT:
                connection.execute(statement)
            connection.execute("COMMIT")
            _rewrite(connection, store)
    except (sqlite3.Error, OSError) as error:
        raise store_error(store, error) from error


def _replace_with_empty(store: Path) -> None:
    """Replaces the database with an empty one; on a full disk there is no space to delete row by row."""
    for ending in reversed(_SIDECARS):
        store.with_name(store.name + ending).unlink(missing_ok=True)
    open_database(store, TELEMETRY).close()


def _remove_files(store: Path) -> None:
    """Deletes quarantined databases, and unfinished copies of killed processes."""
    try:
        for path in set_aside(store):
            if path.is_file():
                for ending in _SIDECARS:
                    _remove_file(path.with_name(path.name + ending))
        for path in store.parent.glob(f".{store.name}-*"):
            _remove_file(path)
        sync_folder(store.parent)
    except OSError as error:
        raise store_error(store, error) from error


def _remove_file(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():  # a folder of that name is not ours
        path.unlink(missing_ok=True)


_READERS_MS: Final = 5_000  # how long to wait for readers of the WAL


def _rewrite(connection: sqlite3.Connection, store: Path) -> None:
    """Rewrites the file, so that it contains its rows and nothing else, and truncates the WAL.

    Raises:
        StoreError: raised when a reader pins the WAL.
        DiskFullError: raised when there is no space to rewrite the rows.
        sqlite3.Error: raised when SQLite fails for another reason.
    """
    connection.execute(f"PRAGMA busy_timeout = {_READERS_MS:d}")
    try:
        _truncate_wal(connection, store)  # first, because VACUUM writes all rows to it as well
        connection.execute("VACUUM")
        _truncate_wal(connection, store)
        _reserve(connection)
        _truncate_wal(connection, store)
    except sqlite3.Error as error:
        meaning = store_error(store, error)
        if isinstance(meaning, DiskFullError):
            hint = "free some space and repeat the purge: unused parts of the file may still have the deleted rows"
            raise DiskFullError(meaning.message, hint=hint) from error
        raise


def _truncate_wal(connection: sqlite3.Connection, store: Path) -> None:
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        readers = ", ".join(holders(store)) or "another program"
        raise StoreError(
            f"{readers} is reading {store}, so the deleted rows are still in its WAL",
            hint="end that program and repeat the purge",
        )


def _reserve(connection: sqlite3.Connection) -> None:
    """Reserves the space that a new database reserves; best effort."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    size = TELEMETRY.reserve_bytes - pages * connection.execute("PRAGMA page_size").fetchone()[0]
    if size > 0:
        with suppress(sqlite3.Error):  # no space: the file grows when it must
            add_free_pages(connection, size)


_BLOCK: Final = bytes(1 << 20)


def _recover_boxes(store: Path, budget: Budget, *, is_kept: bool) -> None:
    """Recovers leftover boxes, as the node's next start would, and overwrites their bytes.

    Args:
        store: the database.
        budget: its bounds.
        is_kept: whether some records of a box may have to stay. If not, a box that does not fit is deleted.

    Raises:
        StoreError: raised when the store cannot be opened.
        DiskFullError: raised when the database has no space for them.
    """
    boxes = [path for path, _ in leftover_boxes(store.parent)]
    if not boxes and not store.exists():
        return
    # Opened first: recovery deletes the files, and only these descriptors still lead to their bytes.
    opened = [(path, open_regular(path, os.O_WRONLY)) for path in boxes]
    try:
        open_store(store, budget, new_trace_id())
        for path, fd in opened:
            if path.exists():
                _delete_box(path, is_kept)
            _overwrite(path, fd)
    finally:
        for _, fd in opened:
            os.close(fd)


def _delete_box(path: Path, is_kept: bool) -> None:
    """Deletes a box that could not be recovered, unless some of its records may have to stay."""
    if is_kept:
        raise DiskFullError(f"{path} cannot be recovered into the database", hint="free some space and try again")
    path.unlink()


def _overwrite(path: Path, fd: int) -> None:
    try:
        size = os.fstat(fd).st_size
        for at in range(0, size, len(_BLOCK)):
            os.pwrite(fd, _BLOCK[: size - at], at)
        os.fsync(fd)
    except OSError as error:
        raise store_error(path, error) from error
