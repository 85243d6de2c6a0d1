"""Who records into a store is found, by its box or by its row, so that nothing is taken away under it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from hearthnet.database import TELEMETRY, open_database
from hearthnet.forensics import box as layout
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.store import rows
from hearthnet.observability.store.lock import StoreInUseError
from hearthnet.observability.store.recovery.living import refuse_living
from hearthnet.observability.store.ring import SET

OTHER = os.getppid()  # a process that lives, and is not this one
DEAD = 2**22 + 1


def box_of(directory, pid, run_id="run"):
    """The box of a process, as it is once its lock is gone."""
    path = directory / f"telemetry.{pid}.box2"
    header = new_header(layout.LIBRARY, run_id, "1", None, Sizes(8_000, 8_000, 4))
    box = BlackBox(path, replace(header, pid=pid, process_start=layout.process_start(pid) or 0))
    content = path.read_bytes()
    box.close(remove=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def lock():
    """Locks a file as another process would."""
    held = []

    def take(path):
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX)

    yield take
    for fd in held:
        os.close(fd)


def test_store_without_anybody_is_free(tmp_path):
    """Also one that is not there, and one with the boxes of processes that have ended."""
    refuse_living(tmp_path / "none")
    box_of(tmp_path, DEAD)
    refuse_living(tmp_path)
    refuse_living(tmp_path, may_be_copy=True)


def test_process_with_a_box_is_told_by_its_pid(tmp_path):
    """A copy of its box is no sign of it: that names who writes the original."""
    path = box_of(tmp_path, OTHER)
    with pytest.raises(StoreInUseError, match=f"process {OTHER} is recording into {path}") as refused:
        refuse_living(tmp_path)
    assert "stop the node first" in refused.value.hint

    refuse_living(tmp_path, may_be_copy=True)


@pytest.mark.parametrize("may_be_copy", [False, True])
def test_locked_box_is_being_written_whoever_has_it(tmp_path, lock, may_be_copy):
    """Its pid may be one of another machine, and it may have no header yet."""
    path = box_of(tmp_path, DEAD)
    lock(path)
    with pytest.raises(StoreInUseError, match=f"process {DEAD} is recording"):
        refuse_living(tmp_path, may_be_copy=may_be_copy)

    os.truncate(path, 0)
    with pytest.raises(StoreInUseError, match="process of unknown number is recording"):
        refuse_living(tmp_path, may_be_copy=may_be_copy)


@pytest.fixture
def store(tmp_path):
    """A store that is open, with a row for each run that is asked for."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY._replace(reserve_bytes=0))) as connection:

        def run(pid, boot_id=None, run_id="run", *, is_followed=True):
            boot_id = boot_id or layout.this_boot()
            connection.execute(rows.INSERT_RUN, (run_id, None, "0", pid, boot_id, 1_000, "x.py", "library"))
            if is_followed:
                connection.execute(SET, (run_id, 0))
            return connection

        yield run


def test_process_without_a_box_is_told_by_its_row(tmp_path, store):
    """The budget had no space for one. Of a copy the row says nothing."""
    store(DEAD, run_id="dead")
    store(OTHER)
    with pytest.raises(StoreInUseError, match=f"process {OTHER} is recording into {tmp_path / 'telemetry.db'}"):
        refuse_living(tmp_path)

    refuse_living(tmp_path, may_be_copy=True)


@pytest.mark.parametrize("own", [OTHER - 1, OTHER + 1])
def test_process_of_any_other_number_is_another(tmp_path, store, monkeypatch, own):
    """A lower one, or a higher one."""
    store(OTHER)
    monkeypatch.setattr(os, "getpid", lambda: own)
    with pytest.raises(StoreInUseError, match=f"process {OTHER} is recording"):
        refuse_living(tmp_path)


def test_store_may_be_a_link(tmp_path, store):
    """Its -wal is beside the file that it leads to."""
    store(OTHER)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "telemetry.db").symlink_to(tmp_path / "telemetry.db")
    with pytest.raises(StoreInUseError, match=f"process {OTHER} is recording"):
        refuse_living(tmp_path / "linked")


@pytest.mark.parametrize(
    "row",
    [
        {"pid": os.getpid()},
        {"pid": DEAD},
        {"pid": OTHER, "boot_id": "another boot"},
        {"pid": OTHER, "is_followed": False},
    ],
    ids=["this one", "dead", "another boot", "closed"],
)
def test_row_of_another_kind_is_no_living_process(tmp_path, store, row):
    """This process may do to the store what it does."""
    store(**row)
    refuse_living(tmp_path)


def test_row_of_a_run_that_has_ended_is_no_living_process(tmp_path, store):
    """Its process may be at something else by now."""
    store(OTHER).execute(rows.END_RUN, (2_000, rows.CLEAN, "run"))
    refuse_living(tmp_path)


def test_box_counts_where_there_is_one(tmp_path, store):
    """The process of that run has ended, and another one got its pid."""
    box_of(tmp_path, DEAD, "run")
    store(OTHER)
    refuse_living(tmp_path)


def test_store_that_nobody_writes_is_not_opened(tmp_path, store):
    """Whoever writes it has its -wal, and to look would make one."""
    store(OTHER).close()
    refuse_living(tmp_path)

    assert not (tmp_path / "telemetry.db-wal").exists()


@pytest.mark.parametrize("content", [b"", b"no database" * 1_000])
def test_damaged_store_is_nobodys(tmp_path, content):
    """A rebuild is for such a one."""
    (tmp_path / "telemetry.db").write_bytes(content)
    (tmp_path / "telemetry.db-wal").write_bytes(b"")
    refuse_living(tmp_path)


def test_database_of_another_kind_has_no_runs(tmp_path):
    """It is not read for more."""
    with closing(sqlite3.connect(tmp_path / "telemetry.db")) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        refuse_living(tmp_path)
