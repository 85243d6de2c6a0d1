"""What a process grows by while its buffers fill up because another one holds the database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

import orjson

from benchmarks.memory_child import KINDS, PENDING, rollup
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread
from hearthnet.observability import telemetry

__all__ = ["compare", "memory"]

_SCRIPTS: Final = Path(__file__).parent.parent
_LIMIT_MB: Final = 25.0

Turns = list[dict[str, Any]]


def memory(is_quick: bool) -> Section:
    """Returns what a full ring and full buffers add to the process as it was right after opening."""
    if rollup() is None:
        section = Section("memory", "")
        section.notes.append("not measured: this system has no /proc/self/smaps_rollup")
        return section
    found: Turns = []
    peer: Turns = []
    turns = 1 if is_quick else 3
    for turn in range(turns):
        tell(f"memory: turn {turn + 1} of {turns}")
        with scratch() as folder:
            found.append(_turn(folder))
        if find_spec("opentelemetry") is not None:
            peer.append(_peer_turn())
    return compare(found, peer)


def _turn(folder: Path) -> dict[str, Any]:
    """Runs one process; holds its database while it fills its buffers."""
    command = [sys.executable, "-m", "benchmarks.memory_child", str(folder)]
    with subprocess.Popen(  # noqa: S603  # ourselves
        command, cwd=_SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError("the process that should fill its ring has ended")
        result = _while_held(folder / "data" / telemetry.DATABASE, child.stdin, child.stdout)
        child.stdin.close()
    return result


def _peer_turn() -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory_peer"]
    done = subprocess.run(command, cwd=_SCRIPTS, check=True, stdout=subprocess.PIPE)  # noqa: S603  # ourselves
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def _while_held(database: Path, say: IO[bytes], answer: IO[bytes]) -> dict[str, Any]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        say.write(b"go\n")
        say.flush()
        result: dict[str, Any] = orjson.loads(answer.readline())
        connection.execute("ROLLBACK")
    return result


def compare(found: Turns, peer: Turns) -> Section:
    """Returns the section from the bytes of each turn; without turns of the peer it is not installed."""
    section = Section("memory that is added", "OpenTelemetry")
    is_whole = all(turn["arrived"] == turn["expected"] for turn in [*found, *peer])
    for kind, label in KINDS.items():
        full = Spread.of(_grown(found, kind, "open", "full"))
        aim = Aim(_LIMIT_MB, of="measured")
        section.lines.append(Line(f"ring and buffers full, {label}", full, "MB", aim=aim, is_whole=is_whole))
        section.lines.append(Line("  the ring alone", Spread.of(_grown(found, kind, "open", "ring")), "MB"))
        section.lines.append(_pending_line(found, peer, kind))
    for kind, label in KINDS.items():
        at_first = Spread.of(turn["open"][kind] / 1e6 for turn in found)
        section.lines.append(Line(f"the process after opening, {label}", at_first, "MB"))
    if not peer:
        section.notes.append("OpenTelemetry is not installed: its figures are left out")
    section.notes.append(_verdict(found, is_whole))
    return section


def _grown(turns: Turns, kind: str, before: str, after: str) -> list[float]:
    """Returns the megabytes that were added between two stages, in each turn."""
    return [(turn[after][kind] - turn[before][kind]) / 1e6 for turn in turns]


def _pending_line(found: Turns, peer: Turns, kind: str) -> Line:
    """Returns the line of the traces that wait, in our buffer or in the peer's queue."""
    ours, theirs = (_grown(turns, kind, "ring", "traces") for turns in (found, peer))
    name = f"  {PENDING['trace']:,} traces pending"
    if not theirs:
        return Line(name, Spread.of(ours), "MB")
    return Line(name, Spread.of(ours), "MB", Spread.of(theirs), Spread.of_ratios(ours, theirs))


def _verdict(turns: Turns, is_whole: bool) -> str:
    if is_whole:
        return f"pending: all of {PENDING['trace']:,} traces and {PENDING['log']:,} records"
    least = {kind: min(turn["arrived"].get(kind, 0) for turn in turns) for kind in PENDING}
    return f"pending: {least['trace']:,} traces and {least['log']:,} records: NOT ALL"
