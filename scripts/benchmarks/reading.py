"""How fast the newest hundred traces are read, against a bare SELECT with its JSON decoded."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from time import perf_counter
from typing import Any, Final

import orjson

from benchmarks.contenders import fill
from benchmarks.progress import scratch, tell
from benchmarks.records import template
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread
from hearthnet.config import ObservabilityConfig
from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.database import connect_read_only
from hearthnet.observability import telemetry, tracing
from hearthnet.observability.store.rows import TRACES

__all__ = ["recent"]

_TRACES: Final = 100
_CALLS: Final = 50  # a turn
_SELECT: Final = f"SELECT {TRACES.columns} FROM traces ORDER BY seq DESC LIMIT {_TRACES}"  # noqa: S608  # constants


def recent(is_quick: bool) -> Section:
    """Returns how long `get_recent(100)` takes over a full ring with nothing pending."""
    tell("read: get_recent(100)")
    with scratch() as folder:
        fill(folder / telemetry.DATABASE, template(), TRACE_RING_BUFFER).close()
        with (
            telemetry.open(ObservabilityConfig(data_dir=folder, log_dir=folder / "logs")) as opened,
            closing(connect_read_only(folder / telemetry.DATABASE)) as connection,
        ):
            if not opened.flush() or len(_ours()) != _TRACES or len(_bare(connection)) != _TRACES:
                raise RuntimeError(f"the store does not answer: {opened.error}")
            calls = {"ours": _ours, "bare": lambda: _bare(connection), "spans": _ours_with_spans}
            times = _take_turns(calls, 7 if is_quick else 41)
    section = Section(f"read, ring of {TRACE_RING_BUFFER:,} full", "bare SELECT")
    section.lines = [
        _line(f"get_recent({_TRACES})", times["ours"], times["bare"], Aim(1.3)),
        _line("the same, every span looked at", times["spans"], times["bare"], None),
    ]
    section.notes.append("get_recent decodes a trace's spans when they are first asked for; the SELECT's are decoded")
    return section


def _ours() -> list[tracing.Trace]:
    return tracing.get_recent(_TRACES)


def _ours_with_spans() -> list[list[tracing.Span]]:
    return [trace.spans for trace in tracing.get_recent(_TRACES)]


def _bare(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    decode = orjson.loads
    return [
        (*row[:-2], decode(row[-2]), decode(row[-1]))  # the last two columns are spans and extras
        for row in connection.execute(_SELECT).fetchall()
    ]


def _take_turns(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Returns the microseconds a call, of each in each turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            started = perf_counter()
            for _ in range(_CALLS):
                call()
            times[name].append((perf_counter() - started) / _CALLS * 1e6)
    return times


def _line(name: str, ours: list[float], bare: list[float], aim: Aim | None) -> Line:
    return Line(name, Spread.of(ours), "us", Spread.of(bare), Spread.of_ratios(ours, bare), aim)
