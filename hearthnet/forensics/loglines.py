"""Reads the daily JSON logs as evidence: the lines of a window of time, the newest of them, in little memory."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hearthnet.forensics.entries import from_line
from hearthnet.forensics.model import Entry, Source

__all__ = ["find_log_dir", "read_lines"]

_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.log")
_TS: Final = re.compile(rb'\{"ts":"([0-9T:.-]{19,23})Z"')
_MAX_LINE_BYTES: Final = 256 * 1024  # eight times what a line of ours has; longer is none of ours
_DAY: Final = timedelta(days=1)
_BESIDE: Final = ("log", "logs", "../log", "../logs", ".")


def find_log_dir(directory: Path) -> Path | None:
    """Returns the folder beside a store that has daily logs in it, or None."""
    for name in _BESIDE:
        folder = directory / name
        if _files(folder):
            return folder
    return None


def read_lines(log_dir: Path, first_us: int, last_us: int, limit: int) -> tuple[list[Entry], list[Source]]:
    """Returns the newest `limit` lines between two moments (UTC microseconds), in their order, and the files read."""
    low, high = _stamp(first_us), _stamp(last_us)
    kept: deque[bytes] = deque(maxlen=limit)
    sources = [
        _read_file(path, low, high, kept)
        for path in _files(log_dir)
        # A record lies in the file of its day; around midnight the clock may have been set.
        if low[:10] <= _day(path, 1) and _day(path, -1) <= high[:10]
    ]
    entries = (entry for raw in kept if (entry := _entry(raw)) is not None)
    return list(entries), sources


def _read_file(path: Path, low: str, high: str, kept: deque[bytes]) -> Source:
    first, last = low.encode(), high.encode()
    torn = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for raw in _lines(file):
                match = _TS.match(raw)
                if match is None or not raw.endswith(b"}\n"):
                    torn += 1
                elif first <= match[1] <= last:
                    kept.append(raw)
    except OSError as error:
        return Source(path, "log", "unreadable", error.strerror or str(error))
    if torn:
        return Source(path, "log", "damaged", f"{torn:,} line(s) are torn", size)
    return Source(path, "log", "whole" if size else "empty", "", size)


def _lines(file: Iterable[bytes]) -> Iterable[bytes]:
    return (raw for raw in file if len(raw) <= _MAX_LINE_BYTES)


def _entry(raw: bytes) -> Entry | None:
    try:
        line = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return from_line(line) if isinstance(line, dict) else None


def _files(folder: Path) -> list[Path]:
    """Returns the daily logs in a folder, oldest first."""
    try:
        found = [(match[1], int(match[2] or 0), path) for path in folder.iterdir() if (match := _match(path))]
    except OSError:
        return []
    return [path for _, _, path in sorted(found)]


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name)


def _day(path: Path, shift: int) -> str:
    try:
        day = datetime.strptime(path.name[:10], "%Y-%m-%d").replace(tzinfo=UTC) + shift * _DAY
    except (ValueError, OverflowError):
        return path.name[:10]
    return f"{day:%Y-%m-%d}"


def _stamp(us: int) -> str:
    """Returns UTC microseconds as the beginning of a line has it: text that sorts as the time does."""
    try:
        moment = datetime.fromtimestamp(us / 1e6, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return "0000" if us < 0 else "9999"
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")
