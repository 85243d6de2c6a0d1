"""The runs that the files tell of: from the database, from black boxes, what faulthandler left, what was in flight."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hearthnet.forensics.box import ENTRIES, Box, boxes_in, fields, is_locked, process_start, read_box, this_boot
from hearthnet.forensics.evidence.entries import integer, number, rows_of_frames, text, vitals_of
from hearthnet.forensics.evidence.safe_stat import is_file, listed, why_unreadable
from hearthnet.forensics.model import Entry, InFlight, Run, Source

__all__ = ["SIGN_LEVELS", "TAKEN_BACK", "Boxes", "as_in_flight", "in_flight_in", "is_sign", "read_boxes", "runs_of"]

# What a verdict rests on: warnings and errors, and what took one back.
SIGN_LEVELS: Final = ("warning", "error", "critical")
TAKEN_BACK: Final = "telemetry is written again"
_CLEAN: Final = "clean"
_UNCLEAN: Final = "unclean"
_FAULT: Final = re.compile(r"telemetry\.(\d+)\.(?:[0-9A-Za-z]+\.)?fault")
_MAX_FAULT_BYTES: Final = 64 * 1024
_MAX_BOX_BYTES: Final = 1 << 30  # many times what any budget gives one
_DATED: Final = re.compile(r"telemetry\.\d+\.(\d{8}T\d{6})Z\.fault")
_SECOND_US: Final = 1_000_000

Row = dict[str, Any]


@dataclass(slots=True)
class Boxes:
    """The black boxes of a folder, by the run that wrote each."""

    by_run: dict[str, tuple[Path, Box]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


def read_boxes(directory: Path) -> Boxes:
    """Returns the black boxes in a folder. Never raises for what is in them."""
    found = Boxes()
    if reason := why_unreadable(directory):
        found.sources.append(Source(directory, "box", "unreadable", f"the folder cannot be listed: {reason}"))
        return found
    for path in boxes_in(directory):
        try:
            size = path.stat().st_size
            if not is_file(path) or size > _MAX_BOX_BYTES:
                found.sources.append(Source(path, "box", "foreign", "no file of ours", size))
                continue
            box = read_box(path)
        except OSError as error:
            found.sources.append(Source(path, "box", "unreadable", error.strerror or str(error)))
            continue
        if box is None:
            found.sources.append(Source(path, "box", "damaged", "no header that can be read", size))
            continue
        found.by_run[box.header.run_id] = (path, box)
        # One may be torn in any box: that which was being written when its process was killed.
        state = "damaged" if box.damaged > 1 else "whole"
        told = f"{len(box.traces):,} trace(s), {len(box.logs):,} record(s), {len(box.in_flight):,} in flight"
        damage = f"; {box.damaged:,} frame(s) damaged" if box.damaged else ""
        found.sources.append(Source(path, "box", state, f"{told}{damage}", size))
    return found


def runs_of(
    rows: list[Row], boxes: Boxes, directory: Path, spans_us: dict[str, tuple[int, int]], *, is_damaged: bool
) -> list[Run]:
    """Returns every run, newest first.

    Args:
        rows: of the table `runs`.
        boxes: of the folder.
        directory: where the store lies, with the files of faulthandler.
        spans_us: when each run first and last recorded something.
        is_damaged: rows of the table may be lost: a run of which there are records only is one all the same.
    """
    runs = {run.run_id: run for row in rows if (run := _from_row(row)).run_id}
    for run_id, (path, box) in boxes.by_run.items():
        runs[run_id] = _with_box(runs.get(run_id) or _from_box(box), path, box)
    faults = _faults(directory)
    if is_damaged:
        for run_id, (first_us, _) in spans_us.items():
            runs.setdefault(run_id, Run(run_id, first_us))
    ordered = _newest_first(list(runs.values()), len(rows))
    return [_with_fault(_seen(run, spans_us), ordered, faults) for run in ordered]


def _newest_first(runs: list[Run], stored: int) -> list[Run]:
    """Returns runs newest first; the first `stored` are in the order in which they began, whatever the clock showed."""
    moments: list[int] = []
    for place, run in enumerate(runs):
        before = moments[-1] if moments and place < stored else run.started_us
        moments.append(max(before, run.started_us))
    places = sorted(range(len(runs)), key=lambda place: (moments[place], place), reverse=True)
    return [runs[place] for place in places]


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
    seen, ended = _heartbeat_us(box), box.ended_us or run.ended_us
    return replace(
        run,
        has_box=True,
        is_alive=False if box.ended_us else _is_alive(path, box),
        ended_us=ended,
        end_reason=_CLEAN if box.ended_us else run.end_reason,
        last_seen_us=max(seen, run.last_seen_us or 0) or None,
        vitals=tuple(getattr(box, "vitals", ())) or run.vitals,
    )


def _is_alive(path: Path, box: Box) -> bool | None:
    """Tells whether the writer of a box runs; None where the box was written by another machine, or in another boot."""
    if not box.header.boot_id or box.header.boot_id != this_boot():
        return None
    # The lock is held for life by the writer, which may be in a container where its number is another's.
    return is_locked(path) or process_start(box.header.pid) == box.header.process_start


def _heartbeat_us(box: Box) -> int:
    """Returns the last sign of life by the wall clock as it was at the end: a clock may be set while a node runs."""
    if not box.heartbeat_ns:
        return 0
    wall_us, mono_ns = box.header.started_us, box.header.started_ns
    for _, payload in reversed(box.traces):
        row = fields(payload, "traces")
        if row is not None and integer(row["started_mono_ns"]):
            wall_us, mono_ns = integer(row["started_us"]), integer(row["started_mono_ns"])
            break
    return wall_us + (box.heartbeat_ns - mono_ns) // 1_000


def _seen(run: Run, spans_us: dict[str, tuple[int, int]]) -> Run:
    known = [moment for moment in (run.last_seen_us, spans_us.get(run.run_id, (0, 0))[1]) if moment]
    return replace(run, last_seen_us=max(known, default=run.started_us))


@dataclass(frozen=True, slots=True)
class _Fault:
    pid: int
    moment_us: int | None  # of the end of its process, to the second; None: of the last of its number
    words: str


def _faults(directory: Path) -> list[_Fault]:
    found = []
    for path in listed(directory, "telemetry.*.fault"):
        match = _FAULT.fullmatch(path.name)
        if match is None or not is_file(path):
            continue
        with suppress(OSError):  # gone, or not ours to read: nothing is known of it
            with path.open("rb") as file:
                words = file.read(_MAX_FAULT_BYTES).decode("utf-8", "replace")
            if words.strip():
                found.append(_Fault(int(match[1]), _moment_us(path), words))
    return found


def _moment_us(path: Path) -> int | None:
    """Returns the time in the name of a fault file. The file's own is lost when somebody copies it."""
    match = _DATED.fullmatch(path.name)
    try:
        moment = None if match is None else datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # the 45th of a month
        return 0
    return None if moment is None else int(moment.timestamp()) * _SECOND_US


def _with_fault(run: Run, runs: list[Run], faults: list[_Fault]) -> Run:
    """Returns the run with the last words of its process: the last one of its number that began before their time."""
    for fault in faults:
        if fault.pid == run.pid and run.end_reason != _CLEAN:
            began = [other for other in runs if other.pid == run.pid and _is_before(other, fault)]
            if began and max(began, key=lambda other: other.started_us).run_id == run.run_id:
                return replace(run, fault=fault.words)
    return run


def _is_before(run: Run, fault: _Fault) -> bool:
    return fault.moment_us is None or run.started_us <= fault.moment_us + _SECOND_US


def is_sign(entry: Entry) -> bool:
    """Tells whether an entry may be a sign of what a run died of."""
    return entry.kind == "log" and (entry.status in SIGN_LEVELS or entry.text == TAKEN_BACK)


def as_in_flight(entry: Entry) -> InFlight:
    """Returns the row that a trace in flight became when the box of its run was taken in."""
    span = next((span for span in entry.spans if span.get("status") == "open"), None)
    name, span_ms = (None, None) if span is None else (text(span.get("name")), number(span.get("duration_ms")))
    return InFlight(
        entry.run_id or "", entry.trace_id or "", entry.name, entry.ts_us, entry.duration_ms or 0.0, name, span_ms
    )


def in_flight_in(box: Box) -> list[InFlight]:
    """Returns the traces that a box has as not ended; their rows are made when it is taken in."""
    run_id = box.header.run_id
    rows = rows_of_frames(box.traces[-ENTRIES:], "traces", run_id) if box.in_flight else []
    finished = {(text(row["trace_id"]), integer(row["started_mono_ns"])) for row in rows}
    # By the clock that nobody sets: the last moment that the box tells of.
    moments = [box.heartbeat_ns, box.header.started_ns]
    moments += [integer(row["started_mono_ns"]) + int(min(number(row["duration_ms"]) or 0, 1e12) * 1e6) for row in rows]
    moments += [max(trace.started_ns, trace.span_started_ns or 0) for trace in box.in_flight]
    end_ns = max(moments)
    return [
        InFlight(
            run_id, text(trace.trace_id), text(trace.capability), trace.started_us,
            max(0, end_ns - trace.started_ns) / 1e6, trace.span,
            None if trace.span_started_ns is None else max(0, end_ns - trace.span_started_ns) / 1e6,
        )
        for trace in box.in_flight
        # Killed between the record, which is among the last, and the mark: it has ended.
        if (trace.trace_id, trace.started_ns) not in finished
    ]  # fmt: skip
