"""Statistics by capability of the node's own calls, for the tools, and how its last run ended.

The view `capability_stats` has those of all calls.
"""

from __future__ import annotations

from typing import Any, Final

from hearthnet.observability.store.reader import Reader

__all__ = ["capability_stats", "last_end"]

# As the view computes them, but of the calls in the node's runs; of all calls in a store without a node. It names only
# tables and columns of the first schema, for stores that no node has migrated since an upgrade.
_SQL: Final = """
    WITH own AS (SELECT run_id FROM runs WHERE node_id IS NOT NULL), ranked AS (
        SELECT capability, duration_ms, started_us,
               result NOT IN ('ok', 'cancelled')                                AS is_error,
               row_number() OVER (PARTITION BY capability ORDER BY duration_ms) AS place,
               count(*)     OVER (PARTITION BY capability)                      AS total
          FROM traces
         WHERE run_id IN (SELECT run_id FROM own) OR NOT EXISTS (SELECT 1 FROM own)
    )
    SELECT capability, count(*) AS count, sum(is_error), 1.0 * sum(is_error) / count(*),
           min(CASE WHEN 100 * place >= 50 * total THEN duration_ms END),
           min(CASE WHEN 100 * place >= 90 * total THEN duration_ms END),
           min(CASE WHEN 100 * place >= 99 * total THEN duration_ms END),
           max(duration_ms),
           strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1e6, 'unixepoch')
      FROM ranked
     GROUP BY capability
     ORDER BY count DESC, capability
"""
_NAMES: Final = ("capability", "count", "errors", "error_rate", "p50_ms", "p90_ms", "p99_ms", "max_ms", "last_ts")


def capability_stats(reader: Reader) -> list[dict[str, Any]]:
    """Returns the statistics, the most called capability first. Takes 30 ms for a full ring.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    return [dict(zip(_NAMES, row, strict=True)) for row in reader.rows(_SQL)]


def last_end(reader: Reader) -> str | None:
    """Returns how the node's last run ended, `clean` or `unclean`; None if the store has no run of a node.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    rows = reader.rows("SELECT end_reason FROM runs WHERE node_id NOT NULL ORDER BY started_us DESC LIMIT 1")
    return (rows[0][0] or "unclean") if rows else None
