"""One turn of one contender in a process of its own: what a call costs its caller, and the process as a whole.

Prints one JSON document. Called by `benchmarks.hot`:
`python -m benchmarks.hot_child OPERATION CONTENDER BATCHES FOLDER`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any, Final

import click
import orjson

from benchmarks.hot_contenders import OPERATIONS, Contender, Operation

__all__ = ["main"]

# As many as the rings hold: what is measured replaces old rows, as in a node that has run for a day.
_WARM_UP_STEPS: Final = 10
_WARM_UP_CALLS: Final = 1_000
_MESSAGES: Final = 1_000  # different ones: the same, again and again, would be held back by any log that samples


def main(operation: str, name: str, batches: int, folder: Path) -> dict[str, Any]:
    """Runs one turn.

    Returns:
        `caller_ns` a call (the median of the batches), `cpu_ns` a call of all threads until all is flushed, and how
        many calls should have left something (`expected`) and did (`arrived`), those of the warm-up included.
    """
    what = OPERATIONS[operation]
    contender = what.players[name].make(folder)
    for step in range(_WARM_UP_STEPS):
        contender.run([f"warming up {step * _WARM_UP_CALLS + number}" for number in range(_WARM_UP_CALLS)])
        contender.flush()
    cpu_before = process_time_ns()
    spent = list(_timed(contender, what, batches))
    contender.flush()
    cpu_ns = (process_time_ns() - cpu_before) / (what.calls * batches)
    calls = what.calls * batches + _WARM_UP_STEPS * _WARM_UP_CALLS
    return {
        "caller_ns": statistics.median(spent),
        "cpu_ns": cpu_ns,
        "expected": calls if what.is_kept else 0,
        "arrived": contender.close(),
    }


def _timed(contender: Contender, what: Operation, batches: int) -> Iterator[float]:
    """Gives the nanoseconds a call of each batch."""
    endless = cycle([f"message {number} of the bench" for number in range(_MESSAGES)])
    for _ in range(batches):
        messages = list(islice(endless, what.calls))
        started = perf_counter_ns()
        contender.run(messages)
        yield (perf_counter_ns() - started) / what.calls
        time.sleep(what.pause_s)  # the threads behind it get their turn, as between the requests of a node


if __name__ == "__main__":
    click.echo(orjson.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
