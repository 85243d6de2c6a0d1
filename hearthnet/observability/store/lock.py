"""The lock of the one process that writes a store. It ends with the process, whatever ends that."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from hearthnet.errors import StoreError
from hearthnet.files import make_private_dir

__all__ = ["LOCK_FILE", "StoreInUseError", "StoreLock"]

LOCK_FILE: Final = "telemetry.lock"


class StoreInUseError(StoreError):
    """Raised when another process writes the store."""


class StoreLock:
    """An exclusive lock on the store in a directory, held until `release`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._fd = -1

    def acquire(self) -> None:
        """Makes this the one process that writes the store; once more where somebody removed the lock's file.

        Raises:
            StoreInUseError: raised when another process does already.
            StoreError: raised when the directory cannot be made or written.
        """
        if self._is_in_place():
            return
        self.release()
        try:
            make_private_dir(self._path.parent)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise StoreInUseError(
                f"another process writes the telemetry in {self._path.parent}",
                hint="it takes in what this one records when this one has ended",
            ) from error
        except OSError as error:
            self.release()
            raise StoreError(f"{self._path.parent} cannot be written: {error.strerror}") from error

    def _is_in_place(self) -> bool:
        if self._fd < 0:
            return False
        held = os.fstat(self._fd)
        try:
            there = self._path.stat()
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
