"""Rebuilds a telemetry database from the JSON log files: log records, and traces from their "done" lines.

A "done" line has a trace's id, capability, result and time, not its spans. Lines are read once, oldest first, and
merged in pieces, so memory stays bounded whatever the size of the logs. A record that the box of an ended run has in
full (a trace with its spans) is not rebuilt from its line as well.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hearthnet import __version__
from hearthnet.constants import LIBRARY_ROLE
from hearthnet.database import TELEMETRY, open_database, store_error
from hearthnet.errors import StoreError
from hearthnet.files import hint_for, open_file
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.recovery.box_records import records_of
from hearthnet.observability.store.recovery.living import refuse_living
from hearthnet.observability.store.recovery.log_line import Reading, record_of
from hearthnet.observability.store.recovery.quarantine import move_before_rebuild
from hearthnet.observability.store.recovery.recover import leftover_boxes, recover_box
from hearthnet.observability.store.snapshot import building, count_rows, refuse_existing

__all__ = ["REBUILT", "Leftovers", "Rebuilt", "log_bytes", "rebuild", "rebuild_in_place"]


class Leftovers:
    """The boxes of ended runs in a store's folder; the caller holds the store's lock."""

    def __init__(self, directory: Path) -> None:
        found = leftover_boxes(directory)
        self._paths = [path for path, _ in found]
        self._boxes = [box for _, box in found if box is not None]
        self._traces: set[tuple[str, str]] = set()
        self._logs: set[tuple[int, str, str]] = set()
        for box in self._boxes:
            records = records_of(box)
            self._traces |= {(record.trace_id, record.capability) for record in records.traces}
            self._logs |= {_identity(record) for record in records.logs}

    def has(self, record: TraceRecord | LogRecord) -> bool:
        """Returns True if a box has the record of a line."""
        if isinstance(record, TraceRecord):
            return (record.trace_id, record.capability) in self._traces
        return _identity(record) in self._logs

    def recover(self, connection: sqlite3.Connection) -> None:
        """Inserts the records of the boxes."""
        for box in self._boxes:
            recover_box(connection, box)

    def remove(self) -> None:
        """Deletes the boxes: their records are in the database."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _identity(record: LogRecord) -> tuple[int, str, str]:
    # Lines have times in milliseconds.
    return record.ts_us // 1_000, record.logger, record.msg


REBUILT: Final = "rebuilt"
_PIECE: Final = 2_000  # records in memory at a time; each at most a few kilobytes

Progress = Callable[[int], None]  # called with the bytes read since the last call


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild.

    Attributes:
        path: of the database.
        run_id: of the rebuilt rows.
        lines: number of lines read.
        skipped: how many of them are not JSON, or not written by this program.
        rows: row counts of the new database by table.
        bytes: size of its file.
        moved_to: where the old database is, if it was replaced.
    """

    path: Path
    run_id: str = field(default_factory=new_trace_id)
    lines: int = 0
    skipped: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    moved_to: Path | None = None


def log_bytes(log_dir: Path | None) -> int:
    """Returns the bytes of all log files, approximately: a running node keeps writing."""
    return sum(path.stat().st_size for path in log_paths(log_dir) if path.exists()) if log_dir is not None else 0


def _paths(log_dir: Path | None) -> list[Path]:
    found = log_paths(log_dir, of_any_kind=True) if log_dir is not None else []
    if not found:
        raise StoreError(f"there are no log files in {log_dir}", hint="hearthnet paths shows where they should be")
    return found


def rebuild(
    log_dir: Path | None, store: Path, target: Path, slow_ms: float, *, force: bool = False, progress: Progress
) -> Rebuilt:
    """Writes a new database, one plain file, to `target`; neither reads nor changes the store itself.

    Args:
        log_dir: where the log files are.
        store: the database that `target` must not be.
        target: of the new database.
        slow_ms: the duration from which a trace is notable.
        force: whether `target` may be replaced.
        progress: called with the bytes read since the last call.

    Raises:
        StoreError: raised when there are no logs, or when `target` exists or cannot be written.
        DiskFullError: raised when there is no space for it.
    """
    refuse_existing(store, target, force=force)
    result, paths = Rebuilt(target), _paths(log_dir)
    with building(target) as temporary:
        try:
            with closing(open_database(temporary, TELEMETRY._replace(reserve_bytes=0))) as connection:
                _fill(connection, paths, Reading(slow_ms), result, progress)
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise store_error(target, error) from error
    result.bytes = target.stat().st_size
    return result


def rebuild_in_place(
    log_dir: Path | None, store: Path, slow_ms: float, *, agree: Callable[[], None], progress: Progress
) -> Rebuilt:
    """Replaces the store's database with a new one, and moves the old one aside.

    Recovers the boxes of ended runs as well: their records were never in the old database, or are in the logs.

    Args:
        log_dir: where the log files are.
        store: the database.
        slow_ms: the duration from which a trace is notable.
        agree: called before anything is changed; raises to cancel.
        progress: called with the bytes read since the last call.

    Raises:
        StoreInUseError: raised when a process records into the store.
        StoreError: raised when there are no logs, or the store cannot be written.
        DiskFullError: raised when there is no space for a second database.
    """
    result, paths = Rebuilt(store), _paths(log_dir)
    lock = StoreLock(store.parent)
    lock.acquire()
    try:
        refuse_living(store.parent)
        agree()
        leftovers = Leftovers(store.parent)
        with building(store) as temporary:
            try:
                with closing(open_database(temporary, TELEMETRY)) as connection:
                    _fill(connection, paths, Reading(slow_ms, leftovers.has), result, progress)
                    leftovers.recover(connection)
                    result.rows = count_rows(connection)
            except sqlite3.Error as error:
                raise store_error(store, error) from error
            if store.exists():
                result.moved_to = move_before_rebuild(store)
        leftovers.remove()
        result.bytes = store.stat().st_size
    finally:
        lock.release()
    return result


def _fill(
    connection: sqlite3.Connection, paths: list[Path], reading: Reading, result: Rebuilt, progress: Progress
) -> None:
    """Inserts the records of the lines, and the run that they belong to."""
    first_us, last_us = rows.now_us(), 0
    for piece in _pieces(paths, reading, result, progress):
        merge(connection, piece)
        first_us = min(first_us, *map(_time, piece))
        last_us = max(last_us, *map(_time, piece))
    run = (result.run_id, None, __version__, os.getpid(), None, first_us, None, LIBRARY_ROLE)
    connection.execute(rows.INSERT_RUN, run)
    connection.execute(rows.END_RUN, (max(first_us, last_us), REBUILT, result.run_id))
    result.rows = count_rows(connection)


def _time(record: TraceRecord | LogRecord) -> int:
    return record.started_us if isinstance(record, TraceRecord) else record.ts_us


def _pieces(
    paths: list[Path], reading: Reading, result: Rebuilt, progress: Progress
) -> Iterator[list[TraceRecord | LogRecord]]:
    """Yields the records in pieces of bounded size, numbered in the order of the log."""
    piece: list[TraceRecord | LogRecord] = []
    for raw in _lines(paths, progress):
        result.lines += 1
        record = record_of(raw, result.lines, result.run_id, reading)
        if record is None:
            result.skipped += 1
        elif not reading.is_known(record):
            piece.append(record)
        if len(piece) >= _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def _lines(paths: list[Path], progress: Progress) -> Iterator[bytes]:
    for path in paths:
        try:
            with open_file(path) as file:
                for raw in file:
                    if raw.strip():
                        yield raw
                    progress(len(raw))
        except FileNotFoundError:  # deleted by a running node
            continue
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}", hint=hint_for(error)) from error
