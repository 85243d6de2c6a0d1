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
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any, Final

import click
import orjson

from benchmarks.hot_contenders import OPERATIONS, Contender, Operation

__all__ = ["main"]

# As many as the rings hold: what is measured replaces old rows, as in a node that has run for a day.
_WARM_UP_STEPS: Final = 10
_WARM_UP_CALLS: Final = 1_000
_FLUSHED: Final = 10  # batches, after which those without a pause wait until all is done: no buffer overflows
_MESSAGES: Final = 1_000  # different ones: the same, again and again, would be held back by any log that samples


def main(operation: str, name: str, batches: int, folder: Path) -> dict[str, Any]:
    """Runs one turn.

    Returns:
        Nanoseconds a call of the caller's thread's CPU time, the least and the median of the batches: `hot_ns` and
        `hot_median_ns` where one batch follows the other, `cold_ns` and `cold_median_ns` with a pause before each;
        `wall_ns`, the median of the latter; `cpu_ns` of all threads, from the first batch until all is flushed; and how
        many calls should have left something (`expected`) and did (`arrived`), those of the warm-up included.
    """
    what = OPERATIONS[operation]
    contender = what.players[name].make(folder)
    for step in range(_WARM_UP_STEPS):
        contender.run([f"warming up {step * _WARM_UP_CALLS + number}" for number in range(_WARM_UP_CALLS)])
        contender.flush()
    cpu_before = process_time_ns()
    spent = {pause_s: list(_timed(contender, what, batches, pause_s)) for pause_s in (0.0, what.pause_s)}
    contender.flush()
    calls = 2 * what.calls * batches
    cpu_ns = (process_time_ns() - cpu_before) / calls
    hot, cold = ([cpu for cpu, _ in each] for each in spent.values())
    return {
        "hot_ns": min(hot),
        "cold_ns": min(cold),
        "hot_median_ns": statistics.median(hot),
        "cold_median_ns": statistics.median(cold),
        "wall_ns": statistics.median(wall for _, wall in spent[what.pause_s]),
        "cpu_ns": cpu_ns,
        "expected": calls + _WARM_UP_STEPS * _WARM_UP_CALLS if what.is_kept else 0,
        "arrived": contender.close(),
    }


def _timed(contender: Contender, what: Operation, batches: int, pause_s: float) -> Iterator[tuple[float, float]]:
    """Gives the nanoseconds a call of each batch: the CPU time of this thread, and wall time."""
    endless = cycle([f"message {number} of the bench" for number in range(_MESSAGES)])
    for number in range(batches):
        messages = list(islice(endless, what.calls))
        if pause_s:
            time.sleep(pause_s)  # the threads behind it get their turn, as between the requests of a node
        elif number % _FLUSHED == 0:
            contender.flush()
        started, cpu_started = perf_counter_ns(), thread_time_ns()
        contender.run(messages)
        cpu_ns, wall_ns = thread_time_ns() - cpu_started, perf_counter_ns() - started
        yield cpu_ns / what.calls, wall_ns / what.calls


if __name__ == "__main__":
    click.echo(orjson.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
