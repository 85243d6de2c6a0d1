"""The operator's SQL only reads, with limits on time and memory."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE, StoreError
from hearthnet.observability.store.query import statement as query
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError, QueryResult, ask
from hearthnet.observability.store.snapshot import snapshot

TIMEOUT_S = 60
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
TRACE = (
    "INSERT INTO traces (seq, run_id, trace_id, capability, started_us, started_mono_ns, duration_ms, result, notable,"
    " spans, extras) VALUES (?, 'r', 't', 'a.b', 1000000, 0, 1.5, 'ok', 0,"
    ' \'[{"name":"load","offset_ms":0,"duration_ms":1,"extras":{}}]\', \'{}\')'
)


@pytest.fixture
def writer(tmp_path):
    """The connection that writes a store with three traces."""
    connection = open_database(tmp_path / "data" / "telemetry.db", TELEMETRY)
    for seq in (1, 2, 3):
        connection.execute(TRACE, (seq,))
    yield connection
    connection.close()


@pytest.fixture
def path(writer, tmp_path):
    """The store."""
    return tmp_path / "data" / "telemetry.db"


def digests(folder):
    """Returns the content of the files of a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("SELECT seq, name FROM spans ORDER BY seq;", (1, "load")),
        ("WITH n AS (SELECT 1 AS a) SELECT a, NULL, x'ff', 2.5, 'é' FROM n -- a comment", (1, None, b"\xff", 2.5, "é")),
        ("SELECT value FROM json_each('[7]')", (7,)),
        ("SELECT name FROM pragma_table_info('traces')", ("seq",)),
        ("PRAGMA application_id", (TELEMETRY.application_id,)),
        ("PRAGMA table_info(gaps)", (0, "seq", "INTEGER", 0, None, 1)),
        ("VALUES (1, 2)", (1, 2)),
        (ENDLESS + "SELECT x FROM n LIMIT 3", (1,)),
        ("SELECT CAST(x'61ff' AS TEXT)", ("a\ufffd",)),
    ],
)
def test_reading_is_allowed(path, sql, first):
    """Tables, views, table-valued functions, recursion, and pragmas that only report are allowed."""
    assert ask(path, sql, TIMEOUT_S).rows[0] == first


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM traces", "INSERT INTO gaps VALUES (1, 1, 'a', 'b', 1, 'r')", "UPDATE traces SET result = 'ok'",
        "UPDATE sqlite_master SET sql = ''", "CREATE TABLE x (a)", "CREATE TEMP TABLE x (a)", "DROP VIEW recent",
        "ATTACH 'other.db' AS other", "DETACH main", "VACUUM", "VACUUM INTO 'other.db'", "BEGIN", "BEGIN IMMEDIATE",
        "COMMIT", "SAVEPOINT a", "REINDEX", "ANALYZE", "PRAGMA user_version = 9", "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE", "PRAGMA wal_checkpoint", "PRAGMA writable_schema(1)", "PRAGMA optimize",
        "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA hard_heap_limit = 1", "SELECT load_extension('x.so')",
        "SELECT readfile('/etc/hostname')", "EXPLAIN DELETE FROM traces",
        "WITH a AS (SELECT 1) INSERT INTO traces SELECT * FROM a",
        "SELECT * FROM pragma_wal_checkpoint", "CREATE VIRTUAL TABLE v USING fts5(a)",
    ],
)  # fmt: skip
def test_anything_else_is_refused(path, tmp_path, monkeypatch, sql):
    """A statement that writes, locks, sets, or opens another file exits with 2, and changes no byte."""
    monkeypatch.chdir(tmp_path)
    before = digests(path.parent)

    with pytest.raises(QueryError) as caught:
        ask(path, sql, TIMEOUT_S)
    assert caught.value.exit_code == EXIT_USAGE
    after = digests(path.parent)
    assert {name: after[name] for name in before if not name.endswith("-shm")} == {
        name: digest for name, digest in before.items() if not name.endswith("-shm")
    }
    assert not (tmp_path / "other.db").exists()


def test_snapshot_is_not_changed_by_being_asked(path, tmp_path):
    """A queried copy has the same bytes afterwards, and no file beside it."""
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / "copy.db"
    snapshot(path, copy)
    before = digests(copy.parent)

    assert ask(copy, "SELECT count(*) FROM recent", TIMEOUT_S).rows == [(3,)]
    assert digests(copy.parent) == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT capabilty FROM recent", "no such column: capabilty"),
        ("SELECT 'recnt' FROM recnt", "no such table: recnt"),
        ("SELECT cout(*) FROM recent", "no such function: cout"),
        ("SELECT ',', count(*), FROM recent", 'near "FROM": syntax error'),
        ("SELECT (1", "incomplete input"),
        ("SELECT 'abc", 'unrecognized token: "\'abc"'),
        ("SELECT json('{')", "malformed JSON"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT ?", "Incorrect number of bindings"),
        ("-- nothing", "returns no rows"),
        (" \n", "returns no rows"),
        ("SELECT '\0'", "null character"),
        ("SELECT '\udcff'", "surrogates not allowed"),
        ("DROP VIEW recent", "not authorized"),
    ],
)
def test_invalid_statement_shows_the_message_of_sqlite(path, sql, message):
    """Invalid statements exit with 2 and the same hint."""
    with pytest.raises(QueryError) as caught:
        ask(path, sql, TIMEOUT_S)

    assert message in caught.value.message
    assert caught.value.exit_code == EXIT_USAGE
    assert "sql --list" in caught.value.hint


def test_time_is_bounded(path):
    """An endless query exits with 1 and a hint; with a limit of rows it returns at once."""
    with pytest.raises(QueryLimitError, match=r"longer than 0\.05 s") as caught:
        ask(path, ENDLESS + "SELECT count(*) FROM n", 0.05)
    assert caught.value.exit_code == EXIT_ERROR
    assert "--timeout" in caught.value.hint

    found = ask(path, ENDLESS + "SELECT x FROM n", TIMEOUT_S, max_rows=2)
    assert (found.rows, found.has_more) == ([(1,), (2,)], True)


def test_interrupt_ends_a_statement(path):
    """SIGINT during a query raises KeyboardInterrupt, not the error of a slow statement."""
    killer = f"import os, signal; os.kill({os.getpid()}, signal.SIGINT)"
    with pytest.raises(KeyboardInterrupt), subprocess.Popen([sys.executable, "-c", killer]):
        ask(path, ENDLESS + "SELECT count(*) FROM n", TIMEOUT_S)


def test_kept_rows_are_bounded(path, monkeypatch):
    """Many rows, or one value, beyond the memory limit are refused with a hint."""
    monkeypatch.setattr(query, "_ROW_BYTES", 1_000_000)
    for sql in (ENDLESS + "SELECT x, hex(x) FROM n", "SELECT zeroblob(2000000)", "SELECT hex(zeroblob(900000))"):
        with pytest.raises(QueryLimitError, match="out of memory") as caught:
            ask(path, sql, TIMEOUT_S)
        assert "LIMIT" in caught.value.hint


def test_limit_keeps_the_first_rows(path):
    """Further rows are reported, not counted; two columns may have the same name."""
    sql = "SELECT seq AS a, seq AS a FROM traces ORDER BY seq"

    assert ask(path, sql, TIMEOUT_S, max_rows=2) == QueryResult(("a", "a"), [(1, 1), (2, 2)], has_more=True)
    assert not ask(path, sql, TIMEOUT_S, max_rows=3).has_more


def test_wal_is_not_held(path, writer):
    """After a result, a truncated one, and an error, the writer can empty its WAL."""
    ask(path, "SELECT * FROM timeline", TIMEOUT_S)
    for sql in (ENDLESS + "SELECT x FROM n, traces", "SELECT nope FROM traces"):
        with pytest.raises((QueryLimitError, QueryError)):
            ask(path, sql, 0.05)
    writer.execute(TRACE, (4,))

    busy, in_wal, _ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, in_wal) == (0, 0)


def test_committed_rows_are_seen_while_the_writer_is_busy(path, writer):
    """Queries work while a transaction is open, and do not see its writes."""
    writer.execute("BEGIN IMMEDIATE")
    writer.execute(TRACE, (4,))
    assert ask(path, "SELECT count(*) FROM traces", TIMEOUT_S).rows == [(3,)]
    writer.execute("COMMIT")
    assert ask(path, "SELECT count(*) FROM traces", TIMEOUT_S).rows == [(4,)]


def test_store_that_cannot_be_read(tmp_path):
    """A missing file or one that is no database is an error with a hint, and is not created."""
    missing, garbage = tmp_path / "missing.db", tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database" * 1_000)

    with pytest.raises(StoreError, match="does not exist") as caught:
        ask(missing, "SELECT 1", TIMEOUT_S)
    assert caught.value.hint
    assert not missing.exists()
    with pytest.raises(StoreError, match="not a database"):
        ask(garbage, "SELECT count(*) FROM sqlite_schema", TIMEOUT_S)


def test_folder_that_cannot_be_written(path, writer, as_nobody):
    """A WAL needs an index beside it: if none can be created, the hint says what to do."""
    writer.close()
    with TemporaryDirectory() as name:  # other users cannot enter pytest's own folders
        copy = Path(name) / "copy.db"
        copy.write_bytes(path.read_bytes())
        copy.parent.chmod(0o755)
        with pytest.raises(StoreError, match="readonly") as caught, as_nobody():
            ask(copy, "SELECT count(*) FROM traces", TIMEOUT_S)
    assert "copy it and its -wal" in caught.value.hint


def test_store_of_an_earlier_version_gets_the_views(tmp_path):
    """After the next opening, the views show rows of a store whose schema ended with the third migration."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        for file in sorted((migrations_dir() / TELEMETRY.name).glob("000[123]_*.sql")):
            connection.executescript(file.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute("PRAGMA user_version = 3")
        connection.execute(TRACE, (1,))
        connection.commit()
    open_database(path, TELEMETRY).close()

    assert ask(path, "SELECT ts, count FROM minutes", TIMEOUT_S).rows == [("1970-01-01T00:00:00.000Z", 1)]
    assert ask(path, "SELECT name, run_id FROM spans", TIMEOUT_S).rows == [("load", "r")]


def test_schema_explains_every_view(writer):
    """Each view and each of its columns has a comment, which `--list` shows."""
    for name, sql in writer.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'view'"):
        lines = [line.strip() for line in sql.partition("\n)")[0].splitlines()]
        assert lines[1].startswith("-- "), name
        columns = [row[1] for row in writer.execute(f"PRAGMA table_info({name})")]
        explained = [line.split()[0].rstrip(",") for line in lines[2:] if not line.startswith("--") and "-- " in line]
        assert explained == columns, name
