"""Calls in flight and process health, from the black boxes: of living programs, and of a run that died lately."""

from __future__ import annotations

import os
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from hearthnet.files import open_file
from hearthnet.forensics import box as layout
from hearthnet.forensics.evidence.last_sign import last_seen_us
from hearthnet.forensics.evidence.runs import in_flight_in
from hearthnet.forensics.marks import ENTRY_BYTES
from hearthnet.forensics.model import InFlight, Vitals
from hearthnet.observability.store.query.shapes import decoded
from hearthnet.observability.store.reader import Reader

__all__ = ["BoxView", "boxes", "flights", "interrupted", "living", "vitals_json"]

_MAX_FLIGHTS: Final = 200
_MAX_BOX_BYTES: Final = 64_000_000
_KEPT: Final = 64  # boxes of dead runs, as far as they are shown: a few kilobytes each


@dataclass(frozen=True, slots=True)
class BoxView:
    """What a box says of its run: whether it lives, its calls in flight, its health, oldest first, and its last sign.

    The last sign of life is in UTC microseconds; None while the run lives. `end_code` is that of the box.
    """

    header: layout.Header
    is_alive: bool
    in_flight: list[InFlight]
    vitals: list[Vitals]
    last_seen_us: int | None = None
    end_code: int = 0


def boxes(directory: Path) -> list[BoxView]:
    """Returns the boxes of a store that are not recovered yet, the oldest first. Takes 1 ms for a node's."""
    return [view for path in layout.boxes_in(directory) if (view := _view(path)) is not None]


def _view(path: Path) -> BoxView | None:
    try:
        with open_file(path) as file:
            head = file.read(layout.HEADER_BYTES)
            header = layout.read_header(head)
            if header is None or header.total_bytes > _MAX_BOX_BYTES:
                return None
            if not (layout.is_alive(header) or layout.is_locked(path)):
                status = os.fstat(file.fileno())
                return _dead(path, (status.st_ino, status.st_mtime_ns, status.st_size, zlib.crc32(head)))
            # The table's place is the same in all layouts: right before the rings.
            table = file.read(header.traces_at - len(head)) if header.layout == layout.LAYOUT_VERSION else b""
    except OSError:  # recovered since it was listed, or another user's
        return None
    return BoxView(header, True, _present(header, table), layout.vitals_in(head, header.layout))


@lru_cache(maxsize=_KEPT)
def _dead(path: Path, _: tuple[int, int, int, int]) -> BoxView | None:
    """Returns what the box of a dead run says. It is read whole, once for each inode, time, size and head.

    The head, with its counters and heartbeat, because a file that is written through a mapping keeps its time for a
    while: of a run that writes on, on another machine, that it is dead is a guess.

    Raises:
        OSError: raised when it cannot be read.
    """
    box = layout.read_box(path)
    return (
        None
        if box is None
        else BoxView(box.header, False, in_flight_in(box), box.vitals, last_seen_us(box), box.end_code)
    )


def living(directory: Path, role: int | None = None) -> set[str]:
    """Returns the ids of the runs, of one role or of any, whose processes live; boxes of dead ones are not read."""
    found = set()
    for path in layout.boxes_in(directory):
        with suppress(OSError):  # recovered since it was listed, or another user's
            header = layout.header_of(path)
            if header is None or (role is not None and header.role != role):
                continue
            if layout.is_alive(header) or layout.is_locked(path):
                found.add(header.run_id)
    return found


def _present(header: layout.Header, table: bytes) -> list[InFlight]:
    """Returns the calls of a living process; its monotonic clock is ours."""
    now_ns = time.monotonic_ns()
    return [
        InFlight(
            header.run_id, slot.trace_id, slot.capability, slot.started_us, max(0, now_ns - slot.started_ns) / 1e6,
            slot.span, None if slot.span_started_ns is None else max(0, now_ns - slot.span_started_ns) / 1e6,
        )
        for slot in layout.in_flight_in(table[: header.entries * ENTRY_BYTES])
    ]  # fmt: skip


def flights(found: list[BoxView]) -> list[dict[str, Any]]:
    """Returns the calls in flight of all boxes, the oldest first."""
    made = [
        _flight(call, view.header.program or None, is_alive=view.is_alive) for view in found for call in view.in_flight
    ]
    return sorted(made, key=lambda flight: -flight["age_ms"])[:_MAX_FLIGHTS]


def _flight(call: InFlight, program: str | None, *, is_alive: bool) -> dict[str, Any]:
    return {
        "trace_id": call.trace_id,
        "capability": call.capability,
        "started_us": call.started_us,
        "age_ms": call.age_ms,  # of a dead run: at least
        "span": call.span,
        "span_age_ms": call.span_age_ms,
        "program": program,
        "run_id": call.run_id,
        "is_alive": is_alive,
    }


def interrupted(reader: Reader, run_id: str) -> list[dict[str, Any]]:
    """Returns the calls that were in flight when a run died, which recovery has made rows of.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    sql = (
        "SELECT trace_id, capability, started_us, duration_ms, spans,"
        " (SELECT program FROM runs WHERE runs.run_id = traces.run_id)"
        " FROM traces WHERE run_id = ? AND result = 'interrupted' ORDER BY duration_ms DESC LIMIT ?"
    )
    found = []
    for trace_id, capability, started_us, duration_ms, spans, program in reader.rows(sql, (run_id, _MAX_FLIGHTS)):
        known = (span for span in decoded(spans, []) if isinstance(span, dict))
        span = next((span for span in known if span.get("status") == "open"), {})
        call = InFlight(
            run_id, trace_id, capability, started_us, duration_ms, span.get("name"), span.get("duration_ms")
        )
        found.append(_flight(call, program, is_alive=False))
    return found


def vitals_json(samples: list[Vitals]) -> list[dict[str, Any]]:
    """Returns samples of process health, oldest first."""
    return [asdict(sample) for sample in samples]
