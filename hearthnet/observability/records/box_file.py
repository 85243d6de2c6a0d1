"""The file of a black box: its name and sizes, how it is made in full, and how it is written to.

A box gets its name only once it is whole and locked, so no other process takes it for a leftover of a dead one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns, time_ns
from typing import Any, Final

from hearthnet.files import create_private, mount_of, name_new
from hearthnet.forensics import box as layout
from hearthnet.forensics.evidence.kernel import kernel_pid, oom_kills
from hearthnet.forensics.marks import ENTRY_BYTES

__all__ = ["DRAFTS", "BoxFile", "Sizes", "box_path", "draft_of", "make", "new_header"]

DRAFTS: Final = "telemetry.*.box2-new"  # what a process leaves that was killed while it made one
_PAGE: Final = mmap.ALLOCATIONGRANULARITY  # a mapping begins at a multiple of it
_COPY_ON_WRITE: Final = frozenset({"btrfs", "zfs", "bcachefs"})


class Sizes:
    """The sizes of a box.

    Args:
        traces: bytes of the ring of finished traces; rounded down to whole pages, at least one.
        logs: the same of the ring of log records.
        entries: how many traces can be marked as in flight.
    """

    __slots__ = ("entries", "logs", "traces")

    def __init__(self, traces: int, logs: int, entries: int = layout.ENTRIES) -> None:
        self.traces = max(1, traces // _PAGE) * _PAGE
        self.logs = max(1, logs // _PAGE) * _PAGE
        self.entries = entries

    @property
    def total(self) -> int:
        """The size of the whole file."""
        head = layout.HEADER_BYTES + self.entries * ENTRY_BYTES
        return -(-head // _PAGE) * _PAGE + self.traces + self.logs


@dataclass(frozen=True, slots=True)
class BoxFile:
    """An open box file. Its parts are mappings, or `_Written` on a copy-on-write file system.

    Attributes:
        fd: its descriptor, which holds the lock.
        head: the header and the table of traces in flight.
        traces: the ring of traces.
        logs: the ring of log records.
        identity: (device, inode).
    """

    fd: int
    head: Any
    traces: Any
    logs: Any
    identity: tuple[int, int]


class _Written:
    """A part of the file that is written with `pwrite`: on copy-on-write file systems a page may need new space.

    Costs a system call a record; on a full disk the write fails, where a mapping would raise SIGBUS. Has the methods
    of `mmap` that a box uses, with the same errors.
    """

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = os.dup(fd)
        self._start, self._size, self._at = start, size, 0
        self._lock = threading.RLock()  # a signal handler may log while its own thread is here

    def __setitem__(self, where: slice | int, content: bytes | int, /) -> None:
        at = where.start if isinstance(where, slice) else where
        written = bytes([content]) if isinstance(content, int) else content
        # A write under way is over before the part is closed, and its descriptor used for another file.
        with self._lock:
            os.pwrite(self._open_fd(), written, self._start + at)

    def __getitem__(self, where: slice, /) -> bytes:
        first, last, _ = where.indices(self._size)
        with self._lock:
            return os.pread(self._open_fd(), last - first, self._start + first)

    def write(self, content: bytes) -> None:
        with self._lock:
            at = self._at
            if at + len(content) > self._size:
                raise ValueError("data out of range")
            self._at = at + len(content)
            os.pwrite(self._open_fd(), content, self._start + at)

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        with self._lock:
            self._at = at

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError("closed")
        return self._fd

    def __del__(self) -> None:
        self.close()


def new_header(
    role: int, run_id: str, version: str, node_id: str | None, sizes: Sizes, program: str = ""
) -> layout.Header:
    """Returns the header of a new box of this process.

    Args:
        role: `NODE` or `LIBRARY`.
        run_id: of this run.
        version: of hearthnet.
        node_id: of the node; None for another program.
        sizes: of the box.
        program: the file name of the program, such as `cron.py`.
    """
    return layout.Header(
        entries=sizes.entries,
        trace_bytes=sizes.traces,
        log_bytes=sizes.logs,
        role=role,
        pid=os.getpid(),
        process_start=layout.process_start(os.getpid()) or 0,
        started_us=time_ns() // 1_000,
        started_ns=monotonic_ns(),
        run_id=run_id,
        boot_id=layout.this_boot(),
        version=version,
        node_id=node_id,
        page_bytes=_PAGE,
        program=program,
        oom_kills=oom_kills(),
        kernel_pid=kernel_pid(),
    )


def box_path(directory: Path, run_id: str) -> Path:
    """Returns a free path for this process's box.

    The pid's name may be taken: by a container on the same folder, or by the box that this one is to replace.
    """
    stem = f"telemetry.{os.getpid()}"
    number = 1
    path = directory / f"{stem}.box2"
    while os.path.lexists(path):  # also a link to nothing
        path = directory / f"{stem}.{run_id}.{number}.box2"
        number += 1
    return path


def draft_of(path: Path, run_id: str) -> Path:
    """Returns where a file is made that will be named `path`; no other run uses it."""
    return path.with_name(f"{path.name.partition('.box')[0]}.{run_id}.box2-new")


def make(path: Path, header: layout.Header) -> BoxFile:
    """Makes, allocates and locks the file, then names it.

    Raises:
        OSError: raised when it cannot be made in full, or `path` exists; then nothing of it stays.
    """
    draft = draft_of(path, header.run_id)
    fd = create_private(draft)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _allocate(fd, header.total_bytes)
        os.pwrite(fd, header.pack(), 0)
        status = os.fstat(fd)
        part = _Written if _file_system(path) in _COPY_ON_WRITE else _mapped
        made = BoxFile(
            fd,
            part(fd, 0, header.traces_at),
            part(fd, header.traces_at, header.trace_bytes),
            part(fd, header.logs_at, header.log_bytes),
            (status.st_dev, status.st_ino),
        )
        name_new(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        os.close(fd)
        raise
    return made


def _mapped(fd: int, start: int, size: int) -> mmap.mmap:
    return mmap.mmap(fd, size, offset=start)


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    block = bytes(1 << 20)  # macOS has no such call; writing allocates
    for at in range(0, size, len(block)):
        os.pwrite(fd, block[: size - at], at)


def _file_system(path: Path) -> str:
    """Returns the type of the file system that `path` is on; empty if unknown."""
    mount = mount_of(path)
    return "" if mount is None else mount.kind
