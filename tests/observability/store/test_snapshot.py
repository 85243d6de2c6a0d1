"""A snapshot is complete, private, of one moment, and never partly written."""

from __future__ import annotations

import signal
import sqlite3
import sys
import threading
from contextlib import closing

import pytest
from support import forkserver

from hearthnet.database import TELEMETRY
from hearthnet.errors import DiskFullError, StoreError, UnusableStoreError
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store.snapshot import snapshot
from hearthnet.observability.telemetry import DATABASE


def record(count, text="x"):
    """Records `count` traces with a log record each."""
    for number in range(count):
        with trace.new_trace("a.b"), trace.span("step", text=text, number=number):
            get_logger("hearthnet.test").info("working", extra={"number": number})


@pytest.fixture
def store(observability):
    """A database of a process that has ended: 300 traces, 300 log records."""
    with telemetry.open(observability):
        record(300)
    return observability.data_dir / DATABASE


def ask(path, sql):
    """Returns the first row of a query."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchone()


@pytest.mark.usefixtures("unsampled")
def test_copy_is_the_whole_database_in_one_private_file(store, tmp_path):
    """A copy has all rows, views, application_id and user_version, no file beside it, and no unused pages."""
    copy = tmp_path / "copy.db"
    made = snapshot(store, copy)

    assert made.rows == {"traces": 300, "logs": 300, "runs": 1, "gaps": 0}
    assert made.bytes == copy.stat().st_size < TELEMETRY.reserve_bytes
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("*copy.db*")] == ["copy.db"]
    assert ask(copy, "PRAGMA application_id") == (TELEMETRY.application_id,)
    assert ask(copy, "PRAGMA user_version") == ask(store, "PRAGMA user_version")
    assert ask(copy, "PRAGMA integrity_check") == ("ok",)
    assert ask(copy, "PRAGMA journal_mode") == ("delete",)
    assert ask(copy, "SELECT count(*) FROM spans") == (300,)


def test_copies_while_the_store_is_written(observability, tmp_path):
    """Each of many copies of a store in use is consistent, and the writer keeps writing."""
    with telemetry.open(observability) as t:
        record(50)
        assert t.flush()
        done = threading.Event()
        writing = threading.Thread(target=lambda: [record(20) for _ in range(200) if not done.is_set()])
        writing.start()
        counts = []
        for number in range(5):
            made = snapshot(observability.data_dir / DATABASE, tmp_path / f"{number}.db")
            counts.append(made.rows["traces"])
            assert ask(made.path, "PRAGMA integrity_check") == ("ok",)
        done.set()
        writing.join()
        assert t.flush()
        assert t.error is None
    assert counts == sorted(counts)
    assert counts[0] >= 50


def test_existing_file_is_replaced_only_with_force(store, tmp_path):
    """Without force the file is unchanged; with force it is replaced, and a WAL beside it deleted."""
    target = tmp_path / "copy.db"
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists already") as raised:
        snapshot(store, target)
    assert "--force" in raised.value.hint
    assert target.read_bytes() == b"precious"

    (tmp_path / "copy.db-wal").write_bytes(b"of another database")
    snapshot(store, target, force=True)
    assert ask(target, "SELECT count(*) FROM traces") == (300,)
    assert not (tmp_path / "copy.db-wal").exists()


@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal", "other-name"])
def test_store_itself_is_never_the_target(store, name):
    """The store itself is refused under its own name, as its WAL, through a link, and with force."""
    target = store.with_name(name)
    if name == "other-name":
        target.hardlink_to(store)
    before = store.read_bytes()

    with pytest.raises(StoreError, match="belongs to the store itself"):
        snapshot(store, target, force=True)
    assert store.read_bytes() == before


def test_target_that_cannot_be_says_why(store, tmp_path):
    """A folder and a missing folder give different errors."""
    with pytest.raises(StoreError, match="is a folder"):
        snapshot(store, tmp_path, force=True)
    with pytest.raises(StoreError, match="does not exist") as raised:
        snapshot(store, tmp_path / "none" / "copy.db")
    assert raised.value.hint == f"create it: mkdir -p {tmp_path / 'none'}"


def test_source_that_is_missing_foreign_or_damaged_leaves_nothing(store, tmp_path):
    """Each is an error with its own message, and leaves no file."""
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE cats (name)")
    damaged = tmp_path / "damaged.db"
    content = bytearray(store.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    damaged.write_bytes(content)

    for source, kind, text in (
        (tmp_path / "none.db", StoreError, "does not exist"),
        (foreign, UnusableStoreError, "not a telemetry database"),
        (damaged, UnusableStoreError, "damaged"),
    ):
        with pytest.raises(kind, match=text):
            snapshot(source, tmp_path / "copy.db")
        assert list(tmp_path.glob("*copy.db*")) == []


def test_full_disk_leaves_nothing(store, tiny_disk):
    """A copy that does not fit is a disk-full error, and no part of it remains."""
    (tiny_disk / "filler").write_bytes(bytes(40 * 1024 * 1024 - 64 * 1024))  # 64 KiB are left

    with pytest.raises(DiskFullError):
        snapshot(store, tiny_disk / "copy.db")
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_killed_while_copying_leaves_no_file_of_that_name(store, tmp_path):
    """SIGKILL before the copy is checked leaves no file, and an older one unchanged."""
    old = tmp_path / "copy.db"
    old.write_bytes(b"older copy")
    script = f"""
import os, signal
from pathlib import Path
from hearthnet.observability.store import snapshot
snapshot._check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
snapshot.snapshot(Path({str(store)!r}), Path({str(old)!r}), force=True)
"""
    done = forkserver.run([sys.executable, "-c", script])

    assert done.returncode == -signal.SIGKILL
    assert old.read_bytes() == b"older copy"
    assert ask(store, "SELECT count(*) FROM traces") == (300,)
