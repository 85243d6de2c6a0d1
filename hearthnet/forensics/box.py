"""Layout of a black box file, and a reader for one that its process did not close.

    header      4 KiB: its writer (checksummed), counters that change while it is written, and vitals
    in flight   4,096 slots of 160 bytes: a trace that has not ended, and its innermost open span
    traces      a byte ring of frames
    logs        a byte ring of frames

A frame is magic, length, ordinal, payload, and a checksum over all of these. The ordinal counts the frames of its ring
from 1, so gaps are visible. A payload is a JSON array with the columns in `tables.FRAMES`; `run_id` is in the
header. JSON contains no byte of the magic and no zero byte, so recorded data cannot forge a frame.

Reading never raises because of the content: a torn, overwritten or corrupt record is skipped, every other one is found.
`observability/records/blackbox.py` writes this layout.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from hearthnet.forensics.model import Vitals
from hearthnet.forensics.tables import FRAMES

__all__ = ["Box", "Header", "InFlight", "boxes_in", "is_alive", "is_locked", "process_start", "read_box", "this_boot"]

N = TypeVar("N", int, float)
MAGIC: Final = b"HNBOX\x00\r\n"
LAYOUT_VERSION: Final = 1
HEADER_BYTES: Final = 4_096
# magic, version, in-flight slots, bytes of the trace ring, bytes of the log ring, role, pid, process start (clock
# ticks since boot), started (UTC us), started (monotonic ns), run id, boot id, program version, node id
HEADER: Final = struct.Struct("<8sIIQQBQQqq26s36s32s64s")
CRC: Final = struct.Struct("<I")
COUNTERS_AT: Final = 1_024
# committed frames of each ring, highest committed number, traces for which the table had no free slot, the writer's
# last heartbeat (monotonic ns), clean end (UTC us; 0 while it runs)
COUNTERS: Final = struct.Struct("<QQQQqq")
COMMITTED: Final = struct.Struct("<QQQ")
OVERFLOW_AT: Final = COUNTERS_AT + COMMITTED.size
HEARTBEAT_AT: Final = OVERFLOW_AT + 8
ENDED_AT: Final = HEARTBEAT_AT + 8
# After the counters, to the end of the page: vitals in rings of fixed slots, each with a checksum. Older samples are
# sparser: (slots, keep every n-th sample). With one sample every 2 s: all of the last minute, two per minute for ten
# minutes, one per five minutes for forty. Without vitals there are zeros, which match no checksum.
VITALS_AT: Final = COUNTERS_AT + COUNTERS.size
VITALS_RINGS: Final = ((30, 1), (20, 15), (8, 150))
# ordinal from 1, UTC us, resident bytes, bytes of memory left, open files, free bytes on the disk, load, event loop
# lag (s). Unknown integers are -1, unknown floats NaN.
VITALS: Final = struct.Struct("<IqqqiqffI")
_VITALS_BODY: Final = VITALS.size - CRC.size
ENTRIES: Final = 4_096
ENTRY_BYTES: Final = 160
CAPABILITY_BYTES: Final = 64  # a longer name is cut in the table
# trace id, capability, started (UTC us), started (monotonic ns), 1 while in flight. The mark is last: struct clears the
# slot first and fills it in order, so a marked slot is complete.
TRACE: Final = struct.Struct(f"<26s{CAPABILITY_BYTES}sqqB")
TRACE_MARK_AT: Final = TRACE.size - 1
# The same with the span's part cleared before the mark is set.
ENTRY: Final = struct.Struct(f"{TRACE.format}53x")
# name, started (monotonic ns), 1 while a span is open
SPAN: Final = struct.Struct("<44sqB")
SPAN_AT: Final = TRACE.size
SPAN_MARK_AT: Final = TRACE.size + SPAN.size - 1
FRAME_MAGIC: Final = b"\xf5HN\xfa"  # two of its bytes never occur in UTF-8
FRAME: Final = struct.Struct("<4sIQ")
FRAME_OVERHEAD: Final = FRAME.size + CRC.size
MAX_PAYLOAD_BYTES: Final = 64 * 1024  # several times the largest row: a greater length is corrupt
PRIMARY: Final = 1  # written by the process that writes the store: records have the database's numbers
SECONDARY: Final = 2  # written by another process, which numbers its own records
_MAX_DAMAGED: Final = 100_000  # frames with a wrong checksum; a file with more is hostile
_GLOB: Final = "telemetry.*.box"


@dataclass(frozen=True, slots=True)
class Header:
    """The writer of a box. Times in `_us` are UTC microseconds, in `_ns` nanoseconds of that boot's monotonic clock."""

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

    @property
    def total_bytes(self) -> int:
        """The size of the file."""
        return HEADER_BYTES + self.entries * ENTRY_BYTES + self.trace_bytes + self.log_bytes

    def pack(self) -> bytes:
        """Returns the encoded header, followed by its checksum."""
        packed = HEADER.pack(
            MAGIC, LAYOUT_VERSION, self.entries, self.trace_bytes, self.log_bytes, self.role, self.pid,
            self.process_start, self.started_us, self.started_ns, self.run_id.encode(), self.boot_id.encode(),
            self.version.encode(), (self.node_id or "").encode(),
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


@dataclass(frozen=True, slots=True)
class Box:
    """The content of a box file.

    Attributes:
        header: its writer.
        traces: payloads of finished traces by ordinal, oldest first.
        logs: payloads of log records by ordinal, oldest first.
        in_flight: traces that had not ended, in the order of their start.
        committed_traces: frames of the trace ring that the writer reported as committed.
        committed_logs: the same for the log ring.
        committed_seq: the highest number that the writer reported as committed.
        overflow: traces for which the table had no free slot.
        heartbeat_ns: the writer's last heartbeat on the header's monotonic clock; 0: none.
        ended_us: when it was closed cleanly; 0: it was not.
        vitals: samples of process health, oldest first.
        damaged: frames with a wrong checksum.
    """

    header: Header
    traces: list[tuple[int, bytes]] = field(default_factory=list)
    logs: list[tuple[int, bytes]] = field(default_factory=list)
    in_flight: list[InFlight] = field(default_factory=list)
    committed_traces: int = 0
    committed_logs: int = 0
    committed_seq: int = 0
    overflow: int = 0
    heartbeat_ns: int = 0
    ended_us: int = 0
    damaged: int = 0
    vitals: list[Vitals] = field(default_factory=list)


def boxes_in(directory: Path) -> list[Path]:
    """Returns the box files in `directory`, oldest first."""
    return sorted(directory.glob(_GLOB), key=lambda path: (_modified(path), path.name))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # recovered and removed by another process since it was listed
        return 0


def read_box(path: Path) -> Box | None:
    """Returns the content of a box file, or None if it is not a box or its header is damaged.

    Raises:
        OSError: raised when the file cannot be read.
    """
    return parse(path.read_bytes())


def read_header(content: bytes) -> Header | None:
    """Returns the header at the start of `content`, or None if it is damaged or has another layout."""
    if len(content) < HEADER.size + CRC.size:
        return None
    packed = content[: HEADER.size]
    if CRC.unpack_from(content, HEADER.size)[0] != zlib.crc32(packed):
        return None
    (
        magic, version, entries, trace_bytes, log_bytes, role, pid, start, started_us, started_ns,
        run_id, boot_id, program, node_id,
    ) = HEADER.unpack(packed)  # fmt: skip
    if magic != MAGIC or version != LAYOUT_VERSION:
        return None
    return Header(
        entries, trace_bytes, log_bytes, role, pid, start, started_us, started_ns,
        _text(run_id), _text(boot_id), _text(program), _text(node_id) or None,
    )  # fmt: skip


def header_of(path: Path) -> Header | None:
    """Returns the header of a box file, or None if it is not a box, is gone, or cannot be read."""
    try:
        with path.open("rb") as file:
            return read_header(file.read(HEADER_BYTES))
    except OSError:
        return None


def parse(content: bytes) -> Box | None:
    """Returns the box decoded from `content`; see `read_box`. A truncated file yields its remaining records."""
    header = read_header(content)
    if header is None:
        return None
    traces_at = HEADER_BYTES + header.entries * ENTRY_BYTES
    logs_at = traces_at + header.trace_bytes
    traces, torn_traces = scan(content[traces_at:logs_at])
    logs, torn_logs = scan(content[logs_at : logs_at + header.log_bytes])
    counters = (0,) * 6
    if len(content) >= HEADER_BYTES:
        counters = COUNTERS.unpack_from(content, COUNTERS_AT)
    return Box(
        header, traces, logs, in_flight_in(content[HEADER_BYTES:traces_at]), *counters,
        damaged=torn_traces + torn_logs, vitals=vitals_in(content[:HEADER_BYTES]),
    )  # fmt: skip


def scan(ring: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Returns the intact frames of a ring as (ordinal, payload), oldest first, and the number of damaged ones."""
    found: dict[int, bytes] = {}
    damaged = 0
    at = ring.find(FRAME_MAGIC)
    while at >= 0 and damaged < _MAX_DAMAGED:
        ordinal, payload = _frame(ring, at)
        if payload is None:
            damaged += 1
            at += 1
        else:
            found[ordinal] = payload
            at += FRAME_OVERHEAD + len(payload)
        at = ring.find(FRAME_MAGIC, at)
    return sorted(found.items()), damaged


def _frame(ring: bytes, at: int) -> tuple[int, bytes | None]:
    if at + FRAME_OVERHEAD > len(ring):
        return 0, None
    _, length, ordinal = FRAME.unpack_from(ring, at)
    end = at + FRAME.size + length
    if length > MAX_PAYLOAD_BYTES or end + CRC.size > len(ring):
        return 0, None
    if CRC.unpack_from(ring, end)[0] != zlib.crc32(ring[at:end]):
        return 0, None
    return ordinal, ring[at + FRAME.size : end]


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
        _known(vitals.load, math.nan), _known(vitals.loop_lag_s, math.nan), 0,
    )[:_VITALS_BODY]  # fmt: skip
    return packed + CRC.pack(zlib.crc32(packed))


def _known(value: N | None, unknown: N) -> N:
    return unknown if value is None else value


def vitals_in(page: bytes) -> list[Vitals]:
    """Returns the intact samples of a header page, each once, ordered by ordinal: the wall clock may have been set."""
    found: dict[int, Vitals] = {}
    slots = sum(slots for slots, _ in VITALS_RINGS)
    for at in range(VITALS_AT, min(VITALS_AT + slots * VITALS.size, len(page) - VITALS.size + 1), VITALS.size):
        ordinal, ts_us, rss, left, files, disk, load, lag, crc = VITALS.unpack_from(page, at)
        if crc == zlib.crc32(page[at : at + _VITALS_BODY]):
            whole = (None if value < 0 else value for value in (rss, left, files, disk))
            parts = (round(value, 4) if math.isfinite(value) else None for value in (load, lag))
            found[ordinal] = Vitals(ts_us, *whole, *parts)
    return [found[ordinal] for ordinal in sorted(found)]


def _text(padded: bytes) -> str:
    """Returns a zero-padded field as text, without a character cut at its end."""
    return padded.rstrip(b"\0").decode("utf-8", "ignore")


def fields(payload: bytes, table: str) -> dict[str, Any] | None:
    """Returns a payload's values by name; None for one of another program, or of a version with other columns."""
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    names = FRAMES[table]
    if not isinstance(values, list) or len(values) != len(names):
        return None
    return dict(zip(names, values, strict=True))


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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def is_alive(header: Header) -> bool:
    """Returns True if the process that wrote a box still runs: pid, boot and start all agree."""
    return header.boot_id == this_boot() and process_start(header.pid) == header.process_start
