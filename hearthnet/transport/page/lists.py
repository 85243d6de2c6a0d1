"""The lists of the page: traces and log records that match a query, with a cursor for more."""

from __future__ import annotations

from typing import Any, Final

from hearthnet.observability.store.query.shapes import LOG, SUMMARY, log_of, summary_of
from hearthnet.transport.page.source import Page

_SELECT: Final = {"traces": (SUMMARY, "started_us", summary_of), "logs": (LOG, "ts_us", log_of)}


def listed(page: Page, table: str, q: str, order: str, n: int, before: int | None) -> dict[str, Any]:
    """Returns the rows of a table."""
    columns, moment, made = _SELECT[table]
    by = "duration_ms DESC, seq DESC" if order == "slowest" else "seq DESC"
    where = "" if before is None else f"WHERE seq < {before:d}"
    rows = page.reader.rows(f"SELECT {columns} FROM {table} {where} ORDER BY {by} LIMIT ?", (n,))
    ring = page.reader.rows(f"SELECT min({moment}), max({moment}), count(*) FROM {table}")[0]
    found = [*map(made, rows)]
    return {
        table: found,
        "next": found[-1]["seq"] if len(found) == n and order == "newest" else None,
        "count": ring[2],
        "count_is_exact": True,
        "sql": f"SELECT * FROM {table}",
        "values": [],
        "terms": [],
        "problems": [{"message": "not yet", "hint": "", "start": 0, "end": len(q)}] if q else [],
        "ring": {"oldest_us": ring[0], "newest_us": ring[1]},
        "newest_match_us": ring[1],
    }
