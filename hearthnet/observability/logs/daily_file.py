"""Daily JSON log files: `<YYYY-MM-DD>.log` by UTC date, one `write` a line, bounded in bytes and in days.

A day that outgrows its part goes on in `<YYYY-MM-DD>.1.log`, `.2.log` and so on: a file that is open is never renamed.
The oldest files are removed so that all of them together stay within their bound. Other programs may rename, replace or
remove the file: within a second a new one is begun. Where a folder, a pipe, a link or a file that is not ours to write
has its name, the next number is taken.

Guarantees:
    - A line is one `os.write` to a file opened for appending, so lines of several threads and processes never mix.
    - `write` takes a lock only to count a dropped line or to change files. The descriptor's number never changes: a new
      file replaces the old one by `dup2`.
    - Nothing raises or waits for a reader: a line that cannot be written is dropped and counted. So are the lines of a
      file that was removed, or whose descriptor the program has closed, from its last check on.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from hearthnet.constants import LOG_RETENTION_DAYS
from hearthnet.files import make_private_dir
from hearthnet.observability.records.tracked import tracked

__all__ = ["DailyFile", "log_key", "log_paths"]

# A number in another spelling (`.01`, `.0`) is no name of ours: its file would be looked for under ours.
_NAME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.([1-9][0-9]*))?\.log")
_DAY_S: Final = 86_400
_MAX_BYTES: Final = 40_000_000  # what the budget of `max_disk_mb` leaves for logs by default
_PARTS: Final = 8  # files that share the bound: the share dropped when the oldest is removed
# What has the name may be a link, or a pipe that has no reader.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# The file is checked after so many of our own bytes, for other processes write to it too, and with the first line of
# each second: it may have been removed or renamed.
_CHECK_BYTES: Final = 64 * 1024
_DOUBTED_DAYS: Final = 366
_EPOCH: Final = date(1970, 1, 1)
_FIRST_DAY: Final = (date.min - _EPOCH).days
_LAST_DAY: Final = (date.max - _EPOCH).days


def log_paths(directory: Path, *, of_any_kind: bool = False) -> list[Path]:
    """Returns the log files in `directory`, oldest first.

    Args:
        directory: of the logs.
        of_any_kind: also folders, pipes and the like of such a name, for what reads all and names what it cannot.
    """
    found: list[tuple[tuple[date, int], Path]] = []
    with suppress(OSError):  # missing, no folder, or not ours to read
        named = ((key, path) for path in directory.iterdir() if (key := log_key(path)) is not None)
        found = [(key, path) for key, path in named if of_any_kind or path.is_file()]
    return [path for _, path in sorted(found)]


def log_key(path: Path) -> tuple[date, int] | None:
    """Returns a log file's day and its number within the day, its sort key; None for other files."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        return date.fromisoformat(match[1]), int(match[2] or 0)
    except ValueError:  # 2026-13-45 is no day, so this is no file of ours
        return None


class DailyFile:
    """Appends lines to the file of the day.

    Args:
        directory: of the files; made if missing, with mode 0700.
        retention_days: past days to keep, besides today.
        clock: seconds since 1970; decides which files are too old.
        max_bytes: of all log files together.

    Attributes:
        dropped_lines: lines that could not be written, or were in a file that was removed soon after.
        ready: the second, since 1970, whose lines can be appended without a check; None: there is none.
        shed_lines: lines dropped while `is_shedding`.
    """

    def __init__(
        self,
        directory: Path,
        retention_days: int = LOG_RETENTION_DAYS,
        clock: Callable[[], float] = time.time,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._fd = -1
        self._identity = (0, 0)  # device and inode of the file that was opened
        self.directory = directory
        self._clock = clock
        self.retention_days = retention_days
        self.dropped_lines = 0
        self._is_shedding = False
        self.shed_lines = 0
        # Re-entrant: a signal handler or a finalizer may log while its own thread changes files.
        self._lock = threading.RLock()
        self._torn = 0  # lines that were cut since one was written whole
        self._day: int | None = None  # days since 1970, UTC; negative before
        self._number = 0  # of the file within its day
        self._room = _CHECK_BYTES  # until the file is checked
        self._unchecked_lines = 0  # lines written since it was
        self._checked_s: int | None = None
        self.ready: int | None = None
        self._max_bytes = max_bytes
        tracked.add(self)

    def write(self, line: bytes, now_s: float) -> None:
        """Appends one line (its newline included), which was made at `now_s` (seconds since 1970)."""
        second = int(now_s)
        if self.ready != second and not self._prepare(second):
            self._count_lost()
            return
        if not (torn := self._torn):
            self.append(line)
        elif self.append(b"\n" + line) and self._torn == torn:  # none since
            self._torn = 0

    def append(self, line: bytes) -> bool:
        """Appends one line in the second for which the file is ready; returns whether it was written whole."""
        size = len(line)
        try:
            if os.write(self._fd, line) != size:  # the disk filled up within it: the next one must not continue it
                self._torn, self.ready = self._torn + 1, None
                self._count_lost()
                return False
        except OSError:  # disk full: it is counted
            self._count_lost()
            return False
        self._unchecked_lines += 1
        self._room -= size
        if self._room < 0:
            self.ready = None
        return True

    def is_ready(self, second: int) -> bool:
        """Returns whether all lines of a second can be appended as they are; `ready` is that very number then."""
        if not self._prepare(second):
            return False
        with self._lock:  # as below
            if self.ready is None:
                return False
            self.ready = second
        return True

    def _prepare(self, second: int) -> bool:
        """Changes to the file of the day, and checks it if it is time for that; returns whether there is a file."""
        day = second // _DAY_S
        if day != self._day:
            self._roll(day)
            if self._day is None:  # none can be opened
                return False
        if self._room < 0 or second != self._checked_s:
            self._check(second)
        with self._lock:  # it may be closed meanwhile
            # For the rest of this second nothing is to be done but to write; always, for a record of another day.
            self.ready = second if day == self._day and not self._torn and not self._is_shedding else None
        return True

    @property
    def is_shedding(self) -> bool:
        """Set by the store: the disk is nearly full, only notable lines are written."""
        return self._is_shedding

    @is_shedding.setter
    def is_shedding(self, is_shedding: bool) -> None:
        self._is_shedding, self.ready = is_shedding, None

    def limit(self, max_bytes: int) -> None:
        """Bounds all log files together to `max_bytes`."""
        self._max_bytes = max_bytes
        self._remove_surplus()

    def _count_lost(self) -> None:
        with self._lock:
            self.dropped_lines += 1

    def _roll(self, day: int) -> None:
        with self._lock:
            # A record made just before midnight may arrive just after it. It is written to the new file; only a
            # clock set back by more than a day rolls the file back.
            before = self._day
            if before is not None and before - 1 <= day <= before:
                return
            try:
                self._open(day)
            except OSError:  # the write that follows fails too, and is counted
                return
            is_step = before is not None and abs(day - before) > self.retention_days
            self._day = day
        if not is_step:  # after a clock step the older files are not old
            self._remove_expired()
        self._remove_surplus()

    def _check(self, second: int) -> None:
        """Opens the day's next file if this one is full, or a new one if another program has moved or removed it."""
        with self._lock:
            self._forget_if_taken()
            self._count_removed()
            self._room, self._checked_s = _CHECK_BYTES, second
            try:
                if self._day is None or self._may_stay(self._day):
                    return
                self._open(self._day)
            except OSError:  # the write that follows fails too, or its line is counted at the next check
                return
        self._remove_surplus()

    def _may_stay(self, day: int) -> bool:
        return self._fd >= 0 and self._is_in_place(day) and self._size() < self._part_bytes()

    def _is_in_place(self, day: int) -> bool:
        try:
            return os.path.samestat(self._path(day, self._number).lstat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def _count_removed(self) -> None:
        """Counts the lines written to a file that is gone: those before its last check were removed with it."""
        with self._lock:
            if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
                self.dropped_lines += self._unchecked_lines
            self._unchecked_lines = 0

    def _part_bytes(self) -> int:
        return self._max_bytes // _PARTS

    def _open(self, day: int) -> None:
        """Opens the day's last file, or the one after it where that is full or no file of ours."""
        make_private_dir(self.directory)
        # The highest number, whatever has it: removing the oldest parts leaves a hole before it.
        taken = [key[1] for path in self.directory.iterdir() if (key := log_key(path)) and key[0] == _date(day)]
        number = max(taken, default=0)
        try:
            fresh = self._open_part(day, number)
        except OSError:  # a folder, a link, a pipe, not ours to write
            fresh = None
        if fresh is None:
            number += 1
            fresh = self._open_part(day, number)
        if fresh is None:
            raise FileExistsError(self._path(day, number))  # another process was faster, with a folder or the like
        self._number = number
        status = os.fstat(fresh)
        identity = (status.st_dev, status.st_ino)
        self._forget_if_taken()
        if self._fd < 0:
            self._fd, self._identity = fresh, identity
            return
        self._count_removed()
        os.dup2(fresh, self._fd, inheritable=False)
        self._identity = identity
        os.close(fresh)

    def _forget_if_taken(self) -> None:
        """Forgets a descriptor that the program has closed, as one that becomes a daemon may do with all that are open.

        By now its number may be that of a file of the program's own, which is not ours to close, and which may have
        the lines since the last check: they are counted.
        """
        if self._fd >= 0 and not self._is_ours():
            self._fd = -1
            self.dropped_lines += self._unchecked_lines
            self._unchecked_lines = 0

    def _is_ours(self) -> bool:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _open_part(self, day: int, number: int) -> int | None:
        """Opens one file for appending, made if missing; returns None for one that is full, or is no file."""
        fresh = os.open(self._path(day, number), _FLAGS, 0o600)
        status = os.fstat(fresh)
        is_full = status.st_size > 0 and status.st_size >= self._part_bytes()
        if is_full or not stat.S_ISREG(status.st_mode):
            os.close(fresh)
            return None
        with suppress(OSError):  # not ours, but ours to write
            os.fchmod(fresh, 0o600)  # by a umask, or what rotates files, it has a mode of its own
        return fresh

    def _path(self, day: int, number: int) -> Path:
        ending = f".{number}.log" if number else ".log"
        return self.directory / f"{_date(day).isoformat()}{ending}"

    def _remove_expired(self) -> None:
        # By the clock, not by the record's time: one record dated next year must not remove all files.
        today = _date(int(self._clock() // _DAY_S))
        dated = [(key[0], path) for path in log_paths(self.directory) if (key := log_key(path))]
        before = max((day for day, _ in dated if day < today), default=today)
        # So long after the last file the clock may be a wrong one, as of a machine whose battery is empty, and that
        # file of an hour ago. If it is right, the next day is soon enough.
        if (today - before).days > _DOUBTED_DAYS:
            return
        oldest = today - min(timedelta(days=self.retention_days), today - date.min)
        for day, path in dated:
            if day < oldest:
                _remove(path)

    def _remove_surplus(self) -> None:
        """Removes the oldest files until the rest and a full current one are within the bound."""
        tomorrow = _date(int(self._clock() // _DAY_S) + 1)
        # A file dated into the future by a wrong clock would never be the oldest: it is removed first.
        paths = sorted(log_paths(self.directory), key=lambda path: (log_key(path) or (tomorrow,))[0] <= tomorrow)
        others = [(path, _size_of(path)) for path in paths if not self._is_open(path)]
        # Each process that writes may be one check late.
        total = sum(size for _, size in others) + self._part_bytes() + 2 * _CHECK_BYTES
        for path, size in others:
            if total <= self._max_bytes:
                return
            _remove(path)
            total -= size

    def _is_open(self, path: Path) -> bool:
        try:
            return self._fd >= 0 and os.path.samestat(path.stat(), os.fstat(self._fd))
        except OSError:  # removed since it was listed
            return False

    def close(self) -> None:
        """Closes the file; a later `write` opens it again.

        The descriptor is kept, on /dev/null: a thread may be about to write to it, and a freed number would soon be
        another file's.
        """
        with self._lock:
            self._day = self.ready = None
            self._forget_if_taken()
            if self._fd >= 0:
                self._count_removed()
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, self._fd, inheritable=False)
                os.close(nowhere)
                status = os.fstat(self._fd)
                self._identity = (status.st_dev, status.st_ino)

    def renew_in_child(self) -> None:
        """Makes a new lock; the lines so far are the parent's to count."""
        self._lock = threading.RLock()
        self._unchecked_lines = 0

    def __del__(self) -> None:
        # No reference is left, so no thread is writing.
        if self._fd >= 0 and self._is_ours():
            os.close(self._fd)


def _remove(path: Path) -> None:
    with suppress(OSError):  # removed by another process, or not permitted: the doctor checks the folder
        path.unlink()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed since it was listed
        return 0


def _date(day: int) -> date:
    """Returns a day; the first or the last that has a name, if the clock is beyond."""
    return _EPOCH + timedelta(days=min(max(day, _FIRST_DAY), _LAST_DAY))
