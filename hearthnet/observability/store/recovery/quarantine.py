"""Moves an unusable database aside unchanged, and salvages the rows that can still be read.

A table is read forward from its lowest number until reading fails, and backward from its highest: a damaged page costs
the rows on it, not those behind it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.errors import StoreError
from hearthnet.locations import bytes_of
from hearthnet.observability.logging import get_logger
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.rows import LOGS, TRACES, Table

__all__ = ["Salvage", "keep_within", "move_aside", "quarantined", "salvage"]

log = get_logger(__name__)

_SIDECARS: Final = ("", "-wal", "-shm")
_MARK: Final = ".corrupt-"
# Invalid JSON shows a flipped bit that SQLite does not notice.
_VALID: Final = {
    "traces": "json_valid(spans) AND json_valid(extras) AND notable IN (0, 1)"
    " AND typeof(started_us) = 'integer' AND typeof(duration_ms) = 'real'",
    "logs": "json_valid(extras) AND notable IN (0, 1) AND typeof(ts_us) = 'integer'",
}
_RUN: Final = ("run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason")
_LATER: Final = ("last_seen_us", "vitals", "commits", "written_bytes", "program", "role")  # missing in older schemas


def quarantined(path: Path) -> list[Path]:
    """Returns the databases that were moved aside from `path`, oldest first."""
    found = path.parent.glob(f"{path.name}{_MARK}*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm", "-journal")))


def move_aside(path: Path, reason: str) -> Path:
    """Renames the database with its -wal and -shm; deletes earlier ones, so that one is kept in quarantine.

    Raises:
        StoreError: raised when it cannot be renamed.
    """
    name = f"{path.name}{_MARK}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    target = path.with_name(name)
    try:
        for old in quarantined(path):
            _remove(old)
        for ending in _SIDECARS:
            file = path.with_name(path.name + ending)
            if file.exists():
                file.rename(path.with_name(name + ending))
    except OSError as error:
        raise StoreError(f"{path} cannot be used ({reason}) nor moved aside: {error.strerror}") from error
    log.error("telemetry.db was moved aside", extra={"reason": reason, "to": str(target)})
    return target


def _remove(path: Path) -> None:
    for part in _parts(path):
        if part.is_dir() and not part.is_symlink():  # a folder that had the database's name
            shutil.rmtree(part)
        else:
            part.unlink()


def keep_within(path: Path, limit: int) -> None:
    """Deletes quarantined databases larger than `limit` bytes; they have been salvaged."""
    for file in quarantined(path):
        size = sum(map(bytes_of, _parts(file)))
        if size > limit:
            log.warning("a quarantined database is too large to keep", extra={"path": str(file), "bytes": size})
            _remove(file)


def _parts(path: Path) -> list[Path]:
    parts = (path.with_name(path.name + ending) for ending in _SIDECARS)
    return [part for part in parts if os.path.lexists(part)]


@dataclass(slots=True)
class Salvage:
    """The rows that could be read from a damaged database; each of `runs` has the columns `_RUN` and `_LATER`."""

    traces: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)

    def insert(self, connection: sqlite3.Connection) -> None:
        """Inserts the rows into the new database, by its rings' rule.

        Raises:
            sqlite3.Error: raised when the new database cannot be written.
        """
        for run_id, node_id, *run, ended_us, reason, last_seen_us, vitals, commits, written, program, role in self.runs:
            try:
                whose = (program, role or rows.role_of(node_id))
                connection.execute(rows.INSERT_RUN, (run_id, node_id, *run, *whose))
                connection.execute(rows.END_RUN, (ended_us, reason, run_id))
                connection.execute(rows.SET_VITALS, (last_seen_us, vitals, run_id))
                connection.execute(rows.SET_WEAR, (commits, written, run_id))
            except (sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
                log.warning("a run could not be salvaged", extra={"error": str(error)})
        merge(connection, sorted([*self.traces, *self.logs], key=lambda record: record.seq))
        log.warning("telemetry was salvaged", extra={"traces": len(self.traces), "logs": len(self.logs)})


def salvage(damaged: Path) -> Salvage:
    """Returns the traces, log records and runs that can be read from `damaged`. Never raises for its content."""
    if not damaged.is_file():  # a folder had the database's name
        return Salvage()
    try:
        source = sqlite3.connect(f"{damaged.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        source.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        return Salvage()
    with closing(source):
        return Salvage(
            list(_readable(source, _select(source, TRACES), TRACES.record_of).values()),
            list(_readable(source, _select(source, LOGS), LOGS.record_of).values()),
            list(_readable(source, _select_runs(source), tuple).values()),
        )


def _select(source: sqlite3.Connection, table: Table) -> str:
    # Before records had numbers of their own, their seq was one.
    columns = table.columns if "number" in _columns(source, table.name) else table.columns.replace("number", "seq", 1)
    return f"SELECT {columns} FROM {table.name} WHERE {_VALID[table.name]}"  # noqa: S608  # constants


def _select_runs(source: sqlite3.Connection) -> str:
    present = _columns(source, "runs")
    later = (name if name in present else f"NULL AS {name}" for name in _LATER)
    return f"SELECT {', '.join((*_RUN, *later))} FROM runs"  # noqa: S608  # constants


def _columns(source: sqlite3.Connection, table: str) -> set[str]:
    try:
        return {name for _, name, *_ in source.execute(f"PRAGMA table_info({table})")}
    except (sqlite3.Error, UnicodeDecodeError):  # then its rows cannot be read either
        return set()


def _readable(source: sqlite3.Connection, select: str, make: Callable[[Any], Any]) -> dict[Any, Any]:
    """Returns the rows of `select` by their first column, read from both ends until reading fails."""
    found: dict[Any, Any] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in source.execute(f"{select} ORDER BY rowid {order}"):
                if row[0] in found and order == "DESC":
                    break
                _keep(found, row, make)
        except (sqlite3.Error, UnicodeDecodeError):  # the damaged page: the other direction reads the rest
            continue
    return found


def _keep(found: dict[Any, Any], row: Any, make: Callable[[Any], Any]) -> None:
    try:
        found[row[0]] = make(row)
    except (AttributeError, TypeError, ValueError):  # a damaged value
        return
