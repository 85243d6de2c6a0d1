"""The runs from which to choose: several programs may record into one store, and the node comes first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate
from math import inf
from typing import Final

from hearthnet.forensics.model import Run

__all__ = ["last_first", "like", "one_by_one", "program_names", "runs_to_judge"]

_CLEAN: Final = "clean"
_BETWEEN_SIGNS_US: Final = 120_000_000  # twice the time between two heartbeats of an idle process
_REBUILT: Final = "rebuilt"  # rows rebuilt from the logs, which belong to no real run


def runs_to_judge(runs: Sequence[Run], program: str | None = None) -> list[Run]:
    """Returns the node's own runs; in a store without any, all runs.

    Args:
        runs: in any order, which is kept.
        program: returns the runs of this program instead.

    Raises:
        ValueError: raised when no run is of `program`.
    """
    real = [run for run in runs if run.end_reason != _REBUILT]
    if program is None:
        return [run for run in real if run.is_node] or real
    found = [run for run in real if run.program == program]
    if not found:
        known = ", ".join(program_names(real)) or "none"
        raise ValueError(f"no run is of a program {program!r}; known programs: {known}")
    return found


def last_first(runs: Sequence[Run], living: Collection[str] = ()) -> list[Run]:
    """Returns runs with the one that ended last in front of the others that have ended.

    A program's workers start after it, and each is a run, too. They end before it, unless it was killed: so an unclean
    end of the program counts, whatever its workers did after it, unless one was killed clearly later.

    Args:
        runs: newest first, by their start.
        living: ids of runs that are known to be running, besides those that say so themselves.
    """
    ended = [run for run in runs if not run.is_alive and run.run_id not in living]
    if not ended:
        return list(runs)
    # Only what ran at the same time is compared by its end: the clock may have been set back between two others.
    last = max([ended[0], *(run for run in ended if _had_begun_before(run, ended[0]))], key=_end_us)
    before = [run for run in ended if run.program == last.program and _had_begun_before(run, last)]
    parent = min(before, key=lambda run: run.started_us, default=last)
    if parent.end_reason != _CLEAN and (last.end_reason == _CLEAN or _latest_us(parent) >= _end_us(last)):
        last = parent
    place = next(index for index, run in enumerate(runs) if run is ended[0])
    others = [run for run in runs if run is not last]
    return [*others[:place], last, *others[place:]]


def one_by_one(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs beside which no other of these was under way. A node has no others."""
    ordered = sorted(runs, key=lambda run: run.started_us)
    starts = [*(run.started_us for run in ordered[1:]), inf]
    ends = accumulate(map(_end_us, ordered), max, initial=0)
    alone = zip(ordered, starts, ends, strict=False)
    return [
        run for run, next_us, ended_us in alone if run.is_node or ended_us < run.started_us <= _end_us(run) <= next_us
    ]


def _had_begun_before(run: Run, other: Run) -> bool:
    """Returns whether a run other than the node's was under way when another one of its boot started."""
    if run.is_node or other.is_node or (run.boot_id and other.boot_id and run.boot_id != other.boot_id):
        return False
    return run.started_us < other.started_us <= _latest_us(run)


def _latest_us(run: Run) -> int:
    """Returns when a run has ended at the latest.

    One that waits for its workers shows that it is alive once a minute. Where its box is still there, it was alive when
    the others began: else they would have recovered it.
    """
    is_unrecovered = run.has_box and run.end_reason is None
    return _end_us(run) + (_BETWEEN_SIGNS_US if is_unrecovered else 0)


def _end_us(run: Run) -> int:
    return run.ended_us or run.last_seen_us or run.started_us


def program_names(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the programs that are known, each once, in the order of the runs."""
    return list(dict.fromkeys(run.program for run in runs if run.program))


def like(runs: Sequence[Run], run: Run) -> list[Run]:
    """Returns the runs that follow each other with `run`: the node's, or those of the same other program."""
    if run.is_node:
        return [other for other in runs if other.is_node]
    return [other for other in runs if not other.is_node and other.program == run.program]
