"""Runs found in the files: from the database, black boxes and faulthandler's files; traces in flight."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hearthnet.display import counted
from hearthnet.files import open_file
from hearthnet.forensics.box import (
    Box,
    boxes_in,
    is_locked,
    joined,
    newer_boxes_in,
    process_start,
    read_box,
    this_boot,
)
from hearthnet.forensics.evidence.cut_short import BUS_ERROR, CUT_SHORT, cut_short, shortage_of
from hearthnet.forensics.evidence.entries import integer, loaded, number, text, vitals_of
from hearthnet.forensics.evidence.kernel import KernelSources, kernel_of
from hearthnet.forensics.evidence.last_sign import last_moments, last_seen_us
from hearthnet.forensics.evidence.safe_stat import is_file, listed, why_unreadable
from hearthnet.forensics.model import Entry, InFlight, Run, Source

__all__ = [
    "ALL_CLEAR",
    "SIGN_LEVELS",
    "Boxes",
    "as_in_flight",
    "in_flight_in",
    "is_exit",
    "is_sign",
    "read_boxes",
    "runs_of",
]

# A verdict rests on warnings, errors, and the record that cancels one.
SIGN_LEVELS: Final = ("warning", "error", "critical")
ALL_CLEAR: Final = "telemetry is written again"
_CLEAN: Final = "clean"
_UNCLEAN: Final = "unclean"
_FAULT: Final = re.compile(r"telemetry\.(\d+)\.(?:[0-9A-Za-z]+\.)?fault")
_MAX_FAULT_BYTES: Final = 64 * 1024
_MAX_BOX_BYTES: Final = 1 << 30  # far beyond any budget
_DATED: Final = re.compile(r"telemetry\.\d+\.(\d{8}T\d{6})Z\.fault")
_SECOND_US: Final = 1_000_000

Row = dict[str, Any]


@dataclass(slots=True)
class Boxes:
    """The black boxes of a folder, by run id."""

    by_run: dict[str, tuple[Path, Box]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    def add(self, path: Path, box: Box) -> None:
        """Adds a box; one of a run that has a box already, as it was killed while it moved, is joined with that."""
        _, older = self.by_run.get(box.header.run_id, (path, None))
        self.by_run[box.header.run_id] = path, box if older is None else joined(older, box)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed since it was listed
        return 0


def read_boxes(directory: Path) -> Boxes:
    """Returns the black boxes in a folder. Never raises because of their content."""
    found = Boxes()
    if reason := why_unreadable(directory):
        found.sources.append(Source(directory, "box", "unreadable", f"the folder cannot be listed: {reason}"))
        return found
    newer = newer_boxes_in(directory)
    for path in newer:
        found.sources.append(Source(path, "box", "newer", "its layout is newer than this program", _size(path)))
    for path in boxes_in(directory):
        if path in newer:
            continue
        try:
            size = path.stat().st_size
            if not is_file(path) or size > _MAX_BOX_BYTES:
                found.sources.append(Source(path, "box", "foreign", "not a black box", size))
                continue
            box = read_box(path)
        except OSError as error:
            found.sources.append(Source(path, "box", "unreadable", error.strerror or str(error)))
            continue
        short = f"cut short: {shortage}; " if (shortage := shortage_of(path)) else ""
        if box is None:
            found.sources.append(Source(path, "box", "damaged", f"{short}its header cannot be read", size))
            continue
        found.add(path, box)
        # One torn frame is normal: the one being written when the process was killed.
        state = "damaged" if box.damaged > 1 or short else "whole"
        counts = (
            f"{counted(len(box.traces), 'trace')}, {counted(len(box.logs), 'record')}, {len(box.in_flight):,} in flight"
        )
        damage = f"; {counted(box.damaged, 'frame')} damaged" if box.damaged else ""
        newer_ones = f"; {counted(box.unreadable, 'frame')} of a newer program" if box.unreadable else ""
        found.sources.append(Source(path, "box", state, f"{short}{counts}{damage}{newer_ones}", size))
    return found


def runs_of(
    rows: list[Row],
    boxes: Boxes,
    directory: Path,
    spans_us: dict[str, tuple[int, int]],
    *,
    is_damaged: bool,
    kernel: KernelSources | None = None,
) -> list[Run]:
    """Returns every run, newest first.

    Args:
        rows: of the table `runs`.
        boxes: of the folder.
        directory: the folder of the store and of faulthandler's files.
        spans_us: when each run recorded its first and last record.
        is_damaged: rows of `runs` may be lost, so a run is also inferred from its records.
        kernel: where the kernel's account of an end is read; None: this machine.
    """
    sources = kernel or KernelSources()
    runs = {run.run_id: run for row in rows if (run := _from_row(row)).run_id}
    for run_id, (path, box) in boxes.by_run.items():
        runs[run_id] = _with_box(runs.get(run_id) or _from_box(box), path, box, sources)
    faults = _faults(directory)
    if is_damaged:
        for run_id, (first_us, _) in spans_us.items():
            runs.setdefault(run_id, Run(run_id, first_us))
    ordered = _newest_first(list(runs.values()), len(rows))
    return [_with_fault(_seen(run, spans_us), ordered, faults) for run in ordered]


def _newest_first(runs: list[Run], stored: int) -> list[Run]:
    """Returns runs newest first. The first `stored` are already in starting order, even if the clock was set back."""
    moments: list[int] = []
    for index, run in enumerate(runs):
        before = moments[-1] if moments and index < stored else run.started_us
        moments.append(max(before, run.started_us))
    indexes = sorted(range(len(runs)), key=lambda index: (moments[index], index), reverse=True)
    return [runs[index] for index in indexes]


def _from_row(row: Row) -> Run:
    ended = integer(row["ended_us"]) or None
    reason = text(row["end_reason"]) or None
    # If the next run closed this one's row, `ended_us` is when it was last seen.
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
        # Its box was recovered, so it is dead. Only in its own boot is it known that the machine stayed up.
        False if reason and boot_id and boot_id == this_boot() else None,
        vitals=vitals_of(row["vitals"]),
        program=text(row["program"]),
        role=text(row["role"]),
        kernel=kernel_of(loaded(row["vitals"])),
    )


def _from_box(box: Box) -> Run:
    header = box.header
    return Run(
        header.run_id, header.started_us, node_id=header.node_id, version=header.version, pid=header.pid,
        boot_id=header.boot_id or None, program=getattr(header, "program", ""),
    )  # fmt: skip


def _with_box(run: Run, path: Path, box: Box, sources: KernelSources) -> Run:
    seen = last_seen_us(box)
    is_alive = False if box.ended_us else _is_alive(path, box)
    return replace(
        run,
        has_box=True,
        is_alive=is_alive,
        kernel=run.kernel if box.ended_us or is_alive else sources.of_box(box) or run.kernel,
        ended_us=box.ended_us or run.ended_us,
        end_reason=_CLEAN if box.ended_us else run.end_reason,
        last_seen_us=max(seen, run.last_seen_us or 0) or None,
        vitals=tuple(getattr(box, "vitals", ())) or run.vitals,
    )


def _is_alive(path: Path, box: Box) -> bool | None:
    """Returns True if the writer of a box runs; None if the box is from another machine or another boot."""
    if not box.header.boot_id or box.header.boot_id != this_boot():
        return None
    # The writer holds the lock until it exits; in a container its pid may differ.
    return is_locked(path) or process_start(box.header.pid) == box.header.process_start


def _seen(run: Run, spans_us: dict[str, tuple[int, int]]) -> Run:
    known = [moment for moment in (run.last_seen_us, spans_us.get(run.run_id, (0, 0))[1]) if moment]
    return replace(run, last_seen_us=max(known, default=run.started_us))


@dataclass(frozen=True, slots=True)
class _Fault:
    pid: int
    moment_us: int | None  # the end of its process, to the second; None: the last process with this pid
    words: str


def _faults(directory: Path) -> list[_Fault]:
    found = []
    for path in listed(directory, "telemetry.*.fault"):
        match = _FAULT.fullmatch(path.name)
        if match is None or not is_file(path):
            continue
        with suppress(OSError):  # gone, or not readable
            with open_file(path) as file:
                words = file.read(_MAX_FAULT_BYTES).decode("utf-8", "replace")
            if BUS_ERROR in words and CUT_SHORT not in words:  # no later start has looked yet
                words = "\n".join([words.rstrip(), *cut_short(directory, int(match[1]))])
            if words.strip():
                found.append(_Fault(int(match[1]), _moment_us(path), words))
    return found


def _moment_us(path: Path) -> int | None:
    """Returns the time in the name of a fault file. The file's mtime does not survive copying."""
    match = _DATED.fullmatch(path.name)
    try:
        moment = None if match is None else datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # no valid date
        return 0
    return None if moment is None else int(moment.timestamp()) * _SECOND_US


def _with_fault(run: Run, runs: list[Run], faults: list[_Fault]) -> Run:
    """Returns the run with its fault file: of the runs with that pid, the last one started before the fault."""
    for fault in faults:
        if fault.pid == run.pid and run.end_reason != _CLEAN:
            began = [other for other in runs if other.pid == run.pid and _is_before(other, fault)]
            if began and max(began, key=lambda other: other.started_us).run_id == run.run_id:
                return replace(run, fault=fault.words)
    return run


def _is_before(run: Run, fault: _Fault) -> bool:
    return fault.moment_us is None or run.started_us <= fault.moment_us + _SECOND_US


def is_sign(entry: Entry) -> bool:
    """Returns True if an entry may be a sign of how a run ended."""
    if entry.kind == "trace":
        return is_exit(entry)
    return entry.kind == "log" and (entry.status in SIGN_LEVELS or entry.text == ALL_CLEAR)


def is_exit(entry: Entry) -> bool:
    """Returns True for a trace that the program left by `sys.exit`, with another status than 0 or with a message."""
    return entry.kind == "trace" and entry.status != "ok" and entry.text.startswith("SystemExit")


def as_in_flight(entry: Entry) -> InFlight:
    """Returns the trace in flight of an `interrupted` row, which recovery made from a box."""
    span = next((span for span in entry.spans if span.get("status") == "open"), None)
    name, span_ms = (None, None) if span is None else (text(span.get("name")), number(span.get("duration_ms")))
    return InFlight(
        entry.run_id or "", entry.trace_id or "", entry.name, entry.ts_us, entry.duration_ms or 0.0, name, span_ms
    )


def in_flight_in(box: Box) -> list[InFlight]:
    """Returns the traces in flight of a box that has not been recovered."""
    if not box.in_flight:
        return []
    flying, end_ns = last_moments(box)
    return [
        InFlight(
            box.header.run_id, text(trace.trace_id), text(trace.capability), trace.started_us,
            max(0, end_ns - trace.started_ns) / 1e6, trace.span,
            None if trace.span_started_ns is None else max(0, end_ns - trace.span_started_ns) / 1e6,
        )
        for trace in flying
    ]  # fmt: skip
