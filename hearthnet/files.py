"""Private files: folders of mode 0700, files of mode 0600, replaced atomically; and the mount that a file is on."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Mount", "make_private_dir", "mount_of", "replace_private"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system: where, and its type, such as `ext4`."""

    point: Path
    kind: str


def mount_of(path: Path, table: Path = _MOUNTS) -> Mount | None:
    """Returns the mount that `path` is on: the deepest, and of those at one point the last, which hides the others.

    A bind mount has the device number of the file system that it is part of, so that number does not tell.
    None if the system has no table of mounts.
    """
    try:
        lines = table.read_bytes().splitlines()
    except OSError:  # not Linux
        return None
    wanted, best = path.resolve(), None
    for line in lines:
        before, _, behind = line.partition(b" - ")
        raw = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), before.split()[4])  # a space is \040 there
        point = Path(os.fsdecode(raw))
        is_deeper = best is None or len(point.parts) >= len(best.point.parts)
        if is_deeper and wanted.is_relative_to(point):
            best = Mount(point, os.fsdecode(behind.split()[0]))
    return best


def make_private_dir(directory: Path) -> None:
    """Creates `directory` and missing parents, each with mode 0700; existing ones stay unchanged."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def replace_private(path: Path, content: bytes, *, is_synced: bool = True) -> None:
    """Writes a file of mode 0600 atomically: after a crash it has the old content or the new one.

    Without syncing it is faster, but after a power loss the file may be empty or, on some file systems, damaged.

    Raises:
        OSError: raised when the file cannot be written; the old content is then untouched.
    """
    make_private_dir(path.parent)
    import tempfile  # late: it imports a dozen modules

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp sets mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if is_synced:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
