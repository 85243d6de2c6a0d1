"""What the store may take on disk: the shares of `max_disk_mb`, and how database and WAL are kept within theirs.

    database 1/2 · WAL 1/16, and up to 1/4 while a reader pins it · boxes 3/32 · the rest: logs and a quarantine

With the default of 256 MB: 128, 16 (64), 24, 40.

The database may grow to its ceiling. When the disk is full, or growing would use the space to be kept free, the file
must not grow at all: new rows then replace the oldest, in batches that the reserved WAL can hold.

SQLite reuses the WAL from its start once all of it is in the database and no reader needs it. A reader in a long
transaction keeps both from happening; then the WAL grows up to its cap, and writing pauses until the reader ends.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, suppress
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hearthnet.database import (
    TELEMETRY,
    connect_read_only,
    foreign_parts,
    made_by,
    parts_of,
    quick_check,
    reason_of,
)
from hearthnet.errors import StoreError
from hearthnet.forensics.box import ENTRIES, PROGRAM_ENTRIES
from hearthnet.observability import metrics
from hearthnet.observability.records.box_file import Sizes
from hearthnet.sidecars import lengthen_shm

if TYPE_CHECKING:
    import aiosqlite

__all__ = [
    "CROWDED",
    "MB",
    "NODE_DUE_BYTES",
    "PAGES",
    "PAGE_BYTES",
    "PROGRAM_DUE_BYTES",
    "Budget",
    "DiskQuota",
    "Wal",
    "damage_in",
    "disk_bytes",
    "foreign_pages",
    "free_bytes",
    "holders",
    "pages_for",
]

MB: Final = 1_000_000
PAGE_BYTES: Final = 4_096
_PROGRAMS: Final = 16
_MAX_FLOOR_SHARE: Final = 0.05  # of the file system: the default floor must not rule out a small disk
PAGES: Final = "SELECT page_count, freelist_count FROM pragma_page_count(), pragma_freelist_count()"
_REFUSAL_S: Final = 60.0  # how long a disk that refused space is not asked again
_TIGHT_BATCH_ROWS: Final = 200
_SLACK_PAGES: Final = 16  # for page splits, the gaps, the header
_GRANT_PAGES: Final = 512  # 2 MB: what a probe asks for beyond the present need
_GRANT_S: Final = 10.0  # how long a successful probe counts: other programs fill the disk, too
_COMFORT_BYTES: Final = 8_000_000  # above the floor before the file may grow again, against flapping
_FRAME_BYTES: Final = 4_096 + 24
# Reserved when the store opens, so that commits go on when the disk is full: the WAL's size between two checkpoints.
NODE_DUE_BYTES: Final = 4_000_000
PROGRAM_DUE_BYTES: Final = 500_000  # what sixteen programs have written between their checkpoints stays within budget
# Written are the row's page, the page of the row it evicts, and a share of the pages above them.
_PAGES_PER_ROW_BYTE: Final = 3
_LEAST_SCALE: Final = 0.3  # the estimate is for the largest rows
_COMMIT_BYTES: Final = 10 * _FRAME_BYTES  # a commit of one row writes so many pages
_MAX_HOLDERS: Final = 5
CROWDED: Final = "the file may not grow, and tables that are not ours take its space"
_CROWDED_S: Final = 60.0  # how long it counts that they do not: to measure it, all pages of our tables are read
_TEST_S: Final = 1.0


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
    if ".corrupt-" in name or ".before-rebuild-" in name:
        return "quarantine"
    if name.endswith((".box", ".box2", ".fault")):  # both outlive a process that is killed
        return "box"
    return "wal" if name.endswith(("-wal", "-shm")) else "database"


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed since it was listed
        return 0


def pages_for(row_bytes: int) -> int:
    """Returns the highest number of pages that so many bytes of rows take."""
    return row_bytes * 3 // 2 // PAGE_BYTES + _SLACK_PAGES


# Without dbstat, which not every build of SQLite has: rather too many than too few.
_ESTIMATES: Final = {
    "traces": "SELECT sum(length(spans) + length(extras) + 500) * 2 FROM traces",
    "logs": "SELECT sum(length(msg) + length(extras) + ifnull(length(exc), 0) + 300) * 2 FROM logs",
}


def foreign_pages(connection: sqlite3.Connection) -> int:
    """Returns the pages that are taken by tables and indexes that are not ours. Reads all pages of our tables.

    Raises:
        sqlite3.Error: raised when the database cannot be read.
    """
    if not any(part.kind in ("table", "index") for part in foreign_parts(parts_of(connection), TELEMETRY)):
        return 0
    ((pages, free),) = connection.execute(PAGES).fetchall()
    try:
        ours = _our_pages(connection)
    except sqlite3.OperationalError:
        found = [size or 0 for sql in _ESTIMATES.values() for (size,) in connection.execute(sql)]
        ours = sum(found) // PAGE_BYTES
    return max(0, int(pages - free - ours))


def _our_pages(connection: sqlite3.Connection) -> int:
    names = [name for kind, name in made_by(TELEMETRY) if kind == "table"]
    own = "SELECT name FROM sqlite_schema WHERE tbl_name = ? AND (type = 'table' OR sql IS NULL)"
    count = "SELECT ifnull(sum(pageno), 0) FROM dbstat WHERE name = ? AND aggregate = TRUE"
    trees = [tree for name in names for tree in connection.execute(own, (name,)).fetchall()]
    sizes = [int(size) for tree in trees for (size,) in connection.execute(count, tree)]
    return sum(sizes) + 1  # the first page is the schema's


class DiskQuota:
    """The disk space of the database at `path`, and whether its files are still those that this process uses.

    Attributes:
        is_tight: whether the file must not grow.
        is_disk_short: whether that is because of the disk, and not because the file is at its ceiling.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._ceiling = budget.pages
        self.is_tight = self.is_disk_short = False
        self._refused_until = 0.0
        self._uncrowded_until = 0.0
        self._may_grow = False
        self._granted_pages = 0
        self._granted_until = 0.0
        # A connection without the -shm of the others does not see what they write, and writes over it.
        self._files = [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm")]
        self._names = [str(file) for file in self._files]
        self._identity: list[tuple[int, int]] = []
        self._sizes: list[int] = []
        self._io: Path | None = None  # I/O counters of the thread that writes

    async def prepare(self, db: aiosqlite.Connection) -> None:
        """Sets the ceiling, and remembers the file's identity and the thread that writes it."""
        await db.execute(f"PRAGMA max_page_count = {self._ceiling:d}")
        self._identity, self._sizes = self._state()
        await db.create_function("hearthnet_thread", 0, threading.get_native_id)
        ((thread,),) = await db.execute_fetchall("SELECT hearthnet_thread()")
        self._io = Path(f"/proc/self/task/{thread}/io")

    def is_whole(self) -> bool | None:
        """Returns whether database, WAL and -shm are as large as when they were last seen.

        None: they are not the files that are open, so others would never see a write. False: one was cut, or SQLite has
        made it smaller. A -shm that was cut is lengthened at once, before SQLite touches the missing part: the kernel
        would end the process (SIGBUS).
        """
        identity, sizes = self._state()
        if identity != self._identity:
            return None
        if all(map(ge, sizes, self._sizes)):
            self._sizes = sizes
            return True
        lengthen_shm(self._files[-1], max(self._sizes[2:], default=0))
        return False

    def identity(self) -> tuple[int, int]:
        """Returns device and inode of the database that is open."""
        return self._identity[0]

    def note_growth(self) -> None:
        """Remembers the present sizes, where they are larger: a file may be cut at any moment."""
        self._sizes = list(map(max, self._state()[1], self._sizes))

    def note_sizes(self) -> None:
        """Takes the present sizes for those of whole files; -shm never shrinks."""
        sizes = self._state()[1]
        self._sizes = [*sizes[:2], *map(max, sizes[2:], self._sizes[2:])]

    def _state(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Returns device and inode, and the size, of database, WAL and -shm, where they exist. 6 us."""
        found, sizes = [], []
        for path in self._names:
            try:
                status = os.stat(path)  # noqa: PTH116  # half the time of Path.stat, and done twice per commit
            except OSError:
                continue
            found.append((status.st_dev, status.st_ino))
            sizes.append(status.st_size)
        return found, sizes

    def is_crowded(self) -> bool:
        """Returns whether tables that are not ours take more than half of the space that the file may have."""
        now = time.monotonic()
        if now < self._uncrowded_until:
            return False
        with suppress(sqlite3.Error, StoreError), closing(connect_read_only(self._path)) as connection:
            if foreign_pages(connection) > self._ceiling // 2:
                return True
        self._uncrowded_until = now + _CROWDED_S
        return False

    def has_foreign_tables(self) -> bool:
        """Returns whether the database has tables that are not ours."""
        with suppress(sqlite3.Error, StoreError), closing(connect_read_only(self._path)) as connection:
            return foreign_pages(connection) > 0
        return False

    def check_free(self, floor: int) -> bool:
        """Checks the disk; returns True if less than `floor` bytes, or its share of a small disk, are free."""
        try:
            free, floor = free_bytes(self._path.parent, floor)
        except OSError:  # the folder is gone: the next flush reports it
            return False
        if free < floor:
            self.is_tight = self.is_disk_short = True
        elif free > floor + min(_COMFORT_BYTES, floor) and time.monotonic() >= self._refused_until:
            self.is_tight = self.is_disk_short = False
        return free < floor

    def batch_rows(self, usual: int) -> int:
        """Returns the highest number of rows in a transaction."""
        return _TIGHT_BATCH_ROWS if self.is_tight else usual

    def fits(self, free_pages: int, row_bytes: int) -> bool:
        """Returns True if so many bytes of rows fit into pages that are free already: the file need not grow."""
        self._may_grow = free_pages < pages_for(row_bytes)
        return not self._may_grow

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
        """Keeps the file from growing for a while: it was refused space, whatever the disk says is free (a quota)."""
        self.is_tight = True
        self.is_disk_short = not self._grants(_GRANT_PAGES)
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


def damage_in(path: Path) -> str | None:
    """Returns the damage that a new connection finds in the database at `path`, or None. 5 ms for 10,000 rows."""
    try:
        if path.stat().st_size < PAGE_BYTES:  # to SQLite it is a new one, whose WAL it removes
            return "the file is empty"
        with closing(connect_read_only(path)) as connection:
            if connection.execute("PRAGMA application_id").fetchall() != [(TELEMETRY.application_id,)]:
                return "it is not a telemetry database"
            found = quick_check(connection, _TEST_S)
    except (OSError, StoreError):  # gone, or not readable now: the next commit fails, and has the reason
        return None
    except sqlite3.Error as error:
        return str(error) if reason_of(error) in ("corrupt", "io") else None
    return None if found in (None, "ok") else found


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
