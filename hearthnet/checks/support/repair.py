"""Safe repairs for `hearthnet doctor --fix`: a few, each shown beforehand.

    plan = plan_repairs(config, results)
    outcomes = [step.run() for step in plan]

Guarantees:
    - Each step can be undone and says how; nothing is removed.
    - No other user gains access: modes are only set to those that files were created with.
    - Links are not followed. Hard-linked files and those of other users are left alone; root repairs files that
      belong to the owner of their folder, gives that owner what root left there, and creates nothing in another
      user's folder.
    - A failed step is reported and does not stop the others.
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
from hearthnet.checks.probes.lock_owner import user_name
from hearthnet.config import Config
from hearthnet.files import make_private_dir
from hearthnet.identity.keys import PRIVATE_FILE

__all__ = ["Outcome", "Step", "plan_repairs"]


@dataclass(frozen=True, slots=True)
class Step:
    """One repair.

    Attributes:
        check: the check whose finding it fixes.
        what: the change, from and to.
        undo: the command that reverts it.
        apply: makes the change.
    """

    check: str
    what: str
    undo: str
    apply: Callable[[], None]

    def as_dict(self) -> dict[str, str]:
        """Returns the step with the keys of the JSON output."""
        return {"check": self.check, "what": self.what, "undo": self.undo}

    def run(self) -> Outcome:
        """Makes the change; an OSError becomes the outcome's error."""
        try:
            self.apply()
        except OSError as error:
            return Outcome(self, error.strerror or str(error))
        return Outcome(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a step; `error` is None if it succeeded."""

    step: Step
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome with the keys of the JSON output."""
        return {**self.step.as_dict(), "ok": not self.error, "error": self.error}


def plan_repairs(config: Config, unhealthy: Collection[str]) -> list[Step]:
    """Returns the possible steps, in order.

    Args:
        config: the node's settings, paths resolved.
        unhealthy: the checks that failed or warned.
    """
    steps: list[Step] = []
    if "log_directory" in unhealthy or "event_log_writable" in unhealthy or "telemetry_store" in unhealthy:
        steps += _folders(config)
    if "file_modes" in unhealthy or "keys_present" in unhealthy:
        steps += _modes(config, only_key="file_modes" not in unhealthy)
        steps += _owners(config, only_key="file_modes" not in unhealthy)
    return steps


def _folders(config: Config) -> Iterator[Step]:
    settings = config.observability
    for folder in (settings.data_dir, settings.log_dir):
        if folder is None or _exists(folder):
            continue
        missing = [path for path in (folder, *folder.parents) if not _exists(path)]
        if owner_of(missing[-1].parent) not in (None, os.geteuid()):  # a node of that user could not write there
            continue
        undo = f"rmdir {shlex.join(map(str, missing))}"
        yield Step("log_directory", f"create {folder}, mode 0700", undo, partial(make_private_dir, folder))


def _exists(path: Path) -> bool:
    """Returns True if the path exists, even as a dangling link, or if that cannot be determined."""
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
        except OSError:  # gone since it was checked
            continue
        if _is_ours(item, status):
            what = f"set the mode of {item.path} from {item.mode} to {item.expected}"
            undo = f"chmod {item.mode} {shlex.quote(item.path)}"
            yield Step("file_modes", what, undo, partial(_set_mode, item, status))


def _owners(config: Config, *, only_key: bool) -> Iterator[Step]:
    """Yields the files that a run with `sudo` left to root in another user's folder; only root can return them."""
    for item in deviations_of(config)[1]:
        if item.uid != 0 or os.geteuid() != 0 or (only_key and Path(item.path).name != PRIVATE_FILE):
            continue
        try:
            status, folder = os.lstat(item.path), Path(item.path).parent.stat()
        except OSError:  # gone since it was checked
            continue
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            what = f"give {item.path} to {user_name(folder.st_uid)}, as its folder; it belongs to root"
            undo = f"chown 0:{status.st_gid} {shlex.quote(item.path)}"
            yield Step("file_modes", what, undo, partial(_give, item, status, folder.st_uid, folder.st_gid))


def _give(item: Deviation, planned: os.stat_result, uid: int, gid: int) -> None:
    # As in `_set_mode`; with the mode first, for the owner might use it in between.
    fd = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if _file_id(status) != _file_id(planned) or status.st_nlink != 1 or status.st_uid != 0:
            raise OSError(errno.ESTALE, "the file was replaced since the plan was made")
        os.fchmod(fd, int(item.expected, 8))
        os.fchown(fd, uid, gid)
    finally:
        os.close(fd)


def _is_ours(item: Deviation, status: os.stat_result) -> bool:
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return False
    me = os.geteuid()
    return status.st_uid == me or (me == 0 and item.uid is None)


def _set_mode(item: Deviation, planned: os.stat_result) -> None:
    # Opened without following a link and without reading, so that the file checked is the file changed.
    fd = os.open(item.path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if _file_id(status) != _file_id(planned) or not _is_ours(item, status):
            raise OSError(errno.ESTALE, "the file was replaced since the plan was made")
        if hasattr(os, "O_PATH"):
            Path(f"/proc/self/fd/{fd}").chmod(int(item.expected, 8))
        else:
            os.fchmod(fd, int(item.expected, 8))
    finally:
        os.close(fd)


def _file_id(status: os.stat_result) -> tuple[int, int, int]:
    """Returns what identifies a file: with its type, since an inode number may be reused, even by a link."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)
