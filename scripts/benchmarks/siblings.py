"""What several processes cost that share one store at the pace of a home: commits, and bytes to the disk, a day."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.machine import file_system
from benchmarks.progress import scratch, tell
from benchmarks.report import Line, Section
from benchmarks.stats import Spread

__all__ = ["siblings"]

_COUNTS: Final = (1, 4, 16)
_DAY_S: Final = 86_400.0
_MB: Final = 1e6


def siblings(is_quick: bool) -> Section:
    """Returns commits and megabytes a day of all processes together, against one process alone."""
    seconds = 10.0 if is_quick else 60.0
    section = Section("a day of processes that share a store, each a trace in 5 s", "one process")
    alone: dict[str, float] | None = None
    with scratch() as folder:
        for count in _COUNTS:
            tell(f"siblings: {count} for {seconds:.0f} s")
            found = _day(folder / str(count), count, seconds)
            alone = alone or found
            for name, unit in (("commits", "a day"), ("megabytes", "MB/day")):
                measured, before = Spread.of([found[name]]), Spread.of([alone[name]])
                ratio = Spread.of([found[name] / alone[name]]) if alone[name] else None
                section.lines.append(Line(f"{name}, {count} processes", measured, unit, before, ratio))
        kind = file_system(folder)
    section.notes.append(f"{kind}; {seconds:.0f} s of each, made into a day; opening and closing not counted")
    section.notes.append("one trace in ten fails, and is committed at once; each trace has a log record")
    return section


def _day(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Runs so many processes at once; returns their commits and megabytes, made into a day."""
    command = [sys.executable, "-m", "benchmarks.siblings_child", str(folder), str(seconds)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  # our own program
        for _ in range(count)
    ]
    for child in children:  # all of them measure at the same time
        assert child.stdout is not None
        child.stdout.readline()
    outputs = [_go(child) for child in children]
    found: list[dict[str, Any]] = [orjson.loads(child.communicate()[0]) for child in outputs]
    a_day = _DAY_S / seconds
    return {
        "commits": sum(each["commits"] for each in found) * a_day,
        "megabytes": sum(each["bytes"] for each in found) * a_day / _MB,
    }


def _go(child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    return child
