"""How `max_disk_mb` is shared out, and what is counted of it: files by part, tables of others, free space."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.store import budget
from hearthnet.observability.store.budget import (
    MB,
    PAGE_BYTES,
    Budget,
    damage_in,
    disk_bytes,
    foreign_pages,
    free_bytes,
    holders,
    pages_for,
)
from hearthnet.observability.store.merge import merge


@pytest.fixture
def path(tmp_path):
    """A new store."""
    path = tmp_path / "telemetry.db"
    open_database(path, TELEMETRY).close()
    return path


def test_shares_of_the_default_are_those_of_the_documents():
    """Database 128, WAL 16 and 64 while a reader pins it, boxes 24, the rest 40, 30 of these for a quarantine."""
    made = Budget(256)

    assert [made.database, made.wal, made.wal_pinned, made.boxes, made.rest, made.quarantine] == [
        share * MB for share in (128, 16, 64, 24, 40, 30)
    ]
    assert made.pages == 128 * MB // PAGE_BYTES
    assert made.program_boxes == 4 * MB


@pytest.mark.parametrize("total", [64, 100, 256, 1_000])
def test_shares_are_no_more_than_there_is(total):
    """Whatever the total; the largest WAL counts."""
    made = Budget(total)

    assert made.database + made.wal_pinned + made.boxes + made.rest == total * MB
    assert made.quarantine <= made.rest


@pytest.mark.parametrize(("taken", "node"), [(0, 20), (3, 20), (4, 20), (5, 19), (12, 12), (99, 12)])
def test_node_leaves_the_boxes_of_programs_their_space(taken, node):
    """What they take already, at least a sixth, at most half: the box of a node is in the rest."""
    made = Budget(256)

    assert made.node_box(taken * MB).total <= node * MB
    assert made.node_box(taken * MB).total > node * MB - 5 * PAGE_BYTES
    assert made.node_box().total == made.node_box(0).total


def test_sixteen_programs_share_their_boxes():
    """Each has the same, four fifths of it for traces."""
    made = Budget(256)
    box = made.program_box()

    assert made.program_boxes * 0.9 < 16 * box.total <= made.program_boxes
    assert 3.5 < box.traces / box.logs < 4.5


FILES = {
    "telemetry.db": ("database", 1),
    "telemetry.lock": ("database", 2),
    "telemetry.db-wal": ("wal", 4),
    "telemetry.db-shm": ("wal", 8),
    "telemetry.12.box": ("box", 16),
    "telemetry.12.box2": ("box", 32),
    "telemetry.12.fault": ("box", 64),
    "telemetry.db.corrupt-20260101T000000Z": ("quarantine", 128),
    "telemetry.db.before-rebuild-20260101T000000Z": ("quarantine", 256),
    "telemetry.db.corrupt-20260101T000000Z-wal": ("quarantine", 512),
    "config.toml": (None, 1_024),
    "2026-01-01.log": (None, 2_048),  # of the other folder only
}


def test_files_are_counted_by_part(tmp_path):
    """Of either folder, or of one alone."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "2026-01-01.log").write_bytes(b"x" * 7)
    (logs / "notes.txt").write_bytes(b"x" * 9)
    for name, (_, size) in FILES.items():
        (tmp_path / name).write_bytes(b"x" * size)
    of_data = {"database": 3, "wal": 12, "box": 112, "quarantine": 896}

    assert disk_bytes(tmp_path, logs) == {**of_data, "logs": 7}
    assert disk_bytes(tmp_path, None) == {**of_data, "logs": 0}
    assert disk_bytes(None, logs) == {**dict.fromkeys(of_data, 0), "logs": 7}
    assert disk_bytes(None, None) == dict.fromkeys([*of_data, "logs"], 0)


def test_file_that_goes_while_files_are_counted_is_none(tmp_path):
    """As where a program ends meanwhile."""
    (tmp_path / "telemetry.1.box").symlink_to(tmp_path / "gone")
    (tmp_path / "telemetry.2.box").write_bytes(b"x" * 5)

    assert disk_bytes(tmp_path, None)["box"] == 5


def test_floor_is_no_more_than_its_share_of_a_small_disk(tmp_path):
    """A twentieth: the default must not rule out a small disk."""
    disk = os.statvfs(tmp_path)
    size = disk.f_blocks * disk.f_frsize
    free, floor = free_bytes(tmp_path, 1)

    assert floor == 1
    assert 0 < free <= size
    assert free_bytes(tmp_path, 2 * size)[1] == pytest.approx(size / 20, rel=0.001)
    with pytest.raises(FileNotFoundError):
        free_bytes(tmp_path / "none", 1)


@pytest.mark.parametrize("row_bytes", [0, 1, PAGE_BYTES, 1_000_000])
def test_pages_for_rows_are_more_than_their_bytes(row_bytes):
    """By half, and some besides; not many times as much."""
    assert row_bytes + 10 * PAGE_BYTES <= pages_for(row_bytes) * PAGE_BYTES <= 2 * row_bytes + 20 * PAGE_BYTES


@pytest.fixture
def foreign(path):
    """A store with three hundred rows, and a table of another program's with an index, of two hundred pages."""
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        merge(connection, [(a_log if number % 2 else a_trace)(number, extras=b"x" * 800) for number in range(1, 301)])
        before = connection.execute(budget.PAGES).fetchone()
        connection.execute("CREATE TABLE mine (text)")
        connection.execute("CREATE INDEX mine_too ON mine (text)")
        connection.executemany("INSERT INTO mine VALUES (?)", [("x" * 3_000,)] * 100)
        after = connection.execute(budget.PAGES).fetchone()
        yield connection, (after[0] - after[1]) - (before[0] - before[1])


def test_pages_of_others_are_those_beside_ours(foreign):
    """Indexes too, and no free ones."""
    connection, taken = foreign
    connection.execute("DELETE FROM logs WHERE number < 200")

    assert taken > 150
    assert taken <= foreign_pages(connection) <= taken + 10  # the schema has a few, too


def test_pages_of_others_are_estimated_where_sqlite_cannot_count(foreign, monkeypatch):
    """Rather too few than too many: ours make space for our own."""
    connection, taken = foreign

    def count(_):
        raise sqlite3.OperationalError("no such table: dbstat")

    monkeypatch.setattr(budget, "_our_pages", count)
    assert taken // 3 < foreign_pages(connection) <= taken
    connection.execute("DROP TABLE mine")
    assert foreign_pages(connection) == 0


def test_store_of_ours_alone_has_no_pages_of_others(path):
    """Views do not count: they have none."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT 1")
        assert foreign_pages(connection) == 0


def test_damage_is_told_and_health_is_none(path, tmp_path):
    """What is gone, or cannot be read now, is no damage: the next commit has the reason."""
    assert damage_in(path) is None
    assert damage_in(tmp_path / "none") is None
    (tmp_path / "empty").write_bytes(b"")
    assert damage_in(tmp_path / "empty") == "the file is empty"
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert damage_in(tmp_path / "other") == "it is not a telemetry database"
    (tmp_path / "text").write_bytes(b"text" * 2_000)
    assert damage_in(tmp_path / "text") == "file is not a database"


def test_damage_within_the_file_is_told(path):
    """Its header is whole."""
    with closing(open_database(path, TELEMETRY)) as connection:
        merge(connection, [a_trace(number, extras=b"x" * 800) for number in range(1, 101)])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xa5" * (path.stat().st_size - PAGE_BYTES))

    assert "malformed" in damage_in(path)


def test_other_processes_that_have_a_file_open_are_named(path):
    """Not this one, whatever it has open."""
    with path.open("rb"), path.open("ab") as file:
        assert holders(path) == []
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as other:
            assert holders(path) == [f"cat ({other.pid})"]
            other.communicate()
        assert holders(path) == []
