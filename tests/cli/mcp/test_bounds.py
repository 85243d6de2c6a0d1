"""Documents for an assistant: never longer than the bound, and whole where they fit."""

from __future__ import annotations

import json

import pytest

from hearthnet.cli.mcp.bounds import MAX_BYTES, as_text


def deep(levels):
    """A list in a list in a list."""
    made = []
    for _ in range(levels):
        made = [made]
    return made


def test_what_fits_is_whole():
    """Nothing is added to it."""
    document = {"rows": [{"n": 1, "text": "a" * 10_000}]}

    assert json.loads(as_text(document)) == document


@pytest.mark.parametrize(
    "document",
    [
        {"rows": [{"n": n, "text": "x" * 500} for n in range(5_000)]},
        {"rows": [{"text": "\u202e" * 400_000}]},
        {"rows": {f"key {n}": n for n in range(100_000)}},
        {"k" * 200_000: 1},
        {"rows": [["é" * 900] * 100] * 100},
        {"rows": [deep(900), "x" * 100_000]},
    ],
)
def test_what_does_not_fit_is_shortened(document):
    """To JSON that says so, whatever is too long in it."""
    text = as_text(document)

    assert len(text.encode()) <= MAX_BYTES
    assert json.loads(text)["shortened"]
    assert "more" in text


def test_many_rows_lose_the_last_ones():
    """The first are the newest."""
    rows = json.loads(as_text({"rows": [{"n": n, "text": "x" * 100} for n in range(2_000)]}))["rows"]

    assert [row["n"] for row in rows[:-1]] == list(range(len(rows) - 1))
    assert rows[-1] == f"… {2_000 - len(rows) + 1} more"


def test_characters_that_reorder_text_are_escaped():
    """A program may print what it gets on a terminal."""
    assert as_text({"a": "\u202e\x9b"}) == '{"a":"\\u202e\\u009b"}'
