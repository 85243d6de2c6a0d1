"""What the doctor may mend by itself: few things, each of which can be told beforehand and harms nothing.

    plan = plan_repairs(config, results)
    outcomes = [step.run() for step in plan]

Guarantees:
    - Each step can be undone, and says how: nothing is removed.
    - Nothing is given to others that they did not have: modes only ever become those that files were made with.
    - A link is not followed, what has another name elsewhere (a hard link) and what belongs to another user is left
      alone; root mends what is of the owner of its folder, and makes nothing in another's.
    - A step that fails is told and keeps no other from being taken.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hearthnet.checks.modes import Deviation, deviations_of, owner_of
from hearthnet.config import Config
from hearthnet.files import make_private_dir
from hearthnet.identity.keys import PRIVATE_FILE

__all__ = ["Outcome", "Step", "plan_repairs"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to mend.

    Attributes:
        check: whose finding it mends.
        what: what changes, from and to.
        undo: the command that puts it back.
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
            return Outcome(self, error.strerror or str(error))
        return Outcome(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step; `error` is None where it succeeded."""

    step: Step
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome with the keys of the JSON output."""
        return {**self.step.as_dict(), "ok": not self.error, "error": self.error}


def plan_repairs(config: Config, unwell: Collection[str]) -> list[Step]:
    """Returns the steps that can be taken, in their order.

    Args:
        config: the node's settings, paths resolved.
        unwell: the checks that failed or warned.
    """
    steps: list[Step] = []
    if "log_directory" in unwell or "event_log_writable" in unwell or "telemetry_store" in unwell:
        steps += _folders(config)
    if "file_modes" in unwell or "keys_present" in unwell:
        steps += _modes(config, only_key="file_modes" not in unwell)
    return steps


def _folders(config: Config) -> Iterator[Step]:
    settings = config.observability
    for folder in (settings.data_dir, settings.log_dir):
        if folder is None or _is_there(folder):
            continue
        missing = [path for path in (folder, *folder.parents) if not _is_there(path)]
        if owner_of(missing[-1].parent) not in (None, os.geteuid()):  # a node of that user could not write there
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
