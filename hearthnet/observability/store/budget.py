"""The shares of `max_disk_mb`: one budget for database, WAL, boxes and JSON logs together.

    database 1/2 · WAL 1/16, and up to 1/4 while a reader pins it · boxes 3/32 · the rest: logs and a quarantine

With the default of 256 MB: 128, 16 (64), 24, 40.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hearthnet.forensics.box import ENTRIES, PROGRAM_ENTRIES
from hearthnet.observability.records.box_file import Sizes

__all__ = ["MB", "PAGE_BYTES", "Budget", "disk_bytes", "free_bytes"]

MB: Final = 1_000_000
PAGE_BYTES: Final = 4_096
_PROGRAMS: Final = 16
_MAX_FLOOR_SHARE: Final = 0.05  # of the file system: the default floor must not rule out a small disk


class Budget:
    """The bounds in bytes that follow from `max_disk_mb`.

    Attributes:
        database: of telemetry.db.
        wal: of its WAL.
        wal_pinned: of its WAL while a reader keeps it from being reused.
        boxes: of all boxes.
        rest: of the JSON logs and a quarantined database.
    """

    __slots__ = ("boxes", "database", "rest", "total", "wal", "wal_pinned")

    def __init__(self, max_disk_mb: int) -> None:
        self.total = max_disk_mb * MB
        self.database = self.total // 2
        self.wal = self.total // 16
        self.wal_pinned = self.total // 4
        self.boxes = self.total * 3 // 32
        self.rest = self.total - self.database - self.wal_pinned - self.boxes

    @property
    def pages(self) -> int:
        """The database's ceiling in pages."""
        return self.database // PAGE_BYTES

    @property
    def quarantine(self) -> int:
        """The size up to which a quarantined database is kept; the logs get the rest."""
        return self.rest * 3 // 4

    @property
    def program_boxes(self) -> int:
        """The bytes of the boxes of all programs that are no node: of fifteen beside a node, or of sixteen."""
        return self.boxes // 6

    def node_box(self, taken: int = 0) -> Sizes:
        """Returns the sizes of a node's box, where those of other programs take `taken` bytes already."""
        return _sizes(self.boxes - max(self.program_boxes, min(taken, self.boxes // 2)), ENTRIES)

    def program_box(self) -> Sizes:
        """Returns the sizes of the box of every other process."""
        return _sizes(self.program_boxes // _PROGRAMS, PROGRAM_ENTRIES)


def _sizes(total: int, entries: int) -> Sizes:
    rings = total - Sizes(0, 0, entries).total
    return Sizes(rings * 4 // 5, rings // 5, entries)


def free_bytes(directory: Path, floor: int) -> tuple[int, int]:
    """Returns the free bytes of the file system of `directory`, and how many of them must stay free.

    Raises:
        OSError: raised when the folder does not exist.
    """
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize, min(floor, int(status.f_blocks * status.f_frsize * _MAX_FLOOR_SHARE))


def disk_bytes(data_dir: Path | None, log_dir: Path | None) -> dict[str, int]:
    """Returns the bytes of telemetry's files by part: database, wal, box, quarantine, logs."""
    sizes = dict.fromkeys(("database", "wal", "box", "quarantine", "logs"), 0)
    for file in data_dir.glob("telemetry.*") if data_dir is not None else ():
        sizes[_part(file.name)] += _allocated(file)
    for file in log_dir.glob("*.log") if log_dir is not None else ():
        sizes["logs"] += _allocated(file)
    return sizes


def _part(name: str) -> str:
    if ".corrupt-" in name:
        return "quarantine"
    if name.endswith((".box", ".box2", ".fault")):  # both outlive a process that is killed
        return "box"
    return "wal" if name.endswith(("-wal", "-shm")) else "database"


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed since it was listed
        return 0
