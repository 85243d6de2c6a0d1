"""Builds a box of layout 1, byte for byte as the programs before layout 2 wrote it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from hearthnet.forensics import box as layout
from hearthnet.forensics.marks import ENTRY_BYTES

__all__ = ["FRAME_BEFORE", "HEADER_BEFORE", "old_box", "packed_before"]

HEADER_BEFORE = struct.Struct("<8sIIQQBQQqq26s36s32s64s")
FRAME_BEFORE = struct.Struct("<4sIQ")
_PAGE = 4_096
_COUNTERS = struct.Struct("<QQQQqq")


def packed_before(frame: layout.Frame) -> bytes:
    """A frame with its checksum at the end, and without a version."""
    packed = FRAME_BEFORE.pack(layout.FRAME_MAGIC, len(frame.payload), frame.ordinal) + frame.payload
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def old_box(
    header: layout.Header,
    traces: Sequence[list[Any]] = (),
    logs: Sequence[list[Any]] = (),
    *,
    committed: tuple[int, int, int] = (0, 0, 0),
    in_flight: Sequence[layout.InFlight] = (),
    ended_us: int = 0,
) -> bytes:
    """The bytes of a box whose payloads are arrays that begin with `seq`; four slots, rings of 64 KiB."""
    slots, ring = 4, 65_536
    packed = HEADER_BEFORE.pack(
        layout.MAGIC, 1, slots, ring, ring, header.role, header.pid, header.process_start, header.started_us,
        header.started_ns, header.run_id.encode(), header.boot_id.encode(), header.version.encode(),
        (header.node_id or "").encode(),
    )  # fmt: skip
    page = packed + zlib.crc32(packed).to_bytes(4, "little")
    page = page.ljust(1_024, b"\0") + _COUNTERS.pack(*committed, 0, header.started_ns + 5, ended_us)
    table = b"".join(map(layout.pack_in_flight, in_flight)).ljust(slots * ENTRY_BYTES, b"\0")
    return page.ljust(_PAGE, b"\0") + table + _ring(traces, ring) + _ring(logs, ring)


def _ring(rows: Sequence[list[Any]], size: int) -> bytes:
    frames = (
        packed_before(layout.Frame(number, json.dumps(row, separators=(",", ":")).encode(), 1))
        for number, row in enumerate(rows, 1)
    )
    return b"".join(frames).ljust(size, b"\0")
