"""Who is measured by `scripts/bench hot`, operation by operation.

A contender is made in a process of its own, and only there is its library imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

__all__ = ["OPERATIONS", "Contender", "Operation", "Pair", "Player"]


class Contender(Protocol):
    """Does one thing again and again, and can show that it was done."""

    def run(self, messages: Sequence[str]) -> None:
        """Does it once for each message; this is what is timed. What logs nothing only counts the messages."""

    def flush(self) -> None:
        """Waits until what was handed to other threads is done."""

    def close(self) -> int:
        """Ends; returns how many of all calls have arrived where they should."""


@dataclass(frozen=True, slots=True)
class Player:
    """Where a contender is found.

    Attributes:
        label: what the table calls it.
        place: module and class.
        options: for the class, after the folder.
        library: the module that it needs and that may be missing.
    """

    label: str
    place: tuple[str, str]
    options: tuple[str, ...] = ()
    library: str | None = None

    def make(self, folder: Path) -> Contender:
        """Imports and starts it; what it writes goes to `folder`."""
        module, name = self.place
        contender: Contender = getattr(import_module(f"benchmarks.{module}"), name)(folder, *self.options)
        return contender

    def is_installed(self) -> bool:
        """Tells whether its library is there."""
        try:
            return self.library is None or find_spec(self.library) is not None
        except ModuleNotFoundError:  # not even the package around it
            return False


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared with what; `aim` is the highest ratio of the caller's CPU time that is wanted."""

    ours: str
    peer: str
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a program does.

    Attributes:
        title: of its section.
        players: by name.
        pairs: in the order of the table.
        calls: of a batch, which is timed as a whole: enough to dwarf the clock, few enough for every buffer.
        pause_s: between two batches.
        is_kept: whether what is done leaves something behind.
        has_threads: whether other threads have a part in it, so that the CPU time of all says more than the caller's.
    """

    title: str
    players: dict[str, Player]
    pairs: tuple[Pair, ...]
    calls: int = 200
    pause_s: float = 0.02
    is_kept: bool = True
    has_threads: bool = True


# A message of a thousand comes back after five batches: twice a second, so no sampling of equal messages strikes.
_LOG_PAUSE_S: Final = 0.1

_OTEL: Final = "opentelemetry.sdk"

OPERATIONS: Final = {
    "trace": Operation(
        "one trace: a span with two extras",
        {
            "ours": Player("no line", ("hot_ours", "Traces"), ("warning",)),
            "done": Player("done line", ("hot_ours", "Traces"), ("info",)),
            "otel": Player("OpenTelemetry", ("hot_otel", "Traces"), (), _OTEL),
            "logfire": Player("Logfire", ("hot_logfire", "Traces"), (), "logfire"),
        },
        (Pair("ours", "otel", 1 / 6), Pair("done", "otel", 1 / 4), Pair("ours", "logfire"), Pair("done", "logfire")),
    ),
    "span": Operation(
        "one span of a trace of twenty",
        {
            "ours": Player("ours", ("hot_ours", "Spans")),
            "otel": Player("OpenTelemetry", ("hot_otel", "Spans"), (), _OTEL),
            "logfire": Player("Logfire", ("hot_logfire", "Spans"), (), "logfire"),
        },
        (Pair("ours", "otel"), Pair("ours", "logfire")),
    ),
    "record": Operation(
        "one info record with four extras",
        {
            "ours": Player("ours", ("hot_ours", "Records"), ("extras",)),
            "json_size": Player("python-json-logger, by size", ("hot_loggers", "Json"), ("size",), "pythonjsonlogger"),
            "json_day": Player("python-json-logger, by day", ("hot_loggers", "Json"), ("day",), "pythonjsonlogger"),
            "structlog": Player("structlog, orjson", ("hot_loggers", "Structlog"), ("extras",), "structlog"),
            "loguru": Player("loguru, serialize", ("hot_loggers", "Loguru"), ("extras",), "loguru"),
        },
        (Pair("ours", "json_size", 0.17), Pair("ours", "structlog", 0.9), Pair("ours", "json_day"),
         Pair("ours", "loguru")),
        pause_s=_LOG_PAUSE_S,
    ),
    "plain": Operation(
        "one info record without extras",
        {
            "ours": Player("ours", ("hot_ours", "Records"), ("plain",)),
            "stdlib": Player("stdlib, text", ("hot_loggers", "Stdlib"), ("plain",)),
            "structlog": Player("structlog, orjson", ("hot_loggers", "Structlog"), ("plain",), "structlog"),
            "loguru": Player("loguru, serialize", ("hot_loggers", "Loguru"), ("plain",), "loguru"),
        },
        (Pair("ours", "stdlib"), Pair("ours", "structlog"), Pair("ours", "loguru")),
        pause_s=_LOG_PAUSE_S,
    ),
    "debug": Operation(
        "one debug record, filtered out",
        {
            "ours": Player("ours", ("hot_ours", "Debug")),
            "stdlib": Player("stdlib", ("hot_loggers", "Stdlib"), ("debug",)),
            "structlog": Player("structlog", ("hot_loggers", "Structlog"), ("debug",), "structlog"),
        },
        (Pair("ours", "stdlib"), Pair("ours", "structlog")),
        calls=2_000,
        is_kept=False,
        has_threads=False,
    ),
    "counter": Operation(
        "one inc of a counter with two labels",
        {
            "ours": Player("ours", ("hot_ours", "Counter")),
            "prometheus": Player("prometheus_client", ("hot_prometheus", "Counter"), (), "prometheus_client"),
            "otel": Player("OpenTelemetry", ("hot_otel", "Counter"), (), _OTEL),
        },
        (Pair("ours", "prometheus"), Pair("ours", "otel")),
        calls=2_000,
        has_threads=False,
    ),
}  # fmt: skip
