"""Looks at files that may be anything: a pipe, a device, a folder that nobody may enter. Never waits, never raises."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_file", "is_folder", "listed", "why_unreadable"]


def is_file(path: Path) -> bool:
    """Tells whether there is a regular file, or a link to one; to open anything else may wait for ever."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Tells whether there is a folder, or a link to one."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # missing, in a folder that we may not enter, or a name that none can have
        return 0


def listed(folder: Path, pattern: str) -> list[Path]:
    """Returns what is in a folder under such a name, sorted; nothing where it cannot be told."""
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


def why_unreadable(path: Path) -> str:
    """Returns why a file or a folder cannot be read; empty if it can, or is not there."""
    try:
        if is_folder(path):
            with os.scandir(path) as entries:
                next(entries, None)
        elif is_file(path):
            with path.open("rb"):
                pass
        else:
            path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
