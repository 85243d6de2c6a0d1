"""The benchmark of the whole way: calls a second through HTTP, with telemetry on against the same application without.

Both servers run at the same time, each in a process of its own, and are called in turn: what the machine does besides
hits both alike.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

import orjson

from benchmarks.callers import Answers, Callers, signed_ahead
from benchmarks.machine import describe
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread, percentile
from hearthnet.identity.keys import KeyPair

__all__ = ["PARTS", "run"]

_SCRIPTS: Final = Path(__file__).parent.parent
_CONNECTIONS: Final = 16
_START_S: Final = 60.0
_WARM_UP_CALLS: Final = 2_000
_PEERS: Final = {"bare": "no recording", "off": "no telemetry"}


class Child:
    """A server in a process of its own, and what it has told."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self.port = int(self._line()["port"])
        self.made = 0
        self.turns: list[dict[str, float]] = []

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        told: dict[str, Any] = orjson.loads(self.process.stdout.readline() or b"{}")
        return told

    def cpu_s(self) -> float:
        """Returns the CPU time of all its threads so far."""
        return float(self._ask(b"cpu\n")["cpu_s"])

    def end(self) -> int:
        """Ends the server; returns how many traces it has stored."""
        return int(self._ask(b"end\n")["stored"])

    def _ask(self, what: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(what)
        self.process.stdin.flush()
        return self._line()

    def take_turn(self, keys: KeyPair, calls: int) -> Answers:
        """Makes so many calls, one after another on each connection; notes what they took."""
        requests = signed_ahead(keys, keys.node_id, calls)
        before = self.cpu_s()
        answers = asyncio.run(_call(self.port, requests))
        assert not answers.wrong, answers.wrong[0]
        assert not answers.lost
        assert not answers.refused, answers.refused
        self.made += calls
        served = sorted(answers.served_ms)
        self.turns.append(
            {
                "per_s": answers.served_per_s,
                "cpu_us": (self.cpu_s() - before) / calls * 1e6,
                "p50": percentile(served, 0.5),
                "p99": percentile(served, 0.99),
            }
        )
        return answers


async def _call(port: int, requests: Iterable[Any]) -> Answers:
    async with Callers.connected(port, _CONNECTIONS) as callers:
        return await callers.one_after_another(requests)


@contextmanager
def _child(name: str, folder: Path) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.http_child", name, str(folder)]
    with subprocess.Popen(  # noqa: S603  # ourselves
        command, cwd=_SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Child(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_START_S)


def run(wanted: Iterable[str], is_quick: bool) -> tuple[dict[str, Any], list[Section]]:
    """Runs the parts; returns what they ran on, and what was found."""
    del wanted  # there is one
    return describe(Path(gettempdir())), [calls(is_quick)]


def calls(is_quick: bool) -> Section:
    """Returns calls a second, CPU time a call and latencies, with telemetry on against both kinds of off."""
    turns, count = (4, 1_500) if is_quick else (12, 5_000)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        keys = KeyPair.generate()
        keys.save(folder / "keys")
        children = {name: stack.enter_context(_child(name, folder)) for name in ("on", *_PEERS)}
        for child in children.values():
            child.take_turn(keys, _WARM_UP_CALLS)
            child.turns.clear()
        for turn in range(turns):
            order = list(children.values())
            for child in order[turn % len(order) :] + order[: turn % len(order)]:
                tell(f"http: turn {turn + 1} of {turns}, {child.name}")
                child.take_turn(keys, count)
        stored = {name: child.end() for name, child in children.items()}
        return _section(children, stored)


def _section(children: dict[str, Child], stored: dict[str, int]) -> Section:
    section = Section("calls through HTTP, telemetry on", "without")
    on = children["on"]
    is_whole = stored["on"] == on.made and not any(stored[name] for name in _PEERS)
    for name, label in _PEERS.items():
        for figure, unit, aim in (("per_s", "/s", Aim(0.85, at_least=True)), ("cpu_us", "us", None)):
            mine, theirs = ([turn[figure] for turn in child.turns] for child in (on, children[name]))
            what = f"{label}: {'calls' if figure == 'per_s' else '  CPU a call, all threads'}"
            ratio = Spread.of_ratios(mine, theirs)
            section.lines.append(Line(what, Spread.of(mine), unit, Spread.of(theirs), ratio, aim, is_whole))
    for figure in ("p50", "p99"):
        mine, theirs = ([turn[figure] for turn in child.turns] for child in (on, children["off"]))
        section.lines.append(Line(f"{figure} of an answer", Spread.of(mine), "ms", Spread.of(theirs)))
    section.notes.append(f"{_CONNECTIONS} connections, each sends its next call when it has its answer")
    section.notes.append(f"made {on.made:,} calls with telemetry on; stored {stored['on']:,} traces")
    return section


PARTS: Final = {"calls": calls}
