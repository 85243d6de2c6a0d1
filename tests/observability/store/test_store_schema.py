"""A database that opens well and cannot be written: columns, views, triggers, indexes and tables that are not ours."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import partial

import pytest
from support.longer import few
from support.reading import log_lines, metric, rows
from support.waiting import wait_until

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE

NODE = "ed25519:me"
SMALL_MB = 36  # half of it is for the database, which a node begins with 16 MB
VIEWS = ("recent", "spans", "errors", "capability_stats", "slow", "timeline", "minutes", "run_history")
# Without the views, which name the column; others of the same names take their place.
DROP_ERROR = (
    "".join(f"DROP VIEW {name};" for name in VIEWS)
    + "ALTER TABLE traces DROP COLUMN error;"
    + "".join(f"CREATE VIEW {name} AS SELECT 1 AS ts;" for name in VIEWS)
)
NOTES = "SELECT name FROM sqlite_schema WHERE name LIKE 'notes%'"
REFUSE = "CREATE TRIGGER mine BEFORE INSERT ON {} BEGIN SELECT RAISE({}, 'no thanks'); END"


def rebuild(connection, old: str, new: str, extra: str = "") -> None:
    """Makes `traces` anew with another definition and the same rows, as SQLite's documentation advises."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'traces'").fetchone()
    assert old in sql
    connection.executescript(
        "PRAGMA legacy_alter_table = ON; ALTER TABLE traces RENAME TO held;"
        f"{sql.replace(old, new)}; INSERT INTO traces SELECT *{extra} FROM held; DROP TABLE held"
    )


def record(count, capability="a.b"):
    """Records `count` traces."""
    for _ in range(count):
        with trace.new_trace(capability):
            pass


def record_large(count):
    """Records traces whose rows are nearly of the largest size."""
    for _ in range(count):
        with trace.new_trace("large.one"):
            for _ in range(4):
                with trace.span("part", text="x" * 1_100):
                    pass


@pytest.fixture
def path(observability):
    """The database."""
    return observability.data_dir / DATABASE


@pytest.fixture
def query(path):
    """Runs a query as another process would."""
    return partial(rows, path)


@pytest.fixture
def lived(observability):
    """The settings of a stopped node with three traces, one of which failed, and a log record."""
    with telemetry.open(observability, node_id=NODE):
        record(2)
        trace.new_trace("a.b").fail("timeout", "it took too long")
        trace.detach()
        get_logger("hearthnet.x").warning("careful")
    return observability


def change(path, how) -> None:
    """Changes the database, as another program might: by a script, or by a function of its connection."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(how) if isinstance(how, str) else how(connection)


MISFITS = {
    "a renamed column": "ALTER TABLE traces RENAME COLUMN error TO failure",
    "a dropped column": DROP_ERROR,
    "a column more that may not be NULL": partial(
        rebuild, old=") STRICT", new=", note TEXT NOT NULL) STRICT", extra=", 'x'"
    ),
    "a check that records fail": partial(rebuild, old=") STRICT", new=", CHECK (result <> 'ok' OR seq < 100)) STRICT"),
    "a check that the first ones pass": partial(rebuild, old=") STRICT", new=", CHECK (seq < 5)) STRICT"),
    "a constraint": partial(rebuild, old=") STRICT", new=", UNIQUE (run_id, started_us)) STRICT"),
    "a renamed column of runs": "ALTER TABLE runs RENAME COLUMN vitals TO health",
    "a renamed column of state": "ALTER TABLE state RENAME COLUMN value TO number",
    "a view with other columns": "DROP VIEW slow; CREATE VIEW slow AS SELECT capability FROM traces",
    "a table in place of a view": "DROP VIEW minutes; CREATE TABLE minutes (ts)",
}


@pytest.mark.parametrize(
    "kind", few(MISFITS, "a dropped column", "a check that records fail", "a constraint", "a view with other columns")
)
def test_database_that_does_not_fit_is_moved_aside(lived, path, query, kind):
    """If our tables or views are not those that are written and read, the store begins anew with all of its rows."""
    change(path, MISFITS[kind])
    for capability in ("next.run", "run.after"):
        with telemetry.open(lived, node_id=NODE) as t:
            assert t.error is None
            record(5, capability)
            assert t.flush()

    assert len(quarantined(path)) == 1
    assert query("SELECT count(*), count(DISTINCT run_id || '/' || number) FROM traces") == [(13, 13)]
    assert query("SELECT count(*) FROM logs WHERE msg = 'careful'") == [(1,)]
    assert query("SELECT count(*) FROM runs WHERE end_reason = 'clean'") == [(3,)]
    (told,) = [line for line in log_lines(lived.log_dir) if line["msg"] == "telemetry.db was moved aside"]
    assert "does not fit this program: " in told["reason"]


HARMLESS = {
    "a column more": "ALTER TABLE traces ADD COLUMN note TEXT",
    "one that has a default": "ALTER TABLE logs ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    "an index": "CREATE INDEX by_time ON traces (started_us); ANALYZE",
    "a unique index of what is unique": "CREATE UNIQUE INDEX by_number ON traces (run_id, number)",
    "a table and a view": "CREATE TABLE notes (text); CREATE VIEW noted AS SELECT * FROM notes",
    "a trigger that refuses nothing": (
        "CREATE TABLE seen (seq); CREATE TRIGGER mine AFTER INSERT ON traces BEGIN INSERT INTO seen VALUES (1); END"
    ),
    "another type": partial(rebuild, old="duration_ms     REAL ", new="duration_ms ANY "),
    "no strict types": partial(rebuild, old=") STRICT", new=")"),
}


@pytest.mark.parametrize(
    "kind", few(HARMLESS, "a column more", "an index", "a trigger that refuses nothing", "another type")
)
def test_additions_that_do_no_harm_are_left(lived, path, query, kind):
    """What others have added stays where it is, as long as every record can be stored."""
    change(path, HARMLESS[kind])
    before = query("SELECT count(*) FROM sqlite_schema")
    with telemetry.open(lived, node_id=NODE) as t:
        record(5)
        assert t.flush()

    assert quarantined(path) == []
    assert query("SELECT count(*) FROM sqlite_schema") == before
    assert query("SELECT count(*) FROM traces") == [(8,)]


def test_column_that_is_renamed_under_a_node_costs_nothing(lived, path, query):
    """The node moves the database aside in the same run, and goes on with all rows."""
    with telemetry.open(lived, node_id=NODE) as t:
        record(5)
        assert t.flush()
        change(path, "ALTER TABLE traces RENAME COLUMN result TO outcome")
        record(5)
        assert t.flush(60), t.error
        assert len(quarantined(path)) == 1
        assert query("SELECT count(*), sum(result = 'timeout') FROM traces") == [(13, 1)]
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_rows_without_a_column_keep_the_rest(lived, path, query):
    """Of a dropped column the value is gone, of a renamed one nothing; which were missing is logged."""
    change(path, DROP_ERROR + "ALTER TABLE logs RENAME COLUMN msg TO message;")
    with telemetry.open(lived, node_id=NODE):
        pass

    failed = query("SELECT result, error, capability, notable FROM traces WHERE result <> 'ok'")
    assert failed == [("timeout", None, "a.b", 1)]
    assert query("SELECT msg FROM logs WHERE level = 'warning'")[:1] == [("careful",)]
    (salvaged,) = [line for line in log_lines(lived.log_dir) if line["msg"] == "telemetry was salvaged"]
    assert (salvaged["traces"], salvaged["without_columns"]) == (3, ["traces.error", "logs.msg"])


REFUSALS = {
    "a trigger": (REFUSE.format("traces", "ABORT"), "no thanks"),
    "a trigger that rolls back": (REFUSE.format("traces", "ROLLBACK"), "no thanks"),
    "a trigger of a table that is gone": (
        "CREATE TRIGGER mine AFTER INSERT ON traces BEGIN INSERT INTO seen VALUES (1); END",
        "no such table: main.seen",
    ),
    "a unique index": (
        "DELETE FROM traces; CREATE UNIQUE INDEX mine ON traces (capability)",
        "UNIQUE constraint failed: traces.capability",
    ),
    "an index of an expression": (
        "DELETE FROM traces; CREATE INDEX mine ON traces (json_extract(capability, '$'))",
        "malformed JSON",
    ),
    "a trigger on state": (REFUSE.format("state", "ABORT").replace("INSERT", "UPDATE"), "no thanks"),
}


@pytest.mark.parametrize("kind", few(REFUSALS, "a trigger that rolls back", "a unique index", "a trigger on state"))
def test_records_that_are_refused_are_kept(lived, path, query, kind):
    """No record is dropped for a trigger or index that is not ours; SQLite's words are told; neither is removed."""
    script, words = REFUSALS[kind]
    change(path, script)
    left = query("SELECT count(*) FROM traces")[0][0]
    for _ in range(2):
        with telemetry.open(lived, node_id=NODE) as t:
            record(5)
            wait_until(lambda t=t: t.error == "other" and t.error_text == words, lambda t=t: (t.error, t.error_text))
    assert quarantined(path) == []
    assert query("SELECT count(*) FROM sqlite_schema WHERE name = 'mine'") == [(1,)]
    change(path, "DROP TRIGGER mine" if "TRIGGER" in script else "DROP INDEX mine")
    with telemetry.open(lived, node_id=NODE) as t:
        assert t.error is None

    assert query("SELECT count(*) FROM traces") == [(left + 10,)]
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_record_at_fault_is_still_dropped_beside_a_table_of_others(lived, path, query):
    """A value that no row can hold costs itself, whatever others have added."""
    change(path, HARMLESS["a trigger that refuses nothing"])
    with telemetry.open(lived) as t:
        t._recorder.record_trace(("X", None, "a.b", None, "no number", 0, 1.0, "ok", None, 0, b"[]", b"{}"))
        record(3)
        assert t.flush()

    assert query("SELECT count(*) FROM traces") == [(6,)]
    assert query("SELECT reason, count FROM gaps") == [("poison", 1)]


# --- tables that take the space


def test_large_table_of_others_costs_no_row(observability, path, query, keep_within):
    """If a table that is not ours fills the file, nothing is evicted for it; commits fail, with their own reason."""
    keep_within(SMALL_MB)
    with telemetry.open(observability, node_id=NODE):
        record(300)
    change(path, "CREATE TABLE big (x);" + "INSERT INTO big VALUES (zeroblob(9000000));" * 2)
    with telemetry.open(observability, node_id=NODE) as t:
        record(50)
        wait_until(lambda: t.error == "ceiling", lambda: t.error)
        assert metric('hearthnet_telemetry_flush_failures_total{reason="ceiling"}') > 0
        assert query("SELECT count(*) FROM traces") == [(300,)]
        change(path, "DROP TABLE big")
        assert t.flush(60), t.error

    assert query("SELECT count(*) FROM traces") == [(350,)]
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_trigger_that_copies_leaves_half_of_the_file_to_the_ring(observability, path, query, keep_within):
    """A table that grows with each record never takes more than half: the ring keeps the rest."""
    keep_within(SMALL_MB)
    with telemetry.open(observability, node_id=NODE):
        record(3)
    copy = "CREATE TRIGGER audit AFTER INSERT ON traces BEGIN INSERT INTO copied VALUES (new.spans || new.spans); END"
    change(path, f"CREATE TABLE copied (x); {copy}")
    with telemetry.open(observability, node_id=NODE) as t:
        for _ in range(100):
            record_large(50)
            if not t.flush(0.5) and t.error == "ceiling":
                break
        assert t.error == "ceiling"

    assert path.stat().st_size <= Budget(SMALL_MB).database
    assert query("SELECT count(*) FROM traces")[0][0] > 500


def test_small_table_of_others_does_not_stop_the_ring(observability, path, query, keep_within):
    """At its ceiling the ring goes on replacing its oldest rows, beside notes of others."""
    keep_within(SMALL_MB)
    with telemetry.open(observability, node_id=NODE):
        record(3)
    change(path, "CREATE TABLE notes (x); INSERT INTO notes VALUES ('mine')")
    with telemetry.open(observability, node_id=NODE) as t:
        for _ in range(48):
            record_large(100)
            assert t.flush(), t.error

    assert path.stat().st_size <= Budget(SMALL_MB).database
    assert query("SELECT x FROM notes") == [("mine",)]
    assert query("SELECT count(*) FROM traces")[0][0] > 1_000


def test_budget_that_is_lowered_keeps_the_file_and_stores_on(observability, path, query, keep_within):
    """A file above its new share does not grow: new rows replace the oldest in it."""
    with telemetry.open(observability, node_id=NODE) as t:
        for _ in range(44):
            record_large(100)
            assert t.flush()
    size = path.stat().st_size
    assert size > Budget(SMALL_MB).database
    keep_within(SMALL_MB)
    with telemetry.open(observability, node_id=NODE) as t:
        record(100, "the.newest")
        assert t.flush(), t.error

    assert path.stat().st_size == size
    assert query("SELECT count(*) FROM traces WHERE capability = 'the.newest'") == [(100,)]


# --- what was moved aside


def test_quarantine_with_tables_of_others_is_kept(observability, lived, path):
    """A database that holds tables that are not ours is never deleted: not for the next one, not for its size."""
    small = observability.model_copy(update={"max_disk_mb": 64})
    for number in range(2):
        change(path, f"CREATE TABLE notes{number} (x); INSERT INTO notes{number} VALUES (randomblob(25000000))")
        change(path, "ALTER TABLE traces RENAME COLUMN error TO failure")
        with telemetry.open(small, node_id=NODE):
            pass
    path.write_bytes(b"no database" * 1_000)
    with telemetry.open(small, node_id=NODE) as t:
        record(1)
        assert t.flush()
        get_logger("hearthnet.x").warning("the JSON log has its share all the same")

    held = [name for file in quarantined(path)[:2] for (name,) in rows(file, NOTES)]
    assert sorted(held) == ["notes0", "notes1"]
    assert len(quarantined(path)) == 3
    assert any("its share" in line["msg"] for line in log_lines(observability.log_dir))


def test_gaps_are_salvaged(lived, path, query):
    """What was counted as lost before is still counted after the database was moved aside."""
    change(path, "INSERT INTO gaps VALUES (1000, 1, 'trace', 'buffer_full', 7, NULL); DROP VIEW recent")
    with telemetry.open(lived, node_id=NODE):
        pass

    assert query("SELECT kind, reason, count FROM gaps") == [("trace", "buffer_full", 7)]


def test_rows_that_damage_cost_are_counted(observability, path, query):
    """The difference between what the database counted and what is there afterwards is a gap."""
    with telemetry.open(observability, node_id=NODE):
        record(2_000)
    with closing(sqlite3.connect(path)) as connection:
        leaves = "SELECT pageno FROM dbstat WHERE name = 'traces' AND pagetype = 'leaf'"
        page = connection.execute(leaves).fetchall()[9][0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(os.urandom(4_096))
    with telemetry.open(observability, node_id=NODE):
        pass

    ((stored,),) = query("SELECT count(*) FROM traces")
    assert 1_900 < stored < 2_000
    assert query("SELECT kind, reason, count FROM gaps") == [("trace", "wal_lost", 2_000 - stored)]
