"""The runs that the files tell of: from the database, from black boxes, and what faulthandler left of each."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hearthnet.forensics.box import Box, boxes_in, is_locked, process_start, read_box, this_boot
from hearthnet.forensics.entries import integer, text, vitals_of
from hearthnet.forensics.model import Run, Source

__all__ = ["Boxes", "read_boxes", "runs_of"]

_UNCLEAN: Final = "unclean"
_FAULT: Final = re.compile(r"telemetry\.(\d+)\.(?:[0-9A-Za-z]+\.)?fault")
_MAX_FAULT_BYTES: Final = 64 * 1024
_AFTER_US: Final = 60_000_000  # the last words are written at the end, by a clock that may have been set

Row = dict[str, Any]


@dataclass(slots=True)
class Boxes:
    """The black boxes of a folder, by the run that wrote each."""

    by_run: dict[str, tuple[Path, Box]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


def read_boxes(directory: Path) -> Boxes:
    """Returns the black boxes in a folder. Never raises for what is in them."""
    found = Boxes()
    for path in boxes_in(directory):
        try:
            box = read_box(path)
            size = path.stat().st_size
        except OSError as error:
            found.sources.append(Source(path, "box", "unreadable", error.strerror or str(error)))
            continue
        if box is None:
            found.sources.append(Source(path, "box", "damaged", "no header that can be read", size))
            continue
        found.by_run[box.header.run_id] = (path, box)
        state = "damaged" if box.damaged else "whole"
        told = f"{len(box.traces):,} trace(s), {len(box.logs):,} record(s), {len(box.in_flight):,} in flight"
        damage = f"; {box.damaged:,} frame(s) damaged" if box.damaged else ""
        found.sources.append(Source(path, "box", state, f"{told}{damage}", size))
    return found


def runs_of(rows: list[Row], boxes: Boxes, directory: Path, last_us: dict[str, int]) -> list[Run]:
    """Returns every run, newest first.

    Args:
        rows: of the table `runs`.
        boxes: of the folder.
        directory: where the store lies, with the files of faulthandler.
        last_us: when each run last recorded something.
    """
    runs = {run.run_id: run for row in rows if (run := _from_row(row)).run_id}
    for run_id, (path, box) in boxes.by_run.items():
        runs[run_id] = _with_box(runs.get(run_id) or _from_box(box), path, box)
    faults = _faults(directory)
    ordered = sorted(runs.values(), key=lambda run: (run.started_us, run.run_id), reverse=True)
    return [_with_fault(_seen(run, last_us), faults) for run in ordered]


def _from_row(row: Row) -> Run:
    ended = integer(row["ended_us"]) or None
    reason = text(row["end_reason"]) or None
    # A run that was closed for it by the next one wrote no end: its row has the last sign of life there.
    seen = integer(row["last_seen_us"]) or (ended if reason == _UNCLEAN else 0)
    boot_id = text(row["boot_id"]) or None
    return Run(
        text(row["run_id"]),
        integer(row["started_us"]),
        None if reason == _UNCLEAN else ended,
        reason,
        text(row["node_id"]) or None,
        text(row["version"]),
        integer(row["pid"]),
        boot_id,
        seen or ended,
        # Its box was taken in, so it is dead; that the machine was up all the while is known in this boot only.
        False if reason and boot_id and boot_id == this_boot() else None,
        vitals=vitals_of(row["vitals"]),
    )


def _from_box(box: Box) -> Run:
    header = box.header
    return Run(
        header.run_id, header.started_us, node_id=header.node_id, version=header.version, pid=header.pid,
        boot_id=header.boot_id or None,
    )  # fmt: skip


def _with_box(run: Run, path: Path, box: Box) -> Run:
    header = box.header
    seen = header.started_us + (box.heartbeat_ns - header.started_ns) // 1_000 if box.heartbeat_ns else 0
    alive: bool | None = None
    if is_locked(path):  # held for life by its writer, in another container too
        alive = True
    elif header.boot_id and header.boot_id == this_boot():
        alive = process_start(header.pid) == header.process_start
    ended = box.ended_us or run.ended_us
    return replace(
        run,
        has_box=True,
        is_alive=alive,
        ended_us=ended,
        end_reason="clean" if box.ended_us else run.end_reason,
        last_seen_us=max(seen, run.last_seen_us or 0) or None,
        vitals=tuple(getattr(box, "vitals", ())) or run.vitals,
    )


def _seen(run: Run, last_us: dict[str, int]) -> Run:
    known = [moment for moment in (run.last_seen_us, last_us.get(run.run_id)) if moment]
    return replace(run, last_seen_us=max(known, default=run.started_us))


@dataclass(frozen=True, slots=True)
class _Fault:
    pid: int
    modified_us: int
    words: str


def _faults(directory: Path) -> list[_Fault]:
    found = []
    for path in directory.glob("telemetry.*.fault"):
        match = _FAULT.fullmatch(path.name)
        with suppress(OSError):  # gone, or not ours to read: nothing is known of it
            with path.open("rb") as file:
                words = file.read(_MAX_FAULT_BYTES).decode("utf-8", "replace")
            if match and words.strip():
                found.append(_Fault(int(match[1]), path.stat().st_mtime_ns // 1_000, words))
    return found


def _with_fault(run: Run, faults: list[_Fault]) -> Run:
    """Returns the run with the last words of its process; a number is used again, so the time decides as well."""
    end = (run.last_seen_us or run.started_us) + _AFTER_US
    for fault in faults:
        if fault.pid == run.pid and run.started_us <= fault.modified_us <= end:
            return replace(run, fault=fault.words)
    return run
