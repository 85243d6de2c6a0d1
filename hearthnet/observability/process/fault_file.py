"""The fault file `telemetry.<pid>.fault`: stacks of a process that died of a signal, written by faulthandler.

A segmentation fault in a library leaves no exception. The interpreter then writes the stacks of all threads into this
file, which was opened beforehand. After a clean exit, or a kill, it is empty and removed. Other files are kept under a
name with their time, `telemetry.<pid>.<UTC time>.fault`, logged once, and bounded in number and bytes.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from hearthnet.files import make_private_dir, open_file, private_temporary
from hearthnet.forensics.box import is_locked
from hearthnet.forensics.evidence.cut_short import BUS_ERROR, cut_short
from hearthnet.observability.logging import get_logger

__all__ = ["FaultFile", "fault_paths"]

log = get_logger(__name__)

MAX_KEPT: Final = 8  # a crash loop repeats itself; eight show that it is one
MAX_KEPT_BYTES: Final = 1_000_000  # all of them together; the stacks of a hundred threads seldom pass 200 KB
_TIME: Final = "%Y%m%dT%H%M%SZ"
_DATED: Final = re.compile(r"telemetry\.\d+\.\d{8}T\d{6}Z\.fault")  # others belong to running or dead processes
_FIRST_LINE_BYTES: Final = 200


def fault_paths(directory: Path) -> list[Path]:
    """Returns the fault files in `directory`, oldest first, those of running processes included."""
    return sorted(directory.glob("telemetry.*.fault"), key=lambda path: (_modified_s(path), path.name))


class FaultFile:
    """Makes faulthandler write into a file of this process, within `with`.

    If faulthandler is enabled already (`PYTHONFAULTHANDLER`, `-X dev`), its output stays as it is.

    Attributes:
        path: the file, or None.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._pid = -1
        self._found: list[Path] = []
        self._error: str | None = None
        self.path: Path | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Collects the files of dead processes and enables faulthandler. Never raises: a node can do without."""
        try:
            make_private_dir(self._directory)
            self._found = _adopt(self._directory)
            if not faulthandler.is_enabled():
                self.path = self._make()
                faulthandler.enable(file=self._fd, all_threads=True)
        except OSError as error:
            self._error = str(error)

    def _make(self) -> Path:
        """Makes the file; names it only once it is locked, so it is not taken for a leftover."""
        # The lock is held for the whole run: it shows, in other pid namespaces too, that the file is in use.
        fd, temporary = private_temporary(self._directory / "telemetry-fault")
        path = self._directory / f"telemetry.{os.getpid()}.fault"
        if os.path.lexists(path):  # of the same pid in another namespace
            path = path.with_name(f"telemetry.{os.getpid()}.{time.time_ns():x}.fault")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(path)
        except OSError:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        self._fd, self._pid = fd, os.getpid()
        return path

    def tell(self) -> None:
        """Logs what `open` found. Called once logging is configured, which is later."""
        for path in self._found:
            fields = {"file": path.name, "reason": first_line(path)}
            log.error("an earlier run was ended by a fault", extra=fields)
        self._found.clear()
        if self._error is not None:
            log.warning("there is no fault file", extra={"error": self._error})

    def close(self) -> None:
        """Disables faulthandler and removes the file if nothing is in it. Idempotent."""
        if self._fd < 0 or self.path is None or os.getpid() != self._pid:  # a forked child owns nothing of it
            return
        faulthandler.disable()
        with suppress(OSError):  # removed meanwhile
            if os.fstat(self._fd).st_size == 0:
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1


def first_line(path: Path) -> str:
    """Returns the first line of a fault file: `Fatal Python error: Segmentation fault`; empty if it cannot be read."""
    try:
        with open_file(path) as file:
            return file.readline(_FIRST_LINE_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _adopt(directory: Path) -> list[Path]:
    """Removes the empty files of dead processes, dates the others, and drops the oldest beyond the bounds.

    Returns the newly dated ones.
    """
    fresh = []
    for path in fault_paths(directory):
        if not _DATED.fullmatch(path.name) and not is_locked(path):
            with suppress(FileNotFoundError):  # another starting process was faster
                if path.stat().st_size == 0:
                    path.unlink()
                else:
                    _add_cut_short(path)
                    fresh.append(_date(path))
    _drop_surplus(directory)
    return [path for path in fresh if path.exists()]


def _add_cut_short(path: Path) -> None:
    """Adds to the stacks of a bus error which mapped file is too short: opening the store makes them whole again."""
    if BUS_ERROR in first_line(path):
        status = path.stat()
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in cut_short(path.parent, int(path.name.split(".")[1])))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of the fault


def _date(path: Path) -> Path:
    # The next process may have the same pid; in a container it always has.
    moment = datetime.fromtimestamp(_modified_s(path), tz=UTC)
    number = path.name.split(".")[1]
    return path.rename(path.with_name(f"telemetry.{number}.{moment:{_TIME}}.fault"))


def _drop_surplus(directory: Path) -> None:
    kept = [path for path in fault_paths(directory) if _DATED.fullmatch(path.name)]
    total = 0
    for number, path in enumerate(reversed(kept)):
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            if number == 0 and size > MAX_KEPT_BYTES:  # the newest is never removed; its beginning has the cause
                os.truncate(path, MAX_KEPT_BYTES)
            total += min(size, MAX_KEPT_BYTES)
            if number >= MAX_KEPT or (number and total > MAX_KEPT_BYTES):
                path.unlink()


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed since it was listed
        return 0.0
