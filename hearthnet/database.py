"""Opens SQLite files the way that HearthNet wants them, and brings their schema up to date.

A migration is one numbered `.sql` file. It is applied together with its number (`user_version`) in one transaction, so
a crash half-way leaves the old schema. `application_id` tells our files from other people's.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from hearthnet.errors import DiskFullError, HearthNetError, StoreError, UnusableStoreError
from hearthnet.files import make_private_dir

__all__ = [
    "BUSY_TIMEOUT_S",
    "EVENTS",
    "TELEMETRY",
    "WRITER_PRAGMAS",
    "Schema",
    "connect_read_only",
    "migrations_dir",
    "open_database",
    "reason_of",
    "store_error",
]

# What every connection that writes must set: these are kept by the connection, not by the file.
WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # with NORMAL a power cut cost up to 29 s of commits at home rates
    "PRAGMA secure_delete = ON",  # what left the ring is overwritten, as far as pages are not rebalanced
)
BUSY_TIMEOUT_S: Final = 0.25  # short: whoever waits longer retries later with its records still in hand
# SQLite reports a full disk as an I/O error where it needs more than this for its shared memory.
_HARDLY_ANY_BYTES: Final = 128 * 1024
_MIN_SQLITE: Final = (3, 37, 0)  # STRICT tables


class Schema(NamedTuple):
    """A kind of database.

    Attributes:
        name: the folder of its migrations.
        application_id: the number in its header that tells it is ours.
        reserve_bytes: of disk that a new one takes at once, so that it can be filled on a disk that is full later.
    """

    name: str
    application_id: int
    reserve_bytes: int = 0


# 10,000 traces of 1 KB and 10,000 log records of half of that: a ring at home rates never grows the file.
TELEMETRY: Final = Schema("telemetry", 0x48_4E_74_6C, reserve_bytes=16_000_000)  # "HNtl"
EVENTS: Final = Schema("events", 0x48_4E_65_76)  # "HNev"


def migrations_dir() -> Path:
    """Returns the folder of the migrations: inside the package in a wheel, beside it in a source tree."""
    package = Path(__file__).parent
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if candidate.is_dir():
            return candidate
    raise StoreError("the migrations are missing from this installation", hint="reinstall hearthnet")


def open_database(path: Path, schema: Schema) -> sqlite3.Connection:
    """Returns a connection to `path` (made if missing, mode 0600) with WAL, full sync and the newest schema.

    Raises:
        UnusableStoreError: raised when the file is damaged, not ours, or newer than this program.
        StoreError: raised when it cannot be opened.
        DiskFullError: raised when there is no space for it.
    """
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old", hint="SQLite 3.37 or newer is needed")
    try:
        _create_private(path)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise store_error(path, error) from error
    try:
        prepare(connection, path, schema)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def store_error(path: Path, error: OSError | sqlite3.Error) -> HearthNetError:
    """Returns what a failure to use the database at `path` means for the operator: no space, or something else."""
    code = getattr(error, "sqlite_errorcode", None)
    number = error.errno if isinstance(error, OSError) else None
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return UnusableStoreError(f"{path} cannot be used: {error}", hint="move it aside and start again")
    is_full = code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT)
    if is_full or (code is not None and code & 0xFF == sqlite3.SQLITE_IOERR and _free_bytes(path) < _HARDLY_ANY_BYTES):
        return DiskFullError(
            f"{path} cannot be written: the disk is full", hint=f"free some space: df -h {path.parent}"
        )
    return StoreError(f"{path} cannot be used: {error}", hint=f"check that {path.parent} is writable")


def reason_of(error: BaseException) -> str:
    """Returns in one word why a database cannot be written.

    It is `locked`, `disk_full`, `read_only`, `io`, `corrupt` or `other`: the labels of a metric, and words of the log.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return _REASONS.get(code & 0xFF, "other") if code is not None else "other"


_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CANTOPEN: "io",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}


def _free_bytes(path: Path) -> int:
    import shutil  # late: it brings every compression along

    return shutil.disk_usage(path.parent).free if path.parent.is_dir() else _HARDLY_ANY_BYTES


def _create_private(path: Path) -> None:
    """Makes the file with mode 0600 before SQLite opens it: -wal and -shm take the database's mode."""
    make_private_dir(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Never open the file just to look at it: closing it would drop the locks that SQLite holds on it.
        return


def prepare(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Checks that the database is ours, sets what each connection needs, and migrates it.

    Raises:
        UnusableStoreError: raised when the file is not ours or is newer than this program.
        StoreError: raised when its file system cannot hold it.
    """
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if identity != schema.application_id and (tables or identity or version):
        raise UnusableStoreError(
            f"{path} is not a {schema.name} database of HearthNet", hint="move it aside and start again"
        )
    if schema.reserve_bytes and not (tables or identity or version):
        _reserve(connection, schema.reserve_bytes)
    # Outside a transaction only: inside one, SQLite would answer "delete" and change nothing.
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError(f"{path} does not support WAL", hint="put it on a local file system")
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    migrate(connection, path, schema)


def _reserve(connection: sqlite3.Connection, size: int) -> None:
    """Grows an empty database to `size` bytes of free pages, in one transaction; best effort.

    Before WAL is switched on, so that the space is taken once. A disk without so much space gets a database that grows.
    """
    if connection.execute("PRAGMA page_count").fetchone()[0] > 1:  # done, and killed before the first migration
        return
    try:
        connection.execute("PRAGMA secure_delete = OFF")  # the space holds nothing
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE reserve (space)")
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size,))
        connection.execute("DROP TABLE reserve")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.rollback()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise


# Fails, for abs() has no answer, where the migration was applied meanwhile: one that makes its views anew would succeed
# once more, and set an older version.
_UNLESS_DONE: Final = "SELECT abs(-9223372036854775807 - (user_version >= {})) FROM pragma_user_version"


def migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Applies the migrations that the database lacks, each in one transaction with its number.

    Raises:
        UnusableStoreError: raised when the database is newer than the newest migration here.
        sqlite3.Error: raised when a migration fails; the database is then as it was before that migration.
    """
    files = sorted((migrations_dir() / schema.name).glob("[0-9]*.sql"))
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = int(files[-1].name[:4])
    if version > newest:
        raise UnusableStoreError(
            f"{path} is of version {version}, this program knows {newest}",
            hint="install the newer hearthnet again",
        )
    for file in files:
        number = int(file.name[:4])
        if number > version:
            _apply(connection, file.read_text("utf-8"), number, schema)


def _apply(connection: sqlite3.Connection, script: str, number: int, schema: Schema) -> None:
    try:
        # One script: executescript would commit a transaction that was begun outside it.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{_UNLESS_DONE.format(number)};\n{script}\n;"
            f"PRAGMA application_id = {schema.application_id:d}; PRAGMA user_version = {number:d}; COMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.rollback()
        # Another process may have applied it between our look at the version and our turn to write.
        if connection.execute("PRAGMA user_version").fetchone()[0] < number:
            raise


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Returns a connection that can only read, usable from any one thread at a time.

    Raises:
        StoreError: raised when there is no such database, or it cannot be opened.
    """
    if not path.is_file():
        raise StoreError(f"{path} does not exist", hint="start the node once: hearthnet run")
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return connection
