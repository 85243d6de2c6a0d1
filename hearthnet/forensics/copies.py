"""A private copy of a database and its WAL, which may be written to while it is copied.

A page that moves from the WAL into the database meanwhile is in both copies, for the WAL is copied second, and SQLite
takes it from the WAL. What is appended to the WAL meanwhile is in the copy as far as it is whole. Only when the WAL
begins anew in between may the copies not belong together: then they are made once more.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from hearthnet.forensics.looking import is_file

__all__ = ["WITHOUT_WAL", "copied"]

_TRIES: Final = 5  # a WAL begins anew every few thousand records: one copy falls into that at most, in all likelihood
_WAL_HEAD_BYTES: Final = 32
WITHOUT_WAL: Final = "read in place, without its WAL"


@contextmanager
def copied(path: Path, wal: Path) -> Iterator[tuple[str, str]]:
    """Gives the URI of a copy and what should be known of it; where there is no room for one, that of the file itself.

    Raises:
        OSError: raised when the file cannot be read.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hearthnet-autopsy-"))
            copy = Path(folder) / "copy.db"
            note = "" if _copy(path, wal, copy) else "it was written to while it was copied"
            uri = copy.as_uri()
        except OSError as error:
            note = f"it could not be copied ({error.strerror or error}): {WITHOUT_WAL}"
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        yield uri, note


def _copy(path: Path, wal: Path, copy: Path) -> bool:
    """Copies both; returns whether the copies belong together."""
    copied_wal = copy.with_name(f"{copy.name}-wal")
    for _ in range(_TRIES):
        before = _state(path, wal)
        shutil.copyfile(path, copy)
        copied_wal.unlink(missing_ok=True)
        if is_file(wal):
            shutil.copyfile(wal, copied_wal)
        if _state(path, wal) == before:
            return True
    return False


def _state(path: Path, wal: Path) -> tuple[object, ...]:
    """Returns the head of the WAL, another each time that it begins anew; without one, the file's size and time."""
    if is_file(wal):
        with suppress(FileNotFoundError), wal.open("rb") as file:
            return (file.read(_WAL_HEAD_BYTES),)
    status = path.stat()
    return status.st_size, status.st_mtime_ns
