"""The state of a store on disk: row counts, disk usage, dropped records, bytes written, integrity."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.database import (
    TELEMETRY,
    Part,
    connect_read_only,
    foreign_parts,
    migrations,
    misfit,
    parts_of,
    quick_check,
    reason_of,
    refusing,
    store_error,
)
from hearthnet.errors import StoreError
from hearthnet.files import why_no_file
from hearthnet.forensics import box as layout
from hearthnet.locations import bytes_of
from hearthnet.moments import iso
from hearthnet.observability.store.budget import MB, PAGE_BYTES, Budget, disk_bytes, foreign_pages, free_bytes
from hearthnet.observability.store.query.stats import ended_in_order
from hearthnet.observability.store.query.unsent import Progress, progress
from hearthnet.observability.store.recovery.quarantine import set_aside
from hearthnet.observability.store.ring import trial
from hearthnet.observability.store.rows import LOGS, TRACES, UNCLEAN, Table, now_us

if TYPE_CHECKING:
    from hearthnet.config import ObservabilityConfig

__all__ = ["Additions", "Integrity", "Losses", "additions", "examine", "info", "losses"]

_DAY_US = 86_400_000_000
_NEWER: Final = "it is of a newer version, which recovers it"
_NO_BOX: Final = "it is no black box; the next start removes it"


def info(store: Path, settings: ObservabilityConfig) -> dict[str, Any]:
    """Returns the state of the store; times are ISO 8601 in UTC.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    boxes = _boxes(store.parent)
    live = {box["run_id"] for box in boxes if box["alive"]}
    dead = {box["run_id"] for box in boxes} - live
    try:
        with closing(connect_read_only(store)) as connection:
            connection.execute("BEGIN")  # one snapshot for all queries
            live |= _boxless(connection, dead)
            found = {
                "path": str(store),
                "schema": connection.execute("PRAGMA user_version").fetchone()[0],
                "rings": {
                    "traces": _ring(connection, TRACES, "started_us"),
                    "logs": _ring(connection, LOGS, "ts_us"),
                },
                "drops": _drops(connection),
                "runs": _runs(connection, live, ended_in_order(store.parent)),
                "wear": _wear(connection, live),
                "export": {table: _export(found) for table, found in progress(connection).items()},
            }
    except sqlite3.Error as error:
        raise store_error(store, error) from error
    aside = [{"path": str(path), "bytes": bytes_of(path), "trouble": why_no_file(path)} for path in set_aside(store)]
    added = additions(store).as_dicts()
    return {**found, "disk": _disk(store.parent, settings), "not_ours": added, "quarantined": aside, "boxes": boxes}


def _export(found: Progress) -> dict[str, Any]:
    oldest = {"oldest": None if found.oldest_us is None else iso(found.oldest_us)}
    return {"cursor": found.cursor, "unsent": found.unsent, **oldest, "lost": found.lost}


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
        {"reason": reason, "kind": kind, "count": dropped, "last": iso(last_us)}
        for reason, kind, dropped, last_us in connection.execute(sql)
    ]


def _boxless(connection: sqlite3.Connection, dead: set[str]) -> set[str]:
    """Returns the runs without an end whose process may live, as far as its pid tells, though it has no box.

    The budget, or a full disk, had no space for one.
    """
    sql = "SELECT run_id, pid FROM runs WHERE ended_us IS NULL AND boot_id = ?"
    unended = connection.execute(sql, (layout.this_boot(),))
    return {run_id for run_id, pid in unended if run_id not in dead and layout.process_start(pid) is not None}


def _runs(connection: sqlite3.Connection, live: set[str], in_order: set[str]) -> dict[str, int]:
    """Returns the counts of the node's own runs, or in a store without a node of all, and the number of the others."""
    rows = connection.execute("SELECT node_id, run_id, ended_us, end_reason FROM runs").fetchall()
    found = [row for node_id, *row in rows if node_id is not None] or [row for _, *row in rows]
    unended = [run_id for run_id, ended_us, _ in found if ended_us is None and run_id not in in_order]
    running = len(live.intersection(unended))
    # A run without an end whose process is gone was killed; the next start records that.
    unclean = len(unended) - running + sum(end_reason == UNCLEAN for _, _, end_reason in found)
    others = len(rows) - len(found)
    return {"count": len(found), "running": running, "unclean": unclean, "of_other_programs": others}


def _wear(connection: sqlite3.Connection, live: set[str]) -> dict[str, Any]:
    """Returns the commits and bytes written of the measured runs, in all and per day."""
    now = now_us()
    sql = (
        "SELECT run_id, started_us, ended_us, written_bytes, ifnull(commits, 0) FROM runs WHERE written_bytes NOT NULL"
    )
    duration_us = written = commits = measured = 0
    for run_id, started_us, ended_us, run_written, run_commits in connection.execute(sql):
        if ended_us is None and run_id not in live:  # killed and not closed yet: its duration is unknown
            continue
        measured += 1
        duration_us += max(0, (ended_us or now) - started_us)
        written += run_written
        commits += run_commits
    days = duration_us / _DAY_US
    return {
        "measured_runs": measured,
        "days": days,
        "written_bytes": written,
        "commits": commits,
        "written_bytes_per_day": written / days if days else None,
        "commits_per_day": commits / days if days else None,
    }


def _disk(directory: Path, settings: ObservabilityConfig) -> dict[str, Any]:
    budget = Budget(settings.max_disk_mb)
    parts = disk_bytes(directory, settings.log_dir)
    bounds = {"database": budget.database, "wal": budget.wal_pinned, "box": budget.boxes, "rest": budget.rest}
    try:
        free, floor = free_bytes(directory, settings.keep_free_mb * MB)
    except OSError as error:
        raise StoreError(f"{directory} cannot be read: {error.strerror}") from error
    return {
        "bytes": parts,
        "total": sum(parts.values()),
        "budget": {**bounds, "total": budget.total},
        "free": free,
        "floor": floor,
    }


def _boxes(directory: Path) -> list[dict[str, Any]]:
    found = []
    newer = layout.newer_boxes_in(directory)
    for path in {**dict.fromkeys(layout.boxes_in(directory)), **dict.fromkeys(newer)}:
        trouble = why_no_file(path)
        if trouble is None and not path.exists():  # recovered since it was listed
            continue
        header = layout.header_of(path)
        if trouble is None and header is None:
            trouble = _NEWER if path in newer else _NO_BOX
        found.append(
            {
                "path": str(path),
                "bytes": bytes_of(path),
                "pid": None if header is None else header.pid,
                "run_id": None if header is None else header.run_id,
                "alive": header is not None and (layout.is_locked(path) or layout.is_alive(header)),
                "trouble": trouble,
            }
        )
    return found


_HOUR_US: Final = 3_600_000_000
# Records that a killed run dropped are counted by the next run when it starts.
_BY_REASON: Final = "SELECT reason, sum(count) FROM gaps WHERE ts_us >= ? GROUP BY reason ORDER BY reason"
# Of the node, or in a store without one of any program.
_BEGAN: Final = "SELECT coalesce(max(iif(node_id IS NULL, NULL, started_us)), max(started_us), 0) FROM runs"


@dataclass(frozen=True, slots=True)
class Losses:
    """Dropped records by reason: in the last hour, since the node's newest run began, and in all."""

    last_hour: dict[str, int] = field(default_factory=dict)
    since_start: dict[str, int] = field(default_factory=dict)
    in_all: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of all dropped records."""
        return sum(self.in_all.values())


def losses(path: Path) -> Losses:
    """Returns the dropped records of the store at `path`.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            began_us = connection.execute(_BEGAN).fetchone()[0]
            periods = (now_us() - _HOUR_US, began_us, 0)
            return Losses(*(dict(connection.execute(_BY_REASON, (since_us,)).fetchall()) for since_us in periods))
    except sqlite3.Error as error:
        raise store_error(path, error) from error


_WITHIN_S: Final = 0.8  # 10,000 rows of each ring take 10 ms; a store at its ceiling on a card may take longer
_UNFINISHED: Final = "checked in part: out of time"


@dataclass(frozen=True, slots=True)
class Integrity:
    """The result of checking a database.

    Attributes:
        said: `ok`, the error, or that the check ran out of time.
        is_damaged: whether the next start moves the database aside.
        is_readable: whether it can be queried.
        schema: its schema version; None if that cannot be read.
        known: the newest schema version that this program knows.
    """

    said: str
    is_damaged: bool = False
    is_readable: bool = True
    schema: int | None = None
    known: int = 0

    @property
    def is_newer(self) -> bool:
        """Whether a newer version of this program has written it."""
        return self.schema is not None and self.schema > self.known


def examine(path: Path) -> Integrity:
    """Checks the database at `path`. Never raises for its content, and changes nothing."""
    try:
        with closing(connect_read_only(path)) as connection:
            return _examine(connection)
    except StoreError as error:
        return Integrity(error.message, is_readable=False)
    except sqlite3.Error as error:
        is_damaged = reason_of(error) == "corrupt"
        return Integrity(str(error), is_damaged=is_damaged, is_readable=False)


def _examine(connection: sqlite3.Connection) -> Integrity:
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    known = _newest()
    if not (identity or schema or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]):
        return Integrity("it is empty", is_readable=False)  # its first start was killed, or found no space
    if identity != TELEMETRY.application_id:
        return Integrity("it is a database of another program", is_damaged=True, is_readable=False)
    said = quick_check(connection, _WITHIN_S) or _UNFINISHED
    is_damaged = said not in ("ok", _UNFINISHED)
    return Integrity(said, is_damaged, not is_damaged, schema, known)


def _newest() -> int:
    return int(migrations(TELEMETRY)[-1].name[:4])


@dataclass(frozen=True, slots=True)
class Additions:
    """How a database's schema differs from the one that the migrations make.

    Attributes:
        misfit: why our tables and views are not those that this program writes and reads, in SQLite's words, or None.
        parts: tables, views, triggers and indexes that are not ours.
        refusing: those triggers and indexes among them that refuse our records, with SQLite's words.
        bytes: that these tables and indexes take.
    """

    misfit: str | None = None
    parts: list[Part] = field(default_factory=list)
    refusing: list[tuple[Part, str]] = field(default_factory=list)
    bytes: int = 0

    @property
    def on_ours(self) -> list[Part]:
        """The triggers and unique indexes on our tables: they may refuse some of our records."""
        others = {part.name for part in self.parts if part.kind == "table"}
        found = [part for part in self.parts if part.kind in ("trigger", "index") and part.table not in others]
        return [part for part in found if part.kind == "trigger" or "UNIQUE" in part.sql.upper()]

    def of(self, *kinds: str) -> list[str]:
        """Returns the names of the parts of these kinds."""
        return [part.name for part in self.parts if part.kind in kinds]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Returns kind, name and table of each part, and SQLite's words if it refuses records."""
        words = dict(self.refusing)
        return [
            {"kind": part.kind, "name": part.name, "table": part.table, "refuses": words.get(part)}
            for part in self.parts
        ]


def additions(path: Path) -> Additions:
    """Returns how the schema of the database at `path` differs from ours; nothing of an older or newer one.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _newest():
                return Additions()
            parts = parts_of(connection)
            foreign = foreign_parts(parts, TELEMETRY)
            size = foreign_pages(connection) * PAGE_BYTES if foreign else 0
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    return Additions(misfit(parts, TELEMETRY, trial), foreign, refusing(parts, TELEMETRY, trial), size)
