"""How long a program takes to start: the command line's help and the instruments, against the least they import."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.progress import scratch, tell
from bench.report import Aim, Line, Section
from bench.stats import Spread

__all__ = ["compare", "imports"]

_BARE: Final = ("-c", "pass")
_OBSERVABILITY: Final = ("-c", "import hearthnet.observability")
_COMMANDS: Final = {
    "bare": _BARE,
    "help": (str(Path(sys.executable).with_name("hearthnet")), "--help"),  # a script: Python runs it
    "click": ("-c", "import click"),
    "observability": _OBSERVABILITY,
    "floor": ("-c", "import logging, orjson"),
}
_PAIRS: Final = {
    ("help", "click"): "hearthnet --help, import click",
    ("observability", "floor"): "observability, logging and orjson",
}
_LIMIT: Final = 1.5
_IMPORTED: Final = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
_TOLD: Final = 4  # modules in the explanation

Turns = Mapping[str, list[float]]


def imports(is_quick: bool) -> Section:
    """Returns the wall time of whole processes, and what is left of it without the bare interpreter's."""
    turns, starts = (2, 7) if is_quick else (5, 15)
    found: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    with scratch() as folder:
        for arguments in _COMMANDS.values():
            _start(folder, arguments)  # compiles what it imports
        for turn in range(turns):
            tell(f"imports: turn {turn + 1} of {turns}")
            for name, ms in _turn(folder, starts).items():
                found[name].append(ms)
        section = compare(found)
        section.notes.append(f"of import hearthnet.observability: {_explain(folder)}")
    return section


def _turn(folder: Path, starts: int) -> dict[str, float]:
    """Returns the median milliseconds of each command, all of them started in turn."""
    spent: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(starts):
        for name, arguments in _COMMANDS.items():
            started = perf_counter()
            _start(folder, arguments)
            spent[name].append((perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in spent.items()}


def _start(folder: Path, arguments: tuple[str, ...]) -> str:
    """Runs Python in `folder` and returns what it said on standard error.

    Nothing lies in the folder that could be imported. Bytecode is kept there too, whatever the environment says: where
    none may be written beside the sources, ours alone would be compiled anew each time.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stderr


def compare(found: Turns) -> Section:
    """Returns the section from the milliseconds of each command in each turn."""
    section = Section("start of a process", "imports alone")
    bare = found["bare"]
    for (ours, floor), name in _PAIRS.items():
        section.lines.append(_line(name, found[ours], found[floor]))
        net = [[whole - start for whole, start in zip(found[key], bare, strict=True)] for key in (ours, floor)]
        section.lines.append(_line("  less the bare interpreter", *net))
    section.lines.append(Line("the bare interpreter", Spread.of(bare), "ms"))
    return section


def _line(name: str, ours: list[float], floor: list[float]) -> Line:
    # What is left of a floor that is lost in noise is nothing to compare with.
    ratio = Spread.of_ratios(ours, floor) if min(floor) > 0 else None
    return Line(name, Spread.of(ours), "ms", Spread.of(floor), ratio, Aim(_LIMIT))


def _explain(folder: Path) -> str:
    """Returns the modules that take longest by themselves; measuring slows them, so these are no figures to keep."""
    always = {name for _, name in _IMPORTED.findall(_start(folder, ("-X", "importtime", *_BARE)))}
    found = _IMPORTED.findall(_start(folder, ("-X", "importtime", *_OBSERVABILITY)))
    own = sorted(((int(us), name) for us, name in found if name not in always), reverse=True)
    return ", ".join(f"{name} {us / 1e3:.1f} ms" for us, name in own[:_TOLD])
