"""Keeps the boxes of dead runs within their budget while the store cannot take their records.

Such a box is first rewritten without what the database has, which is nearly all of it. If the boxes are still too
large, records give way: ordinary ones of the oldest box first, notable ones last, and each is counted in its box
(`gave_way_traces`, `gave_way_logs`). Boxes that are being written, and those of newer programs, are left alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hearthnet.files import create_private, open_regular
from hearthnet.forensics import box as layout
from hearthnet.forensics.box import Box, Frame, Header
from hearthnet.forensics.evidence.last_sign import last_moments
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.box_file import DRAFTS, draft_of

__all__ = ["compact", "keep_boxes_within", "uncommitted"]

log = get_logger(__name__)

_MAX_INTEGER: Final = 2**63 - 1
_DRAFT_S: Final = 60.0  # a younger draft may be under way: it has its lock a moment after its name


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame as it will be written; `rank` is the order in which frames give way."""

    is_trace: bool
    rank: tuple[int, int]
    frame: Frame
    packed: bytes


def uncommitted(box: Box) -> tuple[list[Frame], list[Frame]]:
    """Returns the frames of traces and of log records that the writer has not reported as committed."""
    return (
        [frame for frame in box.traces if frame.ordinal > box.committed_traces],
        [frame for frame in box.logs if frame.ordinal > box.committed_logs],
    )


def compact(path: Path, keep_bytes: int | None = None, *, is_notable_kept: bool = False) -> int:
    """Rewrites the box of a dead process into the smallest file with all that is not committed.

    A box that is being written, or that this program cannot read in full, is left as it is. Killed at any moment, the
    box is there, as it was or as it will be.

    Args:
        path: of the box.
        keep_bytes: the size that the file should not exceed; frames give way for it, the oldest ordinary ones first.
            None: none do.
        is_notable_kept: whether notable ones stay, even if the file then is larger.

    Returns:
        How many records gave way.

    Raises:
        OSError: raised when the file can be neither read nor written.
    """
    with _held(path) as status:
        box = None if status is None else _dead_box(path)
        if box is None or status is None or box.unreadable:
            return 0
        frames = _kept(box)
        rest = _without_frames(box)
        kept = _fitting(_sized(rest, frames), frames, keep_bytes, is_notable_kept=is_notable_kept)
        gone = frames[: len(frames) - len(kept)]
        traces_gone = sum(item.is_trace for item in gone)
        smaller = replace(
            _sized(rest, kept),
            gave_way_traces=box.gave_way_traces + traces_gone,
            gave_way_logs=box.gave_way_logs + len(gone) - traces_gone,
        )
        if smaller.header.total_bytes < status.st_size:
            _write(path, smaller, kept, status)
            return len(gone)
    return 0


@contextmanager
def _held(path: Path) -> Iterator[os.stat_result | None]:
    """Holds a box's lock; yields the file's status, or None if another process has it."""
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = os.path.samestat(status, path.stat())  # not rewritten by another one since it was opened
        except OSError:
            is_held = False
        yield status if is_held else None
    finally:
        os.close(fd)


def _dead_box(path: Path) -> Box | None:
    """Returns the box of a process that has ended, whose lock the caller holds; None for every other file."""
    try:
        box = layout.read_box(path)
    except layout.NewerBoxError:
        return None
    if box is None:
        return None
    # Where the lock is not kept, as on some network file systems, pid, boot and start tell.
    is_ours = box.header.pid == os.getpid()
    return box if box.ended_us or is_ours or not layout.is_alive(box.header) else None


def _kept(box: Box) -> list[_Kept]:
    """Returns the uncommitted frames, first those that give way first."""
    found = []
    for is_trace, frames in zip((True, False), uncommitted(box), strict=True):
        for frame in frames:
            values = layout.fields(frame, "traces" if is_trace else "logs")
            # Traces and log records are numbered together. A payload that cannot be read is no reason to lose it first.
            is_notable = values is None or values["notable"] != 0
            number = values["number"] if values is not None and isinstance(values["number"], int) else 0
            found.append(_Kept(is_trace, (int(is_notable), number), frame, layout.pack_frame(frame)))
    return sorted(found, key=lambda kept: kept.rank)


def _without_frames(box: Box) -> Box:
    """Returns a box with what the frames of finished traces tell, which are to go: its last sign of life, its ends."""
    flying, last_ns = last_moments(box)
    return replace(
        box,
        in_flight=flying,
        heartbeat_ns=min(last_ns, _MAX_INTEGER),
        last_trace=max([box.last_trace, *(frame.ordinal for frame in box.traces)]),
        last_log=max([box.last_log, *(frame.ordinal for frame in box.logs)]),
    )


def _sized(box: Box, frames: list[_Kept]) -> Box:
    """Returns the box with a header for a file in this program's layout that has `frames`."""
    trace_bytes = sum(len(item.packed) for item in frames if item.is_trace)
    header = replace(
        box.header,
        layout=layout.LAYOUT_VERSION,
        page_bytes=1,
        entries=len(box.in_flight),
        trace_bytes=trace_bytes,
        log_bytes=sum(len(item.packed) for item in frames) - trace_bytes,
    )
    return replace(box, header=header)


def _fitting(box: Box, frames: list[_Kept], keep_bytes: int | None, *, is_notable_kept: bool) -> list[_Kept]:
    """Returns the frames that stay, so that the file has at most `keep_bytes`."""
    surplus = 0 if keep_bytes is None else box.header.total_bytes - keep_bytes
    for at, item in enumerate(frames):
        if surplus <= 0 or (is_notable_kept and item.rank[0]):
            return frames[at:]
        surplus -= len(item.packed)
    return []


def _write(path: Path, box: Box, frames: list[_Kept], status: os.stat_result) -> None:
    """Replaces the file at `path`, or puts a layout 2 file in place of one with the name of layout 1."""
    draft = draft_of(path, box.header.run_id)
    draft.unlink(missing_ok=True)  # of a process that was killed here: the lock shows that no other one is
    try:
        with os.fdopen(create_private(draft, os.O_WRONLY), "wb") as file:
            file.write(_packed(box, frames))
            file.flush()
            os.fsync(file.fileno())
        os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))  # boxes are recovered in the order of their ends
        target = path.with_suffix(".box2")
        if target == path:
            draft.replace(path)
            return
        os.link(draft, target)  # in between there are two boxes of the run, whose records are known by their numbers
        path.unlink()
    finally:
        draft.unlink(missing_ok=True)


def _packed(box: Box, frames: list[_Kept]) -> bytes:
    content = bytearray(box.header.pack().ljust(layout.HEADER_BYTES, b"\0"))
    layout.COUNTERS.pack_into(content, layout.COUNTERS_AT, *(getattr(box, name) for name in layout.COUNTER_NAMES))
    for ordinal, vitals in enumerate(box.vitals, 1):
        # As many as there are slots, and already sparser with age: one after another, whichever ring a slot is of.
        at = layout.VITALS_AT + (ordinal - 1) * layout.VITALS.size
        content[at : at + layout.VITALS.size] = layout.pack_vitals(ordinal, vitals)
    for entry in box.in_flight:
        content += layout.pack_in_flight(entry)
    in_order = sorted(frames, key=lambda item: (not item.is_trace, item.frame.ordinal))
    return bytes(content) + b"".join(item.packed for item in in_order)


def keep_boxes_within(directory: Path, limit_bytes: int, own: Path | None) -> int:
    """Makes the boxes of dead runs take at most `limit_bytes` in all; returns how many records gave way for that.

    Never raises: a box that cannot be rewritten, as on a full disk, stays as it is. Called by the process that keeps
    house, so that no other one does the same at the same time.

    Args:
        directory: of the store.
        limit_bytes: for the boxes of dead runs together.
        own: the box of this process, which is skipped.
    """
    _remove_drafts(directory)
    gave_way = 0
    for keep, is_notable_kept in ((False, True), (True, True), (True, False)):
        for path in _dead_boxes(directory, own):
            surplus = _total(_dead_boxes(directory, own)) - limit_bytes
            if surplus <= 0:
                return gave_way
            try:
                keep_bytes = path.stat().st_size - surplus if keep else None
                gave_way += compact(path, keep_bytes, is_notable_kept=is_notable_kept)
            except OSError as error:
                log.warning("a black box cannot be made smaller", extra={"path": str(path), "error": error})
    return gave_way


def _dead_boxes(directory: Path, own: Path | None) -> list[Path]:
    newer = layout.newer_boxes_in(directory)
    return [path for path in layout.boxes_in(directory) if path != own and path not in newer and _is_dead(path)]


def _is_dead(path: Path) -> bool:
    header: Header | None = layout.header_of(path)
    if header is None or layout.is_locked(path):
        return False
    return header.pid == os.getpid() or not layout.is_alive(header)


def _total(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(OSError):  # recovered by another process since it was listed
            total += path.stat().st_size
    return total


def _remove_drafts(directory: Path) -> None:
    """Removes files that a killed process had not finished; who makes one holds its lock."""
    for path in directory.glob(DRAFTS):
        with suppress(OSError):  # named since it was listed, or not ours to remove
            if time.time() - path.stat().st_mtime > _DRAFT_S and not layout.is_locked(path):
                path.unlink()
