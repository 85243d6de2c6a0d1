"""One turn of one contender in a process of its own: paces traces on an event loop and measures how late it wakes.

Prints one JSON document. Called by `benchmarks.lag` and `benchmarks.export`:
`python -m benchmarks.lag_child CONTENDER SECONDS FOLDER [RATE [URL]]`, the last of a backend that takes OTLP.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, Final, Literal, Protocol

import click
import orjson

from benchmarks.stats import percentile

__all__ = ["CONTENDERS", "main"]

_RATE: Final = 5_000  # traces a second, unless another one is wanted
_BURST_S: Final = 0.002  # between two bursts, of ten traces each
_SLEEP_S: Final = 0.001  # what the watching task asks for
_WRITTEN: Final = re.compile(rb'^hearthnet_telemetry_written_total\{kind="trace"\} (\S+)', re.MULTILINE)
_WARM_UP_S: Final = 1.0  # the first turn through all code is not what is measured


class Contender(Protocol):
    """What makes traces."""

    def make_trace(self) -> None:
        """Makes one trace."""

    def close(self) -> int:
        """Ends; returns how many traces are stored."""


class Nothing:
    """No telemetry at all."""

    def make_trace(self) -> None:
        """Makes none."""

    def close(self) -> int:
        """Returns that none are stored."""
        return 0


class Ours:
    """Telemetry as a node has it, with or without the line that each trace writes to the JSON log, and the export."""

    def __init__(self, folder: Path, log_level: Literal["info", "warning"], url: str | None = None) -> None:
        from benchmarks.records import make_trace
        from hearthnet.config import ObservabilityConfig
        from hearthnet.observability import telemetry

        self._database = folder / "data" / telemetry.DATABASE
        config = ObservabilityConfig(
            data_dir=folder / "data", log_dir=folder / "logs", log_level=log_level, otlp_endpoint=url
        )
        self._telemetry = telemetry.open(config)
        self._telemetry.start()
        self.make_trace: Callable[[], None] = make_trace

    def close(self) -> int:
        """Commits the rest; returns how many traces were committed, or 0 if the database does not bear it out."""
        from hearthnet.constants import TRACE_RING_BUFFER
        from hearthnet.observability import metrics

        self._telemetry.close()
        found = _WRITTEN.search(metrics.exposition()[0])
        written = int(float(found[1])) if found else 0
        with closing(sqlite3.connect(self._database)) as connection:
            kept = connection.execute("SELECT count(*) FROM traces").fetchone()[0]
            lost = connection.execute("SELECT count(*) FROM gaps").fetchone()[0]
        return written if kept == min(written, TRACE_RING_BUFFER) and not lost else 0


def _peer(folder: Path) -> Contender:
    from benchmarks.peer import Peer

    return Peer(folder / "peer.db")


CONTENDERS: Final[dict[str, Callable[[Path, str | None], Contender]]] = {
    "none": lambda _folder, _url: Nothing(),
    "ours": lambda folder, url: Ours(folder, "warning", url),
    "ours_done": lambda folder, url: Ours(folder, "info", url),
    "peer": lambda folder, _url: _peer(folder),
}


async def _pace(make_trace: Callable[[], None], seconds: float, rate: int) -> tuple[int, float]:
    """Makes traces at a rate, those that are due at once; returns how many, and the CPU seconds they took."""
    made, cpu = 0, 0.0
    started = perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        due = int(elapsed * rate)
        before = thread_time()
        while made < due:
            make_trace()
            made += 1
        cpu += thread_time() - before
        await asyncio.sleep(_BURST_S)
    return made, cpu


async def _watch(lags: list[float]) -> None:
    """Sleeps again and again and notes how much longer that took than asked for, in milliseconds."""
    while True:
        asked = perf_counter()
        await asyncio.sleep(_SLEEP_S)
        lags.append((perf_counter() - asked - _SLEEP_S) * 1e3)


async def _measure(make_trace: Callable[[], None], seconds: float, rate: int) -> tuple[int, float, list[float]]:
    """Returns how many traces were made, the CPU microseconds of one, and the lags in order."""
    warm_up, _ = await _pace(make_trace, _WARM_UP_S, rate)
    lags: list[float] = []
    watcher = asyncio.create_task(_watch(lags))
    made, cpu = await _pace(make_trace, seconds, rate)
    watcher.cancel()
    return warm_up + made, cpu / made * 1e6, sorted(lags)


def main(name: str, seconds: float, folder: Path, rate: int = _RATE, url: str | None = None) -> dict[str, Any]:
    """Runs one turn and returns what came of it: lag in milliseconds, share of one CPU, traces made and stored."""
    contender = CONTENDERS[name](folder, url)
    cpu_before, before = process_time(), perf_counter()
    made, caller_us, lags = asyncio.run(_measure(contender.make_trace, seconds, rate))
    elapsed = perf_counter() - before
    stored = contender.close()
    return {
        "p50": percentile(lags, 0.5),
        "p99": percentile(lags, 0.99),
        "p99.9": percentile(lags, 0.999),
        "max": lags[-1],
        "caller_us": caller_us,
        "cpu": (process_time() - cpu_before) / elapsed,  # with what was left to do at the end
        "made": made,
        "stored": stored,
    }


if __name__ == "__main__":
    click.echo(
        orjson.dumps(main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:5]), *sys.argv[5:6]))
    )
