"""The black box: a memory-mapped ring file that keeps the last records and the traces in flight through a kill.

Bytes written into the mapping belong to the kernel at once: they survive SIGKILL, a segfault and an OOM kill without a
system call. They are not synced; for a power cut there is the database. The file is allocated in full when it is made,
so a full disk cannot turn a write into SIGBUS.
Written here because loggers and trace exporters keep pending records in process memory, which a kill destroys.

    CPU time of the caller's thread, the least of 60 rounds: trace begins and ends 0.47 us · span opens and closes
    0.36 us · a trace of 400 bytes 1.8 us, a log record 1.55 us, encoding included (2.3 and 1.9 with a lock of ours)

Guarantees:
    - Once the box is made, nothing here raises into the program; records that could not be kept are counted.
    - A frame is whole or recognisably torn; an entry in flight is whole or not marked (see `forensics/box.py`).
    - A forked child cannot touch its parent's box: its mapping becomes memory of its own.
    - While the box moves to another file, no record and no mark is lost: the old file is closed for writers first.
Assumes:
    - One process writes a box. Its threads share it: `mmap.write` holds the interpreter's lock from reading the
      position to moving it, so a frame is appended without a lock of ours; only the jump back to the ring's
      start takes one.
    - The file is not truncated while it is mapped. A write beyond its end raises SIGBUS, which cannot be caught; each
      flush checks the size, and has a shorter file made anew: what remains is a record between the two.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import replace
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final
from zlib import crc32

import orjson

from hearthnet.forensics import box as layout
from hearthnet.forensics.frames import FRAME_FIELDS, FRAME_MAGIC
from hearthnet.forensics.marks import ENTRY, ENTRY_BYTES, SPAN, SPAN_AT, SPAN_MARK_AT, TRACE_MARK_AT
from hearthnet.forensics.model import Vitals
from hearthnet.forensics.tables import FRAMES, PAYLOAD_VERSION
from hearthnet.observability.records.box_file import Sizes, box_path, make, new_header
from hearthnet.observability.records.populate_pages import populate_pages
from hearthnet.observability.records.record import LogFields, TraceFields, safe_text
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.records.tracked import tracked

__all__ = ["BlackBox", "Sizes", "Slot", "box_path", "new_header"]

_pack_entry: Final = ENTRY.pack_into
_pack_span: Final = SPAN.pack_into
_pack_fields: Final = FRAME_FIELDS.pack
_NUMBER: Final = TraceRecord._fields.index("number")  # from here on a record's fields are a frame's values
_SPANS: Final = TraceRecord._fields.index("spans")
# A trace's spans and extras are JSON already and its last fields, so they are appended as they are.
_trace_head: Final = itemgetter(slice(_NUMBER, _SPANS))
_trace_json: Final = itemgetter(slice(_SPANS, None))
_log_values: Final = itemgetter(slice(LogRecord._fields.index("number"), None))
_LOG_JSON_AT: Final = FRAMES[PAYLOAD_VERSION]["logs"].index("extras")
_WORTH_BYTES: Final = 128 * 1024  # to prepare: a few hundred records a second
_MOVED_SHARE: Final = 7 / 8  # of a ring that old frames may take: the rest is for new ones meanwhile


class Ring:
    """A byte ring in the file, written from its start to its end and then from its start again."""

    __slots__ = ("is_turning", "late", "lock", "memory", "ordinals", "prepared_at", "size", "write")

    def __init__(self, memory: Any, size: int) -> None:
        self.ordinals = count(1)
        self.renew(memory, size)

    def renew(self, memory: Any, size: int) -> None:
        """Continues in other memory, with a lock that no thread holds."""
        # Re-entrant: a signal handler may log while its own thread is here.
        self.lock = threading.RLock()
        self.is_turning = False
        self.late: list[bytes] = []
        self.use(memory, size)

    def use(self, memory: Any, size: int) -> None:
        """Continues in other memory."""
        self.write = memory.write  # first: a frame that comes in between finds space there
        self.memory = memory
        self.size = size
        self.prepared_at = 0

    def turn(self, frame: bytes) -> None:
        """Writes a frame for which the ring had no space at its end, or that came while it moved to another file."""
        with self.lock:
            if self.is_turning:  # a signal handler's frame, in the middle of this function
                self.late.append(frame)
                return
            if len(frame) > self.size:
                raise ValueError("larger than the ring")
            self.is_turning = True
            try:
                while not self._is_written(frame):
                    self.memory.seek(0)
            finally:
                self.is_turning = False
            while self.late:
                self.turn(self.late.pop(0))

    def _is_written(self, frame: bytes) -> bool:
        try:
            self.write(frame)
        except ValueError:  # no space; again, if other threads were faster
            return False
        return True


class Slot:
    """The place of one trace in flight in the table of a box, taken from `BlackBox.free` and put back by `end`.

    Objects, not offsets: of a trace that is dropped before it ends the slot is dropped too, and frees itself. A
    finaliser of the trace would do the same, and would run for each.

    Attributes:
        box: that it is in.
        at: its offset in the table.
        mark_at: that of the mark of a trace in flight.
        span_at: that of the innermost open span.
        span_mark_at: that of the mark of an open span.
    """

    __slots__ = ("at", "box", "mark_at", "span_at", "span_mark_at")

    def __init__(self, box: BlackBox, at: int) -> None:
        self.box = box
        self.at = at
        self.mark_at = at + TRACE_MARK_AT
        self.span_at = at + SPAN_AT
        self.span_mark_at = at + SPAN_MARK_AT

    def __del__(self) -> None:
        try:
            self.box.free_dropped(self)
        except Exception:  # interrupted while it was made, or as the interpreter ends  # noqa: BLE001
            return


class BlackBox:
    """The box of this process.

    Args:
        path: of the file, which must not exist.
        header: describes this process.

    Attributes:
        path: of the file.
        traces: the ring of finished traces.
        logs: the ring of log records.
        table: the header and the table of traces in flight; another mapping once the box moves.
        free: slots of that table that were used and are free again.
        failures: records that could not be kept.
        was_cut: whether the file was found shorter than it was made, and so may lack anything.
        interrupted: ids and monotonic starts of traces that were recorded at the end of the run, before they ended.

    Raises:
        OSError: raised when the file cannot be made in full.
    """

    def __init__(self, path: Path, header: layout.Header) -> None:
        self.path = path
        self.header = header
        self.failures = 0
        self.was_cut = False
        self.interrupted: frozenset[tuple[str, int]] = frozenset()
        self._overflow = 0
        self._committed_traces = 0
        self._committed_logs = 0
        self._committed_number = 0
        self._sampled = 0
        self.free: list[Slot] = []
        self._unused = iter(_slots(0, header.entries))
        # Held while the box moves to another file: a thread that is to change its header or table waits.
        self._moving = threading.RLock()
        made = make(path, header)
        self._fd, self.table, self._identity = made.fd, made.head, made.identity
        self._bytes = header.total_bytes
        self.traces = Ring(made.traces, header.trace_bytes)
        self.logs = Ring(made.logs, header.log_bytes)
        tracked.add(self)

    # --- traces in flight

    def begin(
        self, trace_id: str, capability: str, started_us: int, started_ns: int, slot: Slot | None = None
    ) -> Slot | None:
        """Marks a trace as in flight; returns its slot, or None if the table is full (counted).

        It is in flight until `end`, or until nothing refers to the slot. `slot` is one that the caller has taken.
        """
        if slot is None and (slot := self._take()) is None:
            self._overflow += 1
            self._put(layout.OVERFLOW_AT, self._overflow.to_bytes(8, "little"))
            return None
        try:
            _pack_entry(self.table, slot.at, trace_id.encode(), capability.encode(), started_us, started_ns, 1)
        except (TypeError, ValueError):  # not a mapping, or closed because the box moves
            entry = ENTRY.pack(trace_id.encode(), capability.encode(), started_us, started_ns, 1)
            self._put(slot.at, entry)
        return slot

    def _take(self) -> Slot | None:
        try:
            return self.free.pop()
        except IndexError:
            at = next(self._unused, None)
            return None if at is None else Slot(self, at)

    def open_span(self, slot: Slot, name: str, started_ns: int) -> None:
        """Writes the innermost open span of the trace in `slot`."""
        try:
            _pack_span(self.table, slot.span_at, name.encode(), started_ns, 1)
        except (TypeError, AttributeError, ValueError):  # as above; or no text, or none that is UTF-8
            self._put(slot.span_at, SPAN.pack(_bytes_of(name), started_ns, 1))

    def close_span(self, slot: Slot) -> None:
        """Marks the trace in `slot` as outside any span."""
        try:
            self.table[slot.span_mark_at] = 0
        except (OSError, ValueError):
            self._put(slot.span_mark_at, b"\0")

    def end(self, slot: Slot) -> None:
        """Frees a trace's slot: it has ended, or can no longer end."""
        try:
            self.table[slot.mark_at] = 0
        except (OSError, ValueError):
            self._put(slot.mark_at, b"\0")
        self.free.append(slot)

    def free_dropped(self, slot: Slot) -> None:
        """Frees the slot of a trace that was dropped before it ended; does nothing for one that is free."""
        with self._moving:
            is_marked = self.table[slot.mark_at : slot.mark_at + 1] == b"\1"
        if is_marked:
            self.end(Slot(self, slot.at))  # another one: this one is no more

    # --- records

    def append_trace(self, record: TraceFields) -> None:
        """Writes a finished trace."""
        try:
            head = orjson.dumps(_trace_head(record))
            spans, extras = _trace_json(record)
            self._append(self.traces, b"%b,%b,%b]" % (head[:-1], spans, extras))
        except Exception:  # not JSON, or a full disk: the record is still in the buffer  # noqa: BLE001
            self.failures += 1

    def append_log(self, record: LogFields) -> None:
        """Writes a log record."""
        try:
            values = list(_log_values(record))
            values[_LOG_JSON_AT] = orjson.Fragment(values[_LOG_JSON_AT])
            self._append(self.logs, orjson.dumps(values))
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1

    def _append(self, ring: Ring, payload: bytes) -> None:
        covered = _pack_fields(PAYLOAD_VERSION, 0, len(payload), next(ring.ordinals)) + payload
        frame = FRAME_MAGIC + crc32(covered).to_bytes(4, "little") + covered  # as `frames.pack`
        try:
            ring.write(frame)
        except ValueError:
            ring.turn(frame)

    def turn(self, ring: Ring, frame: bytes) -> None:
        """Writes a frame that its ring did not take: for want of space at its end, mostly."""
        try:
            ring.turn(frame)
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1

    def _put(self, at: int, content: bytes) -> None:
        try:
            with self._moving:
                self.table[at : at + len(content)] = content
        except (OSError, ValueError):  # written by system calls; or a signal handler's, in the middle of the move
            self.failures += 1

    def note_committed(self, traces: int, logs: int, number: int) -> None:
        """Adds to the frames of each ring that are committed or counted as dropped; sets the highest number."""
        self._committed_traces += traces
        self._committed_logs += logs
        self._committed_number = max(self._committed_number, number)
        committed = (self._committed_traces, self._committed_logs, self._committed_number)
        self._put(layout.COUNTERS_AT, layout.COMMITTED.pack(*committed))

    def forget_committed(self) -> None:
        """Marks all that it holds as not committed: the database may have lost that."""
        held = self.contents()
        if held is not None:
            self._committed_traces = min([self._committed_traces, *(frame.ordinal - 1 for frame in held.traces)])
            self._committed_logs = min([self._committed_logs, *(frame.ordinal - 1 for frame in held.logs)])
            self.note_committed(0, 0, 0)

    def prepare(self) -> None:
        """Populates the pages that the next records will use: twice the bytes written since the last call.

        Does nothing when little is written: a populated page will be written to the disk.
        """
        for ring in (self.traces, self.logs):
            memory = ring.memory
            if not isinstance(memory, mmap.mmap):
                continue
            at = memory.tell()
            ahead = 2 * ((at - ring.prepared_at) % ring.size)
            ring.prepared_at = at
            if ahead >= _WORTH_BYTES:
                populate_pages(memory, at, min(at + ahead, ring.size))
                populate_pages(memory, 0, min(at + ahead - ring.size, at))

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

    def note_ended(self, ended_us: int, *, is_committed: bool = True) -> None:
        """Marks the box as closed, with or without all of its records in the database."""
        code = layout.ENDED_CLEAN if is_committed else layout.ENDED_UNCOMMITTED
        self._put(layout.END_CODE_AT, bytes([code]))
        self._put(layout.ENDED_AT, ended_us.to_bytes(8, "little"))

    @property
    def overflow(self) -> int:
        """The number of traces that got no slot."""
        return self._overflow

    # --- the file

    def is_in_place(self) -> bool:
        """Returns whether the path still names this box's file, in full.

        One that was cut gets its length back at once, as zeros: the next write beyond its end would be the last.
        """
        try:
            status = self._status()
            if (status.st_dev, status.st_ino) != self._identity:
                return False
            if status.st_size < self._bytes:
                os.truncate(self.path, self._bytes)
                self.was_cut = True
        except OSError:
            return False
        return status.st_size >= self._bytes

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except PermissionError:  # the program has given up its rights; what is open stays, as long as it has a name
            status = os.fstat(self._fd)
            if not status.st_nlink:
                raise
            return status

    def restore(self) -> None:
        """Makes the file again after it was removed, replaced or cut, with everything that the box holds.

        Raises:
            OSError: raised when it cannot be made.
        """
        path = box_path(self.path.parent, self.header.run_id) if self.path.exists() else self.path
        self._move(path, self.header)
        self.was_cut = False

    def grow(self, sizes: Sizes) -> None:
        """Moves to a new file with larger rings, and removes the old one. No part gets smaller.

        If the process is killed meanwhile there are two boxes of this run; see `forensics.box.joined`.

        Raises:
            OSError: raised when the new file cannot be made; then the old one stays.
        """
        held = self.header
        header = replace(
            held,
            trace_bytes=max(held.trace_bytes, sizes.traces),
            log_bytes=max(held.log_bytes, sizes.logs),
            entries=max(held.entries, sizes.entries),
        )
        self._move(box_path(self.path.parent, held.run_id), header)

    def _move(self, path: Path, header: layout.Header) -> None:
        """Continues in a new file at `path`, with everything that the box holds."""
        made, held, held_fd = make(path, header), self.header, self._fd
        held_path = self.path if self.is_in_place() else None
        with self._moving:
            # Writers that hold the old mapping fail from here on, and wait for the lock.
            self.table.close()
            held_end = layout.HEADER_BYTES + held.entries * ENTRY_BYTES
            kept = os.pread(held_fd, held_end - layout.COUNTERS_AT, layout.COUNTERS_AT)
            made.head[layout.COUNTERS_AT : held_end] = kept
            self._unused = chain(self._unused, _slots(held.entries, header.entries))
            self.path, self.header, self._identity = path, header, made.identity
            self._fd, self.table, self._bytes = made.fd, made.head, header.total_bytes
        _move_ring(self.traces, made.traces, header.trace_bytes)
        _move_ring(self.logs, made.logs, header.log_bytes)
        if held_path is not None:
            held_path.unlink(missing_ok=True)
        os.close(held_fd)  # last: until then its lock shows that the old file is no leftover

    def in_flight(self) -> list[layout.InFlight]:
        """Returns the traces that have begun and not ended, oldest first. 0.2 ms."""
        with self._moving:
            table = self.table[layout.HEADER_BYTES :]
        return layout.in_flight_in(table)

    def contents(self) -> layout.Box | None:
        """Returns the current contents."""
        with self._moving:
            return layout.parse(self.table[:] + self.traces.memory[:] + self.logs.memory[:])

    def close(self, *, remove: bool) -> None:
        """Stops writing; removes the file if all of it is in the database. Late records are discarded. Idempotent."""
        for at in _slots(0, self.header.entries):
            # The process goes on: its traces in flight will end without a slot.
            self._put(at + TRACE_MARK_AT, b"\0")
        self.renew_in_child()
        if remove and self.is_in_place():
            self.path.unlink()

    def renew_in_child(self) -> None:
        """Makes every later write go to memory that is never read, and releases the file's lock."""
        self._moving = threading.RLock()
        self.table = mmap.mmap(-1, self.header.traces_at)
        for ring in (self.traces, self.logs):
            ring.renew(mmap.mmap(-1, ring.size), ring.size)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _slots(first: int, end: int) -> range:
    """Returns the offsets of the slots of a table."""
    start, size = layout.HEADER_BYTES, ENTRY_BYTES
    return range(start + first * size, start + end * size, size)


def _move_ring(ring: Ring, memory: Any, size: int) -> None:
    """Continues a ring in other memory, and copies its newest frames there with their ordinals."""
    held, held_size = ring.memory, ring.size
    with ring.lock:
        ring.use(memory, size)
        # A thread that has the old method in its hands finds no space there, and comes back for the new one.
        held.seek(held_size)
    frames, _ = layout.scan(held[:])
    left = int(size * _MOVED_SHARE)
    kept: list[bytes] = []
    for frame in reversed(frames):
        packed = layout.pack_frame(frame)
        left -= len(packed)
        if left < 0:
            break
        kept.append(packed)
    for packed in reversed(kept):
        try:
            ring.write(packed)
        except ValueError:
            ring.turn(packed)


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode()
    except Exception:  # lone surrogates, or no text at all  # noqa: BLE001
        return safe_text(text).encode()
