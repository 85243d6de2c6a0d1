"""Writes a database anew, in place, so that no byte of a deleted row is left in it.

`secure_delete` overwrites what a DELETE frees, but a page that a b-tree has rebalanced keeps bytes of rows that were
moved away: with rows of mixed sizes, nine databases of twenty still had some. VACUUM writes every row again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, store_error
from hearthnet.errors import DiskFullError, StoreError
from hearthnet.observability.store.wal import holders

__all__ = ["write_anew"]

_READERS_MS: Final = 5_000  # how long to wait for readers that are in the WAL


def write_anew(connection: sqlite3.Connection, store: Path) -> None:
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
    if size <= 0:
        return
    try:
        connection.execute("PRAGMA secure_delete = OFF")  # these pages are empty
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE reserve (space)")
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size,))
        connection.execute("DROP TABLE reserve")
        connection.execute("COMMIT")
    except sqlite3.Error:  # no room: the file grows when it must
        if connection.in_transaction:
            connection.rollback()
