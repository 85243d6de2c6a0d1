"""The black box: a memory-mapped ring file that keeps the last records and the traces in flight through a kill.

Bytes written into the mapping belong to the kernel at once: they survive SIGKILL, a segfault and an OOM kill without a
system call. They are not synced; for a power cut there is the database. The file is allocated in full when it is made,
so a full disk cannot turn a write into SIGBUS.
Written here because loggers and trace exporters keep pending records in process memory, which a kill destroys.

    trace begins 0.35 us · span opens and closes 0.5 us · trace ends 0.1 us · a record of 400 bytes 1.1 us

Guarantees:
    - Once the box is made, nothing here raises into the program; records that could not be kept are counted.
    - A frame is whole or recognisably torn; an entry in flight is whole or not marked (see `forensics/box.py`).
    - A forked child cannot touch its parent's box: its mapping becomes memory of its own.
Assumes:
    - One process writes a box. Its threads share it: the lock covers three additions; copying is outside it.
    - The file is not truncated while it is mapped. That raises SIGBUS, which cannot be caught.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from operator import itemgetter
from pathlib import Path
from time import monotonic_ns, time_ns
from typing import Any, Final
from zlib import crc32

import orjson

from hearthnet.constants import NO_SLOT
from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.forensics.tables import FRAMES, JSON_LAST
from hearthnet.observability.records.populate_pages import populate_pages
from hearthnet.observability.records.record import LogFields, LogRecord, TraceFields, TraceRecord, safe_text
from hearthnet.observability.records.tracked import tracked

__all__ = ["BlackBox", "Sizes", "box_path", "new_header"]

_FRAME_MAGIC: Final = layout.FRAME_MAGIC
_FRAME_OVERHEAD: Final = layout.FRAME_OVERHEAD
_SPAN_AT: Final = layout.SPAN_AT
_SPAN_MARK_AT: Final = layout.SPAN_MARK_AT
_TRACE_MARK_AT: Final = layout.TRACE_MARK_AT
_pack_entry: Final = layout.ENTRY.pack_into
_pack_span: Final = layout.SPAN.pack_into
_pack_frame: Final = layout.FRAME.pack
# A record's values as a frame has them.
_trace_head: Final = itemgetter(*map(TraceRecord._fields.index, FRAMES["traces"][: -len(JSON_LAST)]))
_trace_json: Final = itemgetter(*map(TraceRecord._fields.index, JSON_LAST))
_log_values: Final = itemgetter(*map(LogRecord._fields.index, FRAMES["logs"]))
_LOG_JSON_AT: Final = FRAMES["logs"].index("extras")
_WORTH_BYTES: Final = 128 * 1024  # to prepare: a few hundred records a second
_COPY_ON_WRITE: Final = frozenset({"btrfs", "zfs", "bcachefs"})


class _Written:
    """Writes with `pwrite`, for copy-on-write file systems, where a mapped page may need space that the disk lacks.

    Costs a system call a record; on a full disk the write fails instead of raising SIGBUS.
    """

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __setitem__(self, where: slice, content: bytes, /) -> None:
        os.pwrite(self._fd, content, where.start)

    def __getitem__(self, where: slice, /) -> bytes:
        return os.pread(self._fd, where.stop - where.start, where.start)

    def __del__(self) -> None:
        os.close(self._fd)


class Sizes:
    """The sizes of a box's rings in bytes.

    Args:
        traces: of the ring of finished traces.
        logs: of the ring of log records.
    """

    __slots__ = ("logs", "traces")

    def __init__(self, traces: int, logs: int) -> None:
        self.traces = traces
        self.logs = logs

    @property
    def total(self) -> int:
        """The size of the whole file."""
        return layout.HEADER_BYTES + layout.ENTRIES * layout.ENTRY_BYTES + self.traces + self.logs


class _Ring:
    """The bounds of a byte ring in the file, and the offset of its next frame."""

    __slots__ = ("at", "end", "lock", "ordinal", "prepared_at", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = self.at = start
        self.end = start + size
        self.ordinal = 0
        self.prepared_at = start
        # Re-entrant: a signal handler may log while its own thread is here.
        self.lock = threading.RLock()


class BlackBox:
    """The box of this process.

    Args:
        path: of the file, which must not exist.
        header: describes this process.

    Attributes:
        path: of the file.
        failures: records that could not be kept.

    Raises:
        OSError: raised when the file cannot be made in full.
    """

    def __init__(self, path: Path, header: layout.Header) -> None:
        self.path = path
        self.header = header
        self.failures = 0
        self._overflow = 0
        self._committed_traces = 0
        self._committed_logs = 0
        self._committed_seq = 0
        self._sampled = 0
        traces_at = layout.HEADER_BYTES + header.entries * layout.ENTRY_BYTES
        self._traces = _Ring(traces_at, header.trace_bytes)
        self._logs = _Ring(traces_at + header.trace_bytes, header.log_bytes)
        self._free = [layout.HEADER_BYTES + number * layout.ENTRY_BYTES for number in reversed(range(header.entries))]
        self._fd, self._map, self._identity = _make(path, header)
        tracked.add(self)

    # --- traces in flight

    def begin(self, trace_id: str, capability: str, started_us: int, started_ns: int) -> int:
        """Marks a trace as in flight; returns the offset of its slot, or `NO_SLOT` if the table is full (counted)."""
        try:
            slot = self._free.pop()
        except IndexError:
            self._overflow += 1
            self._put(layout.OVERFLOW_AT, self._overflow.to_bytes(8, "little"))
            return NO_SLOT
        try:
            _pack_entry(self._map, slot, trace_id.encode(), capability.encode(), started_us, started_ns, 1)
        except TypeError:  # not a mapping
            entry = layout.ENTRY.pack(trace_id.encode(), capability.encode(), started_us, started_ns, 1)
            self._put(slot, entry)
        return slot

    def open_span(self, slot: int, name: str, started_ns: int) -> None:
        """Writes the innermost open span of the trace in `slot`."""
        try:
            _pack_span(self._map, slot + _SPAN_AT, name.encode(), started_ns, 1)
        except (TypeError, AttributeError, UnicodeError):  # not a mapping; or no text, or none that is UTF-8
            self._put(slot + layout.SPAN_AT, layout.SPAN.pack(_bytes_of(name), started_ns, 1))

    def close_span(self, slot: int) -> None:
        """Marks the trace in `slot` as outside any span."""
        at = slot + _SPAN_MARK_AT
        try:
            self._map[at : at + 1] = b"\0"
        except OSError:  # only a box that is written by system calls
            self.failures += 1

    def end(self, slot: int) -> None:
        """Frees a trace's slot: it has ended, or can no longer end."""
        at = slot + _TRACE_MARK_AT
        try:
            self._map[at : at + 1] = b"\0"
        except OSError:  # only a box that is written by system calls
            self.failures += 1
        self._free.append(slot)

    # --- records

    def append_trace(self, record: TraceFields) -> None:
        """Writes a finished trace."""
        try:
            head = orjson.dumps(_trace_head(record))
            self._append(self._traces, b"%b,%b]" % (head[:-1], b",".join(_trace_json(record))))
        except Exception:  # not JSON, or a full disk: the record is still in the buffer  # noqa: BLE001
            self.failures += 1

    def append_log(self, record: LogFields) -> None:
        """Writes a log record."""
        try:
            values = list(_log_values(record))
            values[_LOG_JSON_AT] = orjson.Fragment(values[_LOG_JSON_AT])
            self._append(self._logs, orjson.dumps(values))
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1

    def _append(self, ring: _Ring, payload: bytes) -> None:
        size = len(payload) + _FRAME_OVERHEAD
        with ring.lock:
            at = ring.at
            if at + size > ring.end:
                at = ring.start
            ring.at = at + size
            ring.ordinal = ordinal = ring.ordinal + 1
        frame = _pack_frame(_FRAME_MAGIC, len(payload), ordinal) + payload
        self._map[at : at + size] = frame + crc32(frame).to_bytes(4, "little")

    def _put(self, at: int, content: bytes) -> None:
        try:
            self._map[at : at + len(content)] = content
        except OSError:  # only a box that is written by system calls
            self.failures += 1

    def note_committed(self, traces: int, logs: int, seq: int) -> None:
        """Adds to the frames of each ring that are committed or counted as dropped; sets the highest number."""
        self._committed_traces += traces
        self._committed_logs += logs
        self._committed_seq = max(self._committed_seq, seq)
        committed = (self._committed_traces, self._committed_logs, self._committed_seq)
        self._put(layout.COUNTERS_AT, layout.COMMITTED.pack(*committed))

    def prepare(self) -> None:
        """Populates the pages that the next records will use: twice the bytes written since the last call.

        Does nothing when little is written: a populated page will be written to the disk.
        """
        memory = self._map
        if not isinstance(memory, mmap.mmap):
            return
        for ring in (self._traces, self._logs):
            at = ring.at
            ahead = 2 * ((at - ring.prepared_at) % (ring.end - ring.start))
            ring.prepared_at = at
            if ahead >= _WORTH_BYTES:
                populate_pages(memory, at, min(at + ahead, ring.end))
                populate_pages(memory, ring.start, min(ring.start + at + ahead - ring.end, at))

    def note_alive(self) -> None:
        """Writes the time of the writer's heartbeat: now."""
        self._put(layout.HEARTBEAT_AT, monotonic_ns().to_bytes(8, "little"))

    def note_vitals(self, vitals: Vitals) -> None:
        """Writes a sample of process health and a heartbeat. Called by one thread. 2 us."""
        self._sampled += 1
        slot = layout.pack_vitals(self._sampled, vitals)
        for place in layout.vitals_offsets(self._sampled):
            self._put(place, slot)
        self.note_alive()

    def note_ended(self, ended_us: int) -> None:
        """Marks the box as closed cleanly."""
        self._put(layout.ENDED_AT, ended_us.to_bytes(8, "little"))

    @property
    def overflow(self) -> int:
        """The number of traces that got no slot."""
        return self._overflow

    # --- the file

    def is_in_place(self) -> bool:
        """Returns whether the path still names this box's file."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def restore(self) -> None:
        """Makes the file again after it was removed, with everything that the box holds.

        Raises:
            OSError: raised when it cannot be made.
        """
        size = self.header.total_bytes
        held_fd = self._fd
        self._fd, fresh, self._identity = _make(self.path, self.header)
        fresh[0:size] = self._map[0:size]
        self._map = fresh
        os.close(held_fd)

    def in_flight(self) -> list[layout.InFlight]:
        """Returns the traces that have begun and not ended, oldest first. 0.2 ms."""
        return layout.in_flight_in(self._map[layout.HEADER_BYTES : self._traces.start])

    def contents(self) -> layout.Box | None:
        """Returns the current contents."""
        return layout.parse(self._map[0 : self.header.total_bytes])

    def close(self, *, remove: bool) -> None:
        """Stops writing; removes the file if all of it is in the database. Late records are discarded. Idempotent."""
        for number in range(self.header.entries):
            # The process goes on: its traces in flight will end in memory.
            self._put(layout.HEADER_BYTES + number * layout.ENTRY_BYTES + layout.TRACE_MARK_AT, b"\0")
        self.renew_in_child()
        if remove and self.is_in_place():
            self.path.unlink()

    def renew_in_child(self) -> None:
        """Makes every later write go to memory that is never read, and releases the file's lock."""
        self._map = mmap.mmap(-1, self.header.total_bytes)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode()
    except Exception:  # lone surrogates, or no text at all  # noqa: BLE001
        return safe_text(text).encode()


def new_header(role: int, run_id: str, version: str, node_id: str | None, sizes: Sizes) -> layout.Header:
    """Returns the header of a new box of this process."""
    return layout.Header(
        entries=layout.ENTRIES if role == layout.PRIMARY else 64,
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
    )


def box_path(directory: Path, run_id: str) -> Path:
    """Returns the path of this process's box; adds the run id if the pid's name is taken, as by a container."""
    path = directory / f"telemetry.{os.getpid()}.box"
    return path.with_name(f"telemetry.{os.getpid()}.{run_id}.box") if path.exists() else path


def _make(path: Path, header: layout.Header) -> tuple[int, Any, tuple[int, int]]:
    """Makes, allocates and locks the file; returns its descriptor, mapping, and (device, inode)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _allocate(fd, header.total_bytes)
        os.pwrite(fd, header.pack(), 0)
        status = os.fstat(fd)
        memory = _Written(fd) if _file_system(path) in _COPY_ON_WRITE else mmap.mmap(fd, header.total_bytes)
    except BaseException:
        path.unlink()
        os.close(fd)
        raise
    return fd, memory, (status.st_dev, status.st_ino)


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    block = bytes(1 << 20)  # macOS has no such call; writing allocates
    for at in range(0, size, len(block)):
        os.pwrite(fd, block[: size - at], at)


def _file_system(path: Path) -> str:
    """Returns the type of the file system that `path` is on; empty if unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return ""
    wanted = path.resolve()
    best, kind = -1, ""
    for line in mounts:
        before, _, behind = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")  # a space is \040 there
        if wanted.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), behind.split()[0]
    return kind
