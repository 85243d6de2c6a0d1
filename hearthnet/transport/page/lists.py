"""The lists of the page: what a query finds, or what of it is not understood and where."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hearthnet.observability.store.query.shapes import bounded_summary
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.store.search import Compiled, Found, compile_query, run_query
from hearthnet.observability.store.search.conditions import TableName
from hearthnet.observability.store.search.run import Order
from hearthnet.transport.page.source import READ_S, Page

__all__ = ["found"]


def found(page: Page, table: TableName, q: str, order: Order, n: int, before: str | None) -> dict[str, Any]:
    """Returns the rows that match, by the name of their table, with the query as it was understood.

    A query with problems is not run: it has no rows.

    Raises:
        QueryError: raised when `before` is no place in that order.
        QueryLimitError: raised when it takes too long.
        StoreError: raised when there is no database, or it cannot be read.
    """
    query = compile_query(q, table, now_us=now_us())
    result = Found([], None, 0, True, "") if query.problems else run_query(page.path, query, order, n, before, READ_S)
    rows = result.rows if table == "logs" else [*map(bounded_summary, result.rows)]
    return {
        table: rows,
        "next": result.next,
        "count": result.count,
        "count_is_exact": result.count_is_exact,
        "sql": result.sql,
        "values": query.values,
        "terms": _terms(query),
        "problems": [problem._asdict() for problem in (*query.problems, *result.problems)],
        "ring": {"oldest_us": result.oldest_us, "newest_us": result.newest_us},
        "newest_match_us": result.newest_match_us,
    }


def _terms(query: Compiled) -> list[dict[str, Any]]:
    """Returns the terms; one that takes any of several values has them in `values`, the first in `value`.

    `us` is the moment that a term of a time means, in UTC microseconds; None for any other term.
    """
    made = []
    for term in query.terms:
        texts = [_encodable(value.text) for value in term.values]
        shown = {name: _encodable(value) for name, value in asdict(term).items() if name != "values"}
        made.append({**shown, "value": texts[0] if texts else "", "values": texts, "us": query.moments.get(term)})
    return made


def _encodable(value: Any) -> Any:
    """Returns a value; in a text half a character, which an escape in a query may make, is replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
