"""Keeps the database within its bounds, and space free for the machine.

The file may grow to its ceiling. When the disk is full, or what is to be left to the machine would be touched, it may
not grow at all: then rows are written over the oldest, in batches that the reserved WAL can hold.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import aiosqlite

from hearthnet.observability.budget import Budget, free_bytes

__all__ = ["Room"]

_PAGES: Final = "SELECT page_count, freelist_count FROM pragma_page_count(), pragma_freelist_count()"
_TIGHT_BATCH_ROWS: Final = 200
_PAGE_BYTES: Final = 4_096
_SLACK_PAGES: Final = 16  # for pages that split, the gaps, the header
_COMFORT_BYTES: Final = 8_000_000  # above the floor, before growing is allowed again: no flutter at the edge


class Room:
    """The space of the database at `path`.

    Attributes:
        is_tight: whether the file must not grow.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._ceiling = budget.database // _PAGE_BYTES
        self.is_tight = False
        self._spare_pages = 0
        self._identity = (-1, -1)
        self._io: Path | None = None  # of the thread that writes

    async def prepare(self, db: aiosqlite.Connection) -> None:
        """Sets the ceiling, and remembers which file this is and which thread writes it."""
        await db.execute(f"PRAGMA max_page_count = {self._ceiling:d}")
        status = self._path.stat()
        self._identity = (status.st_dev, status.st_ino)
        await db.create_function("hearthnet_thread", 0, threading.get_native_id)
        ((thread,),) = await db.execute_fetchall("SELECT hearthnet_thread()")
        self._io = Path(f"/proc/self/task/{thread}/io")

    def is_in_place(self) -> bool:
        """Tells whether the path still leads to the file that is open: to any other, nothing would be written."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def look(self, floor: int) -> bool:
        """Looks at the disk; returns whether less than `floor` bytes, or its share of a small disk, are free."""
        try:
            free, floor = free_bytes(self._path.parent, floor)
        except OSError:  # the folder is gone: the next flush tells
            return False
        if free < floor:
            self.is_tight = True
        elif free > floor + min(_COMFORT_BYTES, floor):
            self.is_tight = False
        return free < floor

    def batch_rows(self, usual: int) -> int:
        """Returns how many rows a transaction may have."""
        return _TIGHT_BATCH_ROWS if self.is_tight else usual

    async def is_short(self, db: aiosqlite.Connection, row_bytes: int) -> bool:
        """Tells whether so many bytes of rows would make the file larger than it may be."""
        needed = row_bytes * 3 // 2 // _PAGE_BYTES + _SLACK_PAGES
        # Asked again only when what there was last time may be used up: a trip to the thread each commit would tell.
        self._spare_pages -= needed
        if self._spare_pages < 0 or self.is_tight:
            rows = await db.execute_fetchall(_PAGES)
            ((pages, free),) = rows
            limit = pages if self.is_tight else self._ceiling
            self._spare_pages = free + max(0, limit - pages) - needed
        return self._spare_pages < 0

    def written_bytes(self) -> int | None:
        """Returns the bytes that the writing thread has handed to the disk; None where the system does not count."""
        if self._io is None:
            return None
        try:
            for line in self._io.read_text("ascii").splitlines():
                if line.startswith("write_bytes: "):
                    return int(line.partition(" ")[2])
        except OSError:
            return None  # not Linux, or not allowed
        return None
