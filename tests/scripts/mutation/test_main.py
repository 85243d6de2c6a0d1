"""Which modules are tried, and how the scores are told."""

from __future__ import annotations

import pytest
from mutation.__main__ import Score, subjects_of, total
from mutation.subjects import SUBJECTS


def test_subjects_are_named_by_word_or_by_module():
    """Nothing means all."""
    (one,) = subjects_of(["../bus/ratelimit.py"])

    assert subjects_of([]) == list(SUBJECTS.values())
    assert subjects_of(["recovery"]) == [SUBJECTS["recovery"]]
    assert subjects_of(["store/recovery/opening.py"]) == [
        SUBJECTS["quarantine"]._replace(modules=("store/recovery/opening.py",))
    ]
    assert one == SUBJECTS["ratelimit"]
    with pytest.raises(KeyError, match="lving"):
        subjects_of(["lving"])


def test_score_is_the_part_of_those_that_a_test_must_notice():
    """Excused ones are told apart."""
    scores = [Score("a.py", 8, 1, ["x", "y"]), Score("b.py", 9)]

    assert scores[0].line() == "a.py: 8 killed, 1 excused, 2 survived of 11 (80.0%)"
    assert total(scores).line("all") == "all: 17 killed, 1 excused, 2 survived of 20 (89.5%)"
    assert Score("c.py").line() == "c.py: 0 killed, 0 excused, 0 survived of 0 (100.0%)"
