"""Brings a telemetry.db of an older version to this program's schema, where no node is going to open it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hearthnet.database import PATIENT_S, TELEMETRY, connect_read_only, open_database, store_error
from hearthnet.errors import UnusableStoreError
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.recovery.living import refuse_living

__all__ = ["migrate_store", "schema_of"]


def schema_of(path: Path) -> int:
    """Returns the schema version of a database; 0 for an empty one.

    Raises:
        StoreError: raised when there is no database at `path`.
        sqlite3.Error: raised when it cannot be read.
    """
    with closing(connect_read_only(path)) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


def migrate_store(path: Path, *, may_be_copy: bool = False) -> tuple[int, int]:
    """Returns the schema version before and after. Rows stay; older programs cannot write the database any more.

    Args:
        path: of the database.
        may_be_copy: as of `refuse_living`.

    Raises:
        StoreInUseError: raised when a process records into the store: it may be an older program.
        UnusableStoreError: raised when the file is damaged, empty or not ours.
        NewerStoreError: raised when it is newer than this program.
        StoreError: raised when there is no database at `path`, or it cannot be read or written.
    """
    try:
        before = schema_of(path)
        if not before:  # opening it would make a new store
            raise UnusableStoreError(f"{path} is not a telemetry database of HearthNet: it has no schema")
        lock = StoreLock(path.parent)
        lock.acquire()
        try:
            refuse_living(path.parent, may_be_copy=may_be_copy)
            open_database(path, TELEMETRY, PATIENT_S).close()
        finally:
            lock.release()
        return before, schema_of(path)
    except sqlite3.Error as error:
        raise store_error(path, error) from error
