"""The check of the store: damaged, foreign, newer, not written, late, dropping; and healthy."""

from __future__ import annotations

import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from support.strange import STRANGE, plant
from support.waiting import wait_until

from hearthnet.observability import doctor, telemetry, trace
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.telemetry import Telemetry

HOUR_US = 3_600_000_000
# From another process: to open and close the file in this one would drop the locks that SQLite has on it.
OVERWRITE = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(4096)
    file.write(b"\\xa5" * 4096 * 100)
"""


@pytest.fixture
def path(config):
    """The node's telemetry.db."""
    return config.observability.data_dir / telemetry.DATABASE


@pytest.fixture
def lived(config, path):
    """The settings of a stopped node with records."""
    with telemetry.open(config.observability):
        for _ in range(50):
            with trace.new_trace("a.b"), trace.span("c", text="x" * 500):
                pass
    return config


def store(config, bus=None):
    """The finding, however slow the machine."""
    return doctor.run_one("telemetry_store", config, bus, deadline_s=60)


def change(path, *statements):
    """Runs statements on the database, as another program might."""
    with closing(sqlite3.connect(path)) as connection:
        for statement, *values in statements:
            connection.execute(statement, values)
        connection.commit()


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE reserve (space)", "DROP TABLE reserve"]])
def test_store_that_was_never_filled_is_empty_not_foreign(config, path, statements):
    """As a full disk, or a kill, leaves it in its first start; the next one fills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    change(path, *[(sql,) for sql in statements])

    result = store(config)
    assert (result.status, result.detail) == ("fail", f"{path} cannot be read: it is empty")
    assert doctor.run_one("last_run", config, None).status == "skip"
    with telemetry.open(config.observability):
        pass
    assert store(config).ok


@pytest.mark.parametrize("kind", [*STRANGE, "link to nothing"])
def test_what_is_no_file_is_not_nothing(config, path, kind):
    """Nothing can be recorded there, until it is moved aside, as the next start does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plant(path, kind)

    result = doctor.run_one("telemetry_store", config, None)
    assert not result.ok
    assert f"{path} cannot be used: it is a " in result.detail
    assert result.fix == f"move it aside: mv {path} {path}.aside"


def test_folder_that_cannot_be_made_fails(config, path):
    """Else a program says that it keeps records in memory only, and the doctor that all is well."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent.parent / "file"
    aside.touch()
    nowhere = config.observability.model_copy(update={"data_dir": aside / "data"})

    result = store(config.model_copy(update={"observability": nowhere}))
    assert result.status == "fail"
    assert result.detail.startswith(f"{aside / 'data'} is missing and cannot be created: {aside} ")
    assert result.fix.startswith("sudo install -d -m 700 ")
    assert store(config).detail == "nothing recorded yet"


def damage(path):
    """Overwrites pages, except the first one."""
    subprocess.run([sys.executable, "-c", OVERWRITE, str(path)], check=True)


def test_healthy_store(node, path):
    """An intact store within its budget passes, from disk and in the node, with figures."""
    config, bus = node
    assert (store(config, bus).status, store(config).detail) == ("pass", "nothing recorded yet")
    with telemetry.open(config.observability) as opened:
        for _ in range(3):
            with trace.new_trace("a.b"):
                pass
        assert opened.flush()
        inside, outside = store(config, bus), store(config)

    for result in (inside, outside):
        assert (result.status, result.fix) == ("pass", None)
        assert result.detail.startswith("3 of 10,000 traces")
        assert "none dropped" in result.detail
        assert (result.evidence["integrity"], result.evidence["rings"]["traces"]["rows"]) == ("ok", 3)
        assert 0 < result.evidence["bytes"]["total"] < result.evidence["bytes"]["budget"] == 256_000_000
        assert result.evidence["lost"] == {"last_hour": {}, "since_start": {}, "in_all": {}}
    assert (inside.evidence["not_written"], inside.evidence["waiting"]["traces"]) == (None, 0)
    assert "waiting" not in outside.evidence


@pytest.mark.parametrize("is_running", [False, True])
def test_store_with_overwritten_pages(node, lived, path, is_running):
    """Damage is found from disk and in the node; dependent checks refer to this one."""
    config, bus = node
    if not is_running:
        damage(path)
        results = {result.name: result for result in doctor.run_all(config, deadline_s=60)}
    else:
        slow = config.observability.model_copy(update={"flush_interval_s": 60})
        with telemetry.open(slow):
            damage(path)
            results = {result.name: result for result in doctor.run_all(config, bus, deadline_s=60)}
    result = results["telemetry_store"]

    assert (result.status, result.ok) == ("fail", False)
    assert f"{path} is damaged: " in result.detail
    again = "hearthnet doctor --check telemetry_store"
    assert result.fix.startswith(again if is_running else "start the node (hearthnet run), or the program")
    for name in ("recent_error_rate", "last_run", "restart_loop"):
        assert (results[name].status, "telemetry_store" in results[name].detail) == ("skip", True)


def test_damaged_store_is_moved_aside_and_acknowledged(lived, path):
    """The start suggested by the fix repairs the store; then a warning remains until it is acknowledged."""
    damage(path)
    with telemetry.open(lived.observability):
        warned = store(lived)
    (aside,) = quarantined(path)
    assert (warned.status, warned.evidence["quarantined"]) == ("warn", str(aside))
    assert str(aside) in warned.detail

    damage(path)  # that is worse, and told first; the other is not forgotten
    both = store(lived)
    assert (both.status, both.fix.startswith("start the node")) == ("fail", True)
    assert both.detail.index("is damaged") < both.detail.index("was moved")
    path.unlink()

    acknowledge = warned.fix.partition("acknowledge: ")[2]
    subprocess.run(acknowledge, shell=True, check=True)
    assert store(lived).status == "pass"


def test_store_of_a_newer_program_and_of_another(lived, path):
    """A newer schema is a warning before a start moves it aside; a foreign database fails."""
    change(path, ("PRAGMA user_version = 99",))
    newer = store(lived)
    change(path, ("PRAGMA application_id = 7",))
    foreign = store(lived)

    assert (newer.status, newer.evidence["schema"]) == ("warn", 99)
    assert "has schema 99, this program knows " in newer.detail
    assert newer.fix == "install the newer hearthnet again"
    assert (foreign.status, "of another program" in foreign.detail) == ("fail", True)


def test_check_of_a_large_store_is_bounded(lived, monkeypatch):
    """If time runs out, the finding says that the check is incomplete, and passes."""
    monkeypatch.setattr("hearthnet.observability.store.query.info._WITHIN_S", -1.0)
    monkeypatch.setattr("hearthnet.database.STEPS_BETWEEN_CHECKS", 1)
    result = store(lived)

    assert (result.status, result.evidence["integrity"]) == ("pass", "checked in part: out of time")
    assert "checked in part" in result.detail


@contextmanager
def locked(path):
    """Another program holds an exclusive transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_store_that_another_program_locks(node, path, monkeypatch):
    """A lock is a warning at first, a failure when records are pending too long, and gone afterwards."""
    config, bus = node
    with telemetry.open(config.observability) as opened:
        with locked(path):
            with trace.new_trace("a.b") as made:
                made.fail("timeout")
            wait_until(lambda: opened.error == "locked")
            passing = store(config, bus)
            with monkeypatch.context() as patience:
                patience.setattr("hearthnet.checks.store._MAX_LAG_S", -100.0)
                lasting = store(config, bus)
        assert opened.flush(30)
        wait_until(lambda: opened.error is None)
        after = store(config, bus)

    assert (passing.status, lasting.status, after.status) == ("warn", "fail", "pass")
    for result in (passing, lasting):
        assert "not being written: another program keeps it locked; " in result.detail
        assert result.fix == f"fuser -v {shlex.quote(str(path))}"
        assert result.evidence["not_written"] == "locked"


def test_store_on_a_full_disk(node, tiny_disk):
    """A full disk fails, with its cause and a command to investigate."""
    config, bus = node
    places = {"data_dir": tiny_disk / "data", "log_dir": None, "max_disk_mb": 64}
    config = config.model_copy(update={"observability": config.observability.model_copy(update=places)})
    (tiny_disk / "data").mkdir(mode=0o700)
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "filler").write_bytes(bytes(50_000_000))
    with telemetry.open(config.observability):
        result = store(config, bus)

    assert (result.status, result.fix) == (
        "fail", f"sudo du -xh --max-depth=2 {tiny_disk} | sort -h | tail -n 20",
    )  # fmt: skip
    assert f"the disk at {tiny_disk} is full" in result.detail


def test_store_in_which_another_process_keeps_house(node):
    """Who recovers or purges holds up nobody's commits: the doctor has nothing to say about it."""
    config, bus = node
    holder = StoreLock(config.observability.data_dir)
    holder.acquire()
    try:
        with telemetry.open(config.observability) as opened:
            with trace.new_trace("a.b"):
                pass
            assert opened.flush()
            result = store(config, bus)
    finally:
        holder.release()

    assert (result.status, opened.error) == ("pass", None)


def test_store_that_was_removed_under_the_node(node, path):
    """A removed file is noticed by the doctor before the node writes again."""
    config, bus = node
    slow = config.observability.model_copy(update={"flush_interval_s": 60})
    with telemetry.open(slow):
        path.unlink()
        result = store(config.model_copy(update={"observability": slow}), bus)

    assert (result.status, "is gone while the node runs" in result.detail) == ("fail", True)


def test_writer_that_does_not_keep_up(node, monkeypatch):
    """Records pending for too long are a warning with their count and age."""
    config, bus = node
    with telemetry.open(config.observability):
        monkeypatch.setattr(Telemetry, "waiting", lambda opened: (40, 2, 99.4))
        result = store(config, bus)

    assert (result.status, result.evidence["waiting"]) == ("warn", {"traces": 40, "logs": 2, "oldest_s": 99.4})
    assert "store is behind: 42 records pending, the oldest for 99 s" in result.detail


def test_losses_are_named(lived, path):
    """Records dropped in the last hour are a warning with reasons; earlier ones are only mentioned."""
    now, insert = now_us(), "INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (?, ?, ?, ?, ?)"
    change(path, (insert, 9_001, now - 3 * HOUR_US, "trace", "killed", 7))
    old = store(lived)
    change(path, (insert, 9_002, now, "trace", "buffer_full", 2_000), (insert, 9_003, now, "log", "buffer_full", 500))
    change(path, (insert, 9_004, now, "log", "poison", 1))
    fresh = store(lived)

    assert (old.status, "7 dropped in all" in old.detail) == ("pass", True)
    assert old.evidence["lost"] == {"last_hour": {}, "since_start": {}, "in_all": {"killed": 7}}
    assert fresh.status == "warn"
    said = (
        "2,501 records dropped in the last hour: buffer_full (2,500), poison (1); buffer_full: the writer fell behind"
    )
    assert said in fresh.detail
    assert fresh.evidence["lost"]["since_start"] == {"buffer_full": 2_500, "poison": 1}
    assert fresh.evidence["lost"]["in_all"] == {"buffer_full": 2_500, "killed": 7, "poison": 1}


def test_more_than_the_budget_allows(lived, path):
    """Other files beside the store count against the budget."""
    (path.parent / "telemetry.999.box").touch()
    with (path.parent / "telemetry.999.box").open("r+b") as file:
        file.truncate(300_000_000)  # sparse
    result = store(lived)

    assert (result.status, "max_disk_mb allows 256.0 MB" in result.detail) == ("warn", True)


def test_large_wal_goes_by_itself_and_is_told(lived, path):
    """After a VACUUM, say: what the WAL takes above its share is no reason to do anything."""
    with (path.parent / "telemetry.db-wal").open("wb") as file:
        file.truncate(400_000_000)  # sparse, and without a header: empty for SQLite
    result = store(lived)

    assert result.status == "warn"
    assert "; 400.0 MB of it is the WAL, which a running node cuts once no reader needs it" in result.detail
    assert result.fix == "wait a minute while the node runs, then: hearthnet doctor --check telemetry_store"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_named_like_a_moved_database_is_named(lived, path, kind):
    """By what it is: a pipe is no database that was moved. The fix removes it."""
    aside = plant(path.with_name(f"{path.name}.corrupt-x"), kind)
    result = store(lived)

    assert (result.status, result.detail) == ("warn", f"{aside} waits for review: it is a {kind}, not a file")
    subprocess.run(result.fix.partition("acknowledge: ")[2], shell=True, check=True)
    assert store(lived).status == "pass"


def test_database_that_was_whole_before_a_rebuild_is_no_warning(lived, path):
    """It could be used: only one that could not be waits for review."""
    path.with_name(f"{path.name}.before-rebuild-20260101T000000Z").write_bytes(b"x")
    result = store(lived)

    assert result.status == "pass"
    assert "quarantined" not in result.evidence
