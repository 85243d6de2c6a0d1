"""Runs one SQL statement of an operator on a telemetry database: read-only, with limits on time and memory.

All rows are fetched before the first is shown, so the read transaction ends soon: a slow terminal cannot pin the WAL.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hearthnet.database import connect_read_only
from hearthnet.errors import EXIT_USAGE, HearthNetError, StoreError

__all__ = ["QueryResult", "QueryError", "QueryLimitError", "add_functions", "ask", "too_slow"]

_ROW_BYTES: Final = 64_000_000  # of all fetched rows
_HEAP_BYTES: Final = 256_000_000  # of SQLite in the whole process; SQLite lets it be lowered only
_STEPS: Final = 1_000  # of SQLite's machine between two checks of the clock, some ten microseconds
_READS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
# Pragmas that change nothing. Those that describe one table take its name, the others no argument.
_PRAGMAS: Final = frozenset(
    {
        "application_id", "compile_options", "database_list", "encoding", "freelist_count", "function_list",
        "journal_mode", "page_count", "page_size", "schema_version", "user_version",
    }
)  # fmt: skip
_TABLE_PRAGMAS: Final = frozenset(
    {"foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"}
)
# An unknown name is SQLITE_SCHEMA if SQLite has reread the schema to look for it.
_WRONG_STATEMENT: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_AUTH,
    }
)  # fmt: skip
# A database in WAL mode has files beside it, which even a reader creates.
_NEEDS_FOLDER: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_HINT: Final = "only one SELECT is allowed; hearthnet telemetry sql --list shows the tables and columns"


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a statement.

    Attributes:
        columns: their names as in the statement; two may be the same.
        rows: at most as many as requested.
        has_more: whether there are further rows.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    has_more: bool = False


class QueryError(HearthNetError):
    """Raised when a statement is invalid, or does anything but read."""

    exit_code = EXIT_USAGE


class QueryLimitError(HearthNetError):
    """Raised when a statement exceeds its limit of time or memory."""


def ask(path: Path, sql: str, timeout_s: float, max_rows: int | None = None) -> QueryResult:
    """Runs one statement and returns its rows.

    Args:
        path: the database.
        sql: the statement.
        timeout_s: limit in seconds, fetching included. A single long step, such as a function on a huge text, is not
            interrupted.
        max_rows: highest number of rows to fetch; None for all.

    Raises:
        QueryError: raised when the statement is invalid, or does anything but read.
        QueryLimitError: raised when it exceeds its limit of time or memory.
        StoreError: raised when there is no database at `path`, or it cannot be read.
        KeyboardInterrupt: raised when SIGINT arrives during the query.
    """
    ends_at = time.monotonic() + timeout_s
    try:
        with closing(connect_read_only(path)) as connection:
            _confine(connection)
            connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
            return _fetch(connection.execute(sql), max_rows)
    except MemoryError as error:
        raise _too_large() from error
    except (sqlite3.Error, ValueError) as error:  # Python's own checks of a statement have no error code
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            # A KeyboardInterrupt in the handler ends the statement, but does not propagate through SQLite.
            raise (too_slow(timeout_s) if time.monotonic() > ends_at else KeyboardInterrupt) from error
        if code in _WRONG_STATEMENT:
            raise QueryError(str(error), hint=_HINT) from error
        hint = "copy it and its -wal to a folder that you can write: --db COPY" if code in _NEEDS_FOLDER else None
        raise StoreError(f"{path} cannot be read: {error}", hint=hint) from error


def _confine(connection: sqlite3.Connection) -> None:
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged file may contain anything
    # Sorting stays in memory: in files it would grow as fast as the disk can write.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES:d}")
    add_functions(connection)
    connection.set_authorizer(_authorize)


def add_functions(connection: sqlite3.Connection) -> None:
    """Adds `casefold(TEXT)`, with which a search compares letters beyond ASCII, to a connection."""
    # In C: within a function in Python, Ctrl-C would be lost.
    connection.create_function("casefold", 1, str.casefold, deterministic=True)


def _authorize(action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
    """Allows reads and pragmas that only report; the connection is read-only besides."""
    if action == sqlite3.SQLITE_PRAGMA:
        name = (first or "").lower()
        is_allowed = name in _TABLE_PRAGMAS or (name in _PRAGMAS and second is None)
    else:
        # Table-valued functions, such as json_each, declare their columns this way. SQLite refuses a real UPDATE.
        is_allowed = action in _READS or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master")
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def _fetch(cursor: sqlite3.Cursor, max_rows: int | None) -> QueryResult:
    if cursor.description is None:
        raise QueryError("the statement returns no rows", hint=_HINT)
    result = QueryResult(tuple(column[0] for column in cursor.description), [])
    left = _ROW_BYTES
    for row in islice(cursor, max_rows):
        left -= sys.getsizeof(row) + sum(map(sys.getsizeof, row))
        if left < 0:
            raise _too_large()
        result.rows.append(row)
    return QueryResult(result.columns, result.rows, has_more=next(cursor, None) is not None)


def too_slow(timeout_s: float) -> QueryLimitError:
    """Returns the error for a statement that exceeds its time limit."""
    hint = "fetch fewer rows (LIMIT, WHERE), or raise the limit: --timeout"
    return QueryLimitError(f"the query takes longer than {timeout_s:g} s", hint=hint)


def _too_large() -> QueryLimitError:
    return QueryLimitError("out of memory", hint="fetch fewer rows (LIMIT, WHERE) or columns")
