"""The black box: a memory-mapped ring file that still holds the last records, and what was going on, after a kill.

What is written into the mapping is the kernel's as soon as the instruction is done: it survives SIGKILL, a segfault and
an OOM kill without a system call. It is not synced: against a power cut the database is the answer. The file is
allocated in full when it is made, so that a full disk cannot turn a write into SIGBUS.
Ours because loggers and trace exporters hold what is pending or open in the process's own memory, which a kill takes.

    trace begins 0.35 us · span opens and closes 0.5 us · trace ends 0.1 us · a record of 400 bytes 1.1 us

Guarantees:
    - Nothing here raises into the program that is watched once the box is made; what could not be kept is counted.
    - Frames are whole or recognisably torn; an entry in flight is whole or not marked (see `forensics/box.py`).
    - A forked child cannot touch its parent's box: its mapping becomes memory of its own.
Assumes:
    - One process writes a box. Its threads share it: the lock covers three additions, the copying is outside it.
    - Nobody truncates the file while it is mapped. That is SIGBUS, and nothing helps against it.
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
from hearthnet.observability.records.prefault import populate
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
    """Writes to the file with `pwrite`: on a copy-on-write file system a mapped page may need space that is not there.

    A record costs a system call more, and one that the disk has no room for is refused, not a SIGBUS.
    """

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __setitem__(self, place: slice, content: bytes, /) -> None:
        os.pwrite(self._fd, content, place.start)

    def __getitem__(self, place: slice, /) -> bytes:
        return os.pread(self._fd, place.stop - place.start, place.start)

    def __del__(self) -> None:
        os.close(self._fd)


class Sizes:
    """How large the parts of a box are, in bytes.

    Args:
        traces: ring of finished traces.
        logs: ring of log records.
    """

    __slots__ = ("logs", "traces")

    def __init__(self, traces: int, logs: int) -> None:
        self.traces = traces
        self.logs = logs

    @property
    def total(self) -> int:
        """The whole file."""
        return layout.HEADER_BYTES + layout.ENTRIES * layout.ENTRY_BYTES + self.traces + self.logs


class _Ring:
    """A byte ring's place in the file, and where its next frame goes."""

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
        path: of the file; there must be none yet.
        header: who writes it.

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
        """Marks that a trace has begun; returns its place in the file, or -1 where the table is full (counted)."""
        try:
            place = self._free.pop()
        except IndexError:
            self._overflow += 1
            self._put(layout.OVERFLOW_AT, self._overflow.to_bytes(8, "little"))
            return NO_SLOT
        try:
            _pack_entry(self._map, place, trace_id.encode(), capability.encode(), started_us, started_ns, 1)
        except TypeError:  # not a mapping
            entry = layout.ENTRY.pack(trace_id.encode(), capability.encode(), started_us, started_ns, 1)
            self._put(place, entry)
        return place

    def open_span(self, place: int, name: str, started_ns: int) -> None:
        """Shows a span as the innermost open one of the trace at `place`."""
        try:
            _pack_span(self._map, place + _SPAN_AT, name.encode(), started_ns, 1)
        except (TypeError, AttributeError, UnicodeError):  # not a mapping; or no text, or none that is UTF-8
            self._put(place + layout.SPAN_AT, layout.SPAN.pack(_bytes_of(name), started_ns, 1))

    def close_span(self, place: int) -> None:
        """Shows the trace at `place` outside any span."""
        at = place + _SPAN_MARK_AT
        try:
            self._map[at : at + 1] = b"\0"
        except OSError:  # only a box that is written by system calls
            self.failures += 1

    def end(self, place: int) -> None:
        """Gives the place of a trace back: it has ended, or nobody can end it any more."""
        at = place + _TRACE_MARK_AT
        try:
            self._map[at : at + 1] = b"\0"
        except OSError:  # only a box that is written by system calls
            self.failures += 1
        self._free.append(place)

    # --- records

    def append_trace(self, record: TraceFields) -> None:
        """Keeps a finished trace."""
        try:
            head = orjson.dumps(_trace_head(record))
            self._append(self._traces, b"%b,%b]" % (head[:-1], b",".join(_trace_json(record))))
        except Exception:  # a record that is no JSON, a disk without space: the buffer has it still  # noqa: BLE001
            self.failures += 1

    def append_log(self, record: LogFields) -> None:
        """Keeps a log record."""
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
        """Notes how many more frames of each ring are in the database or counted as lost, and the highest number."""
        self._committed_traces += traces
        self._committed_logs += logs
        self._committed_seq = max(self._committed_seq, seq)
        committed = (self._committed_traces, self._committed_logs, self._committed_seq)
        self._put(layout.COUNTERS_AT, layout.COMMITTED.pack(*committed))

    def prepare(self) -> None:
        """Makes the pages ready that the next records go to: twice what was written since the last call.

        Where little is written nothing is done: a page made ready is a page that will be written to the disk.
        """
        memory = self._map
        if not isinstance(memory, mmap.mmap):
            return
        for ring in (self._traces, self._logs):
            at = ring.at
            ahead = 2 * ((at - ring.prepared_at) % (ring.end - ring.start))
            ring.prepared_at = at
            if ahead >= _WORTH_BYTES:
                populate(memory, at, min(at + ahead, ring.end))
                populate(memory, ring.start, min(ring.start + at + ahead - ring.end, at))

    def note_alive(self) -> None:
        """Notes that the writer is at work now."""
        self._put(layout.HEARTBEAT_AT, monotonic_ns().to_bytes(8, "little"))

    def note_vitals(self, vitals: Vitals) -> None:
        """Keeps a sample of how the process feels, which is a sign of life as well. For one thread. 2 us."""
        self._sampled += 1
        slot = layout.pack_vitals(self._sampled, vitals)
        for place in layout.vitals_places(self._sampled):
            self._put(place, slot)
        self.note_alive()

    def note_ended(self, ended_us: int) -> None:
        """Notes that the process stopped recording in good order."""
        self._put(layout.ENDED_AT, ended_us.to_bytes(8, "little"))

    @property
    def overflow(self) -> int:
        """How many traces found no room in the table."""
        return self._overflow

    # --- the file

    def is_in_place(self) -> bool:
        """Tells whether the path still leads to this box's file."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def restore(self) -> None:
        """Makes the file again where somebody removed it, with all that the box holds.

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
        """Returns what the box holds now."""
        return layout.parse(self._map[0 : self.header.total_bytes])

    def close(self, *, remove: bool) -> None:
        """Ends writing, and removes the file if all of it is in the database. Late records go nowhere. Idempotent."""
        for number in range(self.header.entries):
            # The process lives: its traces in flight will end, in memory.
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
        entries=layout.ENTRIES,
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
    """Returns where this process's box goes; another name where its pid's is taken: in another pid namespace, say."""
    path = directory / f"telemetry.{os.getpid()}.box"
    return path.with_name(f"telemetry.{os.getpid()}.{run_id}.box") if path.exists() else path


def _make(path: Path, header: layout.Header) -> tuple[int, Any, tuple[int, int]]:
    """Makes the file, all of its space allocated and locked; returns its descriptor, memory, and (device, inode)."""
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
    block = bytes(1 << 20)  # macOS has no such call: what is written is allocated
    for at in range(0, size, len(block)):
        os.pwrite(fd, block[: size - at], at)


def _file_system(path: Path) -> str:
    """Returns the type of the file system that `path` is on; empty where the system does not say."""
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
