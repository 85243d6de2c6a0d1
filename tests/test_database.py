"""SQLite files: private, migrated atomically, and foreign ones left alone."""

from __future__ import annotations

import ast
import errno
import os
import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from hearthnet import database
from hearthnet.database import (
    EVENTS,
    TELEMETRY,
    connect_read_only,
    digest_of,
    migrations_dir,
    open_database,
    parts_of,
)
from hearthnet.errors import DiskFullError, StoreError, UnusableStoreError
from hearthnet.observability.records.stored import LogRecord, TraceRecord

NEWEST = max(int(file.name[:4]) for file in (migrations_dir() / TELEMETRY.name).glob("*.sql"))
# Columns that users' queries rely on; tables may have more.
PROMISED = {
    "traces": {
        "seq", "run_id", "number", "trace_id", "parent_id", "capability", "version", "started_us", "duration_ms",
        "result", "error", "notable", "spans", "extras",
    },
    "logs": {
        "seq", "run_id", "number", "ts_us", "level", "logger", "msg", "trace_id", "span_id", "notable", "repeats",
        "extras", "exc",
    },
    "runs": {"run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason"},
    "gaps": {"seq", "ts_us", "kind", "reason", "count"},
    "spans": {"seq", "trace_id", "capability", "name", "started_us", "duration_ms", "status", "extras", "ts"},
    "recent": {"ts"},
    "errors": {"ts"},
    "capability_stats": {
        "capability", "ts", "count", "failed", "errors", "error_rate", "p50_ms", "p90_ms", "p99_ms", "max_ms",
        "last_ts",
    },
    "slow": {"ts"},
    "timeline": {"ts"},
}  # fmt: skip
HALF = "CREATE TABLE first_half (a);\nCREATE TABLE traces (a);"  # the second statement fails: the table exists


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Returns the columns of a table or view in order."""
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def tables(path: Path) -> set[str]:
    """Returns the tables of a file, read without the package."""
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    finally:
        connection.close()


def pragma(connection: sqlite3.Connection, name: str) -> object:
    """Returns the value of a pragma."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.fixture
def path(tmp_path):
    """The path of the database."""
    return tmp_path / "data" / "telemetry.db"


@pytest.fixture
def opened(path):
    """A new telemetry database."""
    connection = open_database(path, TELEMETRY)
    yield connection
    connection.close()


@pytest.fixture
def migrations(tmp_path, monkeypatch):
    """A function that adds a migration to a temporary folder of migrations."""
    folder = tmp_path / "migrations" / "telemetry"
    folder.mkdir(parents=True)
    for file in (migrations_dir() / "telemetry").glob("*.sql"):
        (folder / file.name).write_text(file.read_text())
    monkeypatch.setattr(database, "migrations_dir", lambda: folder.parent)
    return lambda name, script: (folder / name).write_text(script)


@pytest.mark.parametrize(("schema", "number"), [(TELEMETRY, 0x484E746C), (EVENTS, 0x484E6576)])
def test_blank_file_gets_the_newest_schema(tmp_path, schema, number):
    """A new database has its tables, version and application id."""
    connection = open_database(tmp_path / "new.db", schema)
    newest = max((migrations_dir() / schema.name).glob("*.sql"))

    assert pragma(connection, "application_id") == number
    assert pragma(connection, "user_version") == int(newest.name[:4])
    assert pragma(connection, "integrity_check") == "ok"
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0
    connection.close()


@pytest.mark.parametrize("table", PROMISED)
def test_promised_columns_are_there(opened, table):
    """Each table and view has the columns that queries may rely on."""
    assert PROMISED[table] <= set(columns(opened, table))


@pytest.mark.parametrize(("table", "record"), [("traces", TraceRecord), ("logs", LogRecord)])
def test_records_are_rows(opened, table, record):
    """A record's fields are its table's columns."""
    assert sorted(columns(opened, table)) == sorted(record._fields)


@pytest.mark.parametrize("table", ["traces", "logs", "runs", "gaps", "state"])
def test_tables_are_strict(opened, table):
    """SQLite refuses a value of the wrong type."""
    strict = {row[1]: row[5] for row in opened.execute("PRAGMA table_list")}

    assert strict[table] == 1


def test_connection_is_durable(opened):
    """WAL, full sync, and deleted content overwritten."""
    assert (pragma(opened, "journal_mode"), pragma(opened, "synchronous"), pragma(opened, "secure_delete")) == (
        "wal",
        2,
        1,
    )


def test_opening_again_changes_nothing(path):
    """Reopening keeps the content and applies no migration twice."""
    connection = open_database(path, TELEMETRY)
    connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, 'trace', 'full', 3)")
    before = connection.execute("SELECT sql FROM sqlite_schema").fetchall()
    connection.close()

    connection = open_database(path, TELEMETRY)
    assert connection.execute("SELECT * FROM gaps").fetchall() == [(1, 2, "trace", "full", 3, None)]
    assert connection.execute("SELECT sql FROM sqlite_schema").fetchall() == before
    connection.close()


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_files_are_private(path, umask):
    """The database, its -wal and its -shm have mode 0600, their folder 0700, whatever the umask."""
    before = os.umask(umask)
    try:
        connection = open_database(path, TELEMETRY)
        connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, 'trace', 'full', 3)")
        modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
        connection.close()
    finally:
        os.umask(before)

    assert modes == {"telemetry.db": 0o600, "telemetry.db-wal": 0o600, "telemetry.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("opened")
def test_new_migration_is_applied_once(path, migrations):
    """An older database is migrated with its content."""
    migrations("9002_more.sql", "CREATE TABLE more (a);\nINSERT INTO more VALUES (1);")
    for _ in range(2):
        connection = open_database(path, TELEMETRY)
        assert pragma(connection, "user_version") == 9_002
        assert connection.execute("SELECT * FROM more").fetchall() == [(1,)]
        connection.close()


def test_migrations_run_in_the_order_of_their_numbers(path, migrations):
    """An empty file gets all migrations, one after the other."""
    migrations("9003_c.sql", "INSERT INTO b VALUES (3);")
    migrations("9002_b.sql", "CREATE TABLE b (a);")
    connection = open_database(path, TELEMETRY)

    assert pragma(connection, "user_version") == 9_003
    assert connection.execute("SELECT a FROM b").fetchall() == [(3,)]
    connection.close()


def test_half_a_migration_leaves_the_old_schema(path, migrations):
    """A migration that fails halfway leaves no trace, and the database works as before."""
    connection = open_database(path, TELEMETRY)
    connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, 'trace', 'full', 3)")
    connection.close()
    before = tables(path)
    migrations("9002_half.sql", HALF)

    with pytest.raises(StoreError, match="already exists"):
        open_database(path, TELEMETRY)
    connection = sqlite3.connect(path)
    assert (pragma(connection, "user_version"), pragma(connection, "application_id")) == (
        NEWEST,
        TELEMETRY.application_id,
    )
    assert connection.execute("SELECT count(*) FROM gaps").fetchone() == (1,)
    connection.close()
    assert tables(path) == before


def test_migration_that_was_mended_is_applied(path, migrations):
    """After a failure the next start tries again."""
    migrations("9002_half.sql", HALF)
    with pytest.raises(StoreError):
        open_database(path, TELEMETRY)
    migrations("9002_half.sql", "CREATE TABLE first_half (a);")
    connection = open_database(path, TELEMETRY)

    assert pragma(connection, "user_version") == 9_002
    assert "first_half" in tables(path)
    connection.close()


def test_blank_file_whose_first_migration_failed_is_still_ours(path, migrations):
    """After a crash during the first start the file still counts as ours."""
    broken = "CREATE TABLE first_half (a);\nNOT SQL;"
    script = (migrations_dir() / "telemetry" / "0001_initial.sql").read_text()
    migrations("0001_initial.sql", broken)
    with pytest.raises(StoreError, match="syntax error"):
        open_database(path, TELEMETRY)
    assert tables(path) == set()

    migrations("0001_initial.sql", script)
    open_database(path, TELEMETRY).close()
    assert "traces" in tables(path)


@pytest.mark.usefixtures("migrations")
def test_database_that_another_process_migrated_meanwhile_is_fine(path, monkeypatch):
    """Two processes may open an empty file at once; the schema is created once."""
    apply = database._apply

    def lose_the_race(*arguments: object) -> None:
        monkeypatch.setattr(database, "_apply", apply)
        open_database(path, TELEMETRY).close()
        apply(*arguments)

    monkeypatch.setattr(database, "_apply", lose_the_race)
    connection = open_database(path, TELEMETRY)

    assert pragma(connection, "user_version") == NEWEST
    connection.close()


def test_newer_database_is_refused_and_untouched(path):
    """A database of a newer version is refused with a hint and not changed."""
    connection = open_database(path, TELEMETRY)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match="version 99") as caught:
        open_database(path, TELEMETRY)
    assert "newer" in caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE recipes (name)",
        "PRAGMA application_id = 7; CREATE TABLE recipes (name)",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 1",
    ],
)
def test_foreign_database_is_refused_and_untouched(path, script):
    """A foreign database, even an empty one with its own application id, is not changed."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match="not a telemetry database") as caught:
        open_database(path, TELEMETRY)
    assert caught.value.hint
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("made", "wanted"), [(EVENTS, TELEMETRY), (TELEMETRY, EVENTS)])
def test_database_of_the_other_kind_is_refused(path, made, wanted):
    """A database of ours with another schema is refused."""
    open_database(path, made).close()

    with pytest.raises(StoreError, match=wanted.name):
        open_database(path, wanted)


@pytest.mark.parametrize("content", [b"dear diary\n" * 200, b"SQLite format 3\0" + b"\xff" * 4_096])
def test_file_that_is_no_database_is_refused_and_untouched(path, content):
    """A file that is not a database, or is damaged, is not changed."""
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(StoreError, match="cannot be used"):
        open_database(path, TELEMETRY)
    assert path.read_bytes() == content


def test_schema_with_a_flipped_bit_is_refused(path):
    """SQLite cites it in words that are not UTF-8: that is damage like any other."""
    open_database(path, TELEMETRY).close()
    content = bytearray(path.read_bytes())
    content[content.index(b"CREATE TABLE traces") + len("CREATE T")] ^= 0x80
    path.write_bytes(content)

    with pytest.raises(UnusableStoreError, match="malformed database schema"):
        open_database(path, TELEMETRY)
    with closing(connect_read_only(path)) as connection, pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("SELECT 1 FROM sqlite_schema")
    assert database.reason_of(caught.value) == "corrupt"


def test_folder_in_the_place_of_the_file_is_refused(path):
    """The error is a store error with a hint."""
    path.mkdir(parents=True)

    with pytest.raises(StoreError) as caught:
        open_database(path, TELEMETRY)
    assert caught.value.hint


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    """A data folder that is a file cannot hold a database."""
    (tmp_path / "data").write_text("x")

    with pytest.raises(StoreError):
        open_database(tmp_path / "data" / "telemetry.db", TELEMETRY)


def test_locked_database_is_refused_soon(path):
    """A new file locked by another connection is an error after the short wait."""
    path.parent.mkdir()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match="locked"):
            open_database(path, TELEMETRY)
    finally:
        holder.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_reported_as_such(path, monkeypatch, number):
    """A full disk has its own error and exit code."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(DiskFullError) as caught:
            open_database(path, TELEMETRY)
    assert caught.value.exit_code == 5
    assert "df" in caught.value.hint


def test_full_database_is_reported_as_a_full_disk(opened, path):
    """SQLITE_FULL is a full disk too."""
    opened.execute(f"PRAGMA max_page_count = {pragma(opened, 'page_count')}")
    with pytest.raises(sqlite3.OperationalError) as caught:
        opened.execute(
            "INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, ?, 'full', 3)",
            ("x" * (TELEMETRY.reserve_bytes + 100_000),),
        )

    assert isinstance(database.store_error(path, caught.value), DiskFullError)


def test_other_errors_are_no_full_disk(opened, path):
    """An error that has nothing to do with space is a store error."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        opened.execute("SELECT nothing")

    assert isinstance(database.store_error(path, caught.value), StoreError)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, 'trace', 'full', 3)",
        "DELETE FROM traces",
        "DROP TABLE traces",
        "CREATE TABLE mine (a)",
        "PRAGMA user_version = 7",
        "VACUUM",
    ],
)
def test_reading_connection_refuses_writes(opened, path, statement):
    """A read-only connection cannot write."""
    reader = connect_read_only(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute(statement)

    assert reader.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
    reader.close()
    assert pragma(opened, "user_version") == NEWEST


def test_reader_sees_what_the_writer_committed(opened, path):
    """A reader works while the writer writes, and does not see its open transaction."""
    reader = connect_read_only(path)
    opened.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (1, 2, 'trace', 'full', 3)")
    opened.execute("BEGIN IMMEDIATE")
    opened.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (2, 2, 'trace', 'full', 3)")

    assert reader.execute("SELECT count(*) FROM gaps").fetchone() == (1,)
    opened.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM gaps").fetchone() == (2,)
    reader.close()


def test_reading_a_missing_database_makes_none(path):
    """A missing database is an error with a hint, and no file is created."""
    with pytest.raises(StoreError, match="does not exist") as caught:
        connect_read_only(path)
    assert "hearthnet run" in caught.value.hint
    assert not path.parent.exists()


def test_path_with_special_characters_can_be_read(tmp_path):
    """Special characters of URIs in a path are escaped."""
    path = tmp_path / "a?b#c %41" / "telemetry.db"
    open_database(path, TELEMETRY).close()
    reader = connect_read_only(path)

    assert reader.execute("SELECT count(*) FROM traces").fetchone() == (0,)
    reader.close()


def test_digest_is_that_of_what_the_migrations_make(opened):
    """A database that has these parts alone need not be tried: after a new migration, the constant is another."""
    assert digest_of(parts_of(opened)) == TELEMETRY.digest


def test_digest_is_another_for_any_difference(opened):
    """A column, an index, a view that was made anew: whatever others have changed is looked at closely."""
    for change in ("ALTER TABLE logs ADD COLUMN note TEXT", "CREATE INDEX mine ON logs (level)", "DROP VIEW slow"):
        before = digest_of(parts_of(opened))
        opened.execute(change)
        assert digest_of(parts_of(opened)) not in (before, TELEMETRY.digest)


def test_no_statement_has_numbered_placeholders():
    """Python 3.12.0 to 3.12.3 take them for named ones, and warn at each use."""
    package = Path(database.__file__).parent
    texts = [
        (path.name, node.value)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    statements = [text for text in texts if re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|WHERE)\b", text[1])]
    assert len(statements) > 100
    assert not [text for text in statements if re.search(r"\?\d", text[1])]
