"""Counts and sizes in words."""

from __future__ import annotations

import pytest

from hearthnet.display import counted, short_floats, size


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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.422267, 1.422), (65.0, 65.0), (0.1, 0.1), (0.09999, 0.1), (0.000123456, 0.000123), (-2.71828, -2.718),
        (1e300, 1e300), (float("inf"), float("inf")), (7, 7), ("1.23456", "1.23456"), (True, True), (0.0, 0.0),
        ({"a": [1.23456, {"b": 0.012345}]}, {"a": [1.235, {"b": 0.0123}]}),
    ],
)  # fmt: skip
def test_numbers_are_short(value, shown):
    """Three decimals, or three digits of a small one; what is no such number stays."""
    assert short_floats(value) == shown


def test_deep_values_stay_as_they_are():
    """However deep they are, they are no error."""
    value = 1.23456
    for _ in range(2_000):
        value = [value]
    assert short_floats(value) is not None
