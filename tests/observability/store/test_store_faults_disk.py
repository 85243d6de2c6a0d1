"""Faults of the disk, full or failing, and files that are removed: how the store must behave."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, contextmanager

import pytest
from support import vfs
from support.reading import log_messages, metric
from support.recorded import record, record_large
from support.waiting import wait_until

from hearthnet.observability import telemetry, trace
from hearthnet.observability.store import pacer
from hearthnet.observability.telemetry import DATABASE


@contextmanager
def full(directory):
    """Fills the disk to the last byte."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4_096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        yield
    finally:
        filler.unlink()


@pytest.fixture
def on_tiny_disk(observability, tiny_disk):
    """Settings of a store on a small disk of its own; the floor is 5 % of it."""
    return observability.model_copy(
        update={"data_dir": tiny_disk / "data", "log_dir": tiny_disk / "logs", "max_disk_mb": 64}
    )


def test_young_ring_keeps_committing_on_a_full_disk(on_tiny_disk):
    """A new database has reserved its space: on a full disk traces are still committed."""
    with telemetry.open(on_tiny_disk) as t:
        record(10)
        assert t.flush()
        with full(on_tiny_disk.data_dir):
            for _ in range(50):
                record(100, "on.full.disk")
                assert t.flush(), t.error
        path = on_tiny_disk.data_dir / DATABASE
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM traces").fetchone() == (5_010,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# A node's database has space to spare from its first day; a program's has pages that are full.
@pytest.mark.parametrize(("node_id", "least"), [("ed25519:me", 10_000), (None, 7_500)])
def test_full_ring_is_replaced_in_place_on_a_full_disk(on_tiny_disk, node_id, least):
    """Of ten thousand more traces on a full disk the newest are stored, the file does not grow, nothing is dropped."""
    with telemetry.open(on_tiny_disk, node_id=node_id) as t:
        for _ in range(12):
            record(1_000)
            assert t.flush()
        path = on_tiny_disk.data_dir / DATABASE
        size = path.stat().st_size
        with full(on_tiny_disk.data_dir):
            for _ in range(40):
                record(250, "on.full.disk")
                assert t.flush(), t.error
            assert path.stat().st_size == size
            with closing(sqlite3.connect(path)) as connection:
                ((count,),) = connection.execute("SELECT count(*) FROM traces WHERE capability = 'on.full.disk'")
                assert connection.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
        assert least <= count <= 10_000


def test_rows_that_do_not_fit_a_full_disk_push_out_the_oldest(on_tiny_disk):
    """If large rows need more space than there is, the oldest are evicted and the newest stored."""
    with telemetry.open(on_tiny_disk, node_id="ed25519:me") as t:
        with full(on_tiny_disk.data_dir):
            for number in range(45):
                record_large(100, number)
                assert t.flush(), t.error
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT extras ->> 'n' FROM traces ORDER BY seq DESC LIMIT 1").fetchone() == (44,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert t._thread.is_clean


def test_nearly_full_disk_is_logged_and_counted_until_it_ends(on_tiny_disk):
    """Below the floor the JSON log drops records below warning, and this is logged; with space again it ends."""
    with telemetry.open(on_tiny_disk) as t:
        with full(on_tiny_disk.data_dir):
            record(5)
            assert t.flush()
            record(5)
            assert metric('hearthnet_telemetry_dropped_total{reason="log_shed"}') > 0
        record(5)
        assert t.flush()
        record(5, "after.it")
        assert t.flush()
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT count(*) FROM traces").fetchone() == (20,)

    messages = log_messages(on_tiny_disk.log_dir)
    assert messages[-1] == "the disk has space again"
    lines = b"".join(path.read_bytes() for path in on_tiny_disk.log_dir.glob("*.log"))
    assert lines.count(b"after.it") == 5


def test_disk_that_is_full_at_the_first_start_leaves_memory_and_is_tried_again(on_tiny_disk):
    """Without space no file can be created: records stay in memory, and are stored as soon as there is space."""
    on_tiny_disk.data_dir.mkdir()
    with telemetry_on_full_disk(on_tiny_disk) as t:
        record(30)
        wait_until(lambda: t.flush(0.5), lambda: t.error)
        assert t.error is None
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT seq) FROM traces").fetchone() == (50, 50)


@contextmanager
def telemetry_on_full_disk(config):
    """Telemetry opened on a full disk, with 20 traces recorded there."""
    t = telemetry.open(config)
    with full(config.data_dir):
        t.start()
        assert t.error
        record(20)
        assert len(trace.get_recent()) == 20
    try:
        yield t
    finally:
        t.close()


@pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE or "there is one")
@pytest.mark.parametrize("fault", ["io_error", "disk_full"])
def test_disk_that_refuses_to_write_is_survived(observability, fault):
    """If every write or sync fails, or every one that needs space, recording continues, logs once, and recovers."""
    with vfs.installed() as disk, telemetry.open(observability) as t:
        record(5)
        assert t.flush()
        with getattr(disk, fault)():
            for _ in range(3):
                record(5)
                t.flush(0.5)
            assert len(trace.get_recent(100)) == 20
            assert (t.error is None) == (fault == "disk_full")  # replacing rows in place needs no space
        assert t.flush(40)
        assert t.error is None
        assert len(trace.get_recent(100)) == 20
    assert log_messages(observability.log_dir).count("telemetry cannot be written") == (fault == "io_error")


@pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE or "there is one")
@pytest.mark.parametrize("number", range(1, 12))
def test_any_single_write_may_fail(observability, query, number):
    """If any one write of a commit fails, all records are stored in the end, once."""
    with vfs.installed() as disk, telemetry.open(observability) as t:
        record(5)
        assert t.flush()
        with disk.nth_fails(number, vfs.Kind.WRITE):
            record(300)
            t.flush(1)
        assert t.flush(40)

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(305, 305)]
    assert query("PRAGMA integrity_check") == [("ok",)]


def test_directory_that_is_removed_is_made_again(observability, query):
    """If the data folder is removed, the next commit makes a new store with all records of this run."""
    with telemetry.open(observability) as t:
        record(300)
        assert t.flush()
        shutil.rmtree(observability.data_dir)
        record(20, "after.it")
        assert t.flush(20)
        assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(320, 320)]
        record(1)
        assert t.flush()
    assert sorted(path.name for path in observability.data_dir.iterdir()) == [DATABASE, "telemetry.lock"]
    assert query("SELECT count(*) FROM traces") == [(321,)]
    assert query("SELECT end_reason FROM runs") == [("clean",)]
    assert "telemetry.db was reopened" in log_messages(observability.log_dir)


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_database_that_is_moved_away_is_noticed(observability, query, tmp_path, how):
    """If the database is removed, renamed or replaced, a new one is created."""
    with telemetry.open(observability) as t:
        record(50)
        assert t.flush()
        assert len(trace.get_recent(200)) == 50
        path = observability.data_dir / DATABASE
        if how == "unlink":
            path.unlink()
        else:
            path.rename(tmp_path / "away.db")
        if how == "replace":
            path.write_bytes(b"something else " * 1_000)
        assert len(trace.get_recent(200)) in (0, 50)
        record(50)
        assert t.flush(20)
        assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(100, 100)]
        assert len(trace.get_recent(200)) == 100


def test_box_that_is_removed_is_made_again(observability, monkeypatch):
    """A removed box is restored with its records at the next round."""
    monkeypatch.setattr(pacer, "_HOUSEKEEPING_S", 0.05)
    with telemetry.open(observability) as t:
        record(5)
        box = observability.data_dir / f"telemetry.{os.getpid()}.box2"
        box.unlink()

        def is_back():
            record(1)
            t.flush()
            return box.exists()

        wait_until(is_back)
