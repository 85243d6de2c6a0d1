"""The runs from which to choose: several programs may record into one store, and the node comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hearthnet.forensics.model import Run

__all__ = ["like", "program_names", "runs_to_judge"]

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


def program_names(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the programs that are known, each once, in the order of the runs."""
    return list(dict.fromkeys(run.program for run in runs if run.program))


def like(runs: Sequence[Run], run: Run) -> list[Run]:
    """Returns the runs that follow each other with `run`: the node's, or those of the same other program."""
    if run.is_node:
        return [other for other in runs if other.is_node]
    return [other for other in runs if not other.is_node and other.program == run.program]
