"""What the doctor may mend by itself: few things, each of which can be told beforehand and harms nothing.

    plan = plan_repairs(config, results)
    outcomes = [step.run() for step in plan]

Guarantees:
    - Nothing is given to others that they did not have: modes only ever become those that files were made with.
    - A link is not followed, and what belongs to another user is left alone.
    - A step that fails is told and keeps no other from being taken.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hearthnet.checks.modes import Deviation, deviations_of
from hearthnet.config import Config
from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import HearthNetError
from hearthnet.files import make_private_dir
from hearthnet.forensics.box import boxes_in, is_locked
from hearthnet.identity.keys import PRIVATE_FILE
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE

__all__ = ["Outcome", "Step", "plan_repairs"]

_LARGE_WAL_BYTES: Final = 1_000_000  # a clean stop leaves none; less is not worth the writing
_SIDECARS: Final = ("", "-wal", "-shm")


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
        if folder is not None and not folder.exists():
            yield Step(
                "log_directory", f"make {folder}, mode 0700", f"rmdir {folder}", partial(make_private_dir, folder)
            )


def _modes(config: Config, *, only_key: bool) -> Iterator[Step]:
    for item in deviations_of(config)[1]:
        if item.mode == item.expected or (only_key and Path(item.path).name != PRIVATE_FILE):
            continue
        if not _is_mine(item.path):
            continue
        what = f"set the mode of {item.path} from {item.mode} to {item.expected}"
        yield Step("file_modes", what, f"chmod {item.mode} {item.path}", partial(_set_mode, item))


def _is_mine(path: str) -> bool:
    me = os.geteuid()
    try:
        return me in (0, os.lstat(path).st_uid)
    except OSError:  # gone since it was looked at
        return False


def _set_mode(item: Deviation) -> None:
    # Opened without following links, so that what was checked is what is changed.
    fd = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if _readable(item) else -1
    if fd < 0:
        os.chmod(item.path, int(item.expected, 8))  # noqa: PTH101  # ours, and we may not read it
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            os.fchmod(fd, int(item.expected, 8))
    finally:
        os.close(fd)


def _readable(item: Deviation) -> bool:
    return os.geteuid() == 0 or bool(int(item.mode, 8) & 0o400)


def _quarantines(config: Config) -> Iterator[Step]:
    for path in quarantined((config.observability.data_dir or Path()) / DATABASE):
        parts = [part for ending in _SIDECARS if (part := path.with_name(path.name + ending)).exists()]
        size = sum(part.stat().st_size for part in parts if part.is_file())
        what = f"remove {path} ({size / 1e6:.1f} MB), of which all that could be read was taken over"
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
    wal = None if data_dir is None else data_dir / f"{DATABASE}-wal"
    if data_dir is None or wal is None or not wal.exists() or wal.stat().st_size < _LARGE_WAL_BYTES:
        return
    if any(is_locked(box) for box in boxes_in(data_dir)):  # of a process that lives
        return
    what = f"move {wal} ({wal.stat().st_size / 1e6:.1f} MB) into the database"
    yield Step("telemetry_store", what, "nothing to undo: the database says the same", partial(_checkpoint, data_dir))


def _checkpoint(data_dir: Path) -> None:
    lock = StoreLock(data_dir)
    lock.acquire()
    try:
        with closing(open_database(data_dir / DATABASE, TELEMETRY)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        lock.release()
