"""One of several processes that share a store: records at the pace of a home, and counts its commits and bytes.

Prints `ready`, waits for a line, and prints one JSON document. Called by `benchmarks.siblings`:
`python -m benchmarks.siblings_child FOLDER SECONDS`.
"""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Final

import click
import orjson

from benchmarks.machine import written_bytes
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, metrics, telemetry, trace

__all__ = ["main"]

_EVERY_S: Final = 5.0  # a trace
_FAILED: Final = 0.1  # of them
_COMMITS: Final = re.compile(rb"^hearthnet_telemetry_commits_total (\S+)", re.MULTILINE)


def main() -> None:
    """Records for so long."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    log, pause, chance = get_logger("bench"), threading.Event(), random.Random()  # noqa: S311  # no secret
    with telemetry.open(ObservabilityConfig(data_dir=folder / "data", log_dir=folder / "logs")):
        click.echo("ready")
        sys.stdin.readline()
        commits, written = _commits(), written_bytes() or 0
        began, at_s = time.monotonic(), chance.uniform(0, _EVERY_S)
        while at_s < seconds:
            pause.wait(max(0.0, began + at_s - time.monotonic()))
            at_s += _EVERY_S
            with trace.new_trace("home.call") as made, trace.span("step"):
                log.info("called", extra={"caller": "phone"})
                if chance.random() < _FAILED:
                    made.fail("timeout")
        pause.wait(1.5)  # the last commit
        found = {"commits": _commits() - commits, "bytes": (written_bytes() or 0) - written}
    click.echo(orjson.dumps(found))


def _commits() -> float:
    found = _COMMITS.search(metrics.exposition()[0])
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    main()
