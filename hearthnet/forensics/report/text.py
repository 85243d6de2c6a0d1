"""The terminal report of a case: the verdict, its evidence, then what happened.

Recorded strings are untrusted: control characters are escaped.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Final

from hearthnet import moments
from hearthnet.display import escaped
from hearthnet.forensics.model import CAUSES, Case, Entry, Run, Verdict, Vitals
from hearthnet.forensics.timeline import ended_us

__all__ = ["Paint", "printable", "report"]

_SURROGATES: Final = re.compile("[\ud800-\udfff]")  # a damaged file may have them; no terminal can show them
_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "dim": 2, "bold": 1}
_GOOD: Final = ("clean_stop", "running")
_OPEN: Final = ("imported", "unknown")
_CERTAINTY: Final = {"certain": "certain", "likely": "likely, not certain", "possible": "only possible"}
_BARS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BARS: Final = " .:-=+*#@"
_MAX_RUNS: Final = 8
_ID_CHARS: Final = 10  # of a run's id: its milliseconds
_FIRST_US: Final = 1_577_836_800_000_000  # 2020: before it no clock was right that this program saw
_MAX_RUNNING: Final = 3
_MAX_ERRORS: Final = 10
_MAX_ALIKE: Final = 3  # this many entries that differ only in time are shown one by one
_MAX_BARS: Final = 30
_PROGRAM_CHARS: Final = 12
_STATUS_CHARS: Final = 16
_MIN_COLUMNS: Final = 60
_MAX_COLUMNS: Final = 140
_NO_TERMINAL: Final = 1_000_000

Paint = Callable[[str, str], str]


def printable(text: object) -> str:
    """Returns `text` with every control character escaped."""
    return _SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped(text))


def report(case: Case, verdict: Verdict, *, colour: bool, unicode: bool, columns: int | None = None) -> str:
    """Returns the report.

    Args:
        case: the case.
        verdict: how the case's run ended.
        colour: whether the terminal shows colours.
        unicode: whether it shows more than ASCII.
        columns: its width; None: it is no terminal, so nothing is wrapped or cut.
    """
    width = _NO_TERMINAL if columns is None else min(_MAX_COLUMNS, max(_MIN_COLUMNS, columns))
    return Report(case, verdict, colour, unicode, width).text()


class Report:
    """The sections of one report. Used by `report`."""

    def __init__(self, case: Case, verdict: Verdict, colour: bool, unicode: bool, columns: int) -> None:
        self._case = case
        self._verdict = verdict
        self._colour = colour
        self._unicode = unicode
        self._columns = columns
        self._more = "…" if unicode else "~"
        self._programs = case.programs()

    def text(self) -> str:
        """Returns all sections that are not empty."""
        sections = [
            ("", self._verdict_lines()),
            ("In flight" if self._verdict.cause == "running" else "In flight when it ended", self._in_flight_lines()),
            ("Before the end", self._vitals_lines()),
            ("Timeline, newest last; traces at their end", self._timeline_lines()),
            ("Errors", self._error_lines()),
            ("Slowest", self._slowest_lines()),
            ("Calls that ended, per minute", self._minute_lines()),
            (self._findings_heading(), self._finding_lines()),
            ("Runs, newest first: --run ID shows another", self._run_lines()),
            ("Files", self._source_lines()),
        ]
        parts = []
        for heading, lines in sections:
            if body := list(lines):
                parts.append("\n".join([self._paint(heading, "bold"), *body] if heading else body))
        return "\n\n".join(parts) + "\n"

    # --- the verdict

    def _verdict_lines(self) -> Iterator[str]:
        verdict, run = self._verdict, self._case.run
        colour = "green" if verdict.cause in _GOOD else "yellow" if verdict.cause in _OPEN else "red"
        for line in self._wrapped("", f"{verdict.cause.replace('_', ' ').upper()}: {CAUSES[verdict.cause]}"):
            yield self._paint(line, colour, "bold")
        if run is not None:
            whose = f" of {printable(run.program)}" if run.program else ""
            start = f"pid {run.pid}, started {_local(run.started_us)}{self._run_time(run)}"
            yield from self._wrapped("", f"run {printable(run.run_id)}{whose}, {start}")
            running = [other for other in self._case.runs if other.is_alive and other is not run]
            for other in running[:_MAX_RUNNING]:
                who = printable(other.program) or "a program"
                yield from self._wrapped("running now: ", f"{who}, pid {other.pid}, since {_local(other.started_us)}")
        if verdict.cause != "unknown":
            yield f"confidence: {_CERTAINTY.get(verdict.confidence, verdict.confidence)}"
        for line in verdict.evidence:
            yield from self._wrapped("  - " if not self._unicode else "  • ", printable(moments.in_local_time(line)))
        if verdict.alternatives:
            names = ", ".join(cause.replace("_", " ") for cause in verdict.alternatives)
            yield from self._wrapped("could also be: ", names)
        for line in verdict.missing:
            yield from self._wrapped("not known: ", printable(line))

    @staticmethod
    def _run_time(run: Run) -> str:
        end = run.ended_us or run.last_seen_us
        if end is None:
            return ""
        if end < run.started_us or run.started_us < _FIRST_US <= end:  # as on a machine without a battery
            return ", for how long is not known: its clock was set meanwhile"
        return f", ran {moments.duration((end - run.started_us) / 1e6)}"

    # --- what happened

    def _in_flight_lines(self) -> Iterator[str]:
        for trace in self._case.in_flight:
            where = "outside any span" if trace.span is None else f"in {printable(trace.span)}"
            age = "" if trace.span_age_ms is None else f" for at least {_age(trace.span_age_ms)}"
            line = f"{trace.trace_id}  {printable(trace.capability)}  at least {_age(trace.age_ms)} old, {where}{age}"
            program = self._programs.get(trace.run_id)
            yield self._cut(f"  {printable(line)}{f', of {printable(program)}' if program else ''}")

    def _vitals_lines(self) -> Iterator[str]:
        vitals = self._case.run.vitals if self._case.run else ()
        for name, get, spell in _MEASURES:
            values = [(sample.ts_us, value) for sample in vitals if (value := get(sample)) is not None]
            if values:
                (first_us, first), (last_us, last) = values[0], values[-1]
                lasted = moments.duration((last_us - first_us) / 1e6)
                change = f"  {name:<14} {spell(first):>9} -> {spell(last):>9} in {lasted}  "
                width = max(1, min(_MAX_BARS, self._columns - len(change)))
                yield self._cut(change + self._chart([value for _, value in values][-width:]))

    def _timeline_lines(self) -> Iterator[str]:
        day, widths = "", self._widths()
        for _, same in groupby(self._case.entries, _alike):
            entries, more = list(same), self._more
            if (today := _day(ended_us(entries[0]))) != day:
                yield self._paint(f"  {today}", "dim")
                day = today
            yield self._entry_line(entries[0], *widths)
            if len(entries) > _MAX_ALIKE:
                yield self._paint(
                    f"  {_clock(ended_us(entries[-1]))} {more} and {len(entries) - 1:,} more like it", "dim"
                )
            else:
                yield from (self._entry_line(entry, *widths) for entry in entries[1:])

    def _widths(self) -> tuple[int, int]:
        """Returns the widths of the columns of programs, 0 if all entries are of one, and of statuses."""
        entries = self._case.entries
        names = [self._programs.get(entry.run_id or "", "") for entry in entries]
        is_mixed = self._is_mixed(entry.run_id for entry in entries)
        most = [max((len(printable(text)) for text in texts), default=0) for texts in (names, map(_status, entries))]
        return min(most[0], _PROGRAM_CHARS) if is_mixed else 0, min(most[1], _STATUS_CHARS)

    def _entry_line(self, entry: Entry, program_chars: int, status_chars: int) -> str:
        duration = "" if entry.duration_ms is None else f" {entry.duration_ms:,.1f} ms"
        text = f" {printable(entry.text)}" if entry.text else ""
        if isinstance(others := entry.extras.get("repeats"), int):  # of a flood most are counted alone
            text += f", and {others:,} more like it"
        program = printable(self._programs.get(entry.run_id or "", ""))[:program_chars]
        first = f"  {_clock(ended_us(entry))} {program:<{program_chars}}{' ' if program_chars else ''}"
        line = f"{first}{entry.kind:<6} {printable(entry.status):<{status_chars}} {printable(entry.name)}"
        cut = self._cut(f"{line}{duration}{text}")
        colour = _colour_of(entry)
        return self._paint(cut, colour) if colour else cut

    def _is_mixed(self, run_ids: Iterable[str | None]) -> bool:
        """Returns True if these are runs of several programs, so that each line says whose it is."""
        return len({self._programs.get(run_id) for run_id in run_ids if run_id is not None}) > 1

    def _error_lines(self) -> Iterator[str]:
        for group in self._case.errors[:_MAX_ERRORS]:
            when = f"{_local(group.first_us)} to {_local(group.last_us)}" if group.count > 1 else _local(group.last_us)
            what = f"{printable(group.name)}: {printable(group.text)}"
            yield from self._wrapped(f"  {group.count:>6} x  ", f"{when}  {what}")

    def _slowest_lines(self) -> Iterator[str]:
        for entry in self._case.slowest:
            duration = f"{entry.duration_ms or 0:>12,.1f} ms"
            # The id first: it is what a person copies.
            trace_id = printable(entry.trace_id or "")
            yield self._cut(f"  {duration}  {trace_id}  {printable(entry.status):<16} {printable(entry.name)}")

    def _minute_lines(self) -> Iterator[str]:
        minutes = self._case.minutes
        if not any(minute.traces for minute in minutes):
            return
        most = max(minute.traces for minute in minutes)
        yield f"  calls   {self._chart([minute.traces for minute in minutes])}  at most {most:,} per minute"
        rates = [minute.failed / minute.traces if minute.traces else 0.0 for minute in minutes]
        yield f"  failed  {self._chart(rates, 1.0)}  {sum(m.failed for m in minutes):,} in all, up to {max(rates):.0%}"
        for line in self._wrapped("          ", f"{_local(minutes[0].start_us)} to {_local(minutes[-1].start_us)}"):
            yield self._paint(line, "dim")

    def _findings_heading(self) -> str:
        at = self._case.findings_at
        return f"The doctor's findings of {moments.in_local_time(at)}" if at else "The doctor's last findings"

    def _finding_lines(self) -> Iterator[str]:
        for finding in self._case.findings:
            if finding.get("status") in ("fail", "warn"):
                line = f"{finding.get('status')}  {finding.get('name')}: {finding.get('detail')}"
                yield from self._wrapped("  ", printable(moments.in_local_time(line)))

    def _run_lines(self) -> Iterator[str]:
        whose = self._is_mixed(run.run_id for run in self._case.runs[:_MAX_RUNS])
        for run in self._case.runs[:_MAX_RUNS]:
            ended = "running" if run.is_alive else run.end_reason or "no end"
            mark = ">" if self._case.run is not None and run.run_id == self._case.run.run_id else " "
            yield self._cut(
                f"{mark} {_local(run.started_us)}  {printable(run.run_id)[:_ID_CHARS]}  {printable(ended):<8}"
                f" {f'{printable(run.program)} ' if whose else ''}{printable(run.version)}{self._run_time(run)}"
                f", pid {run.pid}"
            )
        more = len(self._case.runs) - _MAX_RUNS
        if more > 0:
            yield self._paint(f"  and {more} earlier", "dim")

    def _source_lines(self) -> Iterator[str]:
        for source in self._case.sources:
            line = f"  {source.kind:<11} {source.state:<10} {printable(source.path)}"
            yield self._cut(line)
            if source.detail and (source.state != "whole" or source.kind == "database"):
                yield from self._wrapped(" " * 14, printable(source.detail))

    # --- formatting

    def _paint(self, text: str, *styles: str) -> str:
        codes = ";".join(str(_COLOURS[style]) for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m" if self._colour and text else text

    def _cut(self, line: str) -> str:
        return line if len(line) <= self._columns else line[: self._columns - 1] + self._more

    def _wrapped(self, prefix: str, text: str) -> Iterable[str]:
        indent = " " * (min(len(prefix), 4) if prefix.strip() else len(prefix))
        yield from textwrap.wrap(text, self._columns, initial_indent=prefix, subsequent_indent=indent) or [prefix]

    def _chart(self, values: list[float] | list[int], top: float | None = None) -> str:
        bars = _BARS if self._unicode else _ASCII_BARS
        most = top or max(values, default=0) or 1
        heights = (
            min(len(bars) - 1, max(1, round(value / most * (len(bars) - 1)))) if value else 0 for value in values
        )
        return "".join(bars[height] for height in heights)


def _status(entry: Entry) -> str:
    return entry.status


def _alike(entry: Entry) -> tuple[object, ...]:
    return entry.run_id, entry.kind, entry.status, entry.name, entry.text


def _colour_of(entry: Entry) -> str:
    if entry.kind == "gap" or entry.status == "warning":
        return "yellow"
    if entry.kind == "trace":
        return "" if entry.status in ("ok", "cancelled") else "red"
    return "red" if entry.status in ("error", "critical", "unclean") else ""


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


_MEASURES: Final[tuple[tuple[str, Callable[[Vitals], float | None], Callable[[float], str]], ...]] = (
    ("memory", lambda vitals: vitals.rss_bytes, _bytes),
    ("memory left", lambda vitals: vitals.memory_left_bytes, _bytes),
    ("disk free", lambda vitals: vitals.disk_free_bytes, _bytes),
    ("open files", lambda vitals: vitals.open_files, lambda value: f"{value:,.0f}"),
    ("load", lambda vitals: vitals.load, lambda value: f"{value:.2f}"),
    ("loop lag", lambda vitals: vitals.loop_lag_s, lambda value: f"{value:.2f} s"),
)


def _local(us: int) -> str:
    return moments.local(us, "seconds")


def _clock(us: int) -> str:
    moment = moments.at(us)
    return f"{us} us" if moment is None else moment.time().isoformat("milliseconds")


def _day(us: int) -> str:
    moment = moments.at(us)
    return "" if moment is None else f"{moment:%A %Y-%m-%d}, UTC{moment.isoformat()[-6:]}"


def _age(ms: float) -> str:
    """Returns an age up to the last sign of life, which may have come right after the start."""
    return moments.duration(ms / 1e3) if ms >= 10 else f"{ms:.1f} ms"
