"""Erases lines of the JSON log files: replaces a file with one that lacks the selected lines, or deletes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hearthnet.database import store_error
from hearthnet.errors import StoreError
from hearthnet.files import hint_for, open_file, replace_private, sync_folder
from hearthnet.observability.logs.daily_file import log_key, log_paths
from hearthnet.observability.store.purge.selection import Selection
from hearthnet.observability.store.recovery.log_line import line_of, time_of

__all__ = ["count_lines", "days_left", "paths_of", "purge_logs"]

_UNFINISHED: Final = re.compile(r"\.\d{4}-\d{2}-\d{2}(\.\d+)?\.log-.+")  # of an earlier purge that was killed


def count_lines(log_dir: Path | None, selection: Selection) -> tuple[int, int]:
    """Returns how many lines are selected, and in how many files."""
    counts = [sum(selected for selected, _ in _marked(path, selection)) for path in _paths(log_dir, selection)]
    return sum(counts), len(counts) if selection.everything else sum(map(bool, counts))


def purge_logs(log_dir: Path | None, selection: Selection) -> None:
    """Erases the selected lines.

    Raises:
        StoreError: raised when a file cannot be read or replaced; it is then unchanged.
        DiskFullError: raised when there is no space for the remaining lines of a file.
    """
    for path in _paths(log_dir, selection):
        try:
            _purge_file(path, selection)
        except OSError as error:
            raise store_error(path, error) from error
    if log_dir is not None and log_dir.is_dir():
        for path in log_dir.iterdir():
            if _UNFINISHED.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
                path.unlink(missing_ok=True)
        sync_folder(log_dir)


def days_left(log_dir: Path | None, selection: Selection, days: set[str]) -> list[str]:
    """Returns the days, oldest first, whose log files may have lines of the capability: they name it or are in `days`.

    A purge by capability keeps the log files: a line need not name the capability that it belongs to.
    """
    if log_dir is None or selection.capability is None:
        return []
    found = {
        str(key[0])
        for path in log_paths(log_dir)
        if (key := log_key(path)) and (str(key[0]) in days or any(selection.escaped in line for line in _lines(path)))
    }
    return sorted(found)


def _purge_file(path: Path, selection: Selection) -> None:
    if selection.everything or _is_wholly_old(path, selection):
        path.unlink()
        return
    marked = list(_marked(path, selection))
    kept = [raw for selected, raw in marked if not selected]
    if marked and not kept:
        path.unlink()
    elif len(kept) < len(marked):
        replace_private(path, b"".join(kept))


def _is_wholly_old(path: Path, selection: Selection) -> bool:
    """Returns True if all lines of a file are before the moment; it has lines of its day and of the day before."""
    key = log_key(path)
    if key is None or selection.before_us is None:
        return False
    return key[0] + timedelta(days=1) <= datetime.fromtimestamp(selection.before_us / 1e6, tz=UTC).date()


def _marked(path: Path, selection: Selection) -> Iterator[tuple[bool, bytes]]:
    selected = is_whole = selection.everything or _is_wholly_old(path, selection)
    for raw in _lines(path):
        selected = is_whole or _is_selected(raw, selection, selected)
        yield selected, raw


def _is_selected(raw: bytes, selection: Selection, was_last: bool) -> bool:
    if selection.trace_id is not None:
        return selection.is_mentioned(raw)
    line = line_of(raw)
    ts_us = None if line is None else time_of(line)
    # A torn line without a time is treated as the line before it.
    return was_last if ts_us is None or selection.before_us is None else ts_us < selection.before_us


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_file(path) as file:
            yield from file
    except FileNotFoundError:  # deleted by a running node
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", hint=hint_for(error)) from error


def paths_of(log_dir: Path | None, selection: Selection) -> list[Path]:
    """Returns what has the name of a log file that a purge looks into, of any kind."""
    return [] if log_dir is None or selection.capability is not None else log_paths(log_dir, of_any_kind=True)


def _paths(log_dir: Path | None, selection: Selection) -> list[Path]:
    return [path for path in paths_of(log_dir, selection) if path.is_file()]
