"""Ours, as a node has it: telemetry open in a folder on disk, its thread running, its black box made."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from hearthnet.config import ObservabilityConfig
from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.observability import get_logger, metrics, telemetry, trace

__all__ = ["Counter", "Debug", "Node", "Records", "Spans", "Traces"]

LOGGER: Final = "bench.hot"
SPANS: Final = 20  # of one trace: fewer than a row has room for
_CAPABILITY: Final = "experimental.echo"
_DONE: Final = b'"logger":"hearthnet.trace"'

log = get_logger(LOGGER)


class Node:
    """What all have in common: opening, flushing, closing, and looking at what is there."""

    def __init__(self, folder: Path, log_level: Literal["info", "warning"] = "info") -> None:
        self._folder = folder
        config = ObservabilityConfig(data_dir=folder / "data", log_dir=folder / "logs", log_level=log_level)
        self._telemetry = telemetry.open(config)
        self._telemetry.start()
        if self._telemetry.error is not None:
            raise RuntimeError(f"there is no store: {self._telemetry.error}")

    def flush(self) -> None:
        """Waits until all is committed."""
        if not self._telemetry.flush():
            raise RuntimeError(f"nothing was committed: {self._telemetry.error}")

    def _end(self) -> None:
        self._telemetry.close()
        if self._count("SELECT count(*) FROM gaps"):
            raise RuntimeError("records were lost: see the table gaps")

    def _count(self, query: str) -> int:
        with closing(sqlite3.connect(self._folder / "data" / telemetry.DATABASE)) as connection:
            found: int = connection.execute(query).fetchone()[0]
        return found

    def _lines(self, mark: bytes) -> int:
        """Returns how many lines of the JSON log have `mark` in them."""
        return sum(mark in line for path in self._folder.glob("logs/*.log") for line in path.open("rb"))


def _metric(series: str) -> int:
    found = re.search(rf"^{re.escape(series)} (\S+)", metrics.exposition()[0].decode(), re.MULTILINE)
    return int(float(found[1])) if found else 0


class Traces(Node):
    """Traces of one span; with the level `info` each writes its done line."""

    def __init__(self, folder: Path, log_level: Literal["info", "warning"]) -> None:
        super().__init__(folder, log_level)
        self._has_lines = log_level == "info"

    def run(self, messages: Sequence[str]) -> None:
        """Makes a trace for each."""
        for _ in messages:
            trace.new_trace(_CAPABILITY)
            with trace.span("handle", model="tiny", size=3):
                pass
            trace.detach()

    def close(self) -> int:
        """Ends; returns how many traces were committed, and written as lines if they should be."""
        self._end()
        written = _metric('hearthnet_telemetry_written_total{kind="trace"}')
        if self._count("SELECT count(*) FROM traces") != min(written, TRACE_RING_BUFFER):
            raise RuntimeError("telemetry.db does not hold what its writer counted")
        return min(written, self._lines(_DONE)) if self._has_lines else written


class Spans(Node):
    """Traces of twenty spans, recorded with all that this costs when they end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "warning")

    def run(self, messages: Sequence[str]) -> None:
        """Makes a span for each."""
        for _ in range(len(messages) // SPANS):
            trace.new_trace(_CAPABILITY)
            for _ in range(SPANS):
                with trace.span("handle", model="tiny", size=3):
                    pass
            trace.detach()

    def close(self) -> int:
        """Ends; returns how many spans are in the database."""
        self._end()
        return self._count("SELECT count(*) FROM spans")


class Records(Node):
    """Log records, with four extras or none."""

    run: Callable[[Sequence[str]], None]

    def __init__(self, folder: Path, kind: Literal["extras", "plain"]) -> None:
        super().__init__(folder)
        self.run = getattr(self, f"_run_{kind}")

    def _run_extras(self, messages: Sequence[str]) -> None:
        for message in messages:
            log.info(message, extra={"capability": "llm.chat", "to": "7H4G", "ms": 12.5, "size": 3})

    def _run_plain(self, messages: Sequence[str]) -> None:
        for message in messages:
            log.info(message)

    def close(self) -> int:
        """Ends; returns how many records are both lines of the JSON log and were committed."""
        self._end()
        written = _metric('hearthnet_telemetry_written_total{kind="log"}')
        return min(written, self._lines(f'"logger":"{LOGGER}"'.encode()))


class Debug(Node):
    """Debug records that the level keeps out."""

    def run(self, messages: Sequence[str]) -> None:
        """Logs each with two extras, below the level."""
        for message in messages:
            log.debug(message, extra={"model": "tiny", "size": 3})

    def close(self) -> int:
        """Ends; returns how many got through all the same."""
        self._end()
        rows = self._count(f"SELECT count(*) FROM logs WHERE logger = '{LOGGER}'")  # noqa: S608  # a constant
        return max(rows, self._lines(f'"logger":"{LOGGER}"'.encode()))


class Counter(Node):
    """A counter whose series is chosen at each call."""

    def run(self, messages: Sequence[str]) -> None:
        """Counts each."""
        for _ in messages:
            _calls.labels(capability="llm.chat", result="ok").inc()

    def close(self) -> int:
        """Ends; returns what the metrics page shows."""
        self._end()
        return _metric('bench_calls_total{capability="llm.chat",result="ok"}')


_calls = metrics.counter("bench_calls_total", "Calls.", ["capability", "result"])
