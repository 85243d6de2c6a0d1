"""What is kept of a run of mutants, and what is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mutation.mutants import Mutant
from mutation.outcomes import Outcome, Outcomes, digest

MUTANT = Mutant((7, 4), "AddNot", 2)
KILLED = Outcome("m.py", "source", 7, "AddNot", 2, "tests", "test_it")


@pytest.mark.parametrize("path", [None, "outcomes"])
def test_outcome_is_found_again(path, tmp_path):
    """In this run; where there is a file, in the next one too."""
    file = path and tmp_path / path
    outcomes = Outcomes(file)
    outcomes.add(KILLED)

    assert outcomes.find("m.py", "source", MUTANT, "tests") == KILLED
    assert Outcomes(file).find("m.py", "source", MUTANT, "tests") == (KILLED if file else None)


@pytest.mark.parametrize(
    ("module", "source", "mutant"),
    [("n.py", "source", MUTANT), ("m.py", "other", MUTANT), ("m.py", "source", MUTANT._replace(occurrence=1))],
)
def test_outcome_is_of_one_change(module, source, mutant):
    """A module that was edited has other mutants."""
    outcomes = Outcomes(None)
    outcomes.add(KILLED)

    assert outcomes.find(module, source, mutant, "tests") is None


def test_survivor_is_tried_again_when_tests_have_changed():
    """One that was killed is not: the test is still there."""
    outcomes = Outcomes(None)
    outcomes.add(replace(KILLED, killer=None))
    assert outcomes.find("m.py", "source", MUTANT, "tests") == replace(KILLED, killer=None)
    assert outcomes.find("m.py", "source", MUTANT, "more tests") is None

    outcomes.add(KILLED)
    assert outcomes.find("m.py", "source", MUTANT, "more tests") == KILLED


def test_digest_differs_where_a_text_does():
    """Also where text moves from one file into the next."""
    assert digest(["ab", "c"]) == digest(["ab", "c"]) != digest(["a", "bc"])
