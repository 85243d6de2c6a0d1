"""Reads the daily JSON logs as evidence: the newest lines of a time window, in bounded memory."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

from hearthnet.display import counted
from hearthnet.files import open_file
from hearthnet.forensics.evidence.entries import from_line
from hearthnet.forensics.evidence.safe_stat import is_file
from hearthnet.forensics.model import Entry, Source

__all__ = ["Lines", "find_log_dir", "read_lines"]

_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.log")
_TS: Final = re.compile(rb'\{"ts":"([0-9T:.-]{19,23})Z"')
_MAX_LINE_BYTES: Final = 256 * 1024  # eight times the longest line that a node writes
_DAY: Final = timedelta(days=1)
_MAX_NOTABLE: Final = 2_000
_MAX_PARTS: Final = 100  # of one torn line
_BEGIN: Final = b'{"ts":"'
_LINE_START: Final = re.compile(re.escape(_BEGIN))
_HEAD: Final = re.compile(
    rb'\{"ts":"[0-9T:.Z-]{20,24}","level":"[a-z]{1,16}","logger":"[^"\\]*","msg":"(?:[^"\\]|\\.)*"'
)
# The level directly follows the time. A record that cancels a warning is as notable as the warning.
_NOTABLE: Final = re.compile(rb'"level":"(?:warning|error|critical)"|"msg":"telemetry is written again"')
_HEAD_BYTES: Final = 200
_BESIDE: Final = ("log", "logs", "../log", "../logs", ".")


def find_log_dir(directory: Path) -> Path | None:
    """Returns the folder near a store that contains daily logs, or None."""
    for name in _BESIDE:
        folder = directory / name
        if any(map(is_file, _files(folder))):
            return folder
    return None


@dataclass(slots=True)
class Lines:
    """The entries read from the logs.

    Attributes:
        entries: the newest lines of the window, in the order of writing.
        notable: the newest warnings and errors of the chosen run.
        sources: the files.
    """

    entries: list[Entry] = field(default_factory=list)
    notable: list[Entry] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)


def read_lines(log_dir: Path, window: tuple[int, int], own: tuple[int, int], limit: int) -> Lines:
    """Returns the newest lines of two time windows. Reads each log once, in bounded memory.

    Args:
        log_dir: the folder of the logs.
        window: start and end of the time for which lines are wanted, UTC microseconds.
        own: start and end of the chosen run, for which warnings and errors are wanted.
        limit: the maximum number of lines of `window`.
    """
    selection = _Selection(window, own, limit)
    found = Lines()
    for path in _files(log_dir):
        # A record is in the file of its day, but the clock may have been set around midnight.
        if selection.low[:10] <= _day(path, 1) and _day(path, -1) <= selection.high[:10]:
            found.sources.append(_read_file(path, selection))
    found.entries = [entry for raw in selection.kept if (entry := _entry(raw)) is not None]
    found.notable = [entry for raw in selection.notable if (entry := _entry(raw)) is not None]
    return found


class _Selection:
    """Keeps the newest wanted lines as bytes, and parses none: most are displaced by later ones."""

    def __init__(self, window: tuple[int, int], own: tuple[int, int], limit: int) -> None:
        self.low, self.high = _stamp(min(window[0], own[0])), _stamp(max(window[1], own[1]))
        self._window = _stamp(window[0]).encode(), _stamp(window[1]).encode()
        self._own = _stamp(own[0]).encode(), _stamp(own[1]).encode()
        self.kept: deque[bytes] = deque(maxlen=limit)
        self.notable: deque[bytes] = deque(maxlen=_MAX_NOTABLE)

    def add(self, ts: bytes, raw: bytes) -> None:
        """Keeps a line if it is wanted; `ts` is its time as written."""
        if self._window[0] <= ts <= self._window[1]:
            self.kept.append(raw)
        if self._own[0] <= ts <= self._own[1] and _NOTABLE.search(raw, 0, _HEAD_BYTES):
            self.notable.append(raw)


def _read_file(path: Path, selection: _Selection) -> Source:
    torn = 0
    try:
        with open_file(path) as file:
            size = path.stat().st_size
            for raw in _lines(file):
                # A full disk or a power loss cuts a line, and the next one continues it.
                is_whole = raw.startswith(_BEGIN) and raw.endswith(b"}\n") and raw.count(_BEGIN) == 1
                torn += not is_whole
                for part in [raw] if is_whole else _parts(raw):
                    if match := _TS.match(part):
                        selection.add(match[1], part)
    except OSError as error:
        return Source(path, "log", "unreadable", error.strerror or str(error))
    if torn:
        return Source(path, "log", "damaged", counted(torn, "torn line"), size)
    return Source(path, "log", "whole" if size else "empty", "", size)


def _parts(raw: bytes) -> list[bytes]:
    """Returns the lines that begin within a torn one."""
    begins = [match.start() for match in _LINE_START.finditer(raw)][:_MAX_PARTS]
    return [raw[begin:end] for begin, end in zip(begins, [*begins[1:], len(raw)], strict=False)]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields lines; an overlong one in pieces, so that a file without line ends does not fill memory."""
    while raw := file.readline(_MAX_LINE_BYTES):
        yield raw


def _entry(raw: bytes) -> Entry | None:
    try:
        line = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        line = _head_of(raw)
    return from_line(line) if isinstance(line, dict) else None


def _head_of(raw: bytes) -> dict[str, Any] | None:
    """Returns the fields at the start of a torn line: time, level, logger and message come first."""
    match = _HEAD.match(raw)
    try:
        return None if match is None else {**json.loads(match[0] + b"}"), "torn": True}
    except (ValueError, RecursionError):
        return None


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
    """Returns UTC microseconds as written at the start of a line: text that sorts by time."""
    try:
        moment = datetime.fromtimestamp(us / 1e6, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return "0000" if us < 0 else "9999"
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")
