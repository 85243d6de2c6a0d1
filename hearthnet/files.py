"""Private files: folders of mode 0700, files of mode 0600, replaced atomically."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["make_private_dir", "replace_private"]


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
