"""Takes records out of the JSON log files: a file is replaced whole, without the lines that go, or removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hearthnet.database import store_error
from hearthnet.errors import StoreError
from hearthnet.files import replace_private
from hearthnet.observability.logfile import log_key, log_paths
from hearthnet.observability.store.selection import Selection
from hearthnet.observability.store.snapshot import sync_folder

__all__ = ["count_lines", "learn_from_logs", "purge_logs"]

Progress = Callable[[int], None]
_UNFINISHED: Final = re.compile(r"\.\d{4}-\d{2}-\d{2}(\.\d+)?\.log-.+")  # by an earlier purge that was killed


def learn_from_logs(log_dir: Path | None, selection: Selection) -> None:
    """Has `selection` learn which traces the lines of its capability belong to."""
    if selection.capability is None:
        return
    for path in _paths(log_dir):
        for raw in _lines(path):
            selection.learn_line(raw)


def count_lines(log_dir: Path | None, selection: Selection) -> tuple[int, int]:
    """Returns how many lines go, and how many files have such lines."""
    counts = [_count(path, selection) for path in _paths(log_dir)]
    return sum(counts), sum(1 for count in counts if count) if not selection.everything else len(counts)


def _count(path: Path, selection: Selection) -> int:
    return sum(1 for taken, _ in _judged(path, selection) if taken)


def purge_logs(log_dir: Path | None, selection: Selection, progress: Progress) -> tuple[int, int]:
    """Removes the lines that go; returns how many, and how many files were replaced or removed.

    Raises:
        StoreError: raised when a file cannot be read or replaced; it is then as it was.
        DiskFullError: raised when there is no space for what is left of a file.
    """
    lines = files = 0
    for path in _paths(log_dir):
        try:
            size = path.stat().st_size
            gone = _purge_file(path, selection)
        except OSError as error:
            raise store_error(path, error) from error
        progress(size)
        lines += gone
        files += not path.exists() or gone > 0
    if log_dir is not None and log_dir.is_dir():
        for path in log_dir.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        sync_folder(log_dir)
    return lines, files


def _purge_file(path: Path, selection: Selection) -> int:
    if _is_wholly_old(path, selection):
        gone = _count(path, selection)
        path.unlink()
        return gone
    kept: list[bytes] = []
    gone = 0
    for taken, raw in _judged(path, selection):
        if taken:
            gone += 1
        else:
            kept.append(raw)
    if not kept and (gone or selection.everything):
        path.unlink()
    elif gone:
        replace_private(path, b"".join(kept))
    return gone


def _is_wholly_old(path: Path, selection: Selection) -> bool:
    """Tells whether every line of a file is before the moment: it has lines of its day, and of the one before."""
    key = log_key(path)
    if key is None or selection.before_us is None:
        return False
    return key[0] + timedelta(days=1) <= datetime.fromtimestamp(selection.before_us / 1e6, tz=UTC).date()


def _judged(path: Path, selection: Selection) -> Iterator[tuple[bool, bytes]]:
    taken = is_old = _is_wholly_old(path, selection)
    for raw in _lines(path):
        taken = is_old or selection.takes_line(raw, taken)
        yield taken, raw


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:  # a running node has removed its oldest file
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error


def _paths(log_dir: Path | None) -> list[Path]:
    return log_paths(log_dir) if log_dir is not None else []
