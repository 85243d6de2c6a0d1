"""Statistics by capability of the node's own calls, for the tools, and how its last run ended.

The view `capability_stats` has those of all calls.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hearthnet.files import open_file
from hearthnet.forensics.box import HEADER_BYTES, boxes_in, parse
from hearthnet.observability.store.reader import Reader

__all__ = ["capability_stats", "ended_in_order", "last_end"]

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
           strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1000 / 1e3, 'unixepoch')
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


def ended_in_order(directory: Path) -> set[str]:
    """Returns the runs whose boxes say that they ended in order, also if the database does not say so yet."""
    found = set()
    for path in boxes_in(directory):
        with suppress(OSError), open_file(path) as file:
            box = parse(file.read(HEADER_BYTES))
            if box is not None and box.ended_us:
                found.add(box.header.run_id)
    return found


def last_end(reader: Reader, in_order: Collection[str] = ()) -> str | None:
    """Returns how the node's last run ended, `clean` or `unclean`; None if the store has no run of a node.

    Args:
        reader: of the store.
        in_order: runs that ended in order, whatever the database says.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    rows = reader.rows("SELECT end_reason, run_id FROM runs WHERE node_id NOT NULL ORDER BY started_us DESC LIMIT 1")
    return (rows[0][0] or ("clean" if rows[0][1] in in_order else "unclean")) if rows else None
