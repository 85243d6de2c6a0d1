"""How long the questions of `docs/queries.md` take on a full ring."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.cookbook import DOCUMENT, Question, questions
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.sample import make_store
from benchmarks.stats import Spread
from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.database import connect_read_only
from hearthnet.observability import telemetry

__all__ = ["queries"]

_MOST_MS: Final = 100.0


def queries(is_quick: bool) -> Section:
    """Returns the milliseconds of each question, its connection opened anew as a tool would."""
    tell("queries: the questions of docs/queries.md")
    with scratch() as folder:
        store = folder / telemetry.DATABASE
        make_store(store, TRACE_RING_BUFFER, LOG_RING_BUFFER)
        section = Section(
            f"queries, rings of {TRACE_RING_BUFFER:,} traces and {LOG_RING_BUFFER:,} log records full", ""
        )
        for question in questions(DOCUMENT.read_text("utf-8")):
            times = [_time_ms(store, question) for _ in range(3 if is_quick else 15)]
            section.lines.append(Line(question.title, Spread.of(times), "ms", aim=Aim(_MOST_MS, of="measured")))
    return section


def _time_ms(store: Path, question: Question) -> float:
    started = perf_counter()
    with closing(connect_read_only(store)) as connection:
        connection.execute(question.sql_then).fetchall()
    return (perf_counter() - started) * 1e3
