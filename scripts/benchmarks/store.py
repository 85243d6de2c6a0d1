"""The benchmark of the durable store: its parts, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from benchmarks.export import export
from benchmarks.lag import lag
from benchmarks.machine import describe
from benchmarks.queries import queries
from benchmarks.reading import recent
from benchmarks.report import Section
from benchmarks.siblings import siblings
from benchmarks.wear import wear
from benchmarks.writing import batches, rings

__all__ = ["PARTS", "run"]

PARTS: Final[dict[str, Callable[[bool], list[Section]]]] = {
    "write": lambda is_quick: [batches(is_quick)],
    "rings": lambda is_quick: [rings(is_quick)],
    "read": lambda is_quick: [recent(is_quick)],
    "queries": lambda is_quick: [queries(is_quick)],
    "wear": lambda is_quick: [wear(is_quick)],
    "siblings": lambda is_quick: [siblings(is_quick)],
    "lag": lag,
    "export": export,
}


def run(wanted: Iterable[str], is_quick: bool) -> tuple[dict[str, Any], list[Section]]:
    """Runs the parts; returns what they ran on, and what was found."""
    sections = [section for name in wanted for section in PARTS[name](is_quick)]
    return describe(Path(gettempdir())), sections
