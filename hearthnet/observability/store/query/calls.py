"""Figures of calls: by minute, by capability, by version, and over the last hour.

A quantile is the nearest rank, and None under twenty calls: of fewer, count and longest say more. It is found by one
window: `cume_dist` is the share of the calls that took as long or less. The rows are read to `result` alone: spans and
extras, which come after it, are on pages of their own where they are long.
"""

from __future__ import annotations

from typing import Any, Final

from hearthnet.observability.store.reader import Reader

__all__ = ["MIN_CALLS", "by_capability", "by_version", "gaps", "quantile", "series", "step_for", "totals"]

MIN_CALLS: Final = 20
_MINUTE_US: Final = 60_000_000
_MAX_POINTS: Final = 360
_STEPS_S: Final = (60, 300, 900, 3_600, 21_600, 86_400)
_MAX_GROUPS: Final = 1_000
_FAILED: Final = "result NOT IN ('ok', 'cancelled')"
_RANKED: Final = """
    SELECT {key} AS key, started_us, duration_ms, {failed} AS is_failed,
           cume_dist() OVER (PARTITION BY {key} ORDER BY duration_ms) AS share
      FROM traces {where}
"""


def quantile(share: float) -> str:
    """Returns the SQL of a quantile of `duration_ms` within a group, whose rows have their `share`; NULL of few."""
    return f"iif(count(*) >= {MIN_CALLS}, min(CASE WHEN share >= {share} THEN duration_ms END), NULL)"


def _grouped(key: str, where: str, columns: str, order: str) -> str:
    ranked = _RANKED.format(key=key, failed=_FAILED, where=where)
    return f"SELECT key, {columns} FROM ({ranked}) GROUP BY key ORDER BY {order} LIMIT {_MAX_GROUPS}"  # noqa: S608  # constants


_FIGURES: Final = f"count(*), sum(is_failed), {quantile(0.5)}, {quantile(0.95)}"


def step_for(minutes: int) -> int:
    """Returns the seconds of a step that gives a chart of this length at most `_MAX_POINTS` points."""
    return next((step for step in _STEPS_S if minutes * 60 / step <= _MAX_POINTS), _STEPS_S[-1])


def series(
    reader: Reader, from_us: int, to_us: int, step_s: int, capability: str | None = None
) -> list[dict[str, Any]]:
    """Returns the calls of each step in which any began, oldest first.

    Raises:
        StoreError: raised as by all queries when there is no database, or it cannot be read.
    """
    step_us = step_s * 1_000_000
    where = "WHERE started_us >= ? AND started_us < ?" + ("" if capability is None else " AND capability = ?")
    sql = _grouped(f"started_us / {step_us:d} * {step_us:d}", where, f"{_FIGURES}, max(duration_ms)", "key")
    values = [from_us, to_us, *([] if capability is None else [capability])]
    names = ("ts_us", "count", "failed", "p50_ms", "p95_ms", "max_ms")
    return [dict(zip(names, row, strict=True)) for row in reader.rows(sql, values)]


def by_capability(reader: Reader, since_us: int = 0) -> list[dict[str, Any]]:
    """Returns the figures of each capability, the most called first."""
    columns = f"{_FIGURES}, {quantile(0.99)}, max(duration_ms), max(started_us)"
    sql = _grouped("capability", "WHERE started_us >= ?", columns, "2 DESC, 1")
    names = ("capability", "count", "failed", "p50_ms", "p95_ms", "p99_ms", "max_ms", "last_us")
    return [dict(zip(names, row, strict=True)) for row in reader.rows(sql, (since_us,))]


def totals(reader: Reader, since_us: int) -> dict[str, Any]:
    """Returns the figures of all calls that began since then."""
    sql = _grouped("0", "WHERE started_us >= ?", _FIGURES, "key")
    row = next(iter(reader.rows(sql, (since_us,))), (0, 0, 0, None, None))
    return dict(zip(("count", "failed", "p50_ms", "p95_ms"), row[1:], strict=True))


# Calls of the node's own runs, or in a store without a node of all.
_VERSIONS: Final = """
    WITH own AS (SELECT run_id, version FROM runs
                  WHERE node_id IS NOT NULL OR NOT EXISTS (SELECT 1 FROM runs WHERE node_id IS NOT NULL)),
    called AS (SELECT own.version, {by} AS capability, duration_ms, {failed} AS is_failed
                 FROM traces JOIN own ON own.run_id = traces.run_id),
    ranked AS (SELECT version, capability, duration_ms, is_failed,
                      cume_dist() OVER (PARTITION BY version, capability ORDER BY duration_ms) AS share
                 FROM called)
    SELECT version, capability, {figures} FROM ranked GROUP BY version, capability ORDER BY count(*) DESC LIMIT {most}
"""


def by_version(reader: Reader) -> list[dict[str, Any]]:
    """Returns the figures of each version of the node's program, in all and by capability; the newest run's first."""
    names = ("count", "failed", "p50_ms", "p95_ms")
    shared = {"failed": _FAILED, "figures": _FIGURES, "most": _MAX_GROUPS}
    found: dict[str, dict[str, Any]] = {}
    for version, _, *figures in reader.rows(_VERSIONS.format(by="NULL", **shared)):
        found[version] = {"version": version, **dict(zip(names, figures, strict=True)), "by_capability": []}
    for version, capability, *figures in reader.rows(_VERSIONS.format(by="capability", **shared)):
        if version in found:  # else it was recorded between the two queries
            found[version]["by_capability"].append({"capability": capability, **dict(zip(names, figures, strict=True))})
    newest = "SELECT version FROM runs GROUP BY version ORDER BY max(started_us) DESC"
    return [found[version] for (version,) in reader.rows(newest) if version in found]


def gaps(reader: Reader, from_us: int, to_us: int) -> list[dict[str, Any]]:
    """Returns where records were dropped, oldest first."""
    sql = "SELECT ts_us, count, reason, kind FROM gaps WHERE ts_us >= ? AND ts_us < ? ORDER BY seq LIMIT 1000"
    return [
        dict(zip(("ts_us", "count", "reason", "kind"), row, strict=True)) for row in reader.rows(sql, (from_us, to_us))
    ]
