"""Things that may be at a name of a file of ours, and are no files."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import chdir
from pathlib import Path

STRANGE = ("pipe", "socket", "folder", "device", "link to a pipe", "link to a folder", "link to a device that is full")


def plant(path: Path, kind: str) -> Path:
    """Puts one of `STRANGE`, or a `file` or a `link to nothing`, in the place of whatever is at `path`; returns it."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    what, _, target = kind.partition("link to ")
    if target:
        path.symlink_to(_target(path, target))
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as made, chdir(path.parent):  # a longer path would be refused
            made.bind(path.name)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to(os.devnull)  # to make one takes more rights than a test may have
    else:
        path.write_bytes(b"there")
    return path


def _target(path: Path, kind: str) -> Path:
    if kind == "nothing":
        return path.parent / "no such folder" / "file"
    if kind == "a device that is full":
        return Path("/dev/full")
    return plant(Path(tempfile.mkdtemp(dir=path.parent.parent)) / "target", kind.removeprefix("a "))
