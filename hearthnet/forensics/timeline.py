"""Merges what several sources say into one timeline: each moment once, in the order in which things happened.

A store numbers its records, so their order is known whatever the clock did meanwhile. Lines of the JSON log have no
numbers, but stand in the order in which they were written, and most of them are records of the store as well: a line
that is not takes its place behind the one before it that is. Only what has neither number nor neighbour is placed by
its time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from hearthnet.forensics.model import Entry, Run

__all__ = ["ended_us", "fresh_lines", "timeline", "with_runs"]

_CLOSING_US: Final = 2_000_000  # a line may be written so long after a run's last record
_CLEAN: Final = "clean"


def ended_us(entry: Entry) -> int:
    """Returns when an entry was recorded: a trace at its end, UTC microseconds."""
    return entry.ts_us + int((entry.duration_ms or 0.0) * 1_000)


def with_runs(lines: Iterable[Entry], runs: list[Run]) -> list[Entry]:
    """Returns lines with the run that each is of, by its time: the one that began last before it, if that still ran.

    Args:
        lines: of the JSON log.
        runs: in any order.
    """
    ordered = sorted(runs, key=lambda run: run.started_us)
    starts = [run.started_us for run in ordered]
    found = []
    for line in lines:
        moment = ended_us(line)
        place = bisect_right(starts, moment) - 1
        run = ordered[place] if place >= 0 else None
        is_over = run is not None and run.end_reason == _CLEAN and moment > (run.ended_us or 0) + _CLOSING_US
        found.append(line if run is None or is_over else replace(line, run_id=run.run_id))
    return found


def fresh_lines(lines: Iterable[Entry], records: list[Entry]) -> list[tuple[int | None, Entry]]:
    """Returns the lines that no record stands for, each with the place of the record that it stands behind.

    That is the last record whose own line came before it, or one of those after that without a line, by their time.

    Args:
        lines: in the order in which they were written.
        records: in the order of their numbers; of equal ones each stands for one line.
    """
    places: dict[tuple[object, ...], deque[int]] = {}
    for place, entry in enumerate(records):
        if entry.kind in ("trace", "log"):
            places.setdefault(_same(entry), deque()).append(place)
    before: int | None = None
    fresh: list[tuple[int | None, Entry]] = []
    with_line: set[int] = set()
    for line in lines:
        if found := places.get(_same(line)):
            before = found.popleft()
            with_line.add(before)
        else:
            fresh.append((before, line))
    return list(_settled(fresh, records, with_line))


def _settled(
    fresh: list[tuple[int | None, Entry]], records: list[Entry], with_line: set[int]
) -> Iterator[tuple[int | None, Entry]]:
    """Yields lines moved on over the records that have none themselves and ended before them."""
    last: int | None = None
    place = -1
    for before, line in fresh:
        if before is None:
            yield None, line
            continue
        if before != last:
            last = place = before
        while (after := place + 1) < len(records) and after not in with_line:
            if ended_us(records[after]) > ended_us(line):
                break
            place = after
        yield place, line


def _same(entry: Entry) -> tuple[object, ...]:
    """Returns what a record and its line have in common. A line has milliseconds; a long message is cut in a record."""
    if entry.kind == "trace":
        return entry.trace_id, entry.name, entry.status, round(entry.duration_ms or 0.0, 3)
    return entry.ts_us // 1_000, entry.name, entry.text[:200], entry.trace_id


def timeline(records: list[Entry], lines: list[Entry], runs: list[Run], apart: set[str]) -> list[Entry]:
    """Returns everything in one order, with the starts and ends of runs.

    Args:
        records: in the order of their numbers.
        lines: of the JSON log, in the order in which they were written.
        runs: whose starts and ends are told.
        apart: runs whose numbers are their own, not the database's.
    """
    behind: dict[int, list[Entry]] = {}
    loose: list[Entry] = []
    for place, line in fresh_lines(lines, records):
        (loose if place is None else behind.setdefault(place, [])).append(line)
    main: list[Entry] = []
    others: dict[str, list[Entry]] = {run_id: [] for run_id in apart}
    for place, entry in enumerate(records):
        rows = others[entry.run_id] if entry.run_id in apart and entry.run_id else main
        rows += (entry, *behind.get(place, ()))
    told = [_with_marks(rows, runs) for rows in (main, *others.values())]
    seen = {entry.run_id for rows in told for entry in rows if entry.kind == "start"}
    loose += [mark for run in runs if run.run_id not in seen for mark in _marks(run)]
    loose.sort(key=ended_us)
    merged = heapq.merge(*(_timed(rows) for rows in (*told, loose)), key=lambda timed: timed[0])
    return [entry for _, entry in merged]


def _timed(entries: list[Entry]) -> Iterator[tuple[int, Entry]]:
    """Yields entries with a time that never goes back, by which sequences can be merged whose order is known."""
    latest = -(2**63)
    for entry in entries:
        latest = max(latest, ended_us(entry))
        yield latest, entry


def _with_marks(entries: list[Entry], runs: list[Run]) -> list[Entry]:
    """Returns entries with the start of each run before its first and the end of it behind its last."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, entry in enumerate(entries):
        if entry.run_id is not None:
            first.setdefault(entry.run_id, place)
            last[entry.run_id] = place
    starts: dict[int, list[Entry]] = {}
    ends: dict[int, list[Entry]] = {}
    for run in runs:
        if run.run_id in first:
            start, *end = _marks(run)
            starts.setdefault(first[run.run_id], []).append(start)
            ends.setdefault(last[run.run_id], []).extend(end)
    found: list[Entry] = []
    for place, entry in enumerate(entries):
        found += (*starts.get(place, ()), entry, *ends.get(place, ()))
    return found


def _marks(run: Run) -> Iterator[Entry]:
    """Yields the start of a run, and its end unless it is alive: of one that wrote none, its last sign of life."""
    name = f"pid {run.pid}"
    yield Entry(run.started_us, "start", run.version, name, "the run starts", run.run_id)
    if run.ended_us is not None and run.end_reason == _CLEAN:
        yield Entry(run.ended_us, "end", _CLEAN, name, "the run ends", run.run_id)
    elif not run.is_alive:
        moment = run.last_seen_us or run.started_us
        yield Entry(moment, "end", run.end_reason or "no end", name, "its last sign of life", run.run_id)
