"""The VFS that the fault tests rely on."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support import vfs
from support.vfs import Kind, Role

pytestmark = pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE)


@pytest.fixture
def disk():
    """The VFS, for the connections of one test."""
    with vfs.installed() as disk:
        yield disk


@pytest.fixture
def connection(disk, tmp_path):
    """A database in WAL mode with a table of a hundred large rows, all of it checkpointed."""
    with closing(connect(tmp_path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        insert(connection, 100)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield connection


def connect(tmp_path) -> sqlite3.Connection:
    """Returns a connection in autocommit mode."""
    return sqlite3.connect(tmp_path / "x.db", isolation_level=None)


def insert(connection, count=1) -> None:
    """Inserts rows of a page each, in one transaction."""
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (x) VALUES (?)", [("x" * 3_000,)] * count)
    connection.execute("COMMIT")


def rows(connection) -> int:
    """Returns the number of rows."""
    return connection.execute("SELECT count(*) FROM t").fetchone()[0]


def error_of(act, *arguments) -> int:
    """Returns the error code that SQLite reports."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        act(*arguments)
    return caught.value.sqlite_errorcode


def replay(entries) -> dict[str, bytes]:
    """Returns the files that the operations produce."""
    files: dict[int, bytearray] = {}
    names: dict[int, str] = {}
    for entry in entries:
        if entry.kind is Kind.OPEN:
            files.setdefault(entry.file, bytearray())
            names[entry.file] = entry.data.decode().rpartition("/")[2]
        elif entry.kind is Kind.WRITE:
            content = files[entry.file]
            content.extend(bytes(max(0, entry.offset - len(content))))
            content[entry.offset : entry.offset + len(entry.data)] = entry.data
        elif entry.kind is Kind.TRUNCATE:
            del files[entry.file][entry.offset :]
        elif entry.kind is Kind.DELETE:
            del files[entry.file]
    return {names[number]: bytes(content) for number, content in files.items() if names[number]}


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE"])
def test_recording_leads_to_the_same_files(disk, tmp_path, mode):
    """Replayed from nothing, a recording gives each file byte for byte, in WAL and with a rollback journal."""
    with disk.recording(tmp_path / "recording"), closing(connect(tmp_path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        insert(connection, 50)
        connection.execute("DELETE FROM t WHERE n > 10")
        connection.execute("VACUUM")
        found = {path.name: path.read_bytes() for path in tmp_path.glob("x.db*") if path.name != "x.db-shm"}
        entries = vfs.read_recording(tmp_path / "recording")

    assert replay(entries) == found


def test_recording_has_the_order_of_a_commit(disk, connection, tmp_path):
    """A commit in WAL mode is writes and then a sync of the WAL, and the program's marks are in their order."""
    connection.execute("PRAGMA synchronous = FULL")
    insert(connection)
    with disk.recording(tmp_path / "recording"):
        disk.mark(b"before")
        insert(connection)
        disk.mark(b"after")
    entries = vfs.read_recording(tmp_path / "recording")

    kinds = [entry.kind for entry in entries]
    assert kinds[0] is kinds[-1] is Kind.MARK
    assert kinds[1:-1] == [Kind.WRITE] * (len(entries) - 3) + [Kind.SYNC]
    assert (entries[0].data, entries[-1].data) == (b"before", b"after")
    assert len({entry.file for entry in entries[1:-1]}) == 1
    assert [entry.at_ns for entry in entries] == sorted(entry.at_ns for entry in entries)


def test_full_disk_stops_growth_alone(disk, connection):
    """On a full disk a commit that needs a larger file fails with SQLITE_FULL, one that fits in place does not."""
    insert(connection, 20)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # the WAL keeps its size, to be overwritten
    with disk.disk_full():
        connection.execute("UPDATE t SET x = 'in place' WHERE n = 1")
        assert error_of(insert, connection, 200) == sqlite3.SQLITE_FULL
        connection.execute("UPDATE t SET x = 'again' WHERE n = 2")
    insert(connection, 200)

    assert rows(connection) == 320
    assert connection.execute("SELECT x FROM t WHERE n < 3").fetchall() == [("in place",), ("again",)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_io_error_stops_everything(disk, connection):
    """With a broken disk no commit succeeds, reading works, and failed commits leave nothing."""
    with disk.io_error():
        assert error_of(insert, connection) == sqlite3.SQLITE_IOERR_WRITE
        assert rows(connection) == 100
    insert(connection)

    assert rows(connection) == 101


def test_nth_operation_fails_alone(disk, connection):
    """The second sync fails, the first and the third do not."""
    connection.execute("PRAGMA synchronous = FULL")
    insert(connection)  # the first commit to a WAL syncs its header too
    with disk.nth_fails(2, Kind.SYNC):
        insert(connection)
        assert error_of(insert, connection) == sqlite3.SQLITE_IOERR_FSYNC
        insert(connection)

    assert rows(connection) == 103


def test_rule_may_select_files(disk, connection):
    """A rule may fail only the database's file and not the WAL: commits succeed, checkpoints fail."""
    with disk.failing(lambda operation: sqlite3.SQLITE_IOERR_WRITE if operation.role is Role.MAIN else 0):
        insert(connection)
        assert error_of(connection.execute, "PRAGMA wal_checkpoint(PASSIVE)") == sqlite3.SQLITE_IOERR_WRITE
    assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0

    assert rows(connection) == 101


def test_connections_after_it_are_as_ever(tmp_path):
    """After uninstalling, new connections do not use it."""
    with vfs.installed() as disk:
        pass
    with disk.io_error(), closing(connect(tmp_path)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        insert(connection)

        assert rows(connection) == 1
