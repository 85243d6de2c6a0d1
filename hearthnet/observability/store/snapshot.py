"""Copies telemetry.db into one file, whether or not the node is running.

SQLite itself makes the copy, in one read transaction, so it shows one moment. The copy is built under a temporary name
in the target's folder, checked, synced, and renamed: under its own name there is never half a copy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, check_place, connect_read_only, store_error
from hearthnet.errors import HearthNetError, StoreError, UnusableStoreError
from hearthnet.files import private_temporary, sync_folder
from hearthnet.moments import iso

__all__ = ["TABLES", "Copy", "building", "count_rows", "refuse_existing", "snapshot"]

TABLES: Final = ("traces", "logs", "runs", "gaps")
_SIDECARS: Final = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy.

    Attributes:
        path: of the file.
        rows: by table.
        bytes: of the file.
        newest: when the newest record of the copy was made, ISO 8601 in UTC; None without records.
    """

    path: Path
    rows: dict[str, int]
    bytes: int
    newest: str | None


def snapshot(source: Path, target: Path, *, force: bool = False) -> Copy:
    """Writes a copy of the database at `source` to `target`, mode 0600.

    Raises:
        StoreError: raised when `target` exists and `force` is not set, when it is a file of the store itself, and when
            either file cannot be used.
        UnusableStoreError: raised when `source` is damaged or another program's.
        DiskFullError: raised when there is no space for the copy.
    """
    refuse_existing(source, target, force=force)
    with closing(connect_read_only(source)) as connection, building(target) as temporary:
        _copy(connection, source, temporary)
        rows, newest_us = _check(temporary, source)
    return Copy(target, rows, target.stat().st_size, iso(newest_us))


def _copy(connection: sqlite3.Connection, source: Path, temporary: Path) -> None:
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != TELEMETRY.application_id:
            raise UnusableStoreError(f"{source} is not a telemetry database of HearthNet")
    except sqlite3.Error as error:
        raise store_error(source, error) from error
    try:
        # Applies to the whole connection, the copy included; the source is opened `mode=ro` and stays read-only.
        connection.execute("PRAGMA query_only = OFF")
        connection.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(temporary),))  # not every path is UTF-8
    except sqlite3.Error as error:
        # Damage is in the source; a lack of space concerns the copy.
        found = store_error(source, error)
        raise found if isinstance(found, UnusableStoreError) else store_error(temporary, error) from error


_NEWEST: Final = "SELECT max(us) FROM (SELECT max(started_us) AS us FROM traces UNION ALL SELECT max(ts_us) FROM logs)"


def _check(temporary: Path, source: Path) -> tuple[dict[str, int], int | None]:
    """Returns the copy's row counts by table, and when its newest record was made.

    Raises:
        UnusableStoreError: raised where SQLite finds damage in it.
    """
    try:
        with closing(connect_read_only(temporary)) as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
            if found != "ok":
                raise UnusableStoreError(f"the copy of {source} is damaged: {' '.join(found.split())[:200]}")
            return count_rows(connection), connection.execute(_NEWEST).fetchone()[0]
    except sqlite3.Error as error:
        raise store_error(temporary, error) from error


def count_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Returns the row counts by table."""
    return {
        name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608  # constants
        for name in TABLES
    }


def refuse_existing(source: Path, target: Path, *, force: bool) -> None:
    """Checks that a database may be written to `target`.

    Raises:
        StoreError: raised when it exists and `force` is not set, or is a folder or a file of the store at `source`.
    """
    if target.is_dir() or not target.name:
        raise StoreError(f"{target} is a folder", hint="name a file in it")
    own = {source.resolve(), *_beside(source.resolve())}
    if target.resolve() in own or (target.exists() and source.exists() and target.samefile(source)):
        raise StoreError(f"{target} belongs to the store itself", hint="name another file")
    existing = [path for path in (target, *_beside(target)) if path.exists() or path.is_symlink()]
    if existing and not force:
        raise StoreError(f"{existing[0]} exists already", hint="name another file, or replace it with --force")


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in _SIDECARS]


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yields an empty file of mode 0600 beside `target`, and renames it to `target` unless the block raises.

    Raises:
        HearthNetError: raised when the folder cannot be written or is full.
    """
    try:
        fd, temporary = private_temporary(target)  # private before SQLite opens it
    except OSError as error:
        raise _folder_error(target, error) from error
    try:
        os.close(fd)
        check_place(temporary)
        yield temporary
        _put_in_place(temporary, target)
    except BaseException as error:
        for path in (temporary, *_beside(temporary)):
            path.unlink(missing_ok=True)
        if isinstance(error, HearthNetError):  # users know the target's name only
            error.message = error.message.replace(str(temporary), str(target))
        raise


def _put_in_place(temporary: Path, target: Path) -> None:
    try:
        sync_file(temporary)
        for leftover in _beside(target):  # of the replaced file: its WAL would corrupt the new one
            leftover.unlink(missing_ok=True)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise store_error(target, error) from error


def _folder_error(target: Path, error: OSError) -> HearthNetError:
    if not target.parent.is_dir():
        return StoreError(f"the folder {target.parent} does not exist", hint=f"create it: mkdir -p {target.parent}")
    return store_error(target, error)


def sync_file(path: Path) -> None:
    """Syncs the content of a file that no connection of this process has open."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
