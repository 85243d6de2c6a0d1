"""Removes records for good: no byte of them is left in database, WAL, black boxes, quarantine and JSON logs.

A purge by capability leaves the JSON logs alone and says so. Rows are deleted, what is left is written anew, and
the WAL is cut to nothing: `secure_delete` overwrites what a DELETE frees, but a page that a b-tree has rebalanced keeps
bytes of rows that were moved away; with rows of mixed sizes, nine databases of twenty still had some. The boxes of dead
runs go into the database first, and their bytes are overwritten. Doing all of it again changes nothing, so the next
purge finishes what was interrupted.
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
from hearthnet.forensics import box as layout
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.purge.log_files import count_lines, days_left, purge_logs
from hearthnet.observability.store.purge.selection import TRACE_END, Selection
from hearthnet.observability.store.recovery.opening import open_store
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.store.recovery.recover import dead_boxes
from hearthnet.observability.store.snapshot import sync_folder
from hearthnet.observability.store.wal import holders

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
    """What goes, or went.

    Attributes:
        traces: rows of that table; so `logs`, `gaps` and `runs`.
        log_lines: lines of the JSON log, in `log_files` files.
        quarantined: the databases that were moved aside.
        boxes: black boxes of killed runs whose records are not counted; a purge takes them into the database first.
        days_left: UTC days whose JSON logs stay and may hold lines of the capability.
    """

    traces: int = 0
    logs: int = 0
    gaps: int = 0
    runs: int = 0
    log_lines: int = 0
    log_files: int = 0
    quarantined: list[str] = field(default_factory=list)
    boxes: int = 0
    days_left: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing goes."""
        return not (self.traces or self.logs or self.gaps or self.runs or self.log_files or self.quarantined)


def count(places: Places, selection: Selection) -> Purged:
    """Returns what a purge would remove; changes nothing, and needs no lock.

    Raises:
        StoreError: raised when something cannot be read.
    """
    found = Purged(boxes=len(dead_boxes(places.store.parent)))
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
    found.quarantined = [str(path) for path in quarantined(places.store) if path.is_file()]
    return found


def _days(connection: sqlite3.Connection, selection: Selection) -> set[str]:
    """Returns the UTC days on which the records that go were made."""
    sql = " UNION ".join(
        f"SELECT date(({moment}) / 1000000, 'unixepoch') FROM {table} WHERE {selection.conditions[table]}"  # noqa: S608  # constants
        for table, moment in (("logs", "ts_us"), ("traces", TRACE_END))
    )
    return {row[0] for row in connection.execute(sql, selection.values)}


def purge(places: Places, selection: Selection, *, agree: Callable[[Purged], None]) -> Purged:
    """Removes what `selection` takes, and every quarantined database whole.

    Args:
        places: where everything is.
        selection: what goes.
        agree: called with what will go, before anything does; raises to leave it all.

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
        _refuse_living(directory)
        _absorb(places.store, places.budget, is_kept=not selection.everything)
        found = count(places, selection)
        if not found.is_nothing:
            agree(found)
        _remove_files(places.store)  # first what frees space: what follows needs some
        purge_logs(places.log_dir, selection)
        if places.store.exists():
            _purge_rows(places.store, selection)
    finally:
        lock.release()
    return found


def _purge_rows(store: Path, selection: Selection) -> None:
    try:
        if selection.everything:
            _start_anew(store)
            return
        with closing(open_database(store, TELEMETRY)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, condition in selection.conditions.items():
                connection.execute(f"DELETE FROM {table} WHERE {condition}", selection.values)  # noqa: S608  # constants
            connection.execute("COMMIT")
            _write_anew(connection, store)
    except (sqlite3.Error, OSError) as error:
        raise store_error(store, error) from error


def _start_anew(store: Path) -> None:
    """Puts an empty database in the place of this one; on a full disk there is no room to delete row by row."""
    for ending in reversed(_SIDECARS):
        store.with_name(store.name + ending).unlink(missing_ok=True)
    open_database(store, TELEMETRY).close()


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


_READERS_MS: Final = 5_000  # how long to wait for readers that are in the WAL


def _write_anew(connection: sqlite3.Connection, store: Path) -> None:
    """Leaves in the file what its rows say and nothing else, and nothing in the WAL.

    Raises:
        StoreError: raised when a reader keeps the WAL from being cut.
        DiskFullError: raised when there is no room to write the rows again.
        sqlite3.Error: raised when SQLite cannot for another reason.
    """
    connection.execute(f"PRAGMA busy_timeout = {_READERS_MS:d}")
    try:
        _cut_wal(connection, store)  # first: what VACUUM writes comes on top of it
        connection.execute("VACUUM")
        _cut_wal(connection, store)
        _reserve(connection)
        _cut_wal(connection, store)
    except sqlite3.Error as error:
        meaning = store_error(store, error)
        if isinstance(meaning, DiskFullError):
            hint = "free some space and do it again: the rows are gone, unused parts of the file may still show them"
            raise DiskFullError(meaning.message, hint=hint) from error
        raise


def _cut_wal(connection: sqlite3.Connection, store: Path) -> None:
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        readers = ", ".join(holders(store)) or "another program"
        raise StoreError(
            f"{readers} is reading {store}, so what was deleted is still in its WAL",
            hint="end that program and do it again",
        )


def _reserve(connection: sqlite3.Connection) -> None:
    """Takes the room again that a new database takes; best effort."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    size = TELEMETRY.reserve_bytes - pages * connection.execute("PRAGMA page_size").fetchone()[0]
    if size > 0:
        with suppress(sqlite3.Error):  # no room: the file grows when it must
            add_free_pages(connection, size)


_BLOCK: Final = bytes(1 << 20)


def _refuse_living(directory: Path) -> None:
    """Checks that no living process has a black box here.

    Raises:
        StoreInUseError: raised when one has, with its number.
    """
    dead = {path for path, _ in dead_boxes(directory)}
    for path in layout.boxes_in(directory):
        if path not in dead:
            header = layout.header_of(path)
            raise StoreInUseError(
                f"process {'of unknown number' if header is None else header.pid} is recording into {path}",
                hint="end it first, then try again",
            )


def _absorb(store: Path, budget: Budget, *, is_kept: bool) -> None:
    """Takes the dead boxes into the database, as the node's next start would, and overwrites their bytes.

    Args:
        store: the database.
        budget: its bounds.
        is_kept: whether some of a box may have to stay. If not, a box that finds no room is removed.

    Raises:
        StoreError: raised when the store cannot be opened.
        DiskFullError: raised when the database has no room for them.
    """
    boxes = [path for path, _ in dead_boxes(store.parent)]
    if not boxes and not store.exists():
        return
    # Opened before: a box that is in the database is removed there, and these lead to its bytes still.
    opened = [(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC)) for path in boxes]
    try:
        open_store(store, budget, new_trace_id())
        for path, fd in opened:
            if path.exists():
                _give_up(path, is_kept)
            _overwrite(path, fd)
    finally:
        for _, fd in opened:
            os.close(fd)


def _give_up(path: Path, is_kept: bool) -> None:
    """Removes a box that could not be taken in, unless some of it may have to stay."""
    if is_kept:
        raise DiskFullError(f"{path} cannot be taken into the database", hint="free some space and try again")
    path.unlink()


def _overwrite(path: Path, fd: int) -> None:
    try:
        size = os.fstat(fd).st_size
        for at in range(0, size, len(_BLOCK)):
            os.pwrite(fd, _BLOCK[: size - at], at)
        os.fsync(fd)
    except OSError as error:
        raise store_error(path, error) from error
