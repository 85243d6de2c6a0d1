"""Whose a run is, and which runs are chosen from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hearthnet.forensics.model import Run
from hearthnet.forensics.whose import last_first, like, one_by_one, program_names, runs_to_judge

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


def run(name, started, ended, reason="clean", **others):
    """A run of a program; one without an end was last seen then."""
    times = {"ended_us": ended} if reason == "clean" else {"last_seen_us": ended}
    return Run(name, started, end_reason=reason, **{"program": "job.py", "boot_id": "b", **times, **others})


@pytest.mark.parametrize("reason", ["clean", None, "unclean"])
def test_last_run_is_the_program_and_not_its_workers(reason):
    """The pool's workers started after it, and ended in order before it did."""
    parent, workers = run("parent", 10, 90, reason), [run("two", 22, 50), run("one", 20, 52)]

    assert last_first([*workers, parent, run("old", 1, 5)]) == [parent, *workers, run("old", 1, 5)]


def test_killed_program_is_the_last_run_though_its_workers_lived_on():
    """They ended in order, for want of work: that says nothing of the program. Of a clean one, the last end counts."""
    worker, parent = run("worker", 20, 99), run("parent", 10, 90, "unclean")

    assert last_first([worker, parent])[0] is parent
    assert last_first([worker, run("parent", 10, 90)])[0] is worker


def test_killed_program_that_only_waited_is_the_last_run():
    """Its last sign of life is older than its workers; its box, which they did not recover, shows that it lived on."""
    second = 1_000_000
    parent = run("parent", 10, 10 * second, None, has_box=True)
    killed = [run("two", 12 * second, 30 * second, None), run("one", 11 * second, 31 * second, None)]

    for workers in (killed, [replace(item, end_reason="clean") for item in killed]):
        assert last_first([*workers, parent])[0] is parent
    recovered = replace(parent, has_box=False, end_reason="unclean")
    assert last_first([killed[0], recovered])[0] is killed[0]
    for later in (run("late", 200 * second, 201 * second, None), run("long", 11 * second, 900 * second, None)):
        assert last_first([later, parent])[0] is later


def test_last_run_of_several_programs_is_the_one_that_ended_last():
    """The one that started last has ended before; only what ran at the same time is compared by its end."""
    short, long = run("short", 20, 30), run("long", 10, 90, program="web.py")

    assert last_first([short, long]) == [long, short]
    for earlier in (replace(long, ended_us=19), replace(long, boot_id="another"), replace(long, role="node")):
        assert last_first([short, earlier]) == [short, earlier]


def test_last_run_is_none_that_is_running():
    """By its box, or by what the caller knows."""
    worker, parent = run("worker", 20, 30), run("parent", 10, 90, None)

    assert last_first([worker, replace(parent, is_alive=True)])[0] is worker
    assert last_first([worker, parent], {"parent"})[0] is worker
    assert last_first([parent], {"parent"}) == [parent]
    assert last_first([]) == []


def test_runs_one_by_one_are_those_without_another_beside_them():
    """Of a program with workers the order of commits says little; a node is alone, whatever its clock said."""
    before, after = run("before", 1, 9), run("after", 91, 99)
    beside = [run("parent", 10, 90), run("worker", 20, 30), run("worker", 25, 95)]

    assert one_by_one([after, *beside, before]) == [before]
    assert one_by_one([after, beside[0], before]) == [before, beside[0], after]
    nodes = [replace(item, role="node") for item in beside]
    assert one_by_one(nodes) == nodes
