"""Daily JSON log files: `<YYYY-MM-DD>.log` by UTC date, one `write` a line, old days removed.

Guarantees:
    - A line is one `os.write` to a file opened for appending, so lines of several threads and processes never mix.
    - `write` takes no lock but to count a loss. The descriptor's number never changes: a new day's file is put
      under it by `dup2`.
    - Nothing raises: a line that cannot be written is counted.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from hearthnet.constants import LOG_RETENTION_DAYS
from hearthnet.files import make_private_dir

__all__ = ["DailyFile", "log_key", "log_paths"]

_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.log")
_DAY_S: Final = 86_400


def log_paths(directory: Path) -> list[Path]:
    """Returns the log files in `directory`, oldest first."""
    found: list[tuple[tuple[date, int], Path]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [(key, path) for path in directory.iterdir() if (key := log_key(path)) is not None]
    return [path for _, path in sorted(found)]


def log_key(path: Path) -> tuple[date, int] | None:
    """Returns a log file's day and its number within the day, by which files are ordered; None for other files."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        return date.fromisoformat(match[1]), int(match[2] or 0)
    except ValueError:  # 2026-13-45: no day, so no file of ours
        return None


class DailyFile:
    """Appends lines to the file of the day.

    Args:
        directory: where the files lie; made if missing, with mode 0700.
        retention_days: how many past days are kept beside today.
        clock: seconds since 1970; decides what is too old.
    """

    def __init__(
        self,
        directory: Path,
        retention_days: int = LOG_RETENTION_DAYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fd = -1
        self.directory = directory
        self._clock = clock
        self.retention_days = retention_days
        self.lost_lines = 0
        self._lock = threading.Lock()
        self._torn = False
        self._day = -1  # days since 1970, UTC

    def write(self, line: bytes, now_s: float) -> None:
        """Appends one line (its newline included), which was made at `now_s` (seconds since 1970)."""
        day = int(now_s // _DAY_S)
        if day != self._day:
            self._roll(day)
        if self._torn:
            line, self._torn = b"\n" + line, False
        try:
            complete = os.write(self._fd, line) == len(line)
        except OSError:  # disk full, or no file could be opened; the counter is what tells
            self._count_lost()
            return
        if not complete:  # the disk filled up within the line: the next one must not be glued to it
            self._torn = True
            self._count_lost()

    def _count_lost(self) -> None:
        with self._lock:
            self.lost_lines += 1

    def _roll(self, day: int) -> None:
        with self._lock:
            # A record made just before midnight may come in just after it: it goes into the new file, and the
            # file does not roll back. Only a clock set back by more than a day does that.
            if day == self._day or day == self._day - 1:
                return
            try:
                self._open(day)
            except OSError:  # the write that follows fails too, and is counted
                return
            self._day = day
        self._remove_expired()

    def _open(self, day: int) -> None:
        make_private_dir(self.directory)
        path = self.directory / f"{_date(day).isoformat()}.log"
        fresh = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._fd < 0:
            self._fd = fresh
            return
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)

    def _remove_expired(self) -> None:
        # By the clock, not by the record's time: one record dated next year must not cost all that is there.
        oldest = _date(int(self._clock() // _DAY_S)) - timedelta(days=self.retention_days)
        for path in log_paths(self.directory):
            key = log_key(path)
            if key is not None and key[0] < oldest:
                with suppress(OSError):  # somebody else removed it, or may not: the doctor looks at the folder
                    path.unlink()

    def close(self) -> None:
        """Closes the file; a later `write` opens it again.

        The descriptor's number is kept, on /dev/null: a thread may be about to write to it, and a number given back
        would soon be another file's.
        """
        with self._lock:
            self._day = -1
            if self._fd >= 0:
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, self._fd, inheritable=False)
                os.close(nowhere)

    def __del__(self) -> None:
        # Nobody holds this object any more, so nobody can be writing.
        if self._fd >= 0:
            os.close(self._fd)


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * _DAY_S, tz=UTC).date()
