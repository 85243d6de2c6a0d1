"""What the doctor may mend by itself: few things, each of which can be told beforehand and harms nothing.

    plan = plan_repairs(config, results)
    outcomes = [step.run() for step in plan]

Guarantees:
    - Nothing is given to others that they did not have: modes only ever become those that files were made with.
    - A link is not followed, what has another name elsewhere (a hard link) and what belongs to another user is left
      alone; root mends what is of the owner of its folder, and makes nothing in another's.
    - A step that fails is told and keeps no other from being taken.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hearthnet.checks.modes import Deviation, deviations_of
from hearthnet.config import Config
from hearthnet.database import store_error
from hearthnet.errors import HearthNetError
from hearthnet.files import make_private_dir
from hearthnet.forensics.box import boxes_in, is_locked
from hearthnet.identity.keys import PRIVATE_FILE
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE

__all__ = ["Outcome", "Step", "plan_repairs"]

_LARGE_WAL_BYTES: Final = 1_000_000  # a clean stop leaves none; less is not worth the writing
_BUSY_S: Final = 1.0  # a reader that takes longer has the step fail
_SIDECARS: Final = ("", "-wal", "-shm")
_MOVED_ASIDE: Final = re.compile(r".*\.corrupt-\d{8}T\d{6}Z")  # not a copy that somebody made and called alike


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step; `error` is None where it succeeded."""

    check: str
    what: str
    undo: str
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome with the keys of the JSON output."""
        return {"check": self.check, "what": self.what, "undo": self.undo, "ok": not self.error, "error": self.error}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to mend.

    Attributes:
        check: whose finding it mends.
        what: what changes, from and to.
        undo: the command that puts it back, or why nothing can.
        apply: does it.
    """

    check: str
    what: str
    undo: str
    apply: Callable[[], None]

    def as_dict(self) -> dict[str, str]:
        """Returns the step with the keys of the JSON output."""
        return {"check": self.check, "what": self.what, "undo": self.undo}

    def run(self) -> Outcome:
        """Does it; never raises for what the system refuses."""
        try:
            self.apply()
        except OSError as error:
            return Outcome(self.check, self.what, self.undo, error.strerror or str(error))
        except HearthNetError as error:
            return Outcome(self.check, self.what, self.undo, error.message)
        return Outcome(self.check, self.what, self.undo)


def plan_repairs(config: Config, unwell: Collection[str], checked: Collection[str]) -> list[Step]:
    """Returns the steps that can be taken, in their order.

    Args:
        config: the node's settings, paths resolved.
        unwell: the checks that failed or warned.
        checked: the checks that were run.
    """
    steps: list[Step] = []
    if "log_directory" in unwell or "event_log_writable" in unwell or "telemetry_store" in unwell:
        steps += _folders(config)
    if "file_modes" in unwell or "keys_present" in unwell:
        steps += _modes(config, only_key="file_modes" not in unwell)
    if "telemetry_store" in unwell:
        steps += _quarantines(config)
    if "telemetry_store" in checked:
        steps += _wal(config)
    return steps


def _folders(config: Config) -> Iterator[Step]:
    settings = config.observability
    for folder in (settings.data_dir, settings.log_dir):
        if folder is None or _is_there(folder):
            continue
        missing = [path for path in (folder, *folder.parents) if not _is_there(path)]
        if _owner(missing[-1].parent) not in (None, os.geteuid()):  # a node of that user could not write there
            continue
        undo = f"rmdir {shlex.join(map(str, missing))}"
        yield Step("log_directory", f"make {folder}, mode 0700", undo, partial(make_private_dir, folder))


def _is_there(path: Path) -> bool:
    """Tells whether there is something, a link that leads nowhere too; also where that cannot be seen."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:  # gone since it was looked at, or in a folder that we may not enter
        return None


def _modes(config: Config, *, only_key: bool) -> Iterator[Step]:
    for item in deviations_of(config)[1]:
        if item.mode == item.expected or (only_key and Path(item.path).name != PRIVATE_FILE):
            continue
        try:
            status = os.lstat(item.path)
        except OSError:  # gone since it was looked at
            continue
        if _is_ours(item, status):
            what = f"set the mode of {item.path} from {item.mode} to {item.expected}"
            undo = f"chmod {item.mode} {shlex.quote(item.path)}"
            yield Step("file_modes", what, undo, partial(_set_mode, item, status))


def _is_ours(item: Deviation, status: os.stat_result) -> bool:
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return False
    me = os.geteuid()
    return status.st_uid == me or (me == 0 and item.uid is None)


def _set_mode(item: Deviation, planned: os.stat_result) -> None:
    # Opened without following a link and without reading, so that what was looked at is what is changed.
    fd = os.open(item.path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if _which(status) != _which(planned) or not _is_ours(item, status):
            raise OSError(errno.ESTALE, "it is another file than when the plan was made")
        if hasattr(os, "O_PATH"):
            Path(f"/proc/self/fd/{fd}").chmod(int(item.expected, 8))
        else:
            os.fchmod(fd, int(item.expected, 8))
    finally:
        os.close(fd)


def _which(status: os.stat_result) -> tuple[int, int, int]:
    """Returns what tells one file from another; a number is used again, by a link too."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def _quarantines(config: Config) -> Iterator[Step]:
    store = (config.observability.data_dir or Path()) / DATABASE
    if _owner(store) != os.geteuid():  # without a store of ours what was moved aside may be all that there is
        return
    for path in quarantined(store):
        if _MOVED_ASIDE.fullmatch(path.name) is None or _owner(path) != os.geteuid():
            continue
        parts = [part for ending in _SIDECARS if _is_there(part := path.with_name(path.name + ending))]
        size = sum(part.lstat().st_size for part in parts)
        what = f"remove {path} ({size / 1e6:.1f} MB): what of it was not taken over is lost"
        undo = "it cannot be undone: copy the file first if it is still to be looked at"
        yield Step("telemetry_store", what, undo, partial(_remove, parts))


def _remove(parts: list[Path]) -> None:
    for part in parts:
        if part.is_dir() and not part.is_symlink():  # it stood in the database's place
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def _wal(config: Config) -> Iterator[Step]:
    """Yields a checkpoint, where a killed node left a WAL; one that runs makes its own."""
    data_dir = config.observability.data_dir
    if data_dir is None:
        return
    wal = data_dir / f"{DATABASE}-wal"
    try:
        status = wal.lstat()
    except OSError:  # none, or not ours to look at
        return
    # Root would leave files behind that the node's own user cannot open.
    if status.st_size < _LARGE_WAL_BYTES or status.st_uid != os.geteuid():
        return
    if any(is_locked(box) for box in boxes_in(data_dir)):  # of a process that lives
        return
    what = f"move {wal} ({status.st_size / 1e6:.1f} MB) into the database"
    yield Step("telemetry_store", what, "nothing to undo: the database says the same", partial(_checkpoint, data_dir))


def _checkpoint(data_dir: Path) -> None:
    path = data_dir / DATABASE
    lock = StoreLock(data_dir)
    lock.acquire()
    try:
        # Not as the store opens it, which would bring it to the newest schema: that is not in the plan.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as connection:
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    finally:
        lock.release()
    if is_busy:
        raise OSError(errno.EBUSY, "another process reads the database: not all was moved")
