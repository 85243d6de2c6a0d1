"""Layout of a black box file, and a reader for one that its process did not close.

    header      8 KiB: its writer (checksummed), counters that change while it is written, and vitals
    in flight   slots of 160 bytes, 4,096 of a node, 64 of another program: a trace that has not ended, and its
                innermost open span; then nothing up to a whole page
    traces      a byte ring of frames, whole pages
    logs        a byte ring of frames, whole pages

A frame is magic, checksum, version of the payload, length, ordinal, payload; the checksum covers all that follows it.
The ordinal counts the frames of its ring from 1, so gaps are visible. A payload is a JSON array with the columns in
`tables.FRAMES` of its version; `run_id` is in the header. JSON contains no byte of the magic and no zero byte, so
recorded data cannot forge a frame.

That is layout 2, in files named `telemetry.<pid>.box2`. Layout 1, in `telemetry.<pid>.box`, has a header of 4 KiB
without a program, a table that no gap follows, and frames with their checksum at the end; it is read, not written. The
names differ because programs that know layout 1 alone delete what they cannot parse. A newer layout is left alone.

Reading never raises because of the content: a torn, overwritten or corrupt record is skipped, every other one is found.
`observability/records/blackbox.py` writes this layout.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from hearthnet.files import open_file
from hearthnet.forensics.frames import FRAME, FRAME_FIELDS, FRAME_MAGIC, pack
from hearthnet.forensics.marks import ENTRY_BYTES, SPAN, SPAN_AT, TRACE, TRACE_MARK_AT
from hearthnet.forensics.model import OomKills, Vitals
from hearthnet.forensics.tables import FRAMES, PAYLOAD_VERSION

__all__ = [
    "Box", "Frame", "Header", "InFlight", "NewerBoxError", "boxes_in", "fields", "header_of", "is_alive", "is_locked",
    "joined", "newer_boxes_in", "newer_layout", "parse", "process_start", "read_box", "this_boot",
]  # fmt: skip

N = TypeVar("N", int, float)
MAGIC: Final = b"HNBOX\x00\r\n"
LAYOUT_VERSION: Final = 2
HEADER_BYTES: Final = 8_192
# magic, layout, in-flight slots, bytes of the trace ring, bytes of the log ring, role, pid, process start (clock
# ticks since boot), started (UTC us), started (monotonic ns), run id, boot id, version of hearthnet, node id
_HEADER_1: Final = struct.Struct("<8sIIQQBQQqq26s36s32s64s")
# The same, then the bytes of a page, of which the table and each ring take whole ones, the program; the control group
# (inode), the processes killed for memory in it and on the machine, each plus 1; the pid in the kernel's log; 108 spare
# bytes. Older boxes have zeros there: unknown.
HEADER: Final = struct.Struct(f"{_HEADER_1.format}I64sQIII108x")
_VERSION: Final = struct.Struct("<8sI")  # how each layout begins
CRC: Final = struct.Struct("<I")
COUNTERS_AT: Final = 1_024
# committed frames of each ring, highest committed number, traces for which the table had no free slot, the writer's
# last heartbeat (monotonic ns), end (UTC us; 0 while it runs)
_COUNTERS_1: Final = struct.Struct("<QQQQqq")
# The same, then the frames of each ring that gave way to the byte budget; the highest ordinal of each ring, set when
# frames are taken out of a dead box; how it ended; and 31 spare bytes.
COUNTERS: Final = struct.Struct(f"{_COUNTERS_1.format}QQQQB31x")
COUNTER_NAMES: Final = (
    "committed_traces", "committed_logs", "committed_number", "overflow", "heartbeat_ns", "ended_us",
    "gave_way_traces", "gave_way_logs", "last_trace", "last_log", "end_code",
)  # fmt: skip
COMMITTED: Final = struct.Struct("<QQQ")
OVERFLOW_AT: Final = COUNTERS_AT + COMMITTED.size
HEARTBEAT_AT: Final = OVERFLOW_AT + 8
ENDED_AT: Final = HEARTBEAT_AT + 8
END_CODE_AT: Final = COUNTERS_AT + COUNTERS.size - 32
ENDED_CLEAN: Final = 1
ENDED_UNCOMMITTED: Final = 2  # it closed, with records that are not in the database
# After the counters, to the end of the header: vitals in rings of fixed slots, each with a checksum. Older samples are
# sparser: (slots, keep every n-th sample). With one sample every 2 s: all of the last minute, two per minute for ten
# minutes, one per five minutes for forty. Without vitals there are zeros, which match no checksum.
VITALS_AT: Final = COUNTERS_AT + COUNTERS.size
VITALS_RINGS: Final = ((30, 1), (20, 15), (8, 150))
# ordinal from 1, UTC us, resident bytes, bytes of memory left, open files, free bytes on the disk, load, event loop
# lag (s), processes of the control group killed for memory, and those that it has, each plus 1 (0: unknown); 8 spare
# bytes. Other unknown integers are -1, unknown floats NaN.
VITALS: Final = struct.Struct("<IqqqiqffII8xI")
_VITALS_1: Final = struct.Struct("<IqqqiqffI")  # without spare bytes
ENTRIES: Final = 4_096
PROGRAM_ENTRIES: Final = 64  # of a program that is no node
_FRAME_1: Final = struct.Struct("<4sIQ")  # magic, length, ordinal; the checksum follows the payload
MAX_PAYLOAD_BYTES: Final = 64 * 1024  # several times the largest row: a greater length is corrupt
NODE: Final = 1
LIBRARY: Final = 2  # another program
_MAX_DAMAGED: Final = 100_000  # frames with a wrong checksum; a file with more is hostile
_MAX_LAYOUT: Final = 10_000  # a greater number is damage
_GLOBS: Final = ("telemetry.*.box", "telemetry.*.box2")
_UNKNOWN: Final = OomKills()
_NEWER: Final = re.compile(r"telemetry\..*\.box(\d+)")


class NewerBoxError(OSError):
    """The box has a layout that this program does not know: it is left alone, never moved or removed."""


@dataclass(frozen=True, slots=True)
class Header:
    """The writer of a box. Times in `_us` are UTC microseconds, in `_ns` nanoseconds of that boot's monotonic clock.

    `program` is its file name, empty in layout 1. The table and each ring begin at a multiple of `page_bytes`.
    `oom_kills` are the kernel's counters at the start; `kernel_pid` is 0 if the kernel's log has the process otherwise.
    """

    entries: int
    trace_bytes: int
    log_bytes: int
    role: int
    pid: int
    process_start: int
    started_us: int
    started_ns: int
    run_id: str
    boot_id: str
    version: str
    node_id: str | None
    page_bytes: int = 1
    program: str = ""
    oom_kills: OomKills = _UNKNOWN
    kernel_pid: int = 0
    layout: int = LAYOUT_VERSION

    @property
    def traces_at(self) -> int:
        """Where the ring of traces begins."""
        if self.layout == 1:
            return _HEADER_BYTES_1 + self.entries * ENTRY_BYTES
        page = max(1, self.page_bytes)
        return -(-(HEADER_BYTES + self.entries * ENTRY_BYTES) // page) * page

    @property
    def logs_at(self) -> int:
        """Where the ring of log records begins."""
        return self.traces_at + self.trace_bytes

    @property
    def total_bytes(self) -> int:
        """The size of the file."""
        return self.logs_at + self.log_bytes

    def pack(self) -> bytes:
        """Returns the encoded header in this program's layout, followed by its checksum."""
        packed = HEADER.pack(
            MAGIC, LAYOUT_VERSION, self.entries, self.trace_bytes, self.log_bytes, self.role, self.pid,
            self.process_start, self.started_us, self.started_ns, self.run_id.encode(), self.boot_id.encode(),
            self.version.encode(), (self.node_id or "").encode(), self.page_bytes,
            self.program.encode("utf-8", "replace"), self.oom_kills.group, _count(self.oom_kills.in_group),
            _count(self.oom_kills.on_machine), self.kernel_pid,
        )  # fmt: skip
        return packed + CRC.pack(zlib.crc32(packed))


@dataclass(frozen=True, slots=True)
class InFlight:
    """A trace that had not ended. `span` is None outside any span, or if its mark was being changed."""

    trace_id: str
    capability: str
    started_us: int
    started_ns: int
    span: str | None
    span_started_ns: int | None


class Frame(NamedTuple):
    """A record as a box keeps it; `version` says which columns the payload has."""

    ordinal: int
    payload: bytes
    version: int = PAYLOAD_VERSION


@dataclass(frozen=True, slots=True)
class Box:
    """The content of a box file.

    Attributes:
        header: its writer.
        traces: frames of finished traces, oldest first.
        logs: frames of log records, oldest first.
        in_flight: traces that had not ended, in the order of their start.
        committed_traces: frames of the trace ring that the writer reported as committed.
        committed_logs: the same for the log ring.
        committed_number: the highest number that the writer reported as committed.
        overflow: traces for which the table had no free slot.
        heartbeat_ns: the writer's last heartbeat on the header's monotonic clock; 0: none.
        ended_us: when it was closed; 0: it was not.
        gave_way_traces: frames of the trace ring that were taken out of the dead box to keep the byte budget.
        gave_way_logs: the same for the log ring.
        last_trace: the highest ordinal that the trace ring ever had, or 0: as its frames show.
        last_log: the same for the log ring.
        end_code: 0 while it runs, then `ENDED_CLEAN` or `ENDED_UNCOMMITTED`.
        damaged: frames with a wrong checksum.
        unreadable: frames whose payload is of a newer version. They are among the others; `fields` returns None.
        vitals: samples of process health, oldest first.
    """

    header: Header
    traces: list[Frame] = field(default_factory=list)
    logs: list[Frame] = field(default_factory=list)
    in_flight: list[InFlight] = field(default_factory=list)
    committed_traces: int = 0
    committed_logs: int = 0
    committed_number: int = 0
    overflow: int = 0
    heartbeat_ns: int = 0
    ended_us: int = 0
    gave_way_traces: int = 0
    gave_way_logs: int = 0
    last_trace: int = 0
    last_log: int = 0
    end_code: int = 0
    damaged: int = 0
    unreadable: int = 0
    vitals: list[Vitals] = field(default_factory=list)

    @property
    def overwritten_traces(self) -> int:
        """Traces that were neither committed nor are in the box, and did not give way: the ring was too small."""
        last = max(self.last_trace, self.traces[-1].ordinal if self.traces else 0)
        return _missing(self.traces, self.committed_traces, last, self.gave_way_traces)

    @property
    def overwritten_logs(self) -> int:
        """The same for log records."""
        last = max(self.last_log, self.logs[-1].ordinal if self.logs else 0)
        return _missing(self.logs, self.committed_logs, last, self.gave_way_logs)


def _missing(frames: list[Frame], committed: int, last: int, gave_way: int) -> int:
    present = sum(frame.ordinal > committed for frame in frames)
    return max(0, last - committed - present - gave_way)


def boxes_in(directory: Path) -> list[Path]:
    """Returns the box files in `directory` whose layout this program knows by their name, oldest first."""
    found = [path for pattern in _GLOBS for path in directory.glob(pattern)]
    return sorted(found, key=lambda path: (_modified(path), path.name))


def newer_boxes_in(directory: Path) -> list[Path]:
    """Returns the box files of newer layouts in `directory`, by their name or by their first bytes."""
    named = (path for path in directory.glob("telemetry.*.box*") if _layout_of_name(path) > LAYOUT_VERSION)
    return sorted([*named, *filter(_is_newer, boxes_in(directory))])


def _layout_of_name(path: Path) -> int:
    match = _NEWER.fullmatch(path.name)
    return int(match[1][:9]) if match else 0


def _is_newer(path: Path) -> bool:
    try:
        return newer_layout(_content(path, _VERSION.size)) is not None
    except OSError:
        return False


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # recovered and removed by another process since it was listed
        return 0


def _content(path: Path, size: int = -1) -> bytes:
    """Returns the first bytes of a regular file; of a pipe or a device an error, instead of waiting for it."""
    with open_file(path) as file:
        return file.read(size)


def read_box(path: Path) -> Box | None:
    """Returns the content of a box file, or None if it is not a box or its header is damaged.

    Raises:
        NewerBoxError: raised when its layout is newer than this program, which leaves it alone.
        OSError: raised when the file cannot be read.
    """
    content = _content(path)
    if (newer := newer_layout(content)) is not None:
        raise NewerBoxError(f"its layout is {newer}, this program knows {LAYOUT_VERSION}")
    return parse(content)


def newer_layout(content: bytes) -> int | None:
    """Returns the layout of a box that is newer than this program; None for one that it knows, and for no box."""
    if len(content) < _VERSION.size:
        return None
    magic, version = _VERSION.unpack_from(content)
    return version if magic == MAGIC and LAYOUT_VERSION < version <= _MAX_LAYOUT else None


def read_header(content: bytes) -> Header | None:
    """Returns the header at the start of `content`, or None if it is damaged or of a layout not known."""
    for version, packing in ((LAYOUT_VERSION, HEADER), (1, _HEADER_1)):
        if len(content) >= packing.size + CRC.size:
            packed = content[: packing.size]
            is_whole = CRC.unpack_from(content, packing.size)[0] == zlib.crc32(packed)
            if is_whole and _VERSION.unpack_from(packed) == (MAGIC, version):
                return _header(*packing.unpack(packed)[2:], layout=version)
    return None


def _header(
    entries: int, trace_bytes: int, log_bytes: int, role: int, pid: int, start: int, started_us: int, started_ns: int,
    run_id: bytes, boot_id: bytes, version: bytes, node_id: bytes, page_bytes: int = 1, program: bytes = b"",
    group: int = 0, in_group: int = 0, on_machine: int = 0, kernel_pid: int = 0, *, layout: int,
) -> Header:  # fmt: skip
    return Header(
        entries, trace_bytes, log_bytes, role, pid, start, started_us, started_ns, _text(run_id), _text(boot_id),
        _text(version), _text(node_id) or None, page_bytes, _text(program),
        OomKills(group, _counted(in_group), _counted(on_machine)), kernel_pid, layout,
    )  # fmt: skip


def header_of(path: Path) -> Header | None:
    """Returns the header of a box file, or None if it is not a box, is gone, or cannot be read."""
    try:
        return read_header(_content(path, HEADER_BYTES))
    except OSError:
        return None


def parse(content: bytes) -> Box | None:
    """Returns the box decoded from `content`; None if it is none. A truncated file yields its remaining records."""
    header = read_header(content)
    if header is None:
        return None
    known = _LAYOUTS[header.layout]
    traces, torn_traces = scan(content[header.traces_at : header.logs_at], header.layout)
    logs, torn_logs = scan(content[header.logs_at : header.total_bytes], header.layout)
    counters: dict[str, Any] = {}
    if len(content) >= known.header_bytes:
        counters = dict(zip(COUNTER_NAMES, known.counters.unpack_from(content, COUNTERS_AT), strict=False))
    table = content[known.header_bytes : known.header_bytes + header.entries * ENTRY_BYTES]
    found = Box(header, traces, logs, in_flight_in(table), damaged=torn_traces + torn_logs)
    vitals = vitals_in(content[: known.header_bytes], header.layout)
    return replace(found, unreadable=_unreadable(traces, logs), vitals=vitals, **counters)


def _unreadable(*rings: list[Frame]) -> int:
    return sum(frame.version > PAYLOAD_VERSION for ring in rings for frame in ring)


def scan(ring: bytes, layout: int = LAYOUT_VERSION) -> tuple[list[Frame], int]:
    """Returns the intact frames of a ring, oldest first, and the number of damaged ones."""
    read = _LAYOUTS[layout].frame
    found: dict[int, Frame] = {}
    damaged = 0
    at = ring.find(FRAME_MAGIC)
    while at >= 0 and damaged < _MAX_DAMAGED:
        frame, end = read(ring, at)
        if frame is None:
            damaged += 1
        else:
            found[frame.ordinal] = frame
        at = ring.find(FRAME_MAGIC, end)
    return [found[ordinal] for ordinal in sorted(found)], damaged


def _frame_1(ring: bytes, at: int) -> tuple[Frame | None, int]:
    """Returns a frame of layout 1 and where it ends; None for one that is damaged."""
    payload_at = at + _FRAME_1.size
    if payload_at > len(ring):
        return None, at + 1
    _, length, ordinal = _FRAME_1.unpack_from(ring, at)
    end = payload_at + length
    if length > MAX_PAYLOAD_BYTES or end + CRC.size > len(ring):
        return None, at + 1
    if CRC.unpack_from(ring, end)[0] != zlib.crc32(ring[at:end]):
        return None, at + 1
    return Frame(ordinal, ring[payload_at:end], 1), end + CRC.size


def _frame_2(ring: bytes, at: int) -> tuple[Frame | None, int]:
    payload_at = at + FRAME.size
    if payload_at > len(ring):
        return None, at + 1
    _, check, head = FRAME.unpack_from(ring, at)
    version, _, length, ordinal = FRAME_FIELDS.unpack(head)
    end = payload_at + length
    if length > MAX_PAYLOAD_BYTES or end > len(ring):
        return None, at + 1
    payload = ring[payload_at:end]
    if check != zlib.crc32(payload, zlib.crc32(head)):
        return None, at + 1
    return Frame(ordinal, payload, version), end


def pack_frame(frame: Frame) -> bytes:
    """Returns the bytes of a frame in this program's layout."""
    return pack(frame.payload, frame.ordinal, version=frame.version)


def in_flight_in(table: bytes) -> list[InFlight]:
    """Returns the traces in flight in an in-flight table, in the order of their start."""
    return sorted(_in_flight(table), key=lambda entry: entry.started_ns)


def _in_flight(table: bytes) -> Iterator[InFlight]:
    for at in range(0, len(table) - ENTRY_BYTES + 1, ENTRY_BYTES):
        if table[at + TRACE_MARK_AT] != 1:
            continue
        trace_id, capability, started_us, started_ns, _ = TRACE.unpack_from(table, at)
        name, span_started_ns, is_open = SPAN.unpack_from(table, at + SPAN_AT)
        span = _text(name) if is_open == 1 else None
        yield InFlight(
            _text(trace_id), _text(capability), started_us, started_ns, span, span_started_ns if span else None
        )


def pack_in_flight(entry: InFlight) -> bytes:
    """Returns the slot of a trace in flight."""
    trace = TRACE.pack(entry.trace_id.encode(), entry.capability.encode(), entry.started_us, entry.started_ns, 1)
    span = SPAN.pack((entry.span or "").encode(), entry.span_started_ns or 0, entry.span is not None)
    return trace + span


def vitals_offsets(ordinal: int) -> list[int]:
    """Returns the file offsets at which to write a sample, by its ordinal from 1: one in each ring that keeps it."""
    offsets, at = [], VITALS_AT
    for slots, every in VITALS_RINGS:
        turn, rest = divmod(ordinal - 1, every)
        if rest == 0:
            offsets.append(at + turn % slots * VITALS.size)
        at += slots * VITALS.size
    return offsets


def pack_vitals(ordinal: int, vitals: Vitals) -> bytes:
    """Returns the encoded sample with its checksum."""
    counts = (_known(vitals.open_files, -1), _known(vitals.disk_free_bytes, -1))
    packed = VITALS.pack(
        ordinal, vitals.ts_us, _known(vitals.rss_bytes, -1), _known(vitals.memory_left_bytes, -1), *counts,
        _known(vitals.load, math.nan), _known(vitals.loop_lag_s, math.nan), _count(vitals.group_oom_kills),
        _count(vitals.group_processes), 0,
    )[: -CRC.size]  # fmt: skip
    return packed + CRC.pack(zlib.crc32(packed))


def _known(value: N | None, unknown: N) -> N:
    return unknown if value is None else value


def _count(value: int | None) -> int:
    """Returns a count as four bytes hold it, 0 for an unknown one."""
    return 0 if value is None else min(value, 2**32 - 2) + 1


def _counted(packed: int) -> int | None:
    return packed - 1 if packed else None


def vitals_in(page: bytes, layout: int = LAYOUT_VERSION) -> list[Vitals]:
    """Returns the intact samples of a header page, each once, ordered by ordinal: the wall clock may have been set."""
    packing, first = _LAYOUTS[layout].vitals, COUNTERS_AT + _LAYOUTS[layout].counters.size
    found: dict[int, Vitals] = {}
    slots = sum(slots for slots, _ in VITALS_RINGS)
    for at in range(first, min(first + slots * packing.size, len(page) - packing.size + 1), packing.size):
        ordinal, ts_us, rss, left, files, disk, load, lag, *later, crc = packing.unpack_from(page, at)
        if crc == zlib.crc32(page[at : at + packing.size - CRC.size]):
            whole = (None if value < 0 else value for value in (rss, left, files, disk))
            parts = (round(value, 4) if math.isfinite(value) else None for value in (load, lag))
            found[ordinal] = Vitals(ts_us, *whole, *parts, *map(_counted, later))
    return [found[ordinal] for ordinal in sorted(found)]


class _Layout(NamedTuple):
    header_bytes: int
    counters: struct.Struct
    vitals: struct.Struct
    frame: Callable[[bytes, int], tuple[Frame | None, int]]


_HEADER_BYTES_1: Final = 4_096
_LAYOUTS: Final = {
    1: _Layout(_HEADER_BYTES_1, _COUNTERS_1, _VITALS_1, _frame_1),
    2: _Layout(HEADER_BYTES, COUNTERS, VITALS, _frame_2),
}


def _text(padded: bytes) -> str:
    """Returns a zero-padded field as text, without a character cut at its end."""
    return padded.rstrip(b"\0").decode("utf-8", "ignore")


def fields(frame: Frame, table: str) -> dict[str, Any] | None:
    """Returns a payload's values by name; None for one of another program, or of a version not known."""
    names = FRAMES.get(frame.version, {}).get(table)
    try:
        values = json.loads(frame.payload)
    except (ValueError, RecursionError):
        return None
    if names is None or not isinstance(values, list) or len(values) != len(names):
        return None
    return {"number": values[0], **dict(zip(names[1:], values[1:], strict=True))}


def joined(older: Box, newer: Box) -> Box:
    """Returns two boxes of one run as one: a run that was killed while its box moved to a larger file has both."""
    flying = {(entry.trace_id, entry.started_ns): entry for entry in (*older.in_flight, *newer.in_flight)}
    highest = {name: max(getattr(older, name), getattr(newer, name)) for name in COUNTER_NAMES}
    traces, logs = _union(older.traces, newer.traces), _union(older.logs, newer.logs)
    return replace(
        newer, **highest, traces=traces, logs=logs,
        in_flight=sorted(flying.values(), key=lambda entry: entry.started_ns),
        damaged=older.damaged + newer.damaged,
        unreadable=_unreadable(traces, logs),
        vitals=newer.vitals if len(newer.vitals) >= len(older.vitals) else older.vitals,
    )  # fmt: skip


def _union(first: Iterable[Frame], second: Iterable[Frame]) -> list[Frame]:
    found = {frame.ordinal: frame for frame in (*first, *second)}
    return [found[ordinal] for ordinal in sorted(found)]


def this_boot() -> str:
    """Returns the kernel's id of this boot; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return ""


def process_start(pid: int) -> int | None:
    """Returns when a process started, in clock ticks since boot; 0 if unknown; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return _unknown_start(pid)
    except OSError:
        return None
    # The name, in parentheses, may contain anything; the start time is the twentieth field after it.
    behind = status[status.rfind(b")") + 2 :].split()
    return None if behind[:1] == [b"Z"] else int(behind[19])


def _unknown_start(pid: int) -> int | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def is_locked(path: Path) -> bool:
    """Returns True if a process holds the box's lock, as its writer does until it exits.

    This also detects a writer in another pid namespace, such as a container on the same volume.
    """
    try:
        file = open_file(path)
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def is_alive(header: Header) -> bool:
    """Returns True if the process that wrote a box still runs: pid, boot and start all agree."""
    return header.boot_id == this_boot() and process_start(header.pid) == header.process_start
