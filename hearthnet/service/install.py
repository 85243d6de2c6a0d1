"""What to write, replace and remove so that a service is installed or gone: planned first, carried out when agreed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hearthnet.errors import HearthNetError
from hearthnet.files import NotRegularError, make_private_dir, read_regular, replace_readable
from hearthnet.service.layout import Found
from hearthnet.service.units import DOCTOR, NODE, TIMER, is_as_written

__all__ = ["UNITS", "Change", "State", "carry_out", "make_folders", "plan"]

UNITS: Final = (NODE, DOCTOR, TIMER)
State = Literal["new", "same", "changed", "edited", "absent", "remove"]


@dataclass(frozen=True, slots=True)
class Change:
    """The change of a unit's file.

    Attributes:
        path: of the file.
        before: its text; None: there is none.
        after: its text; None: the file is to be removed, or stay absent.
    """

    path: Path
    before: str | None
    after: str | None

    @property
    def state(self) -> State:
        """What it comes to; `edited` is a file that a person has changed or made, and that would be lost."""
        if self.before == self.after:
            return "absent" if self.after is None else "same"
        if self.before is None:
            return "new"
        if not is_as_written(self.before):
            return "edited"
        return "remove" if self.after is None else "changed"

    @property
    def is_due(self) -> bool:
        """Whether anything is to be done."""
        return self.state not in ("same", "absent")


def plan(folder: Path, wanted: Mapping[str, str]) -> list[Change]:
    """Returns a change for each unit; one that is not wanted is removed.

    Raises:
        OSError: raised when a file cannot be read.
    """
    return [Change(folder / name, _text(folder / name), wanted.get(name)) for name in UNITS]


def _text(path: Path) -> str | None:
    try:
        return read_regular(path).decode("utf-8", "replace")
    except FileNotFoundError:
        # A link to nothing is an administrator's doing as well.
        return "" if path.is_symlink() else None
    except NotRegularError:  # masked: a link to /dev/null
        return ""


def carry_out(changes: Sequence[Change], *, may_replace_edited: bool) -> list[Path]:
    """Writes and removes the files; returns the copies that were made of edited ones.

    Raises:
        HearthNetError: raised before anything is changed when an edited file is in the way.
        OSError: raised when a file cannot be written; those before it are.
    """
    edited = [change.path for change in changes if change.state == "edited"]
    if edited and not may_replace_edited:
        raise HearthNetError(
            f"edited by hand, and left as it is: {', '.join(map(str, edited))}",
            hint="--force replaces it and keeps a copy; changes of yours belong in: systemctl edit hearthnet",
        )
    copies = [_copied(change.path) for change in changes if change.state == "edited"]
    for change in changes:
        if not change.is_due:
            continue
        if change.after is None:
            change.path.unlink(missing_ok=True)
        else:
            make_private_dir(change.path.parent)
            replace_readable(change.path, change.after.encode())
    return copies


def _copied(path: Path) -> Path:
    """Moves a file aside, to a name that systemd does not read."""
    copy = path.with_name(f"{path.name}.edited-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    path.rename(copy)
    return copy


def make_folders(found: Found) -> None:
    """Creates the folders that the node writes to, as their user: a service cannot, where all else is read-only.

    Raises:
        HearthNetError: raised when the user may not create one.
        OSError: raised when one cannot be created.
    """
    account = found.account
    for folder in found.layout.folders:
        if os.geteuid() != 0:
            make_private_dir(folder)
            continue
        # As the user itself: a link in its home must not lead root to a folder that is not the user's.
        done = subprocess.run(  # noqa: S603  # a fixed program
            ["/bin/mkdir", "-p", "-m", "700", "--", str(folder)],
            user=account.pw_uid, group=account.pw_gid, extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
            umask=0o077, cwd="/", env={"PATH": os.defpath}, stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise HearthNetError(f"{account.pw_name} cannot create {folder}", hint="create it, as that user, first")
