"""How much later an event loop wakes because of telemetry, at 5,000 traces a second; each turn in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.lag_child import CONTENDERS
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread

__all__ = ["lag"]

_NAMES: Final = {
    "none": "no telemetry",
    "ours": "ours",
    "ours_done": "ours, done lines logged",
    "peer": "OpenTelemetry",
}
_SCRIPTS: Final = Path(__file__).parent.parent
_START_S: Final = 60.0  # more than any contender takes to start and to end
_QUIET_MS: Final = 0.5  # p99 without telemetry; a machine with nothing else to do stays well below

Turns = dict[str, list[dict[str, Any]]]


def lag(is_quick: bool) -> list[Section]:
    """Returns the lag that each contender adds, the same figures by themselves, and what they used."""
    seconds, turns = (3.0, 3) if is_quick else (10.0, 5)
    found: Turns = {name: [] for name in CONTENDERS}
    for turn in range(turns):
        for name in CONTENDERS:
            tell(f"lag: turn {turn + 1} of {turns}, {_NAMES[name]}")
            found[name].append(_turn(name, seconds))
    return [_added(found), _alone(found), _used(found)]


def _turn(name: str, seconds: float) -> dict[str, Any]:
    """Runs one contender in a process of its own."""
    with scratch() as folder:
        command = [sys.executable, "-m", "benchmarks.lag_child", name, str(seconds), str(folder)]
        done = subprocess.run(  # noqa: S603  # ourselves
            command, cwd=_SCRIPTS, check=True, stdout=subprocess.PIPE, timeout=seconds + _START_S
        )
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def _added(found: Turns) -> Section:
    """Returns what each adds to the p99 of the same turn without telemetry."""
    added = {
        name: [each["p99"] - none["p99"] for each, none in zip(found[name], found["none"], strict=True)]
        for name in found
    }
    peer = added["peer"]
    section = Section("event loop: what p99 gains", "OpenTelemetry")
    for name in ("ours", "ours_done"):
        section.lines.append(Line(_NAMES[name], Spread.of(added[name]), "ms", aim=Aim(0.7, of="measured")))
        # A peer that adds nothing is noise; there is nothing to compare with then.
        ratio = Spread.of_ratios(added[name], peer) if min(peer) > 0 else None
        line = Line(f"{_NAMES[name]}: its share", Spread.of(added[name]), "ms", Spread.of(peer), ratio, Aim(0.25))
        section.lines.append(line)
    return section


def _alone(found: Turns) -> Section:
    """Returns the lags themselves."""
    section = Section("event loop: lag", "no telemetry")
    for name in found:
        for figure in ("p50", "p99", "p99.9", "max"):
            values, none = ([each[figure] for each in found[key]] for key in (name, "none"))
            against = None if name == "none" else Spread.of(none)
            section.lines.append(Line(f"{_NAMES[name]}: {figure}", Spread.of(values), "ms", against))
    if Spread.of(each["p99"] for each in found["none"]).median > _QUIET_MS:
        section.notes.append("the machine is busy: the loop is late without telemetry too; measure again")
    return section


def _used(found: Turns) -> Section:
    """Returns the share of one CPU that each used, and whether all that was made is stored."""
    section = Section("share of one CPU", "OpenTelemetry")
    peer = [each["cpu"] * 100 for each in found["peer"]]
    for name, turns in found.items():
        used = [each["cpu"] * 100 for each in turns]
        is_ours = name.startswith("ours")
        ratio = Spread.of_ratios(used, peer) if is_ours else None
        section.lines.append(Line(_NAMES[name], Spread.of(used), "%", Spread.of(peer) if is_ours else None, ratio))
        if name != "none":
            made, stored = (sum(each[key] for each in turns) for key in ("made", "stored"))
            verdict = "all" if made == stored else "NOT ALL"
            section.notes.append(f"{_NAMES[name]}: made {made:,} traces, stored {stored:,}: {verdict}")
    return section
