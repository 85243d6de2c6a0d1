"""A stranger's SQL: it reads, for a bounded time, into bounded memory, and can do nothing else."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import pytest

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE, StoreError, UnusableStoreError
from hearthnet.observability.store import query
from hearthnet.observability.store.catalog import catalog
from hearthnet.observability.store.query import Bounds, QueryError, QueryTooLargeError, QueryTooSlowError, ask
from hearthnet.observability.store.snapshot import snapshot

BOUNDS = Bounds(timeout_s=60)
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
TRACE = (
    "INSERT INTO traces VALUES (?, 'r', 't', NULL, 'a.b', NULL, 1000000, 0, 1.5, 'ok', NULL, 0,"
    ' \'[{"name":"load","offset_ms":0,"duration_ms":1,"extras":{}}]\', \'{}\')'
)


@pytest.fixture
def writer(tmp_path):
    """The connection that writes the store, which has three traces."""
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
    """What the files of a folder hold."""
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
    """Tables, views, table-valued functions, recursion, and pragmas that only tell."""
    assert ask(path, sql, BOUNDS).rows[0] == first


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM traces", "INSERT INTO gaps VALUES (1, 1, 'a', 'b', 1)", "UPDATE traces SET result = 'ok'",
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
    """Whatever writes, locks, sets, or opens another file ends with 2, and changes no byte."""
    monkeypatch.chdir(tmp_path)
    before = digests(path.parent)

    with pytest.raises(QueryError) as caught:
        ask(path, sql, BOUNDS)
    assert caught.value.exit_code == EXIT_USAGE
    after = digests(path.parent)
    assert {name: after[name] for name in before if not name.endswith("-shm")} == {
        name: digest for name, digest in before.items() if not name.endswith("-shm")
    }
    assert not (tmp_path / "other.db").exists()


def test_snapshot_is_not_changed_by_being_asked(path, tmp_path):
    """A copy has the same bytes afterwards, and nothing lies beside it."""
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / "copy.db"
    snapshot(path, copy)
    before = digests(copy.parent)

    assert ask(copy, "SELECT count(*) FROM recent", BOUNDS).rows == [(3,)]
    assert digests(copy.parent) == before


@pytest.mark.parametrize(
    ("sql", "message", "marked", "hint"),
    [
        ("SELECT capabilty FROM recent", "no such column: capabilty", "capabilty FROM", "did you mean capability?"),
        ("SELECT 'recnt' FROM recnt", "no such table: recnt", "recnt", "did you mean recent?"),
        ("SELECT cout(*) FROM recent", "no such function: cout", "cout(*)", "did you mean count"),
        ("SELECT r.sek FROM recent AS r", "no such column: r.sek", "r.sek", "did you mean seq?"),
        ("SELECT wholly_unknown FROM recent", "no such column", "wholly_unknown", "--list"),
        ("SELECT a FROM (SELECT 1 a), (SELECT 1 a)", "ambiguous column name", "a FROM", None),
        ("SELECT ',', count(*), FROM recent", 'near "FROM": syntax error', "FROM recent", None),
        ("SELECT 1 =\n = 2", 'near "=": syntax error', "= 2", None),
        ("SELEC 1", 'near "SELEC": syntax error', "SELEC 1", None),
        ("EXPLAIN SELECT 1 FRM recent, x", 'near "recent": syntax error', "recent, x", None),
        ("SELECT (1", "incomplete input", "", None),
        ("SELECT 'abc", "no word of SQL", "'abc", "single quotes"),
        ("SELECT json('{')", "malformed JSON", None, None),
        ("SELECT 1; SELECT 2", "more than one statement", None, "one at a time"),
        ("SELECT ?", "parameter", None, "value"),
        ("-- nothing", "no rows", None, "SELECT"),
        (" \n", "no query", None, "SELECT"),
        ("SELECT '\0'", "null", None, None),
        ("SELECT '\udcff'", "UTF-8", None, None),
        ("SELECT 1" + " " * 100_000, "longer", None, None),
    ],
)
def test_wrong_query_is_told_where_and_why(path, sql, message, marked, hint):
    """It ends with 2, in SQLite's words, with the place where it is known and a name that was meant."""
    with pytest.raises(QueryError) as caught:
        ask(path, sql, BOUNDS)

    assert message in caught.value.message
    if marked is None:
        assert caught.value.place is None
    else:
        rest = sql[caught.value.place :]
        assert rest.startswith(marked) if marked else rest == ""
    assert (hint or "") in (caught.value.hint or "")


def test_older_store_is_told_apart_from_a_mistake(path, writer):
    """Where a view is missing because no node ran since the upgrade, the hint says so."""
    writer.execute("DROP VIEW minutes")
    writer.execute("PRAGMA user_version = 3")

    with pytest.raises(QueryError, match="no such table: minutes") as caught:
        ask(path, "SELECT * FROM minutes", BOUNDS)
    assert "start the node once" in caught.value.hint


def test_time_is_bounded(path):
    """An endless query ends with 1 and says what to do; rows that are there already are shown, and the rest counted."""
    with pytest.raises(QueryTooSlowError, match=r"longer than 0\.05 s") as caught:
        ask(path, ENDLESS + "SELECT count(*) FROM n", Bounds(timeout_s=0.05))
    assert caught.value.exit_code == EXIT_ERROR
    assert "--timeout" in caught.value.hint

    found = ask(path, ENDLESS + "SELECT x FROM n", Bounds(timeout_s=0.5, max_rows=2))
    assert (found.rows, found.is_counted) == ([(1,), (2,)], False)
    assert found.more > 0


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS + "SELECT x, hex(x) FROM n",
        "SELECT zeroblob(2000000)",
        "SELECT hex(zeroblob(900000))",
    ],
)
def test_memory_is_bounded(path, sql):
    """Many rows, or one value, of more than the bound are refused with a hint; nobody waits for the rest of them."""
    with pytest.raises(QueryTooLargeError, match="larger than 1 MB") as caught:
        ask(path, sql, Bounds(timeout_s=60, max_bytes=1_000_000))
    assert "LIMIT" in caught.value.hint


def test_rows_beyond_the_limit_are_counted(path):
    """The first rows are kept; two columns may have one name."""
    found = ask(path, "SELECT seq AS a, seq AS a FROM traces ORDER BY seq", Bounds(timeout_s=60, max_rows=2))

    assert (found.columns, found.rows, found.more, found.is_counted) == (("a", "a"), [(1, 1), (2, 2)], 1, True)


def test_wal_is_not_held(path, writer):
    """After an answer, after one that was cut short, and after an error the writer can empty its WAL."""
    ask(path, "SELECT * FROM timeline", BOUNDS)
    for sql in (ENDLESS + "SELECT x FROM n, traces", "SELECT nope FROM traces"):
        with pytest.raises((QueryTooSlowError, QueryError)):
            ask(path, sql, Bounds(timeout_s=0.05))
    writer.execute(TRACE, (4,))

    busy, in_wal, _ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, in_wal) == (0, 0)


def test_committed_rows_are_seen_while_the_writer_is_busy(path, writer):
    """A transaction that is open does not keep anybody from asking; what it wrote is not there yet."""
    writer.execute("BEGIN IMMEDIATE")
    writer.execute(TRACE, (4,))
    assert ask(path, "SELECT count(*) FROM traces", BOUNDS).rows == [(3,)]
    writer.execute("COMMIT")
    assert ask(path, "SELECT count(*) FROM traces", BOUNDS).rows == [(4,)]


def test_store_that_cannot_be_read(tmp_path):
    """What is missing or no database is an error with a hint, and is not made."""
    missing, garbage = tmp_path / "missing.db", tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database" * 1_000)

    with pytest.raises(StoreError, match="does not exist") as caught:
        ask(missing, "SELECT 1", BOUNDS)
    assert caught.value.hint
    assert not missing.exists()
    with pytest.raises(UnusableStoreError, match="not a database"):
        ask(garbage, "SELECT 1", BOUNDS)
    with pytest.raises(UnusableStoreError):
        catalog(garbage, BOUNDS)


def test_folder_that_cannot_be_written(path, writer):
    """Where no -shm can be made, a database without a WAL is read as it is; one with a WAL is not misread."""
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()
    path.with_name("telemetry.db-shm").mkdir()  # stands in the way for root as well
    assert ask(path, "SELECT count(*) FROM traces", BOUNDS).rows == [(3,)]

    path.with_name("telemetry.db-wal").write_bytes(b"committed, and not in the database yet")
    with pytest.raises(StoreError, match="its -wal is not empty") as caught:
        query._open_immutable(path, sqlite3.OperationalError("unable to open database file"))
    assert "copy it and its -wal" in caught.value.hint


def test_store_of_an_earlier_version_gets_the_views(tmp_path):
    """Rows of a store whose schema ended with the third migration are there in the views after the next opening."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        for file in sorted((migrations_dir() / TELEMETRY.name).glob("000[123]_*.sql")):
            connection.executescript(file.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute("PRAGMA user_version = 3")
        connection.execute(TRACE, (1,))
        connection.commit()
    open_database(path, TELEMETRY).close()

    assert ask(path, "SELECT ts, count FROM minutes", BOUNDS).rows == [("1970-01-01T00:00:00.000Z", 1)]
    assert ask(path, "SELECT name, run_id FROM spans", BOUNDS).rows == [("load", "r")]


def test_catalog_explains_every_view(path):
    """Each view says what it is, each of its columns what it means, in the schema itself."""
    found = {relation.name: relation for relation in catalog(path, BOUNDS)}
    views = [relation for relation in found.values() if relation.kind == "view"]

    assert {relation.name for relation in found.values() if relation.kind == "table"} == {
        "traces", "logs", "runs", "gaps",
    }  # fmt: skip
    assert [relation.name for relation in views if not relation.comment] == []
    assert [(view.name, column.name) for view in views for column in view.columns if not column.comment] == []
    with closing(sqlite3.connect(path)) as connection:
        for view in views:
            named = [row[1] for row in connection.execute(f"PRAGMA table_info({view.name})")]
            assert [column.name for column in view.columns] == named
    ended = next(column for column in found["run_history"].columns if column.name == "ended")
    assert ended.comment.endswith("or was killed and no start has noticed yet")
    repeats = next(column for column in found["logs"].columns if column.name == "repeats")
    assert repeats.comment == "equal records that this one stands for, itself not included"
