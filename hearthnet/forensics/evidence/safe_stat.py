"""File checks that never block and never raise, whatever the path is: a pipe, a device, a closed folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hearthnet.files import open_file

__all__ = ["is_file", "is_folder", "listed", "why_unreadable"]


def is_file(path: Path) -> bool:
    """Returns True for a regular file or a link to one; opening anything else may block forever."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Returns True for a folder or a link to one."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # missing, in a folder that may not be entered, or an invalid name
        return 0


def listed(folder: Path, pattern: str) -> list[Path]:
    """Returns the sorted paths in a folder that match a pattern; none if it cannot be listed."""
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


def why_unreadable(path: Path) -> str:
    """Returns why a file or folder cannot be read; empty if it can be, or does not exist."""
    try:
        if is_folder(path):
            with os.scandir(path) as entries:
                next(entries, None)
        elif is_file(path):
            with open_file(path):
                pass
        else:
            path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
