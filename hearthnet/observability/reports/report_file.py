"""The doctor's report file: `doctor.jsonl` in the data folder, one line per report, oldest first, bounded in bytes.

Guarantees:
    - A line is one `write` to a file opened for appending, and whole or absent: a line cut by a full disk is removed.
    - Doctors that run at the same time drop no lines: a writer holds a `flock` on the file and checks that it still has
      its name, because the file is replaced when it is full. No other program takes that lock.
    - A damaged line is skipped and harms no other.

Assumes a local file system, where `flock` and appending hold between processes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.constants import MAX_JSON_LINE_BYTES
from hearthnet.files import open_file, open_regular, replace_in
from hearthnet.observability.records.record import safe_text

__all__ = ["MAX_MEMORY_BYTES", "MEMORY_FILE", "Remembered", "recall", "remember", "timestamp"]

MEMORY_FILE: Final = "doctor.jsonl"
MAX_MEMORY_BYTES: Final = 1_000_000  # some hundred full reports, or some thousand of one check: months of a cron job
LOCK_WAIT_S: Final = 2.0  # another doctor holds it for one line; a stopped one, for ever
_LOCK_POLL_S: Final = 0.02
_TEXT_BYTES: Final = (1_024, 256, 64, 16)  # of each text, the longest that lets the line fit
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """A stored report: time, program version, and each check's result by name."""

    ts: datetime
    program: str
    checks: Mapping[str, Mapping[str, Any]]


def timestamp(moment: datetime) -> str:
    """Returns a moment as UTC with milliseconds and `Z`, as in the log."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def remember(directory: Path, report: Mapping[str, Any]) -> None:
    """Appends a report: its `ts`, `program`, `source`, `ok` and `checks`, without evidence if it is too long.

    Raises:
        OSError: raised when the file cannot be written, or another doctor keeps it longer than `LOCK_WAIT_S`; the file
            is then as it was.
    """
    path = directory / MEMORY_FILE
    line = _line(report)
    fd = _locked(path)
    try:
        size = os.fstat(fd).st_size
        if size + len(line) < MAX_MEMORY_BYTES:
            _append(fd, size, line)
        else:
            _keep_newest(path, fd, line)
        if size == 0 and os.geteuid() == 0 and os.fstat(fd).st_nlink == 1:
            # Root checked another user's node: that user's doctor must be able to write too.
            owner = directory.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
    finally:
        os.close(fd)


def recall(directory: Path) -> list[Remembered]:
    """Returns the stored reports, oldest first.

    Raises:
        OSError: raised when the file exists but cannot be read.
    """
    try:
        with open_file(directory / MEMORY_FILE) as file:
            # However large the file is, the newest are at its end.
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * MAX_MEMORY_BYTES))
            lines = file.read(2 * MAX_MEMORY_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    return [report for line in lines if (report := _parsed(line)) is not None]


def _parsed(line: bytes) -> Remembered | None:
    try:
        value = orjson.loads(line)
        moment = datetime.fromisoformat(value["ts"])
        checks = {check["name"]: check for check in value["checks"] if isinstance(check["status"], str)}
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return Remembered(aware, str(value["program"]), checks)
    except (ValueError, KeyError, TypeError):  # torn by a crash, written by hand
        return None


def _line(report: Mapping[str, Any]) -> bytes:
    """Returns a report as a line within its bound: drops evidence of passed checks first, then cuts long texts."""
    kept = {"version": _VERSION, **{key: report[key] for key in ("ts", "program", "source", "ok")}}
    lines = (_encoded(kept, checks) for checks in _ever_less([dict(check) for check in report["checks"]]))
    return next(line for line in lines if len(line) <= MAX_JSON_LINE_BYTES)


def _ever_less(checks: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    yield checks
    for is_bad in (False, True):
        checks = [check if (check["status"] in ("warn", "fail")) != is_bad else _without(check) for check in checks]
        yield checks
    for limit in _TEXT_BYTES:
        yield [_shortened(check, limit) for check in checks]
    # Hundreds of checks: those that are not well matter most.
    checks = sorted((_shortened(check, _TEXT_BYTES[-1]) for check in checks), key=lambda check: bool(check["ok"]))
    while checks:
        checks = checks[: len(checks) * 3 // 4]
        yield checks


def _encoded(kept: dict[str, Any], checks: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({**kept, "checks": checks}, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


def _without(check: dict[str, Any]) -> dict[str, Any]:
    return {**check, "evidence": {}}


def _shortened(check: dict[str, Any], limit: int) -> dict[str, Any]:
    texts = {key: value and safe_text(value, limit) for key, value in check.items() if key in ("detail", "fix")}
    return {**check, **texts}


def _locked(path: Path) -> int:
    """Returns a locked descriptor of the file; closing it releases the lock."""
    ends_at = time.monotonic() + LOCK_WAIT_S
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    if os.geteuid() == 0 and path.parent.stat().st_uid != 0:
        flags |= os.O_NOFOLLOW  # a link in another user's folder must not lead root to a file elsewhere
    while True:
        fd = open_regular(path, flags)
        try:
            _lock(fd, ends_at)
            if _is_still(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, ends_at: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                raise TimeoutError(errno.ETIMEDOUT, "another doctor keeps the file locked") from None
            time.sleep(_LOCK_POLL_S)
        else:
            return


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _append(fd: int, size: int, line: bytes) -> None:
    if size and os.pread(fd, 1, size - 1) != b"\n":  # the machine died within a line: this one must not continue it
        line = b"\n" + line
    if os.write(fd, line) != len(line):
        os.ftruncate(fd, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _keep_newest(path: Path, fd: int, line: bytes) -> None:
    """Replaces the file, whose lock is held, by its newest half and this line."""
    old = os.fstat(fd)
    half = MAX_MEMORY_BYTES // 2 - len(line)
    newest = os.pread(fd, half, max(0, old.st_size - half)).partition(b"\n")[2]  # the first line is cut
    ending = b"" if not newest or newest.endswith(b"\n") else b"\n"
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_in(folder, path.name, newest + ending + line, (old.st_uid, old.st_gid))
    finally:
        os.close(folder)
