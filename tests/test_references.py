"""References to one of several things: an id, its beginning, a place."""

from __future__ import annotations

import pytest

from hearthnet.references import chosen, place

IDS = ["01C3", "01B2", "01B2", "01A1"]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("last", "01C3"), ("LAST", "01C3"), ("-1", "01C3"), ("-2", "01B2"), ("-3", "01A1"), ("01A1", "01A1"),
        ("01a", "01A1"), ("01b2", "01B2"),
    ],
)  # fmt: skip
def test_each_reference_means_one(reference, expected):
    """Places count from the newest, each thing once; beginnings are in either case."""
    assert chosen(reference, IDS, "run") == expected


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("01", "more than one run id begins with '01'; known are 01C3, 01B2, 01A1"),
        ("02", "no run id begins with '02'; known are 01C3, 01B2, 01A1"),
        ("-4", "there is no run -4, only 3; known are"),
        ("-0", "no run id begins with '-0'"),
        ("--1", "no run id begins"),
        ("-1x", "no run id begins"),
        ("", "more than one"),
    ],
)
def test_others_are_errors(reference, said):
    """The message lists what there is."""
    with pytest.raises(ValueError, match=said):
        chosen(reference, IDS, "run")


def test_an_id_may_begin_another():
    """The whole id means itself."""
    assert chosen("01A", ["01AB", "01A"], "run") == "01A"


def test_without_any():
    """Nothing is known."""
    with pytest.raises(ValueError, match="there is no trace last, only 0; known are none"):
        chosen("last", [], "trace")


def test_places():
    """Everything else is no place."""
    assert [place(text) for text in ("last", "-1", "-12", "-0", "-1000000", "1", "--1", "", "lasts")] == [
        1, 1, 12, None, None, None, None, None, None,
    ]  # fmt: skip
