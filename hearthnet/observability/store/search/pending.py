"""Searches traces that a running node has not committed yet, by the same SQL: in tables in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import orjson

from hearthnet.observability.store.query.statement import add_functions
from hearthnet.observability.store.rows import TRACES
from hearthnet.observability.store.search.query import Compiled
from hearthnet.observability.store.search.select import MAX_COUNT, Found, Order, select

__all__ = ["with_pending"]

_NAMES: Final = TRACES.columns.split(", ")
_IS_COMMITTED: Final = "SELECT 1 FROM traces WHERE run_id = ? AND number = ?"


def with_pending(
    connection: sqlite3.Connection,
    found: Found,
    query: Compiled,
    order: Order,
    n: int,
    traces: Sequence[dict[str, Any]],
) -> Found:
    """Returns what was found, and those of a node's newest traces that match and are not committed.

    Args:
        connection: in the transaction in which it was found.
        found: among the committed ones.
        query: of traces.
        order: of the rows.
        n: the maximum number of rows.
        traces: of the node, newest first.
    """
    waiting = [trace for trace in traces if not _is_committed(connection, trace)]
    with closing(_in_memory(waiting)) as memory:
        own = select(memory, query, order, n, None)
    rows = [{**row, "seq": 0} for row in own.rows] + found.rows
    if order == "slowest":
        rows.sort(key=lambda row: -row["duration_ms"])
    count = own.count + found.count
    without = {problem.start for problem in own.problems}
    return replace(
        found,
        rows=rows[:n],
        next=None,
        count=min(count, MAX_COUNT),
        count_is_exact=found.count_is_exact and count <= MAX_COUNT,
        newest_us=_latest(found.newest_us, own.newest_us),
        newest_match_us=None if count else _latest(found.newest_match_us, own.newest_match_us),
        problems=[] if count else [problem for problem in found.problems if problem.start in without or not waiting],
    )


def _latest(*moments: int | None) -> int | None:
    return max((us for us in moments if us is not None), default=None)


def _is_committed(connection: sqlite3.Connection, trace: dict[str, Any]) -> bool:
    return (
        bool(trace["seq"])
        or connection.execute(_IS_COMMITTED, (trace["run_id"], trace["number"])).fetchone() is not None
    )


def _in_memory(traces: Sequence[dict[str, Any]]) -> sqlite3.Connection:
    """Returns a connection to a database of these traces and their programs; their order is that of `seq`."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    add_functions(memory)
    memory.execute(f"CREATE TABLE traces ({TRACES.columns})")
    memory.execute("CREATE TABLE runs (run_id PRIMARY KEY, program)")
    marks = ", ".join("?" * len(_NAMES))
    for seq, trace in enumerate(reversed(traces), start=1):
        row = {**trace, "seq": seq, **{name: orjson.dumps(trace[name]).decode() for name in ("spans", "extras")}}
        memory.execute(f"INSERT INTO traces VALUES ({marks})", [row[name] for name in _NAMES])  # noqa: S608
        memory.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (trace["run_id"], trace.get("program")))
    return memory
