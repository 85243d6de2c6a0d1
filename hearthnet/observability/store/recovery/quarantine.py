"""Moves an unusable database aside unchanged, and salvages the rows that can still be read.

A table is read forward from its lowest number until reading fails, and backward from its highest: a damaged page costs
the rows on it, not those behind it. Where the WAL is damaged, the file alone has the rows of before. Columns may be
missing: a row is kept with those that it has.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.database import TELEMETRY, foreign_parts, made_by, parts_of, quoted
from hearthnet.errors import StoreError
from hearthnet.locations import bytes_of
from hearthnet.observability.logging import get_logger
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import MAX_SEQ, merge, transaction
from hearthnet.observability.store.ring import cursor_name, lost_name
from hearthnet.observability.store.rows import LOGS, TRACES

__all__ = [
    "Salvage",
    "holds_foreign_tables",
    "keep_within",
    "move_aside",
    "move_before_rebuild",
    "quarantined",
    "salvage",
    "set_aside",
]

log = get_logger(__name__)

_SIDECARS: Final = ("", "-wal", "-shm")
_DAMAGED: Final = (sqlite3.Error, UnicodeDecodeError)  # the latter where SQLite cites a schema that is no text
_CORRUPT: Final = ".corrupt-"
_BEFORE_REBUILD: Final = ".before-rebuild-"
# Invalid JSON shows a flipped bit that SQLite does not notice.
_VALID: Final = {
    "traces": "json_valid(spans) AND json_valid(extras) AND notable IN (0, 1)"
    " AND typeof(started_us) = 'integer' AND typeof(duration_ms) = 'real'",
    "logs": "json_valid(extras) AND notable IN (0, 1) AND typeof(ts_us) = 'integer'",
}
_RUN: Final = (
    "run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason",
    "last_seen_us", "vitals", "commits", "written_bytes", "program", "role",
)  # fmt: skip
_GAP: Final = ("seq", "ts_us", "kind", "reason", "count", "run_id")
# In place of a missing column that may not be NULL.
_INSTEAD: Final = {
    **LOGS.instead,
    **TRACES.instead,
    **dict.fromkeys(("pid", "count"), "0"),
    **dict.fromkeys(("kind", "reason", "version"), "'unknown'"),
    **dict.fromkeys(("seq", "number"), "rowid"),  # before records had numbers of their own, their seq was one
    "spans": "'[]'",
}
_EXPORTS: Final = "SELECT name, value FROM state WHERE name GLOB 'otlp.*' AND typeof(value) = 'integer'"
_HELD: Final = "SELECT value FROM state WHERE name IN ('{0}.0', '{0}.1')"


def quarantined(path: Path) -> list[Path]:
    """Returns the databases that were moved aside from `path` because they could not be used, oldest first."""
    return _marked(path, _CORRUPT)


def set_aside(path: Path) -> list[Path]:
    """Returns the same, and those that were whole and were replaced by a rebuilt one."""
    return [file for mark in (_CORRUPT, _BEFORE_REBUILD) for file in _marked(path, mark)]


def _marked(path: Path, mark: str) -> list[Path]:
    found = path.parent.glob(f"{path.name}{mark}*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm", "-journal")))


def holds_foreign_tables(path: Path) -> bool:
    """Returns whether a database has tables that are not ours: they may be in no other file."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return any(part.kind == "table" for part in foreign_parts(parts_of(connection), TELEMETRY))
    except _DAMAGED:  # nothing can be read of it
        return False


def move_aside(path: Path, reason: str) -> Path:
    """Renames an unusable database with its -wal and -shm; deletes earlier ones, so that one is kept in quarantine.

    One that holds tables that are not ours is kept, however many there are.

    Raises:
        StoreError: raised when it cannot be renamed.
    """
    obsolete = [old for old in quarantined(path) if not holds_foreign_tables(old)]
    target = _rename(path, _CORRUPT, reason, obsolete)
    log.error("telemetry.db was moved aside", extra={"reason": reason, "to": str(target)})
    return target


def move_before_rebuild(path: Path) -> Path:
    """Renames a database that a rebuilt one replaces; deletes nothing: it may be the only copy of its spans.

    Raises:
        StoreError: raised when it cannot be renamed.
    """
    return _rename(path, _BEFORE_REBUILD, "rebuilt from the JSON logs")


def _rename(path: Path, mark: str, reason: str, obsolete: Iterable[Path] = ()) -> Path:
    try:
        for old in obsolete:
            _remove(old)
        target = _free_name(path, mark)
        for ending in _SIDECARS:
            file = path.with_name(path.name + ending)
            if file.exists():
                file.rename(path.with_name(target.name + ending))
    except OSError as error:
        raise StoreError(f"{path} cannot be used ({reason}) nor moved aside: {error.strerror}") from error
    return target


def _free_name(path: Path, mark: str) -> Path:
    name = f"{path.name}{mark}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (path.with_name(f"{name}{number}") for number in ("", *(f".{at}" for at in range(2, 100))))
    return next(target for target in names if not _parts(target))


def _remove(path: Path) -> None:
    for part in _parts(path):
        if part.is_dir() and not part.is_symlink():  # a folder that had the database's name
            shutil.rmtree(part)
        else:
            part.unlink()


def keep_within(path: Path, limit: int) -> None:
    """Deletes quarantined databases larger than `limit` bytes, unless they hold tables that were not salvaged."""
    for file in quarantined(path):
        size = sum(map(bytes_of, _parts(file)))
        if size > limit and not holds_foreign_tables(file):
            log.warning("a quarantined database is too large to keep", extra={"path": str(file), "bytes": size})
            _remove(file)


def _parts(path: Path) -> list[Path]:
    parts = (path.with_name(path.name + ending) for ending in _SIDECARS)
    return [part for part in parts if os.path.lexists(part)]


@dataclass(slots=True)
class Salvage:
    """The rows that could be read from a damaged database, by their first column.

    Attributes:
        traces: records.
        logs: records.
        runs: the columns `_RUN` of each.
        gaps: the columns `_GAP` of each.
        held: how many traces and log records the database had, by its own count; zeros if that cannot be read.
        missing: the columns that it lacked.
        exports: by table, the seq up to which its rows are exported (they keep theirs), and how many were evicted
            before they were.
    """

    traces: dict[Any, Any] = field(default_factory=dict)
    logs: dict[Any, Any] = field(default_factory=dict)
    runs: dict[Any, Any] = field(default_factory=dict)
    gaps: dict[Any, Any] = field(default_factory=dict)
    held: tuple[int, int] = (0, 0)
    missing: list[str] = field(default_factory=list)
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)

    def insert(self, connection: sqlite3.Connection) -> None:
        """Inserts the rows into the new database, by its rings' rule.

        Raises:
            sqlite3.Error: raised when the new database cannot be written.
        """
        for run in self.runs.values():
            try:
                _insert_run(connection, *run)
            except (sqlite3.IntegrityError, sqlite3.InterfaceError) as error:
                log.warning("a run could not be salvaged", extra={"error": error})
        records = [*self.traces.values(), *self.logs.values()]
        last = max((record.seq for record in records if record.seq < MAX_SEQ), default=0)
        with transaction(connection) as state:  # first: rows for which there is no space count as lost
            for table, (cursor, lost) in self.exports.items():
                state.resume_export(table, min(cursor, last), lost)
        merge(connection, sorted(records, key=lambda record: record.seq))
        with transaction(connection) as state, suppress(sqlite3.IntegrityError, sqlite3.InterfaceError):
            for _, *gap in self.gaps.values():
                connection.execute(rows.INSERT_GAP, (state.next_seq(), *gap))
        extra = {"traces": len(self.traces), "logs": len(self.logs), "without_columns": self.missing}
        log.warning("telemetry was salvaged", extra=extra)


def _insert_run(connection: sqlite3.Connection, run_id: str, node_id: str | None, *rest: Any) -> None:
    *began, ended_us, reason, last_seen_us, vitals, commits, written, program, role = rest
    whose = (program, role or rows.role_of(node_id))
    connection.execute(rows.INSERT_RUN, (run_id, node_id, *began, *whose))
    connection.execute(rows.END_RUN, (ended_us, reason, run_id))
    connection.execute(rows.SET_VITALS, (last_seen_us, vitals, run_id))
    connection.execute(rows.SET_WEAR, (commits, written, run_id))


def salvage(damaged: Path) -> Salvage:
    """Returns the traces, log records, runs and gaps that can be read from `damaged`. Never raises for its content."""
    found = Salvage()
    if damaged.is_file():  # not a folder that had the database's name
        # With its WAL; and if that fails, what was in the file before.
        for how in ("mode=ro", "immutable=1"):
            try:
                with closing(sqlite3.connect(f"{damaged.resolve().as_uri()}?{how}", uri=True)) as source:
                    is_whole = _read(source, found)
            except sqlite3.Error:
                continue
            if is_whole:
                break
    return found


def _read(source: sqlite3.Connection, found: Salvage) -> bool:
    """Adds to `found` what it lacks; returns whether all could be read."""
    source.execute("PRAGMA query_only = ON")
    tables: tuple[tuple[str, Sequence[str], Callable[[Any], Any], dict[Any, Any]], ...] = (
        ("traces", TRACES.columns.split(", "), TRACES.record_of, found.traces),
        ("logs", LOGS.columns.split(", "), LOGS.record_of, found.logs),
        ("runs", _RUN, tuple, found.runs),
        ("gaps", _GAP, tuple, found.gaps),
    )
    is_whole = True
    for name, columns, make, rows_found in tables:
        present = _columns(source, name)
        select = f"SELECT {', '.join(_sources(name, columns, present))} FROM {name} WHERE {_VALID.get(name, 1)}"  # noqa: S608  # constants
        rows_read, is_read = _readable(source, select, make)
        rows_found |= {key: row for key, row in rows_read.items() if key not in rows_found}
        is_whole &= is_read
        found.missing += [f"{name}.{column}" for column in columns if present and column not in present]
    with suppress(*_DAMAGED, TypeError):
        traces, logs = (sum(value for (value,) in source.execute(_HELD.format(name))) for name in ("traces", "logs"))
        found.held = (max(found.held[0], traces), max(found.held[1], logs))
        found.exports |= _exports_in(source)
    return is_whole


def _exports_in(source: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Returns how far the export of each table has come, and how many rows were evicted before they were sent.

    Raises:
        sqlite3.Error: raised when it cannot be read.
    """
    held = dict(source.execute(_EXPORTS))
    begun = [table for table in ("traces", "logs") if cursor_name(table) in held]
    return {table: (held[cursor_name(table)], max(0, held.get(lost_name(table), 0))) for table in begun}


def _columns(source: sqlite3.Connection, table: str) -> list[str]:
    try:
        return [name for _, name, *_ in source.execute(f"PRAGMA table_info({table})")]
    except _DAMAGED:  # then its rows cannot be read either
        return []


def _sources(table: str, columns: Sequence[str], present: Sequence[str]) -> Iterator[str]:
    """Yields the expression for each of `columns`: itself, the one that was renamed in its place, or a substitute."""
    made = made_by(TELEMETRY)["table", table]
    renamed = {ours: theirs for ours, theirs in zip(made, present, strict=False) if theirs not in made}
    for column in columns:
        if column in present:
            yield column
        else:
            yield f"{quoted(renamed[column]) if column in renamed else _INSTEAD.get(column, 'NULL')} AS {column}"


def _readable(source: sqlite3.Connection, select: str, make: Callable[[Any], Any]) -> tuple[dict[Any, Any], bool]:
    """Returns the rows of `select` by their first column, read from both ends, and whether these met."""
    found: dict[Any, Any] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in source.execute(f"{select} ORDER BY rowid {order}"):
                if row[0] in found and order == "DESC":
                    break
                _keep(found, row, make)
            else:
                return found, True
        except _DAMAGED:  # the damaged page: the other direction reads the rest
            continue
    return found, False


def _keep(found: dict[Any, Any], row: Any, make: Callable[[Any], Any]) -> None:
    try:
        found[row[0]] = make(row)
    except AttributeError:  # a damaged value: a number where there should be text
        return
