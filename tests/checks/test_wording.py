"""What is kept of an error in a bundle: a program's words, and nobody's."""

from __future__ import annotations

import pytest

from hearthnet.checks import wording
from hearthnet.checks.wording import without_words_of_others


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("sqlite3.OperationalError: database is locked", "sqlite?.OperationalError: database is locked"),
        ("ValueError: the body is not JSON", "ValueError: the body is not JSON"),
        ("ValueError: my landlord wants the money", "ValueError: …"),
        ("KeyError: 'my landlord'", "KeyError: ?"),
        ("the body is not JSON my landlord", "the body is not JSON…"),
    ],
)
def test_program_s_words_stay(text, kept):
    """What stands in our source or in the system's messages is kept as far as it goes; the rest is left out."""
    assert without_words_of_others(text) == kept


def test_long_prose_costs_one_look_a_piece(monkeypatch):
    """A hundred thousand words that no program says are given up at the first two."""
    looks = []
    stands = wording._stands
    monkeypatch.setattr(wording, "_stands", lambda words: looks.append(words) or stands(words))

    assert without_words_of_others("zebra quagga " * 50_000) == "…"
    assert len(looks) == 1
