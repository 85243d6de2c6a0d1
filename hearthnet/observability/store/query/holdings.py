"""What a store holds against its bounds: bytes, rows, and records that were lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from hearthnet.observability.store.budget import MB, Budget, disk_bytes
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.store.rows import LOGS, TRACES, Table

__all__ = ["holdings", "ring_from_us"]

_MAX_LOST: Final = 100
_TIMES: Final = {"traces": "started_us", "logs": "ts_us"}


def holdings(reader: Reader, directory: Path, log_dir: Path | None, max_disk_mb: int) -> dict[str, Any]:
    """Returns the store's bytes and rows with their bounds, and its losses.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    lost = reader.rows(
        "SELECT reason, kind, sum(count), max(ts_us) FROM gaps GROUP BY reason, kind ORDER BY 4 DESC LIMIT ?",
        (_MAX_LOST,),
    )
    return {
        "disk": _disk(directory, log_dir, max_disk_mb),
        "rings": {"traces": _ring(reader, TRACES), "logs": _ring(reader, LOGS)},
        "lost": [dict(zip(("reason", "kind", "count", "last_us"), row, strict=True)) for row in lost],
        "commits_per_minute": _commits_per_minute(reader),
        "max_disk_bytes": max_disk_mb * MB,
    }


def _disk(directory: Path, log_dir: Path | None, max_disk_mb: int) -> dict[str, dict[str, int]]:
    found, budget = disk_bytes(directory, log_dir), Budget(max_disk_mb)
    found["logs"] += found.pop("quarantine")  # they share a bound
    bounds = {"database": budget.database, "wal": budget.wal_pinned, "box": budget.boxes, "logs": budget.rest}
    return {part: {"bytes": found[part], "bound": bound} for part, bound in bounds.items()}


def _ring(reader: Reader, table: Table) -> dict[str, Any]:
    """Returns the rows of a ring by class; the writer keeps their numbers, so none is counted here."""
    name, moment = table.name, _TIMES[table.name]
    sql = (
        "SELECT (SELECT value FROM state WHERE name = ?), (SELECT value FROM state WHERE name = ?),"  # noqa: S608  # constants
        f" (SELECT {moment} FROM {name} ORDER BY seq LIMIT 1), (SELECT {moment} FROM {name} ORDER BY seq DESC LIMIT 1)"
    )
    ordinary, notable, oldest_us, newest_us = reader.rows(sql, (f"{name}.0", f"{name}.1"))[0]
    return {
        "ordinary": ordinary or 0,
        "notable": notable or 0,
        "size": table.size,
        "oldest_us": oldest_us,
        "newest_us": newest_us,
    }


def ring_from_us(reader: Reader) -> int | None:
    """Returns since when the ring has every call: the oldest ordinary trace, or the first run if none is evicted yet.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    sql = (
        "SELECT iif((SELECT value FROM state WHERE name = 'traces.0.from') > 0,"
        " (SELECT started_us FROM traces WHERE notable = 0 ORDER BY seq LIMIT 1),"
        " (SELECT started_us FROM runs ORDER BY rowid LIMIT 1))"
    )
    found: int | None = reader.rows(sql)[0][0]
    return found


def _commits_per_minute(reader: Reader) -> float | None:
    """Returns the rate of the newest run that was measured; its count is written now and then."""
    sql = "SELECT commits, started_us, ended_us FROM runs WHERE commits > 0 ORDER BY rowid DESC LIMIT 1"
    for commits, started_us, ended_us in reader.rows(sql):
        minutes = ((ended_us or time.time_ns() // 1_000) - started_us) / 60e6
        rate: float = commits / max(1.0, minutes)
        return round(rate, 2)
    return None
