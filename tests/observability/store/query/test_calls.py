"""Figures of calls, compared with Python's own over a store with a story."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from itertools import groupby

import pytest
from benchmarks.sample import make_store
from support.records import a_trace
from support.stores import put

from hearthnet.errors import StoreError
from hearthnet.observability.store.query import calls
from hearthnet.observability.store.query.calls import (
    MIN_CALLS,
    by_capability,
    by_version,
    gaps,
    series,
    step_for,
    totals,
)
from hearthnet.observability.store.reader import Reader

MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The store of the cookbook."""
    made = tmp_path_factory.mktemp("calls") / "telemetry.db"
    make_store(made)
    return made


@pytest.fixture
def reader(path):
    """A reader of it."""
    with closing(Reader(path)) as made:
        yield made


@pytest.fixture
def rows(path):
    """All calls: capability, start, duration, result, and the version of their run if that is the node's."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT capability, traces.started_us, duration_ms, result, iif(node_id IS NULL, NULL, runs.version)"
            " FROM traces JOIN runs USING (run_id)"
        ).fetchall()


def figures(group):
    """Count, failures, p50 and p95 of some calls."""
    group = list(group)
    durations = sorted(row[2] for row in group)
    ranks = [durations[math.ceil(share * len(durations) / 100) - 1] for share in (50, 95)]
    failed = sum(row[3] not in ("ok", "cancelled") for row in group)
    return [len(group), failed, *(ranks if len(group) >= MIN_CALLS else [None, None])]


def shown(item):
    """The same four of a result."""
    return [item["count"], item["failed"], item["p50_ms"], item["p95_ms"]]


@pytest.mark.parametrize("step_s", [60, 900, 86_400])
def test_series_agrees_with_python(reader, rows, step_s):
    """Each step in which calls began, oldest first, and no other."""
    from_us, to_us = min(row[1] for row in rows), max(row[1] for row in rows)
    step_us = step_s * 1_000_000
    inside = sorted((row for row in rows if from_us <= row[1] < to_us), key=lambda row: row[1])
    expected = {start: list(group) for start, group in groupby(inside, key=lambda row: row[1] // step_us * step_us)}
    found = series(reader, from_us, to_us, step_s)

    assert [item["ts_us"] for item in found] == list(expected)
    assert [shown(item) for item in found] == [figures(group) for group in expected.values()]
    assert [item["max_ms"] for item in found] == [max(row[2] for row in group) for group in expected.values()]


def test_series_of_one_capability(reader, rows):
    """Only its calls count, whatever its name contains."""
    to_us = max(row[1] for row in rows) + 1
    found = series(reader, 0, to_us, 86_400, "llm.chat")

    assert sum(item["count"] for item in found) == sum(row[0] == "llm.chat" for row in rows)
    assert series(reader, 0, to_us, 60, "llm.chat' OR 1 --") == []


def test_capabilities_agree_with_python(reader, rows):
    """The most called first."""
    expected = {}
    for row in rows:
        expected.setdefault(row[0], []).append(row)
    found = by_capability(reader)

    assert {item["capability"]: shown(item) for item in found} == {
        name: figures(group) for name, group in expected.items()
    }
    assert [item["count"] for item in found] == sorted((item["count"] for item in found), reverse=True)
    assert all(item["last_us"] == max(row[1] for row in expected[item["capability"]]) for item in found)


def test_versions_agree_with_python(reader, rows):
    """Of the node's own runs alone, the newest version first."""
    found = by_version(reader)

    assert [item["version"] for item in found] == ["0.3.1", "0.3.0"]
    for item in found:
        own = [row for row in rows if row[4] == item["version"]]
        assert shown(item) == figures(own)
        for one in item["by_capability"]:
            assert shown(one) == figures(row for row in own if row[0] == one["capability"])


def test_totals(reader, rows):
    """Of a time, and of a time without a call."""
    middle = sorted(row[1] for row in rows)[len(rows) // 2]

    assert shown(totals(reader, middle)) == figures(row for row in rows if row[1] >= middle)
    assert totals(reader, 2**60) == {"count": 0, "failed": 0, "p50_ms": None, "p95_ms": None}


def test_few_calls_have_no_quantile(tmp_path):
    """Nineteen have none, twenty have: of fewer, the longest says more."""
    records = [a_trace(number, duration_ms=float(number), capability="few") for number in range(1, MIN_CALLS)]
    records += [
        a_trace(number, duration_ms=float(number), capability="enough") for number in range(100, 100 + MIN_CALLS)
    ]
    put(tmp_path / "t.db", records)
    with closing(Reader(tmp_path / "t.db")) as reader:
        enough, few = by_capability(reader)

    assert (few["p50_ms"], few["p95_ms"], few["p99_ms"], few["max_ms"]) == (None, None, None, MIN_CALLS - 1)
    assert (enough["p50_ms"], enough["p95_ms"]) == (109, 118)


def test_gaps_within_a_time(path, reader):
    """With reason and kind; the end is not included."""
    with closing(sqlite3.connect(path)) as connection:
        all_of_them = connection.execute("SELECT ts_us, count, reason, kind FROM gaps ORDER BY seq").fetchall()
    first_us, last_us = all_of_them[0][0], all_of_them[-1][0]

    assert [tuple(gap.values()) for gap in gaps(reader, 0, 2**62)] == all_of_them
    assert len(gaps(reader, first_us, last_us)) == len([gap for gap in all_of_them if gap[0] < last_us])


@pytest.mark.parametrize(
    ("minutes", "step_s"), [(1, 60), (360, 60), (361, 300), (1_440, 300), (10_080, 3_600), (44_640, 21_600)]
)
def test_steps_bound_the_number_of_points(minutes, step_s):
    """A chart has 360 points at most."""
    assert step_for(minutes) == step_s
    assert minutes * 60 / step_s <= calls._MAX_POINTS


def test_missing_database_is_an_error(tmp_path):
    """Not an empty result."""
    with closing(Reader(tmp_path / "none.db")) as reader, pytest.raises(StoreError):
        totals(reader, 0)
