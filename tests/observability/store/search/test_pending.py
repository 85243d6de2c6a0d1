"""Traces that a node has not committed are searched by the same SQL, and each is found once."""

from __future__ import annotations

import pytest
from support.searched import NOW_US, a_span, trace, write

from hearthnet.observability.store.rows import as_dict
from hearthnet.observability.store.search import compile_query, run_query


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Traces 1 to 3 of a run."""
    committed = (trace(number, duration_ms=number * 10.0) for number in range(1, 4))
    return write(tmp_path_factory.mktemp("pending") / "telemetry.db", *committed)


def of_node(number, program="hearthnet", **changes):
    """A trace as the node's route has it."""
    return {**as_dict(trace(number, **changes)), "program": program}


def found(path, text, *pending, **options):
    """The query's result with these traces of the node, which has the newest first."""
    query = compile_query(text, "traces", now_us=NOW_US)
    return run_query(path, query, pending=pending[::-1], **options)


def ids(result):
    """The ids and places of the rows."""
    return [(row["trace_id"], row["seq"]) for row in result.rows]


def test_pending_ones_are_the_newest(path):
    """They have no place yet, but a program; what was committed meanwhile is found once."""
    pending = [of_node(3), of_node(4), of_node(5, spans=[a_span("load")], extras={"n": 1})]
    result = found(path, "", *pending)
    assert ids(result) == [("run-5", 0), ("run-4", 0), ("run-3", 3), ("run-2", 2), ("run-1", 1)]
    assert (result.count, result.next, result.rows[0]["program"]) == (5, None, "hearthnet")
    assert (result.rows[0]["span_count"], result.rows[0]["extras"]) == (1, {"n": 1})
    assert ids(found(path, "", *pending, n=1)) == [("run-5", 0)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("span:load n:1", [5]), ("-span:load", [4, 3, 2, 1]), ("program:hearthnet", [5, 4]), ("a.b result:ok n=1", [5])],
)
def test_query_finds_the_same_in_memory(path, text, numbers):
    """Words, fields, attributes, negation, programs."""
    result = found(path, text, of_node(4), of_node(5, spans=[a_span("load")], extras={"n": 1}))
    assert [trace_id for trace_id, _ in ids(result)] == [f"run-{number}" for number in numbers]


def test_slowest_ones_are_merged(path):
    """By their duration."""
    result = found(path, "", of_node(4, duration_ms=15.0), of_node(5, duration_ms=99.0), order="slowest", n=4)
    assert [trace_id for trace_id, _ in ids(result)] == ["run-5", "run-3", "run-2", "run-4"]


def test_what_is_said_of_nothing_counts_them(path):
    """Their names of attributes are known, and one may be the newest match."""
    result = found(path, "n:2 other:x since:1970-01-02", of_node(9, extras={"n": 2}))
    assert [problem.message for problem in result.problems] == ["no recent trace has the attribute other"]
    assert found(path, "n:2 since:1970-01-02", of_node(9, extras={"n": 2})).newest_match_us == 9_001_000
    assert found(path, "n:2", of_node(9, extras={"n": 2})).problems == []
