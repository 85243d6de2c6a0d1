"""Tells from disk how the store stands: its rings, its bytes against their budget, what was lost, what it wrote."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hearthnet.database import connect_read_only, store_error
from hearthnet.errors import StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability.budget import MB, Budget, disk_bytes, free_bytes
from hearthnet.observability.store.merge import LOGS, TRACES, Table
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.store.rows import UNCLEAN, now_us

__all__ = ["Limits", "info", "iso"]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that the settings give.

    Attributes:
        max_disk_mb: of everything together.
        keep_free_mb: to be left to the machine.
    """

    max_disk_mb: int
    keep_free_mb: int


def iso(us: int | None) -> str | None:
    """Returns UTC microseconds as ISO 8601 in UTC."""
    if us is None:
        return None
    return datetime.fromtimestamp(us / 1e6, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def info(store: Path, log_dir: Path | None, limits: Limits) -> dict[str, Any]:
    """Returns how the store stands; times are ISO 8601 in UTC.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    boxes = _boxes(store.parent)
    living = {box["run_id"] for box in boxes if box["alive"]}
    try:
        with closing(connect_read_only(store)) as connection:
            connection.execute("BEGIN")  # one moment for all of it
            found = {
                "path": str(store),
                "schema": connection.execute("PRAGMA user_version").fetchone()[0],
                "rings": {
                    "traces": _ring(connection, TRACES, "started_us"),
                    "logs": _ring(connection, LOGS, "ts_us"),
                },
                "drops": _drops(connection),
                "runs": _runs(connection, living),
                "wear": _wear(connection, living),
            }
    except sqlite3.Error as error:
        raise store_error(store, error) from error
    return {**found, "disk": _disk(store.parent, log_dir, limits), "quarantined": _quarantined(store), "boxes": boxes}


def _ring(connection: sqlite3.Connection, table: Table, time: str) -> dict[str, Any]:
    ordinary, notable, oldest, newest = connection.execute(
        f"SELECT ifnull(sum(NOT notable), 0), ifnull(sum(notable), 0), min({time}), max({time}) FROM {table.name}"  # noqa: S608  # constants
    ).fetchone()
    return {
        "size": table.size,
        "rows": ordinary + notable,
        "ordinary": ordinary,
        "notable": notable,
        "oldest": iso(oldest),
        "newest": iso(newest),
    }


def _drops(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    sql = "SELECT reason, kind, sum(count), max(ts_us) FROM gaps GROUP BY reason, kind ORDER BY reason, kind"
    return [
        {"reason": reason, "kind": kind, "count": lost, "last": iso(last_us)}
        for reason, kind, lost, last_us in connection.execute(sql)
    ]


def _runs(connection: sqlite3.Connection, living: set[str]) -> dict[str, int]:
    found = connection.execute("SELECT run_id, ended_us, end_reason FROM runs").fetchall()
    running = [run_id for run_id, ended_us, _ in found if ended_us is None and run_id in living]
    # One without an end whose process is gone was killed; the next start writes that down.
    unclean = [run for run in found if run[2] == UNCLEAN or (run[1] is None and run[0] not in living)]
    return {"count": len(found), "running": len(running), "unclean": len(unclean)}


def _wear(connection: sqlite3.Connection, living: set[str]) -> dict[str, Any]:
    """Returns what the runs that were measured wrote, over the time that they lasted."""
    now = now_us()
    sql = (
        "SELECT run_id, started_us, ended_us, written_bytes, ifnull(commits, 0) FROM runs WHERE written_bytes NOT NULL"
    )
    # How long a run lasted that was killed and is not closed yet, nobody knows.
    runs = [row for row in connection.execute(sql) if row[2] is not None or row[0] in living]
    days = sum(max(0, (ended_us or now) - started_us) for _, started_us, ended_us, _, _ in runs) / _DAY_US
    written, commits = sum(row[3] for row in runs), sum(row[4] for row in runs)
    return {
        "measured_runs": len(runs),
        "days": days,
        "written_bytes": written,
        "commits": commits,
        "written_bytes_per_day": written / days if days else None,
        "commits_per_day": commits / days if days else None,
    }


def _disk(directory: Path, log_dir: Path | None, limits: Limits) -> dict[str, Any]:
    budget = Budget(limits.max_disk_mb)
    parts = disk_bytes(directory, log_dir)
    bounds = {"database": budget.database, "wal": budget.wal_pinned, "box": budget.boxes, "rest": budget.rest}
    try:
        free, floor = free_bytes(directory, limits.keep_free_mb * MB)
    except OSError as error:
        raise StoreError(f"{directory} cannot be read: {error.strerror}") from error
    return {
        "bytes": parts,
        "total": sum(parts.values()),
        "budget": {**bounds, "total": budget.total},
        "free": free,
        "floor": floor,
    }


def _quarantined(store: Path) -> list[dict[str, Any]]:
    return [{"path": str(path), "bytes": path.stat().st_size} for path in quarantined(store)]


def _boxes(directory: Path) -> list[dict[str, Any]]:
    found = []
    for path in layout.boxes_in(directory):
        try:
            with path.open("rb") as file:
                header = layout.read_header(file.read(layout.HEADER_BYTES))
            size = path.stat().st_size
        except OSError:  # taken in since it was listed
            continue
        found.append(
            {
                "path": str(path),
                "bytes": size,
                "pid": None if header is None else header.pid,
                "run_id": None if header is None else header.run_id,
                "alive": header is not None and layout.is_alive(header),
            }
        )
    return found
