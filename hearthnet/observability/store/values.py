"""Values that recent records have, for a shell that completes them: ids of traces and runs, names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from hearthnet.database import connect_read_only

__all__ = ["Kind", "values"]

Kind = Literal["trace", "run", "program", "capability", "logger"]

_RECENT: Final = 2_000  # rows: a tenth of a second on a slow card, where the whole ring would take half of one
_IDS: Final = 30  # about what a terminal shows without asking
_NAMES: Final = 200
# Each has a value and words about it; the parameters: its beginning, how many, out of how many rows.
_STATEMENTS: Final[dict[Kind, str]] = {
    "trace": """
        SELECT trace_id, max(capability) || ' ' || max(result)
          FROM (SELECT seq, trace_id, capability, result FROM traces ORDER BY seq DESC LIMIT :rows)
         WHERE substr(trace_id, 1, length(:start)) = :start GROUP BY trace_id ORDER BY max(seq) DESC LIMIT :count
    """,
    "run": """
        SELECT run_id, coalesce(program, 'hearthnet') || ', ' || coalesce(end_reason, 'running')
          FROM runs WHERE substr(run_id, 1, length(:start)) = :start ORDER BY started_us DESC LIMIT min(:count, :rows)
    """,
    "program": """
        SELECT DISTINCT program, NULL
          FROM (SELECT program FROM runs ORDER BY started_us DESC LIMIT :rows)
         WHERE substr(program, 1, length(:start)) = :start ORDER BY program LIMIT :count
    """,
    "capability": """
        SELECT DISTINCT capability, NULL
          FROM (SELECT capability FROM traces WHERE result <> 'not_found' ORDER BY seq DESC LIMIT :rows)
         WHERE substr(capability, 1, length(:start)) = :start ORDER BY capability LIMIT :count
    """,
    "logger": """
        SELECT DISTINCT logger, NULL
          FROM (SELECT logger FROM logs ORDER BY seq DESC LIMIT :rows)
         WHERE substr(logger, 1, length(:start)) = :start ORDER BY logger LIMIT :count
    """,
}


def values(path: Path, kind: Kind, start: str) -> list[tuple[str, str | None]]:
    """Returns values that begin with `start`, each with a few words about it; ids newest first, names sorted.

    Raises:
        StoreError: raised when there is no database, or it cannot be opened.
        sqlite3.Error: raised when it cannot be read.
    """
    count = _IDS if kind in ("trace", "run") else _NAMES
    with closing(connect_read_only(path)) as connection:
        return connection.execute(_STATEMENTS[kind], {"start": start, "count": count, "rows": _RECENT}).fetchall()
