"""Runs one SQL statement that somebody else wrote: read-only, for a bounded time, into bounded memory.

The rows are fetched in the statement's own read transaction, which ends with them or with its time, before anything is
shown: a slow terminal, or a person who reads, does not keep the writer from its WAL.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.database import connect_read_only, store_error
from hearthnet.errors import EXIT_USAGE, HearthNetError, StoreError
from hearthnet.observability.store.query_guard import Guard
from hearthnet.observability.store.query_trouble import trouble

__all__ = ["Answer", "Bounds", "QueryError", "QueryTooLargeError", "QueryTooSlowError", "ask", "asking"]

_MB: Final = 1_000_000
_STEPS: Final = 1_000  # of SQLite's machine between two looks at the clock: some ten microseconds
# A name that is not known comes as SQLITE_SCHEMA where SQLite looked into the file once more before it said so.
_WRONG: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE})
_MOST_CHARS: Final = 100_000  # of a statement: more than anybody writes
_TUPLE_BYTES: Final = sys.getsizeof(())
_POINTER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a statement may take.

    Attributes:
        timeout_s: seconds, all its rows included.
        max_rows: that are kept; further ones are counted. None: all.
        max_bytes: of memory that the kept rows take, and of one value.
        heap_bytes: of memory that SQLite takes, sorting included. It holds for the whole process and can only be
            lowered, so it is for a process that does nothing else. 0: not bounded; sorting uses files.
    """

    timeout_s: float = 5.0
    max_rows: int | None = None
    max_bytes: int = 64 * _MB
    heap_bytes: int = 0


@dataclass(slots=True)
class Answer:
    """What a statement gave.

    Attributes:
        columns: their names, as the statement names them; two may be the same.
        rows: the first ones, as many as were wanted.
        more: how many there are beyond `rows`.
        is_counted: `more` is all of them; else the time was up while they were counted.
        duration_ms: until the last row was there.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    more: int = 0
    is_counted: bool = True
    duration_ms: float = 0.0


class QueryError(HearthNetError):
    """Raised when a statement is wrong, or would do what it may not.

    `place` is the character of the statement where it is wrong, as far as that is known.
    """

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, hint: str | None = None, place: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.place = place


class QueryTooSlowError(HearthNetError):
    """Raised when the time is up before there is anything to show."""


class QueryTooLargeError(HearthNetError):
    """Raised when the answer, or the work on it, would take more memory than it may."""


@contextmanager
def asking(path: Path, bounds: Bounds) -> Iterator[tuple[sqlite3.Connection, Guard]]:
    """Gives a connection to the database at `path` on which only reading is allowed, and what watches over that.

    Raises:
        StoreError: raised when there is no such database, or it cannot be read.
        UnusableStoreError: raised when it is damaged, or no database.
    """
    connection = _open(path)
    with closing(connection):
        guard = Guard()
        _bound(connection, bounds)
        connection.set_authorizer(guard)
        yield connection, guard


def _open(path: Path) -> sqlite3.Connection:
    connection = connect_read_only(path)
    try:
        connection.execute("PRAGMA schema_version").fetchone()  # the first look into the file
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise store_error(path, error) from error
        return _open_immutable(path, error)
    return connection


def _open_immutable(path: Path, cause: sqlite3.Error) -> sqlite3.Connection:
    """Opens a database whose folder cannot be written, a copy on a read-only medium say, so that there is no -shm."""
    wal = path.with_name(path.name + "-wal")
    with suppress(FileNotFoundError):
        if wal.stat().st_size:
            hint = "copy it and its -wal to a folder that you can write, and name the copy: --db FILE"
            raise StoreError(f"{path} cannot be read: its folder is read-only, and its -wal is not empty", hint=hint)
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error:
        raise store_error(path, cause) from cause
    return connection


def _bound(connection: sqlite3.Connection, bounds: Bounds) -> None:
    # What is not UTF-8 can be in a damaged or foreign file.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, bounds.max_bytes)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if bounds.heap_bytes:
        # What is sorted stays within these bytes: in files it would grow as fast as the disk can write.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA hard_heap_limit = {bounds.heap_bytes:d}")


def ask(path: Path, sql: str, bounds: Bounds) -> Answer:
    """Returns what one statement gives.

    Raises:
        QueryError: raised when the statement is wrong, is several, is none, or would change something.
        QueryTooSlowError: raised when it takes longer than `bounds.timeout_s`.
        QueryTooLargeError: raised when it gives or needs more than `bounds` allow.
        StoreError: raised when there is no database at `path`, or it cannot be read.
    """
    _check_text(sql)
    with asking(path, bounds) as (connection, guard):
        try:
            return _fetch(connection, sql, bounds)
        except MemoryError as error:  # of `bounds.heap_bytes`, or of the machine
            raise _too_large("the query needs more memory than it may take") from error
        except sqlite3.ProgrammingError as error:
            raise _misused(error) from error
        except sqlite3.Error as error:
            if _is_wrong(error) and guard.refused is None:
                connection.set_progress_handler(None, 0)  # what follows only compiles
                found = trouble(connection, sql, str(error))
                raise QueryError(found.message, hint=found.hint, place=found.place) from error
            raise _meaning(error, path, guard, bounds) from error


def _check_text(sql: str) -> None:
    if not sql.strip():
        raise QueryError("there is no query", hint="for example: SELECT * FROM recent LIMIT 10")
    if len(sql) > _MOST_CHARS:
        raise QueryError(f"the query is longer than {_MOST_CHARS:,} characters", hint="is it SQL?")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise QueryError("the query is not valid UTF-8") from error


def _fetch(connection: sqlite3.Connection, sql: str, bounds: Bounds) -> Answer:
    started = time.monotonic()
    ends_at = started + bounds.timeout_s
    connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
    cursor = connection.execute(sql)
    if cursor.description is None:
        raise QueryError("the query gives no rows", hint="write a SELECT")
    answer = Answer(tuple(column[0] for column in cursor.description))
    _take(cursor, answer, bounds)
    cursor.close()
    answer.duration_ms = (time.monotonic() - started) * 1e3
    return answer


def _take(cursor: sqlite3.Cursor, answer: Answer, bounds: Bounds) -> None:
    """Keeps the first rows, and counts the rest for as long as there is time."""
    max_rows = sys.maxsize if bounds.max_rows is None else bounds.max_rows
    left = bounds.max_bytes
    try:
        for row in cursor:
            if len(answer.rows) >= max_rows:
                answer.more += 1
                continue
            left -= _TUPLE_BYTES + sum(_POINTER_BYTES + sys.getsizeof(value) for value in row)
            if left < 0:
                raise _too_large(f"the answer is larger than {bounds.max_bytes / _MB:g} MB")
            answer.rows.append(row)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT or not answer.more:
            raise
        answer.is_counted = False


def _too_large(message: str) -> QueryTooLargeError:
    return QueryTooLargeError(message, hint="take fewer rows (LIMIT, WHERE), or fewer columns")


def _misused(error: sqlite3.ProgrammingError) -> QueryError:
    """Returns the error for what Python's module finds, which has no code of SQLite."""
    text = str(error)
    if "one statement" in text:
        return QueryError("there is more than one statement", hint="ask one at a time")
    if "binding" in text:
        return QueryError("the query has a parameter without a value", hint="write the value in its place")
    return QueryError(text)


def _meaning(error: sqlite3.Error, path: Path, guard: Guard, bounds: Bounds) -> HearthNetError:
    code = _code(error)
    if guard.refused is not None:
        return QueryError(guard.refused, hint="only reading is: write one SELECT")
    if code == sqlite3.SQLITE_INTERRUPT:
        hint = "take fewer rows (WHERE, LIMIT), give it longer (--timeout), or ask a copy: hearthnet telemetry snapshot"
        return QueryTooSlowError(f"the query takes longer than {bounds.timeout_s:g} s", hint=hint)
    if code == sqlite3.SQLITE_TOOBIG:
        return _too_large(f"one value is larger than {bounds.max_bytes / _MB:g} MB")
    if code == sqlite3.SQLITE_READONLY:
        return QueryError("the query would write", hint="only reading is allowed: write one SELECT")
    return store_error(path, error)


def _is_wrong(error: sqlite3.Error) -> bool:
    """Tells whether it is the statement that is wrong, and not the database."""
    return _code(error) & 0xFF in _WRONG


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # what Python's module finds has none
