"""The benchmark of the hot path: what a trace, a span, a log record and a counter cost whoever makes them.

Each turn of each contender is a process of its own; the contenders of an operation take turns.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

import orjson

from benchmarks.hot_contenders import OPERATIONS, Operation, Pair
from benchmarks.machine import describe
from benchmarks.memory import memory
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread

__all__ = ["PARTS", "compare", "run"]

_SCRIPTS: Final = Path(__file__).parent.parent
_TIMEOUT_S: Final = 120.0  # a turn takes a few seconds; more on a small machine

Turns = Mapping[str, list[dict[str, Any]]]


def run(wanted: Iterable[str], is_quick: bool) -> tuple[dict[str, Any], list[Section]]:
    """Runs the parts; returns what they ran on, and what was found."""
    sections = [PARTS[name](is_quick) for name in wanted]
    return describe(Path(gettempdir())), sections


def _measure(name: str, is_quick: bool) -> Section:
    batches, turns = (10, 2) if is_quick else (30, 5)
    operation = OPERATIONS[name]
    present = [player for player, what in operation.players.items() if what.is_installed()]
    found: dict[str, list[dict[str, Any]]] = {player: [] for player in present}
    for turn in range(turns):
        first = turn % len(present)
        for player in present[first:] + present[:first]:
            tell(f"{name}: turn {turn + 1} of {turns}, {operation.players[player].label}")
            found[player].append(_turn(name, player, batches))
    return compare(operation, found)


def _turn(name: str, player: str, batches: int) -> dict[str, Any]:
    """Runs one contender in a process of its own."""
    with scratch() as folder:
        command = [sys.executable, "-m", "benchmarks.hot_child", name, player, str(batches), str(folder)]
        done = subprocess.run(  # noqa: S603  # ourselves
            command, cwd=_SCRIPTS, check=True, stdout=subprocess.PIPE, timeout=_TIMEOUT_S
        )
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def compare(operation: Operation, found: Turns) -> Section:
    """Returns the section of an operation from the turns of its contenders; one without turns is not installed."""
    section = Section(operation.title, "peer")
    for pair in operation.pairs:
        if pair.peer in found:
            section.lines += _lines(operation, pair, found)
    for name, player in operation.players.items():
        if name not in found:
            section.notes.append(f"{player.label} is not installed: its lines are left out")
    section.notes += _verdicts(operation, found)
    return section


def _lines(operation: Operation, pair: Pair, found: Turns) -> list[Line]:
    """Returns a pair's lines: CPU time of the caller's thread, hot and cold; of all threads, if others have a part."""
    ours, peer = operation.players[pair.ours].label, operation.players[pair.peer].label
    is_whole = all(_is_whole(found[name]) for name in (pair.ours, pair.peer))
    figures = {"hot_ns": peer if ours == "ours" else f"{ours}, {peer}", "cold_ns": "  cold"}
    if pair.aim is not None:
        figures |= {
            "hot_median_ns": "  median, hot",
            "cold_median_ns": "  median, cold",
            "wall_ns": "  wall time, cold",
        }
    if operation.has_threads:
        figures["cpu_ns"] = "  CPU of all threads"
    lines = []
    for figure, name in figures.items():
        mine, theirs = ([turn[figure] for turn in found[key]] for key in (pair.ours, pair.peer))
        aim = Aim(pair.aim) if pair.aim is not None and figure in ("hot_ns", "cold_ns") else None
        ratio = Spread.of_ratios(mine, theirs)
        lines.append(Line(name, Spread.of(mine), "ns", Spread.of(theirs), ratio, aim, is_whole))
    return lines


def _is_whole(turns: Iterable[dict[str, Any]]) -> bool:
    return all(turn["arrived"] == turn["expected"] for turn in turns)


def _verdicts(operation: Operation, found: Turns) -> list[str]:
    """Returns what arrived of what was made, by contender where that is not the same."""
    wrong = [
        f"{operation.players[name].label}: expected {turn['expected']:,}, arrived {turn['arrived']:,}: NOT ALL"
        for name, turns in found.items()
        for turn in turns
        if not _is_whole([turn])
    ]
    if wrong:
        return wrong
    if not operation.is_kept:
        return ["nothing was written, by any: as it should be"]
    made = sum(turn["expected"] for turn in next(iter(found.values())))
    return [f"each made {made:,}; all have arrived"]


PARTS: Final[dict[str, Callable[[bool], Section]]] = {
    **{name: partial(_measure, name) for name in OPERATIONS},
    "memory": memory,
}
