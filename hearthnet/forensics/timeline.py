"""Merges several sources into one timeline without duplicates, in the order in which things happened.

The store numbers its records, so their order does not depend on the clock. Lines of the JSON log have no numbers, but
they are in the order of writing, and most of them are also records in the store. A line that is not is placed after the
last line before it that is. Only lines without such a neighbour are placed by time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from hearthnet import moments
from hearthnet.forensics.model import Entry, Run

__all__ = ["ended_us", "fresh_lines", "timeline", "with_runs"]

_CLOSING_US: Final = 2_000_000  # how long after a run's last record a line may still be written
_CLEAN: Final = "clean"


def ended_us(entry: Entry) -> int:
    """Returns when an entry was recorded, UTC microseconds: for a trace its end, or when its run was last seen."""
    if entry.seen_us is not None:
        return entry.seen_us
    return moments.ended_us(entry.ts_us, entry.duration_ms or 0.0)


def with_runs(lines: Iterable[Entry], runs: list[Run]) -> list[Entry]:
    """Returns the lines with their run set, where it is known: a line has a time, but no run.

    That is the last run started before the line unless it had ended; None if several programs were running.

    Args:
        lines: of the JSON log.
        runs: in any order.
    """
    own: dict[tuple[bool, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.started_us):
        own.setdefault((run.is_node, "" if run.is_node else run.program), []).append(run)
    follow = [([run.started_us for run in group], group) for group in own.values()]
    found = []
    for line in lines:
        running = _running_at(ended_us(line), follow)
        found.append(line if running is None else replace(line, run_id=running.run_id))
    return found


def _running_at(moment: int, follow: list[tuple[list[int], list[Run]]]) -> Run | None:
    """Returns the only run that was running, of the starts and runs of each program; None if there were several."""
    running = []
    for starts, runs in follow:
        index = bisect_right(starts, moment) - 1
        if index >= 0 and not (runs[index].end_reason == _CLEAN and _is_past(runs[index].ended_us, moment)):
            running.append(runs[index])
    if len(running) > 1:  # one that was killed ran no longer than it was seen
        running = [run for run in running if run.is_alive or not _is_past(run.ended_us or run.last_seen_us, moment)]
    return running[0] if len(running) == 1 else None


def _is_past(end_us: int | None, moment: int) -> bool:
    return moment > (end_us or 0) + _CLOSING_US


def fresh_lines(lines: Iterable[Entry], records: list[Entry]) -> list[tuple[int | None, Entry]]:
    """Returns the lines that have no record, each with the index of the record that it follows.

    That is the last record whose own line came before it, or a later record without a line that ended before it.

    Args:
        lines: in the order in which they were written.
        records: in the order of their numbers; each of several equal ones matches one line.
    """
    indexes: dict[tuple[object, ...], deque[int]] = {}
    for index, entry in enumerate(records):
        if entry.kind in ("trace", "log"):
            indexes.setdefault(_match_key(entry), deque()).append(index)
    before: int | None = None
    fresh: list[tuple[int | None, Entry]] = []
    with_line: set[int] = set()
    for line in lines:
        if found := indexes.get(_match_key(line)):
            before = found.popleft()
            with_line.add(before)
        else:
            fresh.append((before, line))
    return list(_moved_on(fresh, records, with_line))


def _moved_on(
    fresh: list[tuple[int | None, Entry]], records: list[Entry], with_line: set[int]
) -> Iterator[tuple[int | None, Entry]]:
    """Yields the lines, moved after records that have no line themselves and ended earlier."""
    last: int | None = None
    index = -1
    for before, line in fresh:
        if before is None:
            yield None, line
            continue
        if before != last:
            last = index = before
        while (after := index + 1) < len(records) and after not in with_line:
            if ended_us(records[after]) > ended_us(line):
                break
            index = after
        yield index, line


def _match_key(entry: Entry) -> tuple[object, ...]:
    """Returns a key that a record and its line share. Lines have milliseconds; records cut long messages."""
    if entry.kind == "trace":
        return entry.trace_id, entry.name, entry.status, round(entry.duration_ms or 0.0, 3)
    return entry.ts_us // 1_000, entry.name, entry.text[:200], entry.trace_id


def timeline(records: list[Entry], lines: list[Entry], runs: list[Run], apart: set[str]) -> list[Entry]:
    """Returns all entries in one order, with the starts and ends of runs.

    Args:
        records: in the order of the store, and then of their numbers.
        lines: of the JSON log, in the order in which they were written.
        runs: whose starts and ends are added.
        apart: ids of runs whose records are in the order of their own numbers, and among the others by time: they have
            records that are not committed, or are of other programs.
    """
    following: dict[int, list[Entry]] = {}
    loose: list[Entry] = []
    for before, line in fresh_lines(lines, records):
        if before is None or not _is_with(line.run_id, records[before], apart):
            loose.append(line)
        else:
            following.setdefault(before, []).append(line)
    main: list[Entry] = []
    others: dict[str, list[Entry]] = {run_id: [] for run_id in apart}
    for index, entry in enumerate(records):
        rows = others[entry.run_id] if entry.run_id in apart and entry.run_id else main
        rows += (entry, *following.get(index, ()))
    marked = [_with_marks(rows, runs) for rows in (main, *others.values())]
    seen = {entry.run_id for rows in marked for entry in rows if entry.kind == "start"}
    loose += [mark for run in runs if run.run_id not in seen for mark in _marks(run)]
    loose.sort(key=ended_us)
    merged = heapq.merge(*(_timed(rows) for rows in (*marked, loose)), key=lambda timed: timed[0])
    return [entry for _, entry in merged]


def _is_with(run_id: str | None, record: Entry, apart: set[str]) -> bool:
    """Returns True if a line of a run, None if that is unknown, may be in the same order as `record`."""
    return run_id in (None, record.run_id) or not {run_id, record.run_id} & apart


def _timed(entries: list[Entry]) -> Iterator[tuple[int, Entry]]:
    """Yields entries with a time that never goes back, so that ordered sequences can be merged by it."""
    latest = -(2**63)
    for entry in entries:
        latest = max(latest, ended_us(entry))
        yield latest, entry


def _with_marks(entries: list[Entry], runs: list[Run]) -> list[Entry]:
    """Returns the entries with each run's start before its first entry and its end after its last."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if entry.run_id is not None:
            first.setdefault(entry.run_id, index)
            last[entry.run_id] = index
    starts: dict[int, list[Entry]] = {}
    ends: dict[int, list[Entry]] = {}
    for run in runs:
        if run.run_id in first:
            start, *end = _marks(run)
            starts.setdefault(first[run.run_id], []).append(start)
            ends.setdefault(last[run.run_id], []).extend(end)
    found: list[Entry] = []
    for index, entry in enumerate(entries):
        found += (*starts.get(index, ()), entry, *ends.get(index, ()))
    return found


def _marks(run: Run) -> Iterator[Entry]:
    """Yields a run's start and, unless it is alive, its end, or when it was last seen if it recorded none."""
    name = f"{run.program} pid {run.pid}".strip()
    yield Entry(run.started_us, "start", run.version, name, "the run starts", run.run_id)
    if run.ended_us is not None and run.end_reason == _CLEAN:
        yield Entry(run.ended_us, "end", _CLEAN, name, "the run ends", run.run_id)
    elif not run.is_alive:
        moment = run.last_seen_us or run.started_us
        yield Entry(moment, "end", run.end_reason or "no end", name, "last seen", run.run_id)
