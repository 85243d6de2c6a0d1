"""Runs a compiled query on a telemetry database: read-only, in one short transaction, interrupted at its deadline."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from hearthnet.database import STEPS_BETWEEN_CHECKS, connect_read_only, store_error
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError, add_functions
from hearthnet.observability.store.search.pending import with_pending
from hearthnet.observability.store.search.query import Compiled
from hearthnet.observability.store.search.select import Found, Order, select

__all__ = ["Order", "run_query"]

_CURSOR: Final[dict[Order, re.Pattern[str]]] = {
    "newest": re.compile(r"(\d{1,18})"),
    "slowest": re.compile(r"(\d{1,18}):(\d{1,15}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?)"),
}


def run_query(
    path: Path,
    query: Compiled,
    order: Order = "newest",
    n: int = 100,
    before: str | None = None,
    timeout_s: float = 5.0,
    pending: Sequence[dict[str, Any]] = (),
) -> Found:
    """Returns the first `n` rows that match, and how many do.

    Args:
        path: the database.
        query: without problems.
        order: of the rows; log records have `newest` alone.
        n: the maximum number of rows.
        before: `next` of the rows before these.
        timeout_s: limit in seconds. A single step, such as a function on a long text, is not interrupted.
        pending: traces of a running node, as from `/trace/recent`: those not committed count, too; `next` is then None.

    Raises:
        QueryError: raised when there is no such order or place.
        QueryLimitError: raised when it takes too long.
        StoreError: raised when there is no database at `path`, or it cannot be read.
    """
    if query.problems:
        raise QueryError(query.problems[0].message, hint=query.problems[0].hint)
    place = _place(order, before)
    ends_at = time.monotonic() + timeout_s
    try:
        with closing(connect_read_only(path)) as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged file may hold anything
            add_functions(connection)
            connection.set_progress_handler(lambda: time.monotonic() > ends_at, STEPS_BETWEEN_CHECKS)
            connection.execute("BEGIN")  # one snapshot for all statements
            found = select(connection, query, order, n, place)
            return with_pending(connection, found, query, order, n, pending) if pending else found
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            # A KeyboardInterrupt in the handler ends the statement, but does not propagate through SQLite.
            raise (_too_slow(timeout_s) if time.monotonic() > ends_at else KeyboardInterrupt) from error
        raise store_error(path, error) from error


def _too_slow(timeout_s: float) -> QueryLimitError:
    return QueryLimitError(f"the search takes longer than {timeout_s:g} s", hint="limit it to a time: since:1h")


def _place(order: Order, before: str | None) -> tuple[float, ...] | None:
    """Returns the values by which rows are ordered, of the row before the first."""
    if before is None:
        return None
    match = _CURSOR[order].fullmatch(before)
    if match is None:
        raise QueryError(f"{before!r} is no place in this order", hint="take it from the rows before")
    seq, *durations = match.groups()
    return (*map(float, durations), int(seq))
