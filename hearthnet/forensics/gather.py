"""Builds a case from a node's files: database rows, box frames and log lines, merged without duplicates.

Files are never written, and SQLite only opens copies of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, Final

from hearthnet.constants import IMPORTED
from hearthnet.files import open_file, why_no_file
from hearthnet.forensics.box import LIBRARY
from hearthnet.forensics.evidence.database import Store, read_store
from hearthnet.forensics.evidence.entries import (
    error_groups,
    from_gap,
    from_log,
    from_trace,
    minutes_before,
    rows_of_frames,
)
from hearthnet.forensics.evidence.kernel import KernelSources
from hearthnet.forensics.evidence.log_lines import Lines, find_log_dir, read_lines
from hearthnet.forensics.evidence.runs import Boxes, as_in_flight, in_flight_in, is_sign, read_boxes, runs_of
from hearthnet.forensics.evidence.safe_stat import is_file, is_folder, listed, why_unreadable
from hearthnet.forensics.model import Case, Entry, InFlight, Run, Source
from hearthnet.forensics.timeline import ended_us, fresh_lines, timeline, with_runs
from hearthnet.forensics.whose import last_first, like, one_by_one, runs_to_judge
from hearthnet.moments import iso
from hearthnet.references import chosen, place

__all__ = ["gather"]

DATABASE: Final = "telemetry.db"
HISTORY: Final = "doctor.jsonl"
INTERRUPTED: Final = "interrupted"
CLEAN: Final = "clean"
JOURNAL: Final = "journalctl"
_ASIDE: Final = (".corrupt-", ".before-rebuild-")
_MAX_SIGNS: Final = 2_000
_SLOWEST: Final = 10
_SLACK_US: Final = 2_000_000  # a record is written a moment after it was made
_AROUND_US: Final = 30_000_000
_MAX_HISTORY_BYTES: Final = 2_000_000


def gather(
    path: Path,
    *,
    log_dir: Path | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    run_id: str | None = None,
    program: str | None = None,
    around: str | None = None,
    limit: int = 200,
    kernel: KernelSources | None = None,
) -> Case:
    """Returns the case of one run: one of the node's own, unless another is named or there is none.

    Args:
        path: telemetry.db or its folder.
        log_dir: the folder of the JSON logs; None: found beside the store.
        since_us: drops older timeline entries, UTC microseconds.
        until_us: drops timeline entries from then on, UTC microseconds.
        run_id: the run, by the beginning of its id, or `last`, -2 and so on; None: the newest one that has ended.
        program: chooses among the runs of this program instead of the node's.
        around: a trace, by the beginning of its id, or `last`, -2 and so on; selects the entries around it.
        limit: the maximum number of timeline entries, newest first.
        kernel: where the kernel's account of the end is read; None: this machine's log and counters, and its journal.

    Raises:
        ValueError: raised when `run_id` matches no run or several, `program` no run, or `around` no trace.
    """
    directory, database = (path, path / DATABASE) if is_folder(path) or not path.suffix else (path.parent, path)
    store, boxes = read_store(database), read_boxes(directory)
    records = _merged(store, boxes)
    is_damaged = store.sources[0].state != "whole"
    kernel = kernel or KernelSources(journal=JOURNAL)
    spans_us = _spans_us(records)
    runs = runs_of(store.tables["runs"], boxes, directory, spans_us, is_damaged=is_damaged, kernel=kernel)
    case = Case(directory, _asked(_chosen(runs, run_id, program), kernel), runs)
    run = case.run
    case.findings, case.findings_at, history = _findings(directory / HISTORY, run, runs)
    case.sources = [*store.sources, *boxes.sources, *history, *_unread_files(directory, database)]
    if run is None:
        return case
    numbered = _ordered([*records, *map(from_gap, store.tables["gaps"])])
    case.in_flight = _in_flight(run, records, boxes)
    if _has_table(run, boxes):
        numbered = _with_table(numbered, case.in_flight, "open" if run.is_alive else INTERRUPTED)
    numbered = _until_seen(numbered, runs)
    if around is not None:
        around = _trace_id(around, run, numbered)
    window, own = _window(run, numbered, (since_us or 0, until_us), around), (run.started_us, _end_us(run) + _SLACK_US)
    lines = _lines(log_dir, directory, window, own, limit, case.sources)
    # Processes commit at different intervals, so the order of commits says little about records of two of them.
    own_ids = {other.run_id for other in one_by_one(like(runs, run))}
    apart = {other.run_id for other in runs if other.run_id not in own_ids}
    apart |= {key for key, (_, box) in boxes.by_run.items() if box.header.role == LIBRARY}
    entries = timeline(numbered, with_runs(lines.entries, runs), runs, apart)
    case.entries = _selected(entries, run, since_us, until_us, around, limit)
    _summarise(case, run, records, with_runs(lines.notable, runs))
    return case


def _asked(run: Run | None, kernel: KernelSources) -> Run | None:
    """Returns the run with the kernel's account, asked again where the next start could not read its log, say."""
    if (
        run is None
        or run.is_alive
        or run.end_reason in (CLEAN, IMPORTED)
        or (run.kernel and run.kernel.confidence == "certain")
    ):
        return run
    return replace(run, kernel=kernel.of_run(run) or run.kernel)


def _summarise(case: Case, run: Run, records: list[Entry], lines: list[Entry]) -> None:
    """Sets the run's signs, errors, slowest traces and minutes, from its records and the lines without a record."""
    own = [entry for entry in records if entry.run_id == run.run_id]
    own += [line for _, line in fresh_lines(lines, own) if line.run_id == run.run_id]
    finished = [entry for entry in own if entry.kind == "trace" and entry.status != INTERRUPTED]
    signs = sorted((entry for entry in own if is_sign(entry)), key=lambda entry: entry.ts_us)
    case.signs = signs[-_MAX_SIGNS:]
    case.errors = error_groups(own)
    case.slowest = sorted(finished, key=lambda entry: entry.duration_ms or 0.0, reverse=True)[:_SLOWEST]
    case.minutes = minutes_before(run.last_seen_us or run.started_us, finished)


def _merged(store: Store, boxes: Boxes) -> list[Entry]:
    """Returns the records of the store and those that are only in a box, in the order of their numbers."""
    found: dict[tuple[str, int, str], Entry] = {}
    for table, kind, make in (("traces", "trace", from_trace), ("logs", "log", from_log)):
        for entry in map(make, store.tables[table]):
            found[entry.run_id or "", entry.number or 0, kind] = entry
        for run_id, (_, box) in boxes.by_run.items():
            for row in rows_of_frames(box.traces if kind == "trace" else box.logs, table, run_id):
                found.setdefault((run_id, row["number"], kind), make(row, "box"))
    return _ordered(found.values())


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Returns entries in the store's order; records that it lacks follow those of their run that it has."""
    known = list(entries)
    last: dict[str | None, int] = {}
    for entry in known:
        last[entry.run_id] = max(last.get(entry.run_id, 0), entry.seq or 0)

    def place(entry: Entry) -> tuple[float, str, int]:
        if entry.seq is not None:
            return entry.seq, "", 0
        return last[entry.run_id] or inf, entry.run_id or "", entry.number or 0

    return sorted(known, key=place)


def _spans_us(records: list[Entry]) -> dict[str, tuple[int, int]]:
    """Returns when each run recorded its first and last record, by the clock at that time."""
    found: dict[str, tuple[int, int]] = {}
    for entry in records:
        if entry.run_id is not None:
            first_us, last_us = found.get(entry.run_id, (entry.ts_us, 0))
            # Of a trace in flight only the start is by that clock: its age is by the monotonic one.
            seen_us = entry.ts_us if entry.status == INTERRUPTED else ended_us(entry)
            found[entry.run_id] = first_us, max(last_us, seen_us)
    return found


def _with_table(numbered: list[Entry], in_flight: list[InFlight], status: str) -> list[Entry]:
    """Returns the records with the box's traces in flight inserted after the last record of their run."""
    flying = [
        Entry(
            trace.started_us, "trace", status, trace.capability, "", trace.run_id, None, trace.trace_id,
            trace.age_ms, "box",
        )
        for trace in in_flight
    ]  # fmt: skip
    run_id = in_flight[0].run_id if in_flight else None
    last = max((index for index, entry in enumerate(numbered) if entry.run_id == run_id), default=len(numbered) - 1)
    return [*numbered[: last + 1], *flying, *numbered[last + 1 :]]


def _until_seen(entries: list[Entry], runs: list[Run]) -> list[Entry]:
    """Returns the entries, those of interrupted traces with the moment up to which their age is counted."""
    seen = {run.run_id: run.last_seen_us for run in runs}
    return [
        replace(entry, seen_us=seen.get(entry.run_id or "")) if entry.status == INTERRUPTED else entry
        for entry in entries
    ]


def _chosen(runs: list[Run], wanted: str | None, program: str | None) -> Run | None:
    """Returns the run that is wanted: a place counts those that ended, if any has, among the runs to judge."""
    if not runs:
        return None
    if wanted is None or place(wanted) is not None:
        own = last_first(runs_to_judge(runs, program))
        own = [run for run in own if not run.is_alive] or own
        if wanted is None:
            return next(iter(own), None)
    else:
        own = runs
    run_id = chosen(wanted, (run.run_id for run in own), "run")
    return next(run for run in own if run.run_id == run_id)


def _trace_id(wanted: str, run: Run, entries: list[Entry]) -> str:
    """Returns the trace that is wanted: a place counts those of the run."""
    traces = [entry for entry in reversed(entries) if entry.kind == "trace" and entry.trace_id]
    if place(wanted) is not None:
        traces = [entry for entry in traces if entry.run_id == run.run_id]
    return chosen(wanted, (entry.trace_id or "" for entry in traces), "trace")


def _end_us(run: Run) -> int:
    return run.ended_us or run.last_seen_us or run.started_us


def _window(run: Run, numbered: list[Entry], asked_us: tuple[int, int | None], around: str | None) -> tuple[int, int]:
    """Returns the start and end of the time for which log lines are needed, within the one asked for."""
    first, until_us = asked_us
    last = _end_us(run) + _SLACK_US
    if around is None:
        return first, last if until_us is None else min(last, until_us)
    visits = [entry for entry in numbered if entry.trace_id == around]
    end = max(map(ended_us, visits))
    return max(first, min(entry.ts_us for entry in visits) - _AROUND_US), end + _AROUND_US


def _lines(
    log_dir: Path | None,
    directory: Path,
    window: tuple[int, int],
    own: tuple[int, int],
    limit: int,
    sources: list[Source],
) -> Lines:
    """Returns the log lines, and appends the files that were read to `sources`."""
    folder = log_dir or find_log_dir(directory)
    if folder is None:
        return Lines()
    lines = read_lines(folder, window, own, limit)
    if reason := why_unreadable(folder):
        lines.sources.append(Source(folder, "log", "unreadable", f"the folder cannot be listed: {reason}"))
    elif log_dir is not None and not is_folder(log_dir):
        lines.sources.append(Source(log_dir, "log", "missing", "no such folder"))
    sources += lines.sources
    return lines


def _selected(
    entries: list[Entry], run: Run, since_us: int | None, until_us: int | None, around: str | None, limit: int
) -> list[Entry]:
    """Returns the newest entries up to the end of the run; with `around`, those around that trace."""
    own = [index for index, entry in enumerate(entries) if entry.run_id == run.run_id]
    first, last = 0, own[-1] + 1 if own and not run.is_alive else len(entries)
    if around is not None:
        visits = [index for index, entry in enumerate(entries) if entry.trace_id == around]
        last = min(len(entries), visits[-1] + 1 + limit // 2)
        first = max(0, min(visits[0], last - limit))
    # Includes entries that began before `since_us` and ended after it.
    end = inf if until_us is None else until_us
    kept = [entry for entry in entries[first:last] if (since_us or 0) <= ended_us(entry) < end]
    return kept[-limit:] if limit else []


def _has_table(run: Run, boxes: Boxes) -> bool:
    """Returns True if the traces in flight are still in the box: no later run has recovered them into rows."""
    return run.run_id in boxes.by_run and run.end_reason is None


def _in_flight(run: Run, records: list[Entry], boxes: Boxes) -> list[InFlight]:
    """Returns the traces in flight, from the box or from the rows that recovery made of them."""
    if _has_table(run, boxes):
        return in_flight_in(boxes.by_run[run.run_id][1])
    return [as_in_flight(entry) for entry in records if entry.status == INTERRUPTED and entry.run_id == run.run_id]


def _findings(path: Path, run: Run | None, runs: list[Run]) -> tuple[list[dict[str, Any]], str | None, list[Source]]:
    """Returns the findings of the doctor's last report on a run, its time, and the history file as a source."""
    try:
        if not is_file(path):
            return [], None, []
        with open_file(path) as file:
            file.seek(max(0, path.stat().st_size - _MAX_HISTORY_BYTES))
            content = file.read(_MAX_HISTORY_BYTES)
    except OSError as error:
        return [], None, [Source(path, "doctor", "unreadable", error.strerror or str(error))]
    source = Source(path, "doctor", "whole", "", len(content))
    for raw in reversed(content.splitlines()):
        try:
            report = json.loads(raw)
            checks = [dict(check) for check in report["checks"] if isinstance(check, dict)]
            at = datetime.fromisoformat(report["ts"]).astimezone(UTC)
        except (
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
            OverflowError,
            AttributeError,
        ):  # torn: the one before it
            continue
        if _concerns(int(at.timestamp() * 1e6), run, runs):
            return checks, iso(int(at.timestamp() * 1e6)), [source]
    return [], None, [source]


def _concerns(at_us: int, run: Run | None, runs: list[Run]) -> bool:
    """Returns whether a report was made during a run, or after it and before the next one that is like it."""
    if run is None:
        return True
    later = [other.started_us for other in like(runs, run) if other.started_us > run.started_us]
    return run.started_us <= at_us < min(later, default=inf)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed since it was listed
        return 0


def _unread_files(directory: Path, database: Path) -> list[Source]:
    """Returns the files that are listed as sources but not read here."""
    found = []
    for path in listed(directory, "telemetry.*"):
        kind = "quarantine" if any(mark in path.name for mark in _ASIDE) else "fault" if path.suffix == ".fault" else ""
        if kind and path != database and not is_folder(path):
            reason = why_no_file(path) or why_unreadable(path)
            found.append(Source(path, kind, "unreadable" if reason else "whole", reason, _file_size(path)))
    return found
