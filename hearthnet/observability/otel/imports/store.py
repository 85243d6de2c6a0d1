"""Stores of imported records: a folder each in `imported`, beside one's own store and never a part of it.

Each is a telemetry.db like any other, so every reader reads it. It is made under another name and renamed when it is
whole.
"""

from __future__ import annotations

import heapq
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from hearthnet.constants import DATABASE, IMPORTED
from hearthnet.database import TELEMETRY, open_database, store_error
from hearthnet.errors import EXIT_USAGE, HearthNetError, StoreError
from hearthnet.files import locked_folder, make_private_dir
from hearthnet.observability.otel.export.mapping import Gap, Origin
from hearthnet.observability.otel.imports.contents import Contents
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store.merge import merge, transaction
from hearthnet.observability.store.query import unsent
from hearthnet.observability.store.reader import Reader, TraceFilter
from hearthnet.observability.store.rows import END_RUN, INSERT_GAP, INSERT_RUN, TRACES, as_dict

__all__ = [
    "Imported",
    "create",
    "folder_of",
    "name_for",
    "names",
    "remove",
    "remove_unfinished",
    "summary",
    "traces_alike",
]

_FOLDER: Final = "imported"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_UNFINISHED: Final = re.compile(rf"\.{_NAME.pattern}-[a-z0-9_]{{8}}")  # as `mkdtemp` names them
_LOCK_WAIT_S: Final = 60.0  # another import writes for some seconds
_OWN_FILES: Final = "telemetry.*"


class Imported(NamedTuple):
    """One store of imported records; times are UTC microseconds, None without a trace."""

    name: str
    folder: str
    traces: int
    logs: int
    programs: list[str]
    newest_us: int | None


def name_for(file: Path) -> str:
    """Returns the name that a file's store gets by default."""
    return _NO_NAME.sub("-", file.stem).lstrip("._-")[:64] or "traces"


def folder_of(data_dir: Path, name: str) -> Path:
    """Returns the folder of a store.

    Raises:
        HearthNetError: raised when the name is none that a store can have.
    """
    if _NAME.fullmatch(name) is None:
        error = HearthNetError(
            f"{name!r} cannot be the name of a store", hint="a letter or digit, then also . _ and -; at most 64"
        )
        error.exit_code = EXIT_USAGE
        raise error
    return data_dir / _FOLDER / name


def names(data_dir: Path) -> list[str]:
    """Returns the names of all stores, in order.

    Raises:
        StoreError: raised when their folder cannot be read.
    """
    try:
        found = [path.name for path in (data_dir / _FOLDER).iterdir() if (path / DATABASE).is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(data_dir / _FOLDER, error) from error
    return sorted(name for name in found if _NAME.fullmatch(name))


def create(data_dir: Path, name: str, contents: Contents) -> Path:
    """Makes a store of these records; returns its folder.

    Raises:
        HearthNetError: raised when the name is none, or taken.
        StoreError: raised when it cannot be written.
        DiskFullError: raised when the disk is full.
    """
    folder = folder_of(data_dir, name)
    try:
        make_private_dir(folder.parent)
        with locked_folder(folder.parent, _LOCK_WAIT_S):
            _remove_unfinished(folder.parent)
            _create(folder, contents)
    except OSError as error:
        raise store_error(folder.parent, error) from error
    return folder


def _create(folder: Path, contents: Contents) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        if folder.exists() or folder.is_symlink():
            raise _taken(folder.name)
        _write(temporary / DATABASE, contents)
        temporary.rename(folder)
    except OSError as error:
        raise (_taken(folder.name) if folder.exists() else store_error(folder, error)) from error
    except sqlite3.Error as error:
        raise store_error(temporary / DATABASE, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(data_dir: Path) -> None:
    """Removes what imports have left that were killed, unless one is running, which does so itself.

    Raises:
        StoreError: raised when it cannot be removed.
    """
    folder = data_dir / _FOLDER
    try:
        with locked_folder(folder, 0.0):
            _remove_unfinished(folder)
    except (FileNotFoundError, TimeoutError):
        pass
    except OSError as error:
        raise store_error(folder, error) from error


def _remove_unfinished(folder: Path) -> None:
    """Removes the folders of imports that did not end: no other process has the lock, so none is running."""
    for path in folder.iterdir():
        is_ours = _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if is_ours and not _foreign_files(path):
            _remove_files(path)


def _taken(name: str) -> StoreError:
    return StoreError(
        f"there is an imported store {name} already",
        hint=f"give another with --name, or remove that one: hearthnet trace import --remove {name}",
    )


def _write(path: Path, contents: Contents) -> None:
    schema = TELEMETRY._replace(reserve_bytes=0)  # nothing will be added to it
    with closing(open_database(path, schema)) as connection:
        in_order = heapq.merge(contents.traces, contents.logs, key=_ended_us)
        for _, group in groupby(in_order, lambda record: isinstance(record, Gap)):
            alike = list(group)
            _insert_gaps(connection, [record for record in alike if isinstance(record, Gap)])
            merge(connection, [record for record in alike if not isinstance(record, Gap)])
        _insert_runs(connection, contents)


def _ended_us(record: TraceRecord | LogRecord | Gap) -> int:
    """Returns when a record was made; each kind keeps the order of the file, which is that of its commits."""
    return TRACES.ended_us(record) if isinstance(record, TraceRecord) else record.ts_us


def _insert_gaps(connection: sqlite3.Connection, gaps: list[Gap]) -> None:
    if not gaps:
        return
    with transaction(connection) as state:
        connection.executemany(
            INSERT_GAP,
            [(state.next_seq(), gap.ts_us, gap.kind, gap.reason, gap.lost, gap.run_id or None) for gap in gaps],
        )


def _insert_runs(connection: sqlite3.Connection, contents: Contents) -> None:
    """Inserts the runs, from the first of their records to the last: their own times are not exported."""
    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    for record in (*contents.traces, *contents.logs):
        start_us = record.started_us if isinstance(record, TraceRecord) else record.ts_us
        began[record.run_id] = min(start_us, began.get(record.run_id, start_us))
        ended[record.run_id] = max(_ended_us(record), ended.get(record.run_id, 0))
    runs = sorted((at, run_id) for run_id, at in began.items())
    with transaction(connection):
        for at, run_id in runs:
            origin = contents.origins.get(run_id) or Origin(run_id)
            connection.execute(INSERT_RUN, (
                run_id, origin.node_id, origin.version or "", origin.pid or 0, None, at, origin.program, origin.role
            ))  # fmt: skip
            connection.execute(END_RUN, (ended[run_id], IMPORTED, run_id))


def summary(data_dir: Path, name: str) -> Imported:
    """Returns the contents of a store, in numbers.

    Raises:
        StoreError: raised when it cannot be read.
    """
    folder = folder_of(data_dir, name)
    with closing(Reader(folder / DATABASE)) as reader:
        counts = unsent.count(reader, unsent.ALL)
        newest = reader.recent(1)
        programs = reader.program_names()
    newest_us = TRACES.ended_us(newest[0]) if newest else None
    return Imported(name, str(folder), counts["traces"], counts["logs"], programs, newest_us)


def remove(data_dir: Path, name: str) -> None:
    """Removes a store.

    Raises:
        StoreError: raised when there is none of that name, or it cannot be removed.
    """
    folder = folder_of(data_dir, name)
    if folder.is_symlink() or not (folder / DATABASE).is_file():
        raise StoreError(f"there is no imported store {name}", hint="hearthnet trace import --list names them")
    try:
        if others := _foreign_files(folder):
            raise StoreError(f"{folder} has files of others: {others[0]}", hint="move them elsewhere first")
        _remove_files(folder)
    except OSError as error:
        raise store_error(folder, error) from error


def _foreign_files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.match(_OWN_FILES)]


def _remove_files(folder: Path) -> None:
    for file in folder.glob(_OWN_FILES):
        file.unlink()
    folder.rmdir()


def traces_alike(
    data_dir: Path, trace_id: str, n: int, on_damage: Callable[[StoreError], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the traces with an id, or its beginning, of all stores, each with the name of its store.

    Args:
        data_dir: of one's own store.
        trace_id: an id, or the beginning of one.
        n: at most, of each store.
        on_damage: called for a store that cannot be read; the others are.
    """
    for name in names(data_dir):
        try:
            with closing(Reader(folder_of(data_dir, name) / DATABASE)) as reader:
                found = reader.recent(n, TraceFilter(trace_id=trace_id))
                programs = reader.programs({record.run_id for record in found})
        except StoreError as error:
            on_damage(error)
            continue
        for record in found:
            yield name, {**as_dict(record), "program": programs.get(record.run_id)}
