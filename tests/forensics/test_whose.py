"""Whose a run is, and which runs are chosen from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hearthnet.forensics.model import Run
from hearthnet.forensics.whose import like, program_names, runs_to_judge

NODE = Run("01NODE", 1, node_id="ed25519:n", program="hearthnet", role="node")
OLD = Run("01OLD", 2, node_id="ed25519:n")  # of a version without the columns
CRON = Run("01CRON", 3, program="cron.py", role="library")
WEB = Run("01WEB", 4, program="web.py", role="library")
REBUILT = Run("01REBUILT", 5, end_reason="rebuilt", role="library")


def test_role_is_written_or_follows_from_the_node_id():
    """A role that was recorded holds; without one, a run with a node id is the node's."""
    assert [run.is_node for run in (NODE, OLD, CRON, Run("01BOX", 1))] == [True, True, False, False]
    assert not replace(OLD, role="library").is_node


def test_runs_of_the_node_come_first():
    """Where there is a node, only its runs; else all but rebuilt ones; a named program overrules both."""
    runs = [REBUILT, WEB, CRON, OLD, NODE]

    assert runs_to_judge(runs) == [OLD, NODE]
    assert runs_to_judge([REBUILT, WEB, CRON]) == [WEB, CRON]
    assert runs_to_judge(runs, "cron.py") == [CRON]
    assert runs_to_judge([]) == []


def test_unknown_program_is_an_error_that_lists_the_known():
    """The names are given, each once."""
    assert program_names([WEB, CRON, CRON, OLD]) == ["web.py", "cron.py"]
    with pytest.raises(ValueError, match=r"'job\.py'; known programs: web\.py, cron\.py"):
        runs_to_judge([WEB, CRON, OLD], "job.py")


def test_runs_that_follow_each_other():
    """A node under any name, or the same other program."""
    runs = [WEB, CRON, OLD, NODE]

    assert like(runs, OLD) == [OLD, NODE]
    assert like(runs, CRON) == [CRON]
