"""How long a program takes to start: commands and the instruments, against the least that they must import."""

from __future__ import annotations

import os
import re
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread

__all__ = ["compare", "run"]

_HEARTHNET: Final = str(Path(sys.executable).with_name("hearthnet"))  # a script: Python runs it
_BARE: Final = ("-c", "pass")
_INSTRUMENTS: Final = ("-c", "from hearthnet.observability import get_logger, metrics, trace")
_FLOORS: Final = {
    "import click": ("-c", "import click"),
    "import click, rich": ("-c", "import click, rich"),
    "import logging, orjson": ("-c", "import logging, orjson"),
}
# name: (what Python runs, the floor, the aim)
_MEASURED: Final[dict[str, tuple[tuple[str, ...], str, Aim | None]]] = {
    "hearthnet --help": ((_HEARTHNET, "--help"), "import click", Aim(1.5)),
    "import of the instruments": (_INSTRUMENTS, "import logging, orjson", Aim(1.5)),
    "paths": ((_HEARTHNET, "paths"), "import click, rich", Aim(2)),
    "log": ((_HEARTHNET, "log"), "import click, rich", Aim(2)),
    "trace recent --json": ((_HEARTHNET, "trace", "recent", "--json"), "import click, rich", Aim(2)),
    "trace recent, its table": ((_HEARTHNET, "trace", "recent"), "import click, rich", None),
    "doctor --help": ((_HEARTHNET, "doctor", "--help"), "import click, rich", Aim(2)),
    "status, from disk": ((_HEARTHNET, "status"), "import click, rich", Aim(4)),
}
_RECORD: Final = """
from hearthnet.config import load, resolve_paths
from hearthnet.observability import get_logger, telemetry, trace
with telemetry.open(resolve_paths(load()).observability), trace.new_trace("experimental.echo"):
    get_logger("hearthnet.bench").warning("one line")
"""
_IMPORTED: Final = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
_TOLD: Final = 4  # modules in the explanation

Rounds = Mapping[str, list[float]]


def run(is_quick: bool) -> tuple[dict[str, Any], list[Section]]:
    """Returns the machine, and the CPU time of whole processes without the bare interpreter's."""
    rounds = 7 if is_quick else 25
    commands = {"bare": _BARE, **_FLOORS, **{name: arguments for name, (arguments, _, _) in _MEASURED.items()}}
    found: dict[str, list[float]] = {name: [] for name in commands}
    with scratch() as folder:
        _make_node(folder)
        for arguments in commands.values():
            _start(folder, arguments)  # compiles what it imports
        for number in range(rounds):
            tell(f"imports: round {number + 1} of {rounds}")
            for name, arguments in commands.items():
                found[name].append(_cpu_ms(folder, arguments))
        section = compare(found)
        section.notes.append(f"of the instruments: {_explain(folder)}")
        return machine.describe(folder), [section]


def _make_node(folder: Path) -> None:
    """Makes a node that has recorded one trace, and whose port nobody listens on."""
    _start(folder, (_HEARTHNET, "init", "--non-interactive"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    settings = folder / "home" / ".config" / "hearthnet" / "config.toml"
    settings.write_text(settings.read_text("utf-8").replace("#port = 7080", f"port = {port}", 1), "utf-8")
    _start(folder, ("-c", _RECORD))


def _cpu_ms(folder: Path, arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _start(folder, arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def _start(folder: Path, arguments: tuple[str, ...]) -> str:
    """Runs Python in `folder` and returns what it said on standard error.

    Nothing lies in the folder that could be imported. Bytecode is kept there too, whatever the environment says: where
    none may be written beside the sources, ours alone would be compiled anew each time.
    """
    home = folder / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "HOME": str(home)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stderr


def compare(found: Rounds) -> Section:
    """Returns the section from the CPU milliseconds of each command in each round, less the interpreter."""
    section = Section("CPU of a start, less the interpreter", "least imports")
    bare, least_bare = statistics.median(found["bare"]), min(found["bare"])
    least = []
    for name, (_, floor, aim) in _MEASURED.items():
        ours, theirs = ([spent - bare for spent in found[key]] for key in (name, floor))
        # What is left of a floor that is lost in noise is nothing to compare with.
        ratio = Spread.of_ratios(ours, theirs) if min(theirs) > 0 else None
        section.lines.append(Line(f"{name} / {floor}", Spread.of(ours), "ms", Spread.of(theirs), ratio, aim))
        if min(found[floor]) > least_bare:
            least.append(f"{name} {(min(found[name]) - least_bare) / (min(found[floor]) - least_bare):.2f}")
    section.lines.append(Line("the bare interpreter", Spread.of(found["bare"]), "ms"))
    section.notes.append(f"by the least of all rounds: {', '.join(least)}")
    return section


def _explain(folder: Path) -> str:
    """Returns the modules that take longest by themselves; measuring slows them, so these are no figures to keep."""
    always = {name for _, name in _IMPORTED.findall(_start(folder, ("-X", "importtime", *_BARE)))}
    found = _IMPORTED.findall(_start(folder, ("-X", "importtime", *_INSTRUMENTS)))
    own = sorted(((int(us), name) for us, name in found if name not in always), reverse=True)
    return ", ".join(f"{name} {us / 1e3:.1f} ms" for us, name in own[:_TOLD])
