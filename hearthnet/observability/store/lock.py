"""The lock of the one process that keeps house in a store: recovers, moves aside, purges, rebuilds.

Committing needs none: SQLite's own locks order that. It is released when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hearthnet.errors import StoreError
from hearthnet.files import hint_for, make_private_dir, open_regular

__all__ = ["LOCK_FILE", "StoreInUseError", "StoreLock", "turn_in"]

LOCK_FILE: Final = "telemetry.lock"
_TURN_S: Final = 0.5
_TURN_POLL_S: Final = 0.005


class StoreInUseError(StoreError):
    """Raised when another process keeps house in the store, or records into it while that must not be."""


class StoreLock:
    """An exclusive lock on the store in a directory, held until `release`.

    Args:
        directory: of the store.
        name: of the file: that of who keeps house, or of another task that one process does for all.
    """

    def __init__(self, directory: Path, name: str = LOCK_FILE) -> None:
        self._path = directory / name
        self._fd = -1

    @property
    def is_held(self) -> bool:
        """Whether this process holds it, as far as it knows."""
        return self._fd >= 0

    def acquire(self) -> None:
        """Takes the lock; takes it again if the lock's file was removed meanwhile.

        Raises:
            StoreInUseError: raised when another process holds it.
            StoreError: raised when the directory cannot be created or written.
        """
        if self._is_in_place():
            return
        self.release()
        try:
            make_private_dir(self._path.parent)
            self._fd = open_regular(self._path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise StoreInUseError(
                f"another process keeps house in {self._path.parent}",
                hint="it recovers, purges or rebuilds; try again in a moment",
            ) from error
        except OSError as error:
            self.release()
            place = error.filename or self._path.parent
            raise StoreError(f"{place} cannot be written: {error.strerror}", hint=hint_for(error)) from error

    def _is_in_place(self) -> bool:
        if self._fd < 0:
            return False
        held = os.fstat(self._fd)
        try:
            present = self._path.stat()
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (present.st_dev, present.st_ino)

    def mark(self) -> None:
        """Notes that the house has been kept, for `age_s`."""
        with suppress(OSError):  # the file's time is a hint, no more
            os.utime(self._path)

    def age_s(self) -> float:
        """Returns the seconds since a process last kept house; infinite if none has, or the clock was set back."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return math.inf
        return age if age >= 0 else math.inf

    def release(self) -> None:
        """Releases the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def turn_in(directory: Path) -> Iterator[None]:
    """Makes processes do something short in a directory one after the other, by a lock on the directory itself.

    One that has waited for half a second goes ahead: another may have been stopped in its turn.

    Raises:
        OSError: raised when the directory cannot be made or opened.
    """
    make_private_dir(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ends_at = time.monotonic() + _TURN_S
        while not _is_locked(fd) and time.monotonic() < ends_at:
            time.sleep(_TURN_POLL_S)
        yield
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    """Takes the lock if it is free; a file system without locks counts as one where it always is."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
