"""Medians, ranges and percentiles of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["Spread", "percentile"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of repeated measurements, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Returns the spread of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    @classmethod
    def of_ratios(cls, ours: Sequence[float], theirs: Sequence[float]) -> Self:
        """Returns the spread of the ratios of values measured in turn: the first with the first, and so on."""
        return cls.of(mine / other for mine, other in zip(ours, theirs, strict=True))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the value that `share` (0 to 1) of the values, which are in ascending order, do not pass."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
