"""The check of the store names what others have added to it, and its fixes work: they are run."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing

import pytest
from support.longer import few
from support.reading import rows
from support.waiting import wait_until

from hearthnet.observability import doctor, telemetry, trace
from hearthnet.observability.store.query.info import info

REFUSE = "CREATE TRIGGER {} BEFORE INSERT ON traces {} BEGIN SELECT RAISE(ABORT, 'no thanks'); END"
COPY = "CREATE TRIGGER audit AFTER INSERT ON traces BEGIN INSERT INTO copied VALUES (new.spans); END"


@pytest.fixture
def small(config):
    """A node's settings with the smallest budget."""
    return config.model_copy(update={"observability": config.observability.model_copy(update={"max_disk_mb": 64})})


@pytest.fixture
def path(small):
    """The database of a stopped node with thirty traces."""
    with telemetry.open(small.observability, node_id="ed25519:me"):
        record(30)
    return small.observability.data_dir / telemetry.DATABASE


def record(count, capability="a.b"):
    """Records `count` traces."""
    for _ in range(count):
        with trace.new_trace(capability):
            pass


def store(config, bus=None):
    """The finding, however slow the machine."""
    return doctor.run_one("telemetry_store", config, bus, deadline_s=60)


def change(path, script):
    """Runs statements on the database, as another program might."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def run(fix):
    """Runs the command of a finding, as a person would."""
    subprocess.run(fix, shell=True, check=True, capture_output=True)


def records(config, path, within_s=60) -> bool:
    """Whether a node stores what it records."""
    before = rows(path, "SELECT count(*) FROM traces")[0][0]
    with telemetry.open(config.observability, node_id="ed25519:me") as t:
        record(5)
        is_stored = t.flush(within_s)
    return is_stored and rows(path, "SELECT count(*) FROM traces")[0][0] >= before + 5


def test_additions_that_do_no_harm_pass(small, path):
    """They are in the evidence and in `telemetry info`, and no reason for a warning."""
    change(path, "CREATE TABLE notes (x); CREATE INDEX by_time ON traces (started_us)")
    result = store(small)

    assert result.status == "pass"
    assert [item["name"] for item in result.evidence["not_ours"]["parts"]] == ["notes", "by_time"]
    told = info(path, small.observability)["not_ours"]
    assert [(item["kind"], item["name"], item["refuses"]) for item in told] == [
        ("table", "notes", None),
        ("index", "by_time", None),
    ]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (REFUSE.format('"it\'s mine"', ""), "the trigger it's mine on traces: no thanks"),
        ("CREATE UNIQUE INDEX one ON logs (level)", "the index one on logs: UNIQUE constraint failed: logs.level"),
        (f"{REFUSE.format('a', '')}; {REFUSE.format('b', '')}", "no thanks; the trigger b on traces: no thanks"),
    ],
    ids=["a trigger", "a unique index", "two triggers"],
)
def test_refusal_is_named_and_its_fix_works(small, path, script, told):
    """A trigger or index that refuses every record is named, with SQLite's words and the command that drops it."""
    change(path, script)
    result = store(small)
    assert (result.status, told in result.detail) == ("fail", True), result.detail
    run(result.fix)

    assert store(small).status == "pass"
    assert records(small, path)


def test_fix_waits_for_a_node_that_writes(small, path):
    """The command succeeds also where another program has the write lock as it starts."""
    change(path, REFUSE.format("mine", ""))
    result = store(small)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with subprocess.Popen(result.fix, shell=True) as fixing:
            with pytest.raises(subprocess.TimeoutExpired):
                fixing.wait(0.5)
            other.execute("ROLLBACK")
    assert fixing.returncode == 0
    assert store(small).status == "pass"


def test_trigger_that_refuses_some_records_is_named_by_the_running_node(node, path, small):
    """A condition on rows shows only where records are refused: the node tells SQLite's words, and a suspect."""
    _, bus = node
    change(path, REFUSE.format("mine", "WHEN new.capability = 'not.this'"))
    with telemetry.open(small.observability, node_id="ed25519:me") as opened:
        record(1, "not.this")
        wait_until(lambda: opened.error_text == "no thanks" and opened.error == "other")
        result = store(small, bus)
        assert result.status == "fail"
        assert "SQLite refuses it: no thanks" in result.detail
        assert "the trigger mine on traces may refuse records" in result.detail
        run(f"sqlite3 -cmd '.timeout 60000' {path} 'DROP TRIGGER mine'")
        assert opened.flush(60)
    assert rows(path, "SELECT count(*) FROM traces") == [(31,)]


TAKING = {
    "a large table": "CREATE TABLE big (x);" + "INSERT INTO big VALUES (zeroblob(10000000));" * 5,
    "two and a view": "CREATE TABLE a (x); CREATE VIEW va AS SELECT * FROM a; CREATE TABLE b (x);"
    + "INSERT INTO a VALUES (zeroblob(10000000)); INSERT INTO b VALUES (zeroblob(10000000));" * 2,
    "one that a trigger fills": f"CREATE TABLE copied (x); {COPY}; CREATE INDEX by_x ON copied (x);"
    + "INSERT INTO copied VALUES (zeroblob(10000000));" * 3,
}


@pytest.mark.parametrize("kind", few(TAKING, "two and a view"))
def test_tables_that_take_the_space_are_named_and_the_fix_keeps_them(small, path, kind):
    """Their names and size are told; the command copies them, takes them out, and the node stores again."""
    change(path, TAKING[kind])
    names = [name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE name IN ('big', 'a', 'b', 'copied')")]
    size = path.stat().st_size
    result = store(small)
    assert result.status == "fail"
    assert ", ".join(names) in result.detail
    assert result.evidence["not_ours"]["bytes"] > 30_000_000
    assert not records(small, path, 0.5)
    run(result.fix)

    assert store(small).status == "pass"
    assert path.stat().st_size < size / 2
    kept = path.with_name("other-tables.db")
    assert [rows(kept, f"SELECT count(*) > 0 FROM {name}") for name in names] == [[(1,)]] * len(names)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert records(small, path)
    assert rows(path, "SELECT count(*) FROM traces") == [(40,)]


def test_change_of_our_tables_is_named_before_the_start_that_mends_it(config, small, path):
    """A renamed column fails with SQLite's words; the start that the fix advises moves the store aside."""
    change(path, "ALTER TABLE traces RENAME COLUMN error TO failure")
    result = store(small)
    assert (result.status, "does not fit this program: no such column: error" in result.detail) == ("fail", True)
    assert records(config, path)

    assert store(config).status == "warn"


def test_file_above_a_lowered_budget_is_told(small, path):
    """A file larger than its share is a warning that names the setting that would do."""
    change(path, "CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(40000000)); DROP TABLE filler")
    result = store(small)
    assert (result.status, "its share of max_disk_mb is 32.0 MB" in result.detail) == ("warn", True)
    enough = int(result.fix.partition("max_disk_mb = ")[2].partition(",")[0])
    settings = small.observability.model_copy(update={"max_disk_mb": enough})

    assert store(small.model_copy(update={"observability": settings})).status == "pass"


def test_older_schema_is_not_taken_for_changed(small, path):
    """A database of an older version, which the next start migrates, is no misfit."""
    change(path, "PRAGMA user_version = 6; ALTER TABLE traces RENAME COLUMN error TO failure")
    assert "does not fit" not in store(small).detail
