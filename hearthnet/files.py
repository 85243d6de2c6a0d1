"""Files that nobody else may read: folders of mode 0700, files of mode 0600, replaced whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["make_private_dir", "replace_private"]


def make_private_dir(directory: Path) -> None:
    """Makes `directory` and the parents that are missing, each with mode 0700; what is there stays as it is."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def replace_private(path: Path, content: bytes, *, is_synced: bool = True) -> None:
    """Writes a file of mode 0600 atomically: after a crash there is the old one or the new one.

    Not synced, it is written faster, and after a power loss it may be empty or, on some file systems, damaged.

    Raises:
        OSError: raised when it cannot be written; the old one is then untouched.
    """
    make_private_dir(path.parent)
    import tempfile  # late: it brings a dozen modules along

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp makes it 0600
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
