"""Counts and sizes in words."""

from __future__ import annotations

import pytest

from hearthnet.display import counted, size


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (10_000, "10,000 rows")],
)
def test_nouns(count, expected):
    """Only one thing is singular."""
    assert counted(count, "row") == expected


def test_nouns_with_a_plural_of_their_own():
    """Some do not just take an s."""
    assert (counted(1, "black box", "black boxes"), counted(2, "black box", "black boxes")) == (
        "1 black box",
        "2 black boxes",
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (24_576, "24.6 kB"), (127_000, "127.0 kB"), (1_500_000, "1.5 MB"),
        (1_234_500_000, "1,234.5 MB"), (78_600_000_000, "78.6 GB"),
    ],
)  # fmt: skip
def test_sizes(count, expected):
    """A size that is not zero is not shown as zero."""
    assert size(count) == expected
