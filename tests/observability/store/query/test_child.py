"""A statement in a process of its own: the same results and errors, and an end for what has none."""

from __future__ import annotations

import os
import sys

import pytest
from support.records import a_trace
from support.stores import put

from hearthnet.errors import StoreError
from hearthnet.observability.store.query import child
from hearthnet.observability.store.query.child import ask_in_child
from hearthnet.observability.store.query.children import Children
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError


@pytest.fixture
def path(tmp_path):
    """A store with three traces."""
    put(tmp_path / "t.db", [a_trace(number) for number in (1, 2, 3)])
    return tmp_path / "t.db"


def test_rows(path):
    """With their columns, a bound, and blobs as hexadecimal digits."""
    found = ask_in_child(path, "SELECT seq, x'ff00' AS b FROM traces ORDER BY seq", 30, 2, Children())

    assert (found["columns"], found["rows"], found["has_more"]) == (["seq", "b"], [[1, "ff00"], [2, "ff00"]], True)
    assert found["took_ms"] > 0


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("SELECT", QueryError, "incomplete input"),
        ("DROP TABLE traces", QueryError, "not authorized"),
        ("SELECT * FROM none", QueryError, "no such table"),
        (
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c",
            QueryLimitError,
            "longer",
        ),
    ],
)
def test_errors_are_those_of_the_statement(path, sql, kind, words):
    """With SQLite's own words."""
    with pytest.raises(kind, match=words):
        ask_in_child(path, sql, 0.5, 10, Children())


def test_missing_store(tmp_path):
    """An error, not an empty result."""
    with pytest.raises(StoreError, match="does not exist"):
        ask_in_child(tmp_path / "none.db", "SELECT 1", 5, 10, Children())


def test_single_long_step_is_killed(path, monkeypatch):
    """What SQLite cannot interrupt ends with its process."""
    monkeypatch.setattr(child, "_START_S", 3.0)
    step = "SELECT instr(hex(zeroblob(100000000)), hex(zeroblob(50000000)) || 'x')"

    with pytest.raises(QueryLimitError):
        ask_in_child(path, step, 0.1, 1, Children())


def test_process_that_cannot_start(path, monkeypatch):
    """An interpreter that is gone, in an upgrade say."""
    monkeypatch.setattr(sys, "executable", os.fspath(path.with_name("python")))

    with pytest.raises(StoreError, match="could not be run"):
        ask_in_child(path, "SELECT 1", 5, 1, Children())
