"""Keeps the database within its bounds, and disk space free for the rest of the machine.

The file may grow to its ceiling. When the disk is full, or growing would use the space to be kept free, the file must
not grow at all: new rows then replace the oldest, in batches that the reserved WAL can hold.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import aiosqlite

from hearthnet.observability.store.budget import PAGE_BYTES, Budget, free_bytes

__all__ = ["PAGES", "DiskQuota", "pages_for"]

PAGES: Final = "SELECT page_count, freelist_count FROM pragma_page_count(), pragma_freelist_count()"
_REFUSAL_S: Final = 60.0  # how long a disk that refused space is not asked again
_TIGHT_BATCH_ROWS: Final = 200
_SLACK_PAGES: Final = 16  # for page splits, the gaps, the header
_GRANT_PAGES: Final = 512  # 2 MB: what a probe asks for beyond the present need
_GRANT_S: Final = 10.0  # how long a successful probe counts: other programs fill the disk, too
_COMFORT_BYTES: Final = 8_000_000  # above the floor before the file may grow again, against flapping


def pages_for(row_bytes: int) -> int:
    """Returns the highest number of pages that so many bytes of rows take."""
    return row_bytes * 3 // 2 // PAGE_BYTES + _SLACK_PAGES


class DiskQuota:
    """The disk space of the database at `path`.

    Attributes:
        is_tight: whether the file must not grow.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._ceiling = budget.pages
        self.is_tight = False
        self._refused_until = 0.0
        self._may_grow = False
        self._granted_pages = 0
        self._granted_until = 0.0
        self._wal = path.with_name(f"{path.name}-wal")
        self._identity: list[tuple[int, int]] = []
        self._io: Path | None = None  # I/O counters of the thread that writes

    async def prepare(self, db: aiosqlite.Connection) -> None:
        """Sets the ceiling, and remembers the file's identity and the thread that writes it."""
        await db.execute(f"PRAGMA max_page_count = {self._ceiling:d}")
        self._identity = self._identities()
        await db.create_function("hearthnet_thread", 0, threading.get_native_id)
        ((thread,),) = await db.execute_fetchall("SELECT hearthnet_thread()")
        self._io = Path(f"/proc/self/task/{thread}/io")

    def is_in_place(self) -> bool:
        """Returns True if database and WAL are still the files that are open: others would never see a write."""
        return self._identities() == self._identity

    def _identities(self) -> list[tuple[int, int]]:
        """Returns device and inode of database and WAL, where they exist."""
        found = []
        for path in (self._path, self._wal):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((status.st_dev, status.st_ino))
        return found

    def check_free(self, floor: int) -> bool:
        """Checks the disk; returns True if less than `floor` bytes, or its share of a small disk, are free."""
        try:
            free, floor = free_bytes(self._path.parent, floor)
        except OSError:  # the folder is gone: the next flush reports it
            return False
        if free < floor:
            self.is_tight = True
        elif free > floor + min(_COMFORT_BYTES, floor) and time.monotonic() >= self._refused_until:
            self.is_tight = False
        return free < floor

    def batch_rows(self, usual: int) -> int:
        """Returns the highest number of rows in a transaction."""
        return _TIGHT_BATCH_ROWS if self.is_tight else usual

    async def is_short(self, db: aiosqlite.Connection, row_bytes: int) -> bool:
        """Returns True if so many bytes of rows would make the file larger than it may be."""
        needed = pages_for(row_bytes)
        ((pages, free),) = await db.execute_fetchall(PAGES)
        self._may_grow = free < needed
        if self._may_grow and not self.is_tight and not self._can_grow(pages + needed - free, needed - free):
            self.forbid_growth()
        limit = pages if self.is_tight else self._ceiling
        return bool(free + max(0, limit - pages) < needed)

    def _can_grow(self, pages: int, more: int) -> bool:
        """Returns True if the disk grants `more` pages, which make `pages` in all; asks for a little beyond at once.

        Space that the disk reports as free may be reserved, or beyond a quota. A probe makes a file: a full ring, whose
        file keeps its size, would make one per commit.
        """
        now = time.monotonic()
        if pages <= self._granted_pages and now < self._granted_until:
            return True
        if self._grants(more + _GRANT_PAGES):
            self._granted_pages, self._granted_until = pages + _GRANT_PAGES, now + _GRANT_S
            return True
        return self._grants(more)

    def _grants(self, pages: int) -> bool:
        try:
            with tempfile.TemporaryFile(dir=self._path.parent) as probe:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(probe.fileno(), 0, pages * PAGE_BYTES)
        except OSError:
            return False
        return True

    async def has_grown(self, db: aiosqlite.Connection) -> bool:
        """Returns True if the database is larger than its file: pages in the WAL have no space in the file yet.

        They must get it now: if the disk were full at the next checkpoint, nothing could be stored any more.
        """
        if not self._may_grow:
            return False
        ((pages, _),) = await db.execute_fetchall(PAGES)
        return bool(pages * PAGE_BYTES > self._path.stat().st_size)

    def forbid_growth(self) -> None:
        """Keeps the file from growing for a while: the disk refused space, whatever it reports as free (a quota)."""
        self.is_tight = True
        self._refused_until = time.monotonic() + _REFUSAL_S

    def written_bytes(self) -> int | None:
        """Returns the bytes that the writing thread has sent to the disk; None where the system does not count."""
        if self._io is None:
            return None
        try:
            for line in self._io.read_text("ascii").splitlines():
                if line.startswith("write_bytes: "):
                    return int(line.partition(" ")[2])
        except OSError:
            return None  # not Linux, or not permitted
        return None
