"""Selects the rows of a compiled query on a connection, counts them, and says why there are none."""

from __future__ import annotations

import difflib
import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hearthnet.observability.store.query.shapes import decoded
from hearthnet.observability.store.query.statement import QueryError
from hearthnet.observability.store.search.conditions import ENDED, FIELDS, SHORT, TableName
from hearthnet.observability.store.search.language import Problem, Term
from hearthnet.observability.store.search.query import Compiled, is_attribute, pasted

__all__ = ["MAX_COUNT", "Found", "Order", "select", "statement"]

Order = Literal["newest", "slowest"]

MAX_COUNT: Final = 10_000  # more are not counted
_ABOVE_ALL: Final = 2**63 - 1  # no seq is
_SAMPLE: Final = 1_000  # newest rows in which the name of an attribute is looked for
_PROGRAM: Final = "(SELECT program FROM runs WHERE runs.run_id = {}.run_id)"
_TIME: Final = "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000 / 1e3, 'unixepoch') AS ts"
_ORDERS: Final[dict[Order, str]] = {"newest": "seq DESC", "slowest": "duration_ms DESC, seq DESC"}
_COLUMNS: Final[dict[TableName, str]] = {
    "traces": "seq, run_id, trace_id, parent_id, capability, version, started_us, duration_ms, result, error, notable,"
    " iif(json_valid(spans), json_array_length(spans), 0) AS span_count, extras",
    "logs": "seq, run_id, ts_us, level, logger, msg, trace_id, span_id, repeats, extras, exc",
}
_SHOWN: Final[dict[TableName, str]] = {
    "traces": f"seq, {_TIME.format('started_us')}, trace_id, capability, result, duration_ms, error",
    "logs": f"seq, {_TIME.format('ts_us')}, level, logger, msg, trace_id",
}
_NAMES: Final[dict[TableName, str]] = {
    "traces": "SELECT key FROM newest, json_each(newest.extras) UNION SELECT inner.key FROM newest,"
    " json_each(newest.spans) AS span, json_each(span.value, '$.extras') AS inner",
    "logs": "SELECT key FROM newest, json_each(newest.extras)",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a query found.

    Attributes:
        rows: by column, with `program`; of traces `span_count` instead of the spans.
        next: where the rows after these begin; None if there are none.
        count: of all rows that match, at most `MAX_COUNT`.
        count_is_exact: False if there are more.
        sql: the query with its values, as it can be pasted.
        oldest_us: when the first of the table's records ended, UTC microseconds; None without any.
        newest_us: when the last of them did.
        newest_match_us: if nothing matches, the end of the newest record that would without `since` and `until`.
        problems: if nothing matches, names of attributes that no recent record has.
    """

    rows: list[dict[str, Any]]
    next: str | None
    count: int
    count_is_exact: bool
    sql: str
    oldest_us: int | None = None
    newest_us: int | None = None
    newest_match_us: int | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def count_text(self) -> str:
        """The count for people: `10,000+` if there are more."""
        return f"{self.count:,}{'' if self.count_is_exact else '+'}"


def select(
    connection: sqlite3.Connection, query: Compiled, order: Order, n: int, place: tuple[float, ...] | None
) -> Found:
    """Returns the first `n` rows that match, behind a place, and how many do.

    Raises:
        QueryError: raised when the table has no such order.
        sqlite3.Error: raised when the database cannot be read.
    """
    table, ended = query.table, ENDED[query.table]
    if order == "slowest" and table == "logs":
        raise QueryError("only traces can be ordered by duration")
    left, count = _keys(connection, query, order, n, place)
    rows = _rows(connection, table, [key[-1] for key in left[:n]])
    # Not those of the first and last row: programs commit at different intervals.
    bounds = f"SELECT CAST(min({ended}) AS INTEGER), CAST(max({ended}) AS INTEGER) FROM {table}"  # noqa: S608
    oldest_us, newest_us = connection.execute(bounds).fetchone()
    return Found(
        rows,
        next=_cursor(left[n - 1]) if len(left) > n else None,
        count=min(count, MAX_COUNT),
        count_is_exact=count <= MAX_COUNT,
        sql=statement(query, order, n),
        oldest_us=oldest_us,
        newest_us=newest_us,
        newest_match_us=None if count else _newest_match(connection, query),
        problems=[] if count else _unknown_attributes(connection, query),
    )


def _keys(
    connection: sqlite3.Connection, query: Compiled, order: Order, n: int, place: tuple[float, ...] | None
) -> tuple[list[tuple[Any, ...]], int]:
    """Returns the values by which the rows are ordered, more than `n` if there are, and how many rows match."""
    if query.where == "1" and order == "newest":  # a page begins so: only the shown rows are read
        newest = f"SELECT seq FROM {query.table} WHERE seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608  # constants
        before = _ABOVE_ALL if place is None else place[-1]
        count: int = connection.execute(f"SELECT count(*) FROM {query.table}").fetchone()[0]  # noqa: S608
        return connection.execute(newest, (before, n + 1)).fetchall(), count
    # One pass over the table, for the rows and for their count: most of the time is spent on parsing JSON.
    ordered = "duration_ms, seq" if order == "slowest" else "seq"
    keys = connection.execute(
        f"SELECT {ordered} FROM {query.table} WHERE {query.where} ORDER BY {_ORDERS[order]} LIMIT ?",  # noqa: S608
        [*query.values, MAX_COUNT + 1],
    ).fetchall()
    return [key for key in keys if place is None or key < place], len(keys)


def _cursor(key: tuple[Any, ...]) -> str:
    return ":".join(map(repr, reversed(key)))


def _rows(connection: sqlite3.Connection, table: TableName, seqs: list[int]) -> list[dict[str, Any]]:
    """Returns the rows of these numbers, in their order."""
    # A database that no newer version has opened yet does not know of programs.
    is_known = connection.execute("SELECT 1 FROM pragma_table_info('runs') WHERE name = 'program'").fetchone()
    program = _PROGRAM.format(table) if is_known else "NULL"
    cursor = connection.execute(
        f"SELECT {_COLUMNS[table]}, {program} AS program FROM {table}"  # noqa: S608  # constants
        " WHERE seq IN (SELECT value FROM json_each(?))",
        [json.dumps(seqs)],
    )
    names = [column[0] for column in cursor.description]
    by_seq = {row[0]: dict(zip(names, row, strict=True)) for row in cursor}
    rows = [by_seq[seq] for seq in seqs]
    for row in rows:
        row["extras"] = decoded(row["extras"], {})
    return rows


def _newest_match(connection: sqlite3.Connection, query: Compiled) -> int | None:
    if query.anytime is None:
        return None
    newest = f"SELECT CAST(max({ENDED[query.table]}) AS INTEGER) FROM {query.table} WHERE {query.anytime.sql}"  # noqa: S608
    found: int | None = connection.execute(newest, query.anytime.values).fetchone()[0]
    return found


def _unknown_attributes(connection: sqlite3.Connection, query: Compiled) -> list[Problem]:
    """Returns the names of attributes in a query that no recent record has, with what may have been meant."""
    asked = [one for one in query.terms if is_attribute(one, query.table) and not one.negated]
    if not asked:
        return []
    sql = f"WITH newest AS (SELECT * FROM {query.table} ORDER BY seq DESC LIMIT {_SAMPLE}) {_NAMES[query.table]}"  # noqa: S608
    known = {name for (name,) in connection.execute(sql)}
    return [
        _unknown(one, known, query.table) for one in asked if known.isdisjoint({one.field, SHORT.get(str(one.field))})
    ]


def _unknown(one: Term, known: set[str], table: TableName) -> Problem:
    name = str(one.field)
    alike = difflib.get_close_matches(name, [*known, *FIELDS[table]], 2)
    text = one.text if '"' in one.text else f'"{one.text}"'
    hint = f"did you mean {' or '.join(alike)}?" if alike else f"to search for the text, quote it: {text}"
    noun = "trace" if table == "traces" else "log record"
    return Problem(f"no recent {noun} has the attribute {name}", hint, one.start, one.end)


def statement(query: Compiled, order: Order, n: int) -> str:
    """Returns a query as one SQL statement that can be pasted."""
    where = "" if query.where == "1" else f"\n WHERE {query.where}"
    sql = f"SELECT {_SHOWN[query.table]}\n  FROM {query.table}{where}\n ORDER BY {_ORDERS[order]}\n LIMIT {n:d}"  # noqa: S608
    return pasted(sql, query.values)
