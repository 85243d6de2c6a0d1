"""Values of recent records by their beginning, from a store that may be live, damaged or missing."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from benchmarks.sample import make_store

from hearthnet.database import connect_read_only
from hearthnet.errors import StoreError
from hearthnet.observability.store.values import values


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The cookbook's store."""
    path = tmp_path_factory.mktemp("values") / "telemetry.db"
    make_store(path)
    return path


def test_ids_are_newest_first_and_few(store):
    """As many as fit a terminal, each once, with capability and result."""
    found = values(store, "trace", "")
    with closing(connect_read_only(store)) as connection:
        newest = connection.execute(
            "SELECT trace_id, capability, result FROM traces ORDER BY seq DESC LIMIT 30"
        ).fetchall()

    assert found == [(trace_id, f"{capability} {result}") for trace_id, capability, result in newest]
    assert values(store, "trace", found[3][0][:20]) == [found[3]]
    assert values(store, "trace", "7ZZZ") == []


@pytest.mark.parametrize(
    ("kind", "start", "expected"),
    [
        ("program", "", ["backup.py", "hearthnet"]),
        ("capability", "", ["experimental.echo", "llm.chat", "notes.search"]),
        ("capability", "n", ["notes.search"]),
        ("logger", "hearthnet.b", ["hearthnet.bus.bus"]),
        ("logger", "%", []),
        ("capability", "'; DROP TABLE traces --", []),
    ],
)
def test_names_are_sorted(store, kind, start, expected):
    """By their beginning, which is text and no pattern."""
    assert [value for value, _ in values(store, kind, start)] == expected


def test_runs_say_how_they_ended(store):
    """Newest first."""
    found = values(store, "run", "")

    assert [words for _, words in found][:3] == ["hearthnet, running", "backup.py, clean", "hearthnet, unclean"]
    assert len({run_id for run_id, _ in found}) == len(found)


def test_missing_and_damaged_stores_raise(tmp_path):
    """So that the caller decides to be silent."""
    with pytest.raises(StoreError):
        values(tmp_path / "missing.db", "trace", "")
    (tmp_path / "damaged.db").write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        values(tmp_path / "damaged.db", "trace", "")
