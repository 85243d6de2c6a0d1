"""A store from elsewhere is brought to this program's schema, or refused as it is."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from support.old_store import FILES, OLDER, old_store

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import StoreError, UnusableStoreError
from hearthnet.forensics.box import this_boot
from hearthnet.observability import telemetry, trace
from hearthnet.observability.store import rows
from hearthnet.observability.store.lock import StoreInUseError
from hearthnet.observability.store.migrate import migrate_store, schema_of
from hearthnet.observability.telemetry import DATABASE

NEWEST = max(FILES)


@pytest.mark.parametrize("version", [OLDER[0], OLDER[-1]])
def test_old_store_gets_the_newest_schema(tmp_path, version):
    """The versions are told; a second time there is nothing to do."""
    path = tmp_path / DATABASE
    old_store(path, version)

    assert migrate_store(path) == (version, NEWEST)
    assert migrate_store(path) == (NEWEST, NEWEST)
    assert schema_of(path) == NEWEST


def test_store_that_is_recorded_into_is_left_alone(observability):
    """An older program could not go on."""
    with telemetry.open(observability), trace.new_trace("a.b"), pytest.raises(StoreInUseError, match="is recording"):
        migrate_store(observability.data_dir / DATABASE)


def test_what_is_no_store_is_refused(tmp_path):
    """A missing file is not made, one of another program is not changed."""
    path = tmp_path / DATABASE
    with pytest.raises(StoreError, match="does not exist"):
        migrate_store(path)
    assert not path.exists()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 1; PRAGMA user_version = 3; CREATE TABLE traces (x)")
    before = path.read_bytes()
    with pytest.raises(UnusableStoreError):
        migrate_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreError),
        (b"SQLite format 3\0" + b"\xff" * 4_080, UnusableStoreError),
        (b"x" * 4_096, UnusableStoreError),
    ],
)
def test_damaged_or_empty_file_is_refused(tmp_path, content, error):
    """It stays as it is: an empty file is not made into a store."""
    path = tmp_path / DATABASE
    path.write_bytes(content)
    with pytest.raises(error):
        migrate_store(path)
    assert path.read_bytes() == content


def test_copy_of_a_store_that_is_recorded_into_is_migrated(observability, tmp_path, monkeypatch):
    """Its box names a living process, which writes the original."""
    copy = tmp_path / "copy"
    with telemetry.open(observability), trace.new_trace("a.b"):
        shutil.copytree(observability.data_dir, copy)
        monkeypatch.setattr(os, "getpid", os.getppid)
        with pytest.raises(StoreInUseError):
            migrate_store(copy / DATABASE)
        assert migrate_store(copy / DATABASE, may_be_copy=True) == (NEWEST, NEWEST)
        with pytest.raises(StoreInUseError):
            migrate_store(observability.data_dir / DATABASE, may_be_copy=True)
        monkeypatch.undo()


def test_process_that_records_without_a_box_is_living(tmp_path):
    """The budget may have no space for its box; the database has its run."""
    path = tmp_path / DATABASE
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute(rows.INSERT_RUN, ("r", "n", "1", os.getppid(), this_boot(), 1, "x.py", "library"))
        connection.execute(rows.FOLLOW_RUN, ("r", 0))
        with pytest.raises(StoreInUseError, match=f"process {os.getppid()} is recording"):
            migrate_store(path)
        connection.execute("UPDATE runs SET pid = ?", (4_194_305,))
        assert migrate_store(path) == (NEWEST, NEWEST)
    assert migrate_store(path) == (NEWEST, NEWEST)
