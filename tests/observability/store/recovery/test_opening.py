"""What opening a store leaves behind: runs of dead processes closed, no connection open where it failed."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.recovery import opening
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.store.recovery.recover import Recovery


@pytest.fixture
def database(tmp_path):
    """An empty telemetry.db."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY._replace(reserve_bytes=0))) as connection:
        yield connection


def ends(connection):
    """When each run ended, and how."""
    return {run: end for run, *end in connection.execute("SELECT run_id, ended_us, end_reason FROM runs")}


@pytest.mark.parametrize(
    ("records", "last"),
    [
        ([], 1_000),
        ([a_trace(1, "dead")], 1_001_000),
        ([a_trace(2, "dead"), a_log(3, "dead")], 3_000_000),
        ([a_trace(2, "dead", duration_ms=5_000.0), a_log(3, "dead")], 7_000_000),
    ],
)
def test_run_of_a_dead_process_without_a_box_is_closed(database, tmp_path, records, last):
    """As of the last that is known of it; not this run, nor one that has a box, nor one whose process may be alive."""
    for run_id, pid, boot in [
        ("dead", 2**22 + 1, layout.this_boot()),
        ("of another boot", os.getpid(), "another boot"),
        ("this one", 2**22 + 1, "another boot"),
        ("boxed", 2**22 + 1, "another boot"),
        ("alive", os.getpid(), layout.this_boot()),
    ]:
        database.execute(rows.INSERT_RUN, (run_id, None, "0", pid, boot, 1_000, "x.py", "library"))
    merge(database, records)
    header = new_header(layout.LIBRARY, "boxed", "1", None, Sizes(8_000, 8_000, 4))
    box = BlackBox(tmp_path / "telemetry.9.box2", header)
    opening.keep_house(database, tmp_path, "this one", None)
    box.close(remove=True)

    assert ends(database) == {
        "dead": [last, rows.UNCLEAN],
        "of another boot": [1_000, rows.UNCLEAN],
        "this one": [None, None],
        "boxed": [None, None],
        "alive": [None, None],
    }


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), KeyboardInterrupt()])
def test_opening_that_fails_leaves_no_connection(database, tmp_path, monkeypatch, error):
    """It would hold locks that another try, or another process, waits for."""
    opened = []

    def remember(*arguments):
        opened.append(open_database(*arguments))
        return opened[-1]

    def fail(*_):
        raise error

    monkeypatch.setattr(opening, "open_database", remember)
    monkeypatch.setattr(opening, "_check", fail)
    with pytest.raises(StoreError if isinstance(error, sqlite3.Error) else KeyboardInterrupt):
        opening._open_whole(tmp_path / "telemetry.db", TELEMETRY, is_checked=True)

    (connection,) = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk is full"), sqlite3.IntegrityError("no thanks")])
def test_box_that_cannot_be_recovered_now_is_told(database, tmp_path, monkeypatch, logged, error):
    """The store is opened all the same: the next start tries again."""

    def fail(*_):
        raise error

    monkeypatch.setattr(opening, "recover_boxes", fail)

    assert opening.keep_house(database, tmp_path, "run", None) == Recovery()
    assert [(told.getMessage(), told.error) for told in logged] == [("a black box cannot be recovered", error)]


def test_counts_that_are_wrong_are_corrected(database, tmp_path):
    """Rows that were deleted by other means than ours: the rings are as full as they are."""
    merge(database, [a_trace(1, "run"), a_trace(2, "run", notable=1), a_log(3, "run")])
    right = dict(database.execute("SELECT name, value FROM state WHERE name GLOB 'traces.?' OR name GLOB 'logs.?'"))
    database.execute("UPDATE state SET value = value + 90 WHERE name GLOB 'traces.?' OR name GLOB 'logs.?'")
    opening.keep_house(database, tmp_path, "run", None)

    assert right == {"traces.0": 1, "traces.1": 1, "logs.0": 1, "logs.1": 0}
    assert dict(database.execute("SELECT name, value FROM state WHERE name IN (?, ?, ?, ?)", tuple(right))) == right


@pytest.fixture
def own(tmp_path):
    """The box of this process with the records 1 to 5, of which it has committed 1 to 4."""
    box = BlackBox(
        tmp_path / "telemetry.9.box2", new_header(layout.LIBRARY, "run", "1", None, Sizes(64_000, 64_000, 4))
    )
    for number in (1, 2, 4, 5):
        box.append_trace(tuple(a_trace(number, "run")))
    box.append_log(tuple(a_log(3, "run")))
    box.note_committed(3, 1, 4)
    yield opening.Own(box, {5}, 5, (0, 0))
    box.close(remove=True)


def numbers(path):
    """The numbers of all rows."""
    sql = "SELECT number FROM traces UNION ALL SELECT number FROM logs ORDER BY number"
    with closing(sqlite3.connect(path)) as connection:
        return [number for (number,) in connection.execute(sql)]


def gaps(path):
    """What is recorded as missing."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT kind, reason, count FROM gaps").fetchall()


def join(path, own):
    """Opens a store while another process keeps house."""
    opening.join_store(path, own, 0)


def keep(path, own):
    """Opens a store and keeps house."""
    opening.open_store(path, Budget(256), "run", own, reserve=0)


@pytest.mark.parametrize("opens", [join, keep])
def test_what_this_run_had_committed_is_in_a_new_database_again(tmp_path, own, opens):
    """Whoever keeps house: the old one is gone. What waits is left to the writer, and nothing is missing."""
    opens(tmp_path / "telemetry.db", own)

    assert numbers(tmp_path / "telemetry.db") == [1, 2, 3, 4]
    assert gaps(tmp_path / "telemetry.db") == []


@pytest.mark.parametrize("opens", [join, keep])
def test_what_a_thread_is_about_to_hand_over_is_not_restored(tmp_path, own, opens):
    """Above the highest number that is known it is the writer's; the record of just that number is not."""
    opens(tmp_path / "telemetry.db", own._replace(pending=(), highest=4))

    assert numbers(tmp_path / "telemetry.db") == [1, 2, 3, 4]


@pytest.mark.parametrize("opens", [join, keep])
def test_store_is_opened_by_a_process_that_has_recorded_nothing(tmp_path, opens):
    """Nothing is restored, and nothing is missing."""
    opens(tmp_path / "telemetry.db", None)

    assert (numbers(tmp_path / "telemetry.db"), gaps(tmp_path / "telemetry.db")) == ([], [])


@pytest.mark.parametrize("opens", [join, keep])
def test_database_that_fails_once_it_is_open_is_an_error_of_ours(tmp_path, own, monkeypatch, opens):
    """Which names the file, whoever keeps house. The error that tells of it keeps no connection open."""
    used = []

    def fail(connection, *_):
        used.append(connection)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(opening, "restore_committed", fail)
    with pytest.raises(StoreError, match=r"telemetry\.db.*disk I/O error"):
        opens(tmp_path / "telemetry.db", own)

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        used[0].execute("SELECT 1")


@pytest.mark.parametrize(
    ("held", "missing"), [((0, 0), []), ((6, 1), [("trace", "wal_lost", 3)]), ((3, 4), [("log", "wal_lost", 3)])]
)
def test_rows_that_are_in_no_file_are_a_gap(tmp_path, own, held, missing):
    """Of the database that was lost it is known how many it had."""
    keep(tmp_path / "telemetry.db", own._replace(held=held))

    assert gaps(tmp_path / "telemetry.db") == missing


def test_database_that_is_salvaged_whole_has_no_gap(database, tmp_path):
    """It lacks a view, so it is replaced; all its rows are there."""
    merge(database, [a_trace(1, "old"), a_trace(2, "old"), a_log(3, "old")])
    database.execute("DROP VIEW recent")
    database.close()
    keep(tmp_path / "telemetry.db", None)

    assert (numbers(tmp_path / "telemetry.db"), gaps(tmp_path / "telemetry.db")) == ([1, 2, 3], [])


@pytest.fixture
def lacking(database, tmp_path):
    """The path of a database with two log records, and an index that has one of them."""
    merge(database, [a_log(1)])
    database.executescript(
        "CREATE INDEX mine ON logs (level); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = sql || ' WHERE 0' WHERE name = 'mine'; PRAGMA writable_schema = RESET"
    )
    merge(database, [a_log(2)])
    database.executescript(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ' WHERE 0', '') WHERE name = 'mine';"
        "PRAGMA writable_schema = RESET"
    )
    database.close()
    return tmp_path / "telemetry.db"


def test_index_that_lacks_a_row_is_damage(lacking):
    """Whatever SQLite says of it, and though each page is whole; a node that opens the store moves it aside."""
    opening.open_store(lacking, Budget(256), "run", reserve=0)

    assert len(quarantined(lacking)) == 1
    with closing(sqlite3.connect(lacking)) as connection:
        assert connection.execute("SELECT number FROM logs").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize(("is_own", "is_checked"), [(True, True), (False, False)])
def test_store_that_others_write_is_checked_by_those_that_found_damage(lacking, own, is_own, is_checked):
    """They open it again. A short program beside a node reads not all of it: the box is one that is being written."""
    opening.open_store(lacking, Budget(256), "run", own if is_own else None, reserve=0)

    assert len(quarantined(lacking)) == int(is_checked)


@pytest.mark.parametrize(("unclean", "level"), [(1, "WARNING"), (0, "INFO")])
def test_recovery_is_told(logged, unclean, level):
    """A warning only where a run did not stop cleanly; nothing where there was none."""
    opening.log_recovery(Recovery())
    assert logged == []
    opening.log_recovery(Recovery(2, 3, 4, 5, Counter(poison=6, overwritten=1), unclean))

    (told,) = logged
    assert told.levelname == level
    assert (told.runs, told.traces, told.logs, told.interrupted, told.lost) == (2, 3, 4, 5, 7)
