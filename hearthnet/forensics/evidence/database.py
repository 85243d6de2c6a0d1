"""Reads telemetry.db as evidence: opens a private copy of it and its WAL, never the file itself.

Opening a database in WAL mode changes files beside it, and may checkpoint the WAL. Rows on damaged pages are lost; rows
on all other pages are read.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from hearthnet.display import counted
from hearthnet.files import open_file, why_no_file
from hearthnet.forensics.evidence.carving import carve
from hearthnet.forensics.evidence.safe_stat import is_file, why_unreadable
from hearthnet.forensics.model import Source
from hearthnet.forensics.tables import COLUMNS, NEWEST_VERSION

__all__ = ["WITHOUT_WAL", "Store", "copied", "read_store"]

APPLICATION_ID: Final = 0x48_4E_74_6C
_MAGIC: Final = b"SQLite format 3\0"
_MAX_READS: Final = 400  # ranges read of a damaged table
_SALVAGE_S: Final = 5.0
_LARGEST: Final = 2**63 - 1
_FOREIGN: Final = "a database of another program"

# By their places in a row, as the migrations have made them.
_CARVED: Final = {
    **COLUMNS,
    "runs": (*COLUMNS["runs"][:8], "commits", "written_bytes", "last_seen_us", "vitals", "program", "role"),
}

Row = dict[str, Any]


@dataclass(slots=True)
class Store:
    """The rows of a database, each with the columns of `COLUMNS`; a missing column is None.

    Attributes:
        tables: rows by table, oldest first.
        sources: the database and its WAL.
    """

    tables: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    sources: list[Source] = field(default_factory=list)


def read_store(path: Path) -> Store:
    """Returns what can be read of the database. Never raises because of the content, and never changes it."""
    store = Store()
    wal = path.with_name(f"{path.name}-wal")
    state, detail = _state_of(path)
    size = _file_size(path)
    if state == "whole":
        try:
            with copied(path, wal) as (copy, note):
                state, damage = _read(copy, store)
                detail = "; ".join(text for text in (note, damage) if text)
        except OSError as error:
            state, detail = "unreadable", error.strerror or str(error)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where SQLite cites a schema that is no text
            state, detail = "damaged", str(error)
    if state in ("damaged", "foreign") and detail != _FOREIGN:
        state, detail = _add_carved(store, path, wal, state, detail)
    store.sources.append(Source(path, "database", state, detail, size))
    if is_file(wal):
        store.sources.append(_wal_source(wal, state, detail))
    elif state in ("whole", "newer", "empty") and size and _is_wal_missed(path, store.tables["runs"]):
        detail = "the last run recorded no end, and the -wal that holds the newest rows is missing: they may be lost"
        store.sources.append(Source(wal, "wal", "missing", detail))
    return store


def _wal_source(wal: Path, state: str, detail: str) -> Source:
    """Returns the WAL as a source; its state says whether its rows were read."""
    size = _file_size(wal)
    if reason := why_unreadable(wal):
        return Source(wal, "wal", "unreadable", reason, size)
    if size and state in ("whole", "newer") and WITHOUT_WAL in detail:
        return Source(wal, "wal", "unreadable", "its rows, the newest, were not read: see the database", size)
    return Source(wal, "wal", "whole" if size else "empty", "", size)


def _add_carved(store: Store, path: Path, wal: Path, state: str, detail: str) -> tuple[str, str]:
    """Adds carved rows to the store; returns the database's new state and detail."""
    count = 0
    try:
        carved = carve(path, wal)
    except OSError as error:
        return state, f"{detail}; {error.strerror or error}"
    for table, found in carved.items():
        key = "run_id" if table == "runs" else "seq"
        known = {row[key] for row in store.tables[table]}
        for number, values in found.items():
            row = {**dict.fromkeys(COLUMNS[table]), **dict(zip(_CARVED[table], values, strict=False))}
            if key == "seq":
                row["seq"] = number
            if row[key] not in known:
                store.tables[table].append(row)
                count += 1
        if key == "run_id":
            store.tables[table].sort(key=lambda row: row["started_us"] if isinstance(row["started_us"], int) else 0)
        else:
            store.tables[table].sort(key=lambda row: row["seq"] if isinstance(row["seq"], int) else 0)
    if not count:
        return state, detail
    return "damaged", f"{detail}; {counted(count, 'row')} carved from pages"


def _is_wal_missed(path: Path, runs: list[Row]) -> bool:
    """Returns True if a WAL should exist: the last run recorded no end and the database is in WAL mode."""
    if runs and runs[-1]["end_reason"] is not None:
        return False
    with open_file(path) as file:
        return file.read(100)[18:20] == b"\2\2"


def _state_of(path: Path) -> tuple[str, str]:
    """Returns state and detail of a file by its first bytes."""
    try:
        path.lstat()
        reason = why_no_file(path)
        if reason is not None and path.exists():  # opening a pipe would block
            return "foreign", reason
        with open_file(path) as file:
            head = file.read(100)
    except FileNotFoundError:
        return "missing", ""
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    if not head:
        return "empty", "the file is empty"
    if not head.startswith(_MAGIC):
        return ("damaged", "its first page is zeroed") if not head.strip(b"\0") else ("foreign", "not a SQLite file")
    return "whole", ""


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(uri: str, store: Store) -> tuple[str, str]:
    """Fills the store's tables; returns the database's state and its damage."""
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA query_only = ON")
        identity = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            return "empty", "no tables"
        if identity != APPLICATION_ID or "traces" not in names:
            return "foreign", _FOREIGN
        ends_at = monotonic() + _SALVAGE_S
        broken = [name for name in COLUMNS if not _read_table(connection, name, store.tables[name], ends_at)]
        found = _first_damage(connection)
    if broken or found:
        unread = f"parts of {', '.join(broken)} cannot be read; " if broken else ""
        counts = ", ".join(f"{len(rows):,} {name}" for name, rows in store.tables.items())
        return "damaged", f"{unread}{found or 'damage was found'}; read: {counts}"
    return ("newer", f"schema {version}, this program knows {NEWEST_VERSION}") if version > NEWEST_VERSION else (
        "whole", "",
    )  # fmt: skip


def _first_damage(connection: sqlite3.Connection) -> str:
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        return str(error)
    return "" if found == "ok" else found.splitlines()[-1]


def _read_table(connection: sqlite3.Connection, table: str, rows: list[Row], ends_at: float) -> bool:
    """Reads a table into `rows` in rowid order; returns False if part of it cannot be read."""
    try:
        has = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error:
        return False
    wanted = [name for name in COLUMNS[table] if name in has]
    if not wanted:
        return table == "gaps"
    select = f"SELECT rowid, {', '.join(wanted)} FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid"  # noqa: S608
    reader = _TableReader(connection, select, wanted)
    is_whole = reader.read_all(ends_at)
    found = reader.found
    missing = dict.fromkeys(COLUMNS[table])
    rows.extend({**missing, **found[number]} for number in sorted(found))
    return is_whole


class _TableReader:
    """Reads a table that may be damaged: forward, past each damaged page in growing leaps, then backward up to it."""

    def __init__(self, connection: sqlite3.Connection, select: str, names: list[str]) -> None:
        self._connection = connection
        self._select = select
        self._names = names
        self.found: dict[int, Row] = {}

    def read_all(self, ends_at: float) -> bool:
        """Reads every readable row; returns False if some cannot be read."""
        low, leap = 0, 1
        for reads in range(_MAX_READS):
            count = len(self.found)
            if self._read(low, _LARGEST, ""):
                return reads == 0
            if len(self.found) > count:
                low, leap = max(self.found) + 1, 1
            if monotonic() > ends_at or low + leap > _LARGEST:
                break
            before, low, leap = low, low + leap, 2 * leap
            self._read(before, low - 1, " DESC")
        return False

    def _read(self, low: int, high: int, order: str) -> bool:
        """Reads a range; returns False if an error stopped it."""
        try:
            for number, *values in self._connection.execute(self._select + order, (low, high)):
                self.found[number] = dict(zip(self._names, values, strict=True))
        except (sqlite3.Error, OverflowError):
            return False
        return True


_TRIES: Final = 5  # a WAL is reset every few thousand records, so a second try almost always suffices
_WAL_HEAD_BYTES: Final = 32
WITHOUT_WAL: Final = "read in place, without its WAL"


@contextmanager
def copied(path: Path, wal: Path) -> Iterator[tuple[str, str]]:
    """Yields the URI of a private copy, and a note on its limits; if a copy fails, the URI of the file itself.

    Both files may be written to meanwhile. A page checkpointed from the WAL is in both copies, because the WAL is
    copied second, and SQLite reads it from the WAL. Frames appended to the WAL are copied as far as they are complete.
    Only if the WAL is reset in between may the copies not match: then they are made again.

    Raises:
        OSError: raised when the file cannot be read.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hearthnet-autopsy-"))
            Path(folder).chmod(0o700)  # a umask may have taken away even our own access
            copy = Path(folder) / "copy.db"
            note = "" if _copy(path, wal, copy) else "it was written to while it was copied"
            uri = copy.as_uri()
        except OSError as error:
            note = f"it could not be copied ({error.strerror or error}): {WITHOUT_WAL}"
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        yield uri, note


def _copy(path: Path, wal: Path, copy: Path) -> bool:
    """Copies both files; returns False if the copies may not match."""
    copied_wal = copy.with_name(f"{copy.name}-wal")
    for _ in range(_TRIES):
        before = _generation(path, wal)
        shutil.copyfile(path, copy)
        copied_wal.unlink(missing_ok=True)
        if is_file(wal):
            shutil.copyfile(wal, copied_wal)
        if _generation(path, wal) == before:
            return True
    return False


def _generation(path: Path, wal: Path) -> tuple[object, ...]:
    """Returns the header of the WAL, which changes at each reset; without a WAL, the file's size and mtime."""
    if is_file(wal):
        with suppress(FileNotFoundError), open_file(wal) as file:
            return (file.read(_WAL_HEAD_BYTES),)
    status = path.stat()
    return status.st_size, status.st_mtime_ns
