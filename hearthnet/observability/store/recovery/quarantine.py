"""Moves a database that cannot be used aside, whole, and takes over from it what can still be read.

A table is read forward from its lowest number until it breaks, and backward from its highest: a damaged page costs what
lies on it, not what lies behind it.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.errors import StoreError
from hearthnet.observability.logging import get_logger
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.rows import LOGS, TRACES

__all__ = ["Salvage", "keep_within", "move_aside", "quarantined", "salvage"]

log = get_logger(__name__)

_SIDECARS: Final = ("", "-wal", "-shm")
_MARK: Final = ".corrupt-"
# JSON that is none any more is where a bit has flipped that SQLite does not see.
_SELECT_TRACES: Final = f"SELECT {TRACES.columns} FROM traces WHERE json_valid(spans) AND json_valid(extras)"  # noqa: S608
_RUN: Final = ("run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason")
_LATER: Final = ("last_seen_us", "vitals", "commits", "written_bytes")  # an older schema has none of them
_SELECT_LOGS: Final = f"SELECT {LOGS.columns} FROM logs WHERE json_valid(extras)"  # noqa: S608  # constants, as above


def quarantined(path: Path) -> list[Path]:
    """Returns the databases that were moved aside from `path`, oldest first."""
    found = path.parent.glob(f"{path.name}{_MARK}*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm", "-journal")))


def move_aside(path: Path, reason: str) -> Path:
    """Renames the database with its -wal and -shm; earlier ones in quarantine go, one is kept.

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
        if part.is_dir():  # it stood in the database's place
            shutil.rmtree(part)
        else:
            part.unlink()


def keep_within(path: Path, limit: int) -> None:
    """Removes what was moved aside from `path` as far as it is larger than `limit` bytes: it has been salvaged."""
    for file in quarantined(path):
        size = sum(part.stat().st_size for part in _parts(file))
        if size > limit:
            log.warning("a quarantined database is too large to keep", extra={"path": str(file), "bytes": size})
            _remove(file)


def _parts(path: Path) -> list[Path]:
    parts = (path.with_name(path.name + ending) for ending in _SIDECARS)
    return [part for part in parts if part.exists()]


@dataclass(slots=True)
class Salvage:
    """What could be read from a damaged database."""

    traces: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)

    def put(self, connection: sqlite3.Connection) -> None:
        """Inserts it into the new database, as far as its rings have room.

        Raises:
            sqlite3.Error: raised when the new database cannot be written.
        """
        for *run, ended_us, reason, last_seen_us, vitals, commits, written_bytes in self.runs:
            try:
                connection.execute(rows.INSERT_RUN, run)
                connection.execute(rows.END_RUN, (ended_us, reason, run[0]))
                connection.execute(rows.SET_VITALS, (last_seen_us, vitals, run[0]))
                connection.execute(rows.SET_WEAR, (commits, written_bytes, run[0]))
            except (sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
                log.warning("a run could not be salvaged", extra={"error": str(error)})
        traces = merge(connection, TRACES, self.traces)
        logs = merge(connection, LOGS, self.logs)
        log.warning("telemetry was salvaged", extra={"traces": traces, "logs": logs})


def salvage(damaged: Path) -> Salvage:
    """Returns the traces, log records and runs that can be read from `damaged`. Never raises for what is in it."""
    if not damaged.is_file():  # a folder stood in the database's place
        return Salvage()
    try:
        source = sqlite3.connect(f"{damaged.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        source.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        return Salvage()
    with closing(source):
        return Salvage(
            list(_readable(source, _SELECT_TRACES, TRACES.record_of).values()),
            list(_readable(source, _SELECT_LOGS, LOGS.record_of).values()),
            list(_readable(source, _select_runs(source), tuple).values()),
        )


def _select_runs(source: sqlite3.Connection) -> str:
    try:
        there = {name for _, name, *_ in source.execute("PRAGMA table_info(runs)")}
    except (sqlite3.Error, UnicodeDecodeError):  # then nothing of it can be read either
        there = set()
    later = (name if name in there else f"NULL AS {name}" for name in _LATER)
    return f"SELECT {', '.join((*_RUN, *later))} FROM runs"  # noqa: S608  # constants, as above


def _readable(source: sqlite3.Connection, select: str, make: Callable[[Any], Any]) -> dict[Any, Any]:
    """Returns what `select` gives, read from both ends as far as each goes, by its first column."""
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
    except (AttributeError, TypeError, ValueError):  # a column that is not what it was
        return
