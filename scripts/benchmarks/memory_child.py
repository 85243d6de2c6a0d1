"""A process that fills the ring and then, while its parent holds the database, its buffers; tells its memory each time.

Called by `benchmarks.memory`: `python -m benchmarks.memory_child FOLDER`. It prints `ready` when the ring is full,
continues when it is sent a line, prints one JSON document, and ends when its standard input does.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import orjson

from benchmarks.records import make_trace
from hearthnet.config import ObservabilityConfig
from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.observability import get_logger, metrics, telemetry

__all__ = ["KINDS", "PENDING", "main", "rollup"]

# RSS counts every page that is mapped and was touched, so the black box too, whose pages are a file's: the kernel
# writes them out and takes them back when it needs them. What it cannot take back is the anonymous part.
KINDS: Final = {"Rss": "resident", "Anonymous": "of its own"}
PENDING: Final = {"trace": 20_000, "log": 10_000}  # what the buffers hold
_STEP: Final = 2_000  # records between two flushes: the buffers must not overflow while the ring is filled
_ROLLUP: Final = Path("/proc/self/smaps_rollup")
_QUEUED: Final = re.compile(rb'^hearthnet_telemetry_queued\{kind="(\w+)"\} (\S+)', re.MULTILINE)

log = get_logger("bench.memory")


def rollup() -> dict[str, int] | None:
    """Returns the bytes of this process by kind; None where the system does not tell."""
    gc.collect()
    try:
        found = re.findall(r"^(\w+): +(\d+) kB$", _ROLLUP.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return {name: int(kib) * 1_024 for name, kib in found if name in KINDS}


def _record(messages: Sequence[str]) -> None:
    for message in messages:
        log.info(message, extra={"capability": "llm.chat", "to": "7H4G", "ms": 12.5, "size": 3})


def _make(traces: int) -> None:
    for _ in range(traces):
        make_trace()


def _fill_ring(opened: telemetry.Telemetry, messages: Sequence[str]) -> None:
    for first in range(0, LOG_RING_BUFFER, _STEP):
        _make(TRACE_RING_BUFFER * _STEP // LOG_RING_BUFFER)
        _record(messages[first : first + _STEP])
        if not opened.flush():
            raise RuntimeError(f"nothing was committed: {opened.error}")


def main(folder: Path) -> None:
    """Runs one turn."""
    # Different ones, so that no sampling strikes; made before, because a program's messages are there anyway.
    messages = [f"message {number} of the bench" for number in range(PENDING["log"])]
    config = ObservabilityConfig(data_dir=folder / "data", log_dir=folder / "logs")
    with telemetry.open(config) as opened:
        sizes: dict[str, Any] = {"open": rollup()}
        _fill_ring(opened, messages)
        sizes["ring"] = rollup()
        click.echo("ready")
        sys.stdin.readline()
        _make(PENDING["trace"])
        sizes["traces"] = rollup()
        _record(messages)
        sizes["full"] = rollup()
        queued = {kind.decode(): int(float(count)) for kind, count in _QUEUED.findall(metrics.exposition()[0])}
        click.echo(orjson.dumps({**sizes, "expected": PENDING, "arrived": queued}))
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
