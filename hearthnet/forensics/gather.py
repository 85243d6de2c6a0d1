"""Gathers all that the files of a node say into one case: rows, frames and lines merged, each moment once.

Files are read, never written, and never opened by SQLite where they lie.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from hearthnet.forensics.box import Box
from hearthnet.forensics.entries import from_gap, from_log, from_trace, integer, rows_of_frames, text
from hearthnet.forensics.groups import error_groups, minutes_before
from hearthnet.forensics.lives import Boxes, read_boxes, runs_of
from hearthnet.forensics.loglines import find_log_dir, read_lines
from hearthnet.forensics.model import Case, Entry, InFlight, Run, Source
from hearthnet.forensics.stores import Row, Store, read_store

__all__ = ["gather"]

DATABASE: Final = "telemetry.db"
MEMORY: Final = "doctor.jsonl"
INTERRUPTED: Final = "interrupted"
_DONE_LOGGER: Final = "hearthnet.trace"
_SLOWEST: Final = 10
_SLACK_US: Final = 2_000_000  # a record is written a moment after it was made
_AROUND_US: Final = 30_000_000
_MAX_MEMORY_BYTES: Final = 2_000_000


def gather(
    path: Path,
    *,
    log_dir: Path | None = None,
    since_us: int | None = None,
    run_id: str | None = None,
    around: str | None = None,
    limit: int = 200,
) -> Case:
    """Returns what the files say of one run.

    Args:
        path: telemetry.db, or the folder that it is in.
        log_dir: the JSON logs; None: looked for beside the store.
        since_us: no moment before this, UTC microseconds.
        run_id: which run, by the beginning of its id; None: the newest that does not run any more.
        around: a trace id; the moments are those around its visits.
        limit: how many moments, the newest before the run's end.

    Raises:
        ValueError: raised when no run, or more than one, has that id, or no trace that one.
    """
    directory, database = (path, path / DATABASE) if path.is_dir() or not path.suffix else (path.parent, path)
    store, boxes = read_store(database), read_boxes(directory)
    traces, logs = _merged(store, boxes, "traces"), _merged(store, boxes, "logs")
    runs = runs_of(store.tables["runs"], boxes, directory, _last_us(traces, logs))
    case = Case(directory, _chosen(runs, run_id), runs)
    case.findings, memory = _findings(directory / MEMORY)
    case.sources = [*store.sources, *boxes.sources, *memory, *_others(directory, database)]
    if case.run is None:
        return case
    window = _window(case.run, traces, since_us, around)
    gaps = [from_gap(row) for row in store.tables["gaps"]]
    lines, files = _lines(log_dir or find_log_dir(directory), window, limit)
    case.sources += files
    case.entries = _timeline([*traces, *logs, *gaps], [*_marks(runs), *lines], window)[-limit:] if limit else []
    _judged(case, case.run, [*traces, *logs], boxes)
    return case


def _judged(case: Case, run: Run, records: list[Entry], boxes: Boxes) -> None:
    """Fills in what is told of the run itself, from all of its records."""
    own = [entry for entry in records if entry.run_id == run.run_id]
    finished = [entry for entry in own if entry.kind == "trace" and entry.status != INTERRUPTED]
    case.in_flight = _in_flight(run, own, boxes)
    case.errors = error_groups(own)
    case.slowest = sorted(finished, key=lambda entry: entry.duration_ms or 0.0, reverse=True)[:_SLOWEST]
    case.minutes = minutes_before(run.last_seen_us or run.started_us, finished)


def _merged(store: Store, boxes: Boxes, table: str) -> list[Entry]:
    """Returns the records of a table and those that only a box has, in the order of their numbers."""
    make = from_trace if table == "traces" else from_log
    found = {(row["run_id"], row["seq"]): make(row) for row in store.tables[table]}
    for run_id, (_, box) in boxes.by_run.items():
        for row in rows_of_frames(box.traces if table == "traces" else box.logs, table, run_id):
            found.setdefault((run_id, row["seq"]), make(row, "box"))
    return sorted(found.values(), key=lambda entry: entry.seq or 0)


def _last_us(traces: list[Entry], logs: list[Entry]) -> dict[str, int]:
    """Returns when each run last recorded something."""
    last: dict[str, int] = {}
    for entry in (*traces, *logs):
        if entry.run_id is not None and entry.status != INTERRUPTED:
            moment = entry.ts_us + int((entry.duration_ms or 0.0) * 1_000)
            last[entry.run_id] = max(moment, last.get(entry.run_id, 0))
    return last


def _chosen(runs: list[Run], wanted: str | None) -> Run | None:
    if wanted is None:
        return next((run for run in runs if not run.is_alive), runs[0] if runs else None)
    found = [run for run in runs if run.run_id.startswith(wanted.upper())]
    if len(found) == 1:
        return found[0]
    known = ", ".join(run.run_id for run in (found or runs)[:5]) or "none"
    raise ValueError(f"{'no' if not found else 'more than one'} run begins with {wanted!r}; there are: {known}")


def _window(run: Run, traces: list[Entry], since_us: int | None, around: str | None) -> tuple[int, int]:
    """Returns the first and the last moment that the timeline may have."""
    first, last = since_us or 0, (run.ended_us or run.last_seen_us or run.started_us) + _SLACK_US
    if around is None:
        return first, last
    visits = [entry for entry in traces if entry.trace_id == around.upper()]
    if not visits:
        raise ValueError(f"no trace {around!r} is in these files")
    end = max(entry.ts_us + int((entry.duration_ms or 0.0) * 1_000) for entry in visits)
    return max(first, min(entry.ts_us for entry in visits) - _AROUND_US), end + _AROUND_US


def _lines(log_dir: Path | None, window: tuple[int, int], limit: int) -> tuple[list[Entry], list[Source]]:
    if log_dir is None:
        return [], []
    return read_lines(log_dir, *window, limit)


def _marks(runs: list[Run]) -> Iterable[Entry]:
    """Yields the start and the end of each run."""
    for run in runs:
        yield Entry(run.started_us, "start", run.version, f"pid {run.pid}", "the run starts", run.run_id)
        if run.ended_us is not None:
            yield Entry(run.ended_us, "end", run.end_reason or "", f"pid {run.pid}", "the run ends", run.run_id)


def _timeline(numbered: list[Entry], dated: list[Entry], window: tuple[int, int]) -> list[Entry]:
    """Returns the moments of a window, each once: those with numbers in their order, the others by time among them."""
    first, last = window
    kept = sorted((entry for entry in numbered if first <= entry.ts_us <= last), key=lambda entry: entry.seq or 0)
    known = {_same(entry) for entry in kept if entry.kind == "log"}
    told = {entry.trace_id for entry in kept if entry.kind == "trace"}
    others = sorted(
        (
            entry
            for entry in dated
            if first <= entry.ts_us <= last
            and _same(entry) not in known
            # The line that a trace's end makes says nothing that its row does not.
            and not (entry.name == _DONE_LOGGER and entry.trace_id in told)
        ),
        key=lambda entry: entry.ts_us,
    )
    merged: list[Entry] = []
    for entry in kept:
        while others and others[0].ts_us <= entry.ts_us:
            merged.append(others.pop(0))
        merged.append(entry)
    return [*merged, *others]


def _same(entry: Entry) -> tuple[object, ...]:
    """Returns what a record in the store and its line in the log have in common; a line has milliseconds."""
    return entry.kind, entry.ts_us // 1_000, entry.name, entry.text, entry.trace_id


def _in_flight(run: Run, own: list[Entry], boxes: Boxes) -> list[InFlight]:
    """Returns the traces that had not ended: from the box, or from the rows that its recovery made."""
    if run.run_id in boxes.by_run and run.end_reason is None:
        return _from_table(run, boxes.by_run[run.run_id][1])
    return [
        InFlight(
            run.run_id, entry.trace_id or "", entry.name, entry.ts_us, entry.duration_ms or 0.0, *_open_span(entry)
        )
        for entry in own
        if entry.status == INTERRUPTED
    ]


def _open_span(entry: Entry) -> tuple[str | None, float | None]:
    for span in entry.spans:
        if span.get("status") == "open":
            lasted = span.get("duration_ms")
            return text(span.get("name")), float(lasted) if isinstance(lasted, (int, float)) else None
    return None, None


def _from_table(run: Run, box: Box) -> list[InFlight]:
    rows: list[Row] = rows_of_frames(box.traces, "traces", run.run_id)
    finished = {(row["trace_id"], integer(row["started_mono_ns"])) for row in rows}
    end_ns = box.header.started_ns + ((run.last_seen_us or run.started_us) - box.header.started_us) * 1_000
    return [
        InFlight(
            run.run_id, text(trace.trace_id), text(trace.capability), trace.started_us,
            max(0, end_ns - trace.started_ns) / 1e6, trace.span,
            None if trace.span_started_ns is None else max(0, end_ns - trace.span_started_ns) / 1e6,
        )
        for trace in box.in_flight
        # Killed between the record and the mark: it has ended.
        if (trace.trace_id, trace.started_ns) not in finished
    ]  # fmt: skip


def _findings(path: Path) -> tuple[list[dict[str, Any]], list[Source]]:
    """Returns the checks of the doctor's last report that can be read, and its memory as a source."""
    try:
        content = path.read_bytes()[-_MAX_MEMORY_BYTES:]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Source(path, "doctor", "unreadable", error.strerror or str(error))]
    source = Source(path, "doctor", "whole", "", len(content))
    for raw in reversed(content.splitlines()):
        try:
            checks = json.loads(raw)["checks"]
            return [dict(check) for check in checks if isinstance(check, dict)], [source]
        except (ValueError, TypeError, KeyError, RecursionError):  # torn: the one before it is whole
            continue
    return [], [source]


def _others(directory: Path, database: Path) -> list[Source]:
    """Returns the files that are named and not read."""
    found = []
    for path in sorted(directory.glob("telemetry.*")):
        kind = "quarantine" if ".corrupt-" in path.name else "fault" if path.suffix == ".fault" else ""
        if kind and path != database and path.is_file():
            found.append(Source(path, kind, "whole", "", path.stat().st_size))
    return found
