"""Keeps the WAL within its bounds: decides when to checkpoint, and whether another transaction fits.

SQLite reuses the WAL from its start once all of it is in the database and no reader needs it. A reader in a long
transaction keeps both from happening; then the WAL grows up to its cap, and writing pauses until the reader ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiosqlite

from hearthnet.observability import metrics
from hearthnet.observability.store.budget import Budget

__all__ = ["NODE_DUE_BYTES", "PROGRAM_DUE_BYTES", "Wal", "holders"]

_FRAME_BYTES: Final = 4_096 + 24
# Reserved when the store opens, so that commits go on when the disk is full: the WAL's size between two checkpoints.
NODE_DUE_BYTES: Final = 4_000_000
PROGRAM_DUE_BYTES: Final = 500_000  # what sixteen programs have written between their checkpoints stays within budget
# Written are the row's page, the page of the row it evicts, and a share of the pages above them.
_PAGES_PER_ROW_BYTE: Final = 3
_LEAST_SCALE: Final = 0.3  # the estimate is for the largest rows
_COMMIT_BYTES: Final = 10 * _FRAME_BYTES  # a commit of one row writes so many pages
_MAX_HOLDERS: Final = 5


class Wal:
    """The WAL of the database at `path`.

    Args:
        path: of the database.
        budget: bounds the WAL.
        due_bytes: how much this process writes to it between two checkpoints.

    Attributes:
        used: bytes of it that hold frames: those of the last checkpoint, and an estimate of those that this process
            has written since.
    """

    def __init__(self, path: Path, budget: Budget, due_bytes: int = NODE_DUE_BYTES) -> None:
        self.path = path.with_name(f"{path.name}-wal")
        self.used = 0
        self._budget = budget
        self._scale = 1.0  # actual growth to estimated growth, lately
        self._reserved = min(NODE_DUE_BYTES, budget.wal // 2)  # of the one file that all processes share
        self._due = min(due_bytes, budget.wal // 2)

    async def prepare(self, db: aiosqlite.Connection) -> None:
        """Configures the connection and reserves the WAL's space; best effort on a full disk."""
        await db.execute("PRAGMA wal_autocheckpoint = 0")
        await db.execute(f"PRAGMA journal_size_limit = {self._budget.wal:d}")
        self._reserve()

    def _reserve(self) -> None:
        # SQLite locks other files, so opening and closing this one beside it is harmless.
        with suppress(OSError):
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, self._reserved)
            finally:
                os.close(fd)

    def size(self) -> int:
        """Returns the file's size in bytes, 0 where there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def add(self, row_bytes: int) -> None:
        """Counts a commit of so many bytes of rows."""
        self.used += _growth(row_bytes)

    async def checkpoint_if_due(self, db: aiosqlite.Connection) -> None:
        """Checkpoints when the WAL has grown enough."""
        if self.used * self._scale >= self._due:
            await self.checkpoint(db)

    async def checkpoint(self, db: aiosqlite.Connection) -> bool:
        """Moves frames that no reader needs into the database; returns True if all of the WAL can be reused."""
        busy, frames, done = await self._checkpoint(db, "PASSIVE")
        if busy:  # another process does it at this moment
            return False
        if self.used:
            self._scale = min(1.0, max(_LEAST_SCALE, frames * _FRAME_BYTES / self.used))
        if frames != done:
            self.used = frames * _FRAME_BYTES
            return False
        if self.size() > self._budget.wal:  # overlapping readers, each of them short, can pin it
            return await self._restart(db)
        self.used = 0
        return True

    async def _restart(self, db: aiosqlite.Connection) -> bool:
        """Waits until no reader uses the WAL, as long as the connection's busy timeout, and truncates it."""
        busy, frames, _ = await self._checkpoint(db, "TRUNCATE")
        self.used = max(0, frames) * _FRAME_BYTES if busy else 0
        if not busy:
            self._reserve()
        return not busy

    async def _checkpoint(self, db: aiosqlite.Connection, mode: str) -> tuple[int, int, int]:
        ((busy, frames, done),) = await db.execute_fetchall(f"PRAGMA wal_checkpoint({mode})")
        metrics.telemetry_fsyncs_total.inc(2)
        return busy, frames, done

    async def has_space(self, db: aiosqlite.Connection, row_bytes: int) -> bool:
        """Returns True if a commit of so many bytes of rows stays within the cap, after a checkpoint if need be."""
        cap = self._budget.wal_pinned
        if self.used + _growth(row_bytes) <= cap:
            return True
        if await self.checkpoint(db) and self.used + _growth(row_bytes) <= cap:
            return True
        return await self._restart(db)


def _growth(row_bytes: int) -> int:
    return row_bytes * _PAGES_PER_ROW_BYTE + _COMMIT_BYTES


def holders(path: Path) -> list[str]:
    """Returns the other processes that have a file open, as `name (pid)`, as far as this system shows them."""
    found: list[str] = []
    wanted = str(path.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid() or len(found) >= _MAX_HOLDERS:
            continue
        with suppress(OSError):  # another user's process, or one that has ended
            if any(str(fd.readlink()) == wanted for fd in (process / "fd").iterdir()):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
    return found
