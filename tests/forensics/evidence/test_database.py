"""Copying a database while it is written: the copy is consistent."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from hearthnet.forensics.evidence.database import copied

ROWS = 2_000


@pytest.fixture
def writer(tmp_path):
    """A connection with rows in the database, and as many in its WAL."""
    with closing(sqlite3.connect(tmp_path / "telemetry.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE t (n INTEGER, text TEXT)")
        add(connection)
        checkpoint(connection, "TRUNCATE")
        add(connection)
        yield connection


def add(connection):
    """Commits a transaction of many rows."""
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, "x" * 100) for n in range(ROWS)))
    connection.execute("COMMIT")


def checkpoint(connection, how):
    """Checkpoints the WAL."""
    assert connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()[0][0] == 0


def read(uri):
    """Returns the number of rows in a copy, and the result of its integrity check."""
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (whole,) = connection.execute("PRAGMA integrity_check").fetchone()
        return connection.execute("SELECT count(*) FROM t").fetchone()[0], whole


@pytest.mark.parametrize(
    ("meanwhile", "rows", "copies"),
    [
        (add, 3 * ROWS, 1),  # appended to the WAL, which is copied second
        (lambda connection: checkpoint(connection, "PASSIVE"), 2 * ROWS, 1),
        (lambda connection: (checkpoint(connection, "RESTART"), add(connection)), 3 * ROWS, 2),
        (lambda connection: (checkpoint(connection, "TRUNCATE"), add(connection)), 3 * ROWS, 2),
    ],
    ids=["appended", "checkpointed", "begun anew", "cut and begun anew"],
)
def test_copy_is_of_one_moment_whatever_the_writer_does(tmp_path, writer, monkeypatch, meanwhile, rows, copies):
    """A commit, a checkpoint or a WAL reset between the two copies loses nothing that was committed."""
    copy, made = shutil.copyfile, []

    def copyfile(source, target):
        copy(source, target)
        if source.name == "telemetry.db":
            made.append(target)
            if len(made) == 1:
                meanwhile(writer)

    monkeypatch.setattr("hearthnet.forensics.evidence.database.shutil.copyfile", copyfile)
    with copied(tmp_path / "telemetry.db", tmp_path / "telemetry.db-wal") as (uri, note):
        assert read(uri) == (rows, "ok")

    assert (note, len(made)) == ("", copies)
    assert not made[0].parent.exists()  # private, and gone


def test_note_says_that_the_writer_never_paused(tmp_path, writer, monkeypatch):
    """After a few tries the last copy is used, with a note that it may be inconsistent."""
    copy = shutil.copyfile

    def copyfile(source, target):
        copy(source, target)
        checkpoint(writer, "RESTART")
        add(writer)

    monkeypatch.setattr("hearthnet.forensics.evidence.database.shutil.copyfile", copyfile)
    with copied(tmp_path / "telemetry.db", tmp_path / "telemetry.db-wal") as (_, note):
        assert "while it was copied" in note
