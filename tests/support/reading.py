"""What tests read of what was recorded, each from outside: the database, the JSON log, the metrics."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from hearthnet.observability import metrics


def rows(database: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Returns what another process would read with `sqlite3`."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(sql, values).fetchall()


def log_lines(directory: Path) -> list[dict[str, Any]]:
    """Returns every line of the JSON log, parsed, in the order of the files."""
    return [orjson.loads(line) for path in sorted(directory.glob("*.log")) for line in path.read_bytes().splitlines()]


def metric(name: str) -> float:
    """Returns the value of a metric of this process, 0 if there is none; the name includes the labels."""
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0
