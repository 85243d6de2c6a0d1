"""Each record of a box becomes one row: however often recovery is killed, whatever other runs have the same numbers."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from support.reading import metric
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.files import hint_for
from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Kernel, Vitals
from hearthnet.observability import metrics
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.store import merge as merging
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.recovery import recover as recovery
from hearthnet.observability.store.recovery.recover import (
    Recovery,
    missing,
    recover_box,
    recover_boxes,
    restore_committed,
)

RUN, OTHER = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "01HXR4Z6W5S9E2JQ4Y0T7B3M2D"
LARGE = Sizes(100_000, 50_000)
EMPTY_SCHEMA = TELEMETRY._replace(reserve_bytes=0)


class KilledError(BaseException):
    """The process is killed before a statement."""


class Mortal(sqlite3.Connection):
    """A connection on which the process dies before the statement of that number, and does nothing any more."""

    left = 10**9

    def _step(self):
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def execute(self, *arguments):
        """Executes, or dies."""
        self._step()
        return super().execute(*arguments)

    def executemany(self, *arguments):
        """Executes, or dies."""
        self._step()
        return super().executemany(*arguments)


@pytest.fixture
def path(tmp_path):
    """An empty store."""
    path = tmp_path / "telemetry.db"
    open_database(path, EMPTY_SCHEMA).close()
    return path


def box_of(directory, records, run_id=RUN, *, in_flight=0, committed=0, ended_us=0, sizes=LARGE):
    """Returns the path of the box that a process leaves which recorded `records` in that order and is gone."""
    path = directory / f"telemetry.{run_id[-2:]}.box2"
    header = replace(new_header(layout.LIBRARY, run_id, "1", None, sizes), pid=2**22 + 1)
    box = BlackBox(path, header)
    slots = [box.begin(new_trace_id(), "in.flight", 1_000, 1_000 + number) for number in range(in_flight)]
    assert len(box.in_flight()) == len(slots)
    for record in records:
        (box.append_trace if hasattr(record, "spans") else box.append_log)(tuple(record))
    done = [record for record in records if record.number <= committed]
    traces = sum(hasattr(record, "spans") for record in done)
    box.note_committed(traces, len(done) - traces, committed)
    if ended_us:
        box.note_ended(ended_us, is_committed=False)
    content = path.read_bytes()
    box.close(remove=True)
    path.write_bytes(content)  # as a killed process leaves it: what was in flight is marked
    return path


def mixed(count, run_id=RUN):
    """Returns records of both kinds with the numbers 1 to `count`."""
    return [(a_log if number % 3 == 0 else a_trace)(number, run_id) for number in range(1, count + 1)]


def numbers(path, run_id=RUN):
    """Returns the numbers of a run's rows of both tables, in the order of their seq."""
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT seq, number FROM {} WHERE run_id = ?"
        found = connection.execute(
            f"{sql.format('traces')} UNION ALL {sql.format('logs')} ORDER BY 1", (run_id, run_id)
        )
        return [number for _, number in found]


def query(path, sql):
    """Returns the rows of a query."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def recover_until_killed(path, box, statements):
    """Recovers a box and is killed before that statement; returns whether it came so far."""
    connection = sqlite3.connect(path, isolation_level=None, factory=Mortal)
    connection.execute("PRAGMA synchronous = OFF")  # it is this process that ends, not the machine
    connection.left = statements
    try:
        recover_box(connection, layout.read_box(box))
    except KilledError:
        return True
    finally:
        connection.close()
    return False


@pytest.mark.parametrize("committed", [0, 5])
def test_recovery_killed_before_any_statement(tmp_path, monkeypatch, committed):
    """Killed before any of its statements, and started again, recovery has lost nothing and doubled nothing."""
    monkeypatch.setattr(merging, "_CHUNK_ROWS", 5)
    records = mixed(14)
    box = box_of(tmp_path, records, in_flight=1, committed=committed)
    with closing(open_database(tmp_path / "before.db", EMPTY_SCHEMA)) as connection:
        merge(connection, records[:committed], run_id=RUN)
    statement, was_killed = 0, True
    while was_killed:
        path = Path(shutil.copy(tmp_path / "before.db", tmp_path / f"telemetry-{statement}.db"))
        was_killed = recover_until_killed(path, box, statement)
        recover_until_killed(path, box, 10**9)
        recover_until_killed(path, box, 10**9)
        assert numbers(path) == [*range(1, 15), 15], statement
        assert query(path, "SELECT result, count(*) FROM traces GROUP BY 1") == [("interrupted", 1), ("ok", 10)]
        assert query(path, "SELECT run_id, end_reason FROM runs") == [(RUN, "unclean")]
        assert query(path, f"SELECT count(*) FROM state WHERE name LIKE '%{RUN}'") == [(0,)]
        assert query(path, "SELECT count(*) FROM gaps") == [(0,)]
        statement += 1
    assert statement > 40


def test_lost_rows_are_counted_once_however_often_it_is_killed(tmp_path, monkeypatch):
    """What neither box nor database has is one gap of its true size, wherever recovery was killed before."""
    monkeypatch.setattr(merging, "_CHUNK_ROWS", 3)
    box = box_of(tmp_path, mixed(20)[10:], committed=15)
    open_database(tmp_path / "before.db", EMPTY_SCHEMA).close()
    statement, was_killed = 0, True
    while was_killed:
        path = Path(shutil.copy(tmp_path / "before.db", tmp_path / f"telemetry-{statement}.db"))
        was_killed = recover_until_killed(path, box, statement)
        recover_until_killed(path, box, 10**9)
        assert numbers(path) == list(range(11, 21)), statement
        gaps = query(path, "SELECT reason, count, run_id FROM gaps WHERE reason = 'wal_lost'")
        assert gaps == [("wal_lost", 10, RUN)], statement
        assert query(path, f"SELECT count(*) FROM state WHERE name LIKE '%{RUN}'") == [(0,)]
        statement += 1
    assert statement > 30


def test_runs_with_equal_numbers_are_all_recovered(tmp_path, path):
    """Three runs that committed nothing began at 1 each: all their records are rows, each with a seq of its own."""
    runs = [RUN, OTHER, "01HXR4Z6W5S9E2JQ4Y0T7B3M3E"]
    for run_id in runs:
        box_of(tmp_path, mixed(10, run_id), run_id)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        total = recover_boxes(connection, tmp_path)

    assert (total.runs, total.traces, total.logs, total.dropped) == (3, 21, 9, 0)
    for run_id in runs:
        assert numbers(path, run_id) == list(range(1, 11))
    assert query(path, "SELECT count(*) FROM gaps") == [(0,)]
    assert query(path, "SELECT value FROM state WHERE name = 'seq'") == [(30,)]
    assert layout.boxes_in(tmp_path) == []


def test_rows_that_the_ring_evicted_are_not_put_back(path, tmp_path):
    """What a run had settled and other runs have pushed out since is not missing."""
    box = box_of(tmp_path, mixed(8), committed=6)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        merge(connection, mixed(6), run_id=RUN)
        connection.execute("DELETE FROM traces")
        recover_box(connection, layout.read_box(box))

    assert numbers(path) == [3, 6, 7, 8]


def test_late_record_below_committed_ones_is_recovered(path, tmp_path):
    """A record whose thread was late when the run was killed is in the box alone, below numbers that are committed."""
    records = mixed(9)
    box = box_of(tmp_path, records, committed=9)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        merge(connection, [record for record in records if record.number != 4])
        connection.execute("INSERT INTO state VALUES (?, 3)", (RUN,))
        recover_box(connection, layout.read_box(box))

    assert sorted(numbers(path)) == list(range(1, 10))
    assert query(path, "SELECT count(*) FROM gaps") == [(0,)]


@pytest.mark.parametrize("fits", [True, False])
def test_run_that_ended_in_order_without_committing_is_clean(path, tmp_path, fits):
    """Its records are taken over; what its box had no space for is a gap that says so, not a kill."""
    sizes = LARGE if fits else Sizes(4_096, 4_096)
    box = box_of(tmp_path, mixed(90), ended_us=95_000_000, sizes=sizes)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        found = recover_box(connection, layout.read_box(box))

    assert query(path, "SELECT end_reason, ended_us FROM runs") == [(rows.CLEAN, 95_000_000)]
    assert found.unclean == 0
    gaps = dict(query(path, "SELECT kind, count FROM gaps WHERE reason = 'box_full'"))
    assert query(path, "SELECT count(*) FROM gaps WHERE reason <> 'box_full'") == [(0,)]
    held = dict(query(path, "SELECT 'trace', count(*) FROM traces UNION ALL SELECT 'log', count(*) FROM logs"))
    assert (held["trace"] + gaps.get("trace", 0), held["log"] + gaps.get("log", 0)) == (60, 30)
    assert bool(gaps) is not fits


def test_killed_run_whose_box_was_too_small_says_killed(path, tmp_path):
    """Of a run that was killed the same loss has the kill as its reason."""
    box = box_of(tmp_path, mixed(90), sizes=Sizes(4_096, 4_096))
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        recover_box(connection, layout.read_box(box))

    assert query(path, "SELECT end_reason FROM runs") == [(rows.UNCLEAN,)]
    assert {reason for (reason,) in query(path, "SELECT reason FROM gaps")} == {"killed"}


def test_interrupted_trace_that_began_long_ago_is_kept_in_a_full_ring(path, tmp_path, monkeypatch):
    """What was running when a run died is the newest of it, however long it had run, and pushes out the oldest."""
    monkeypatch.setattr(rows.TRACES, "size", 10)
    box = box_of(tmp_path, [], in_flight=2)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        merge(connection, [a_trace(number, OTHER, notable=1) for number in range(1_000, 1_010)])
        recover_box(connection, layout.read_box(box))

    assert query(path, "SELECT count(*) FROM traces WHERE result = 'interrupted'") == [(2,)]
    assert query(path, "SELECT count(*) FROM traces") == [(10,)]


def test_recovery_after_rows_were_deleted_by_hand(path, tmp_path, monkeypatch):
    """If somebody emptied a full table, the counts are wrong; the records of a box are put in all the same."""
    monkeypatch.setattr(rows.TRACES, "size", 10)
    box = box_of(tmp_path, [a_trace(number, RUN) for number in range(1, 6)])
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        merge(connection, [a_trace(number, OTHER) for number in range(1_000, 1_010)])
        connection.execute("DELETE FROM traces")
        recover_box(connection, layout.read_box(box))

    assert numbers(path) == [1, 2, 3, 4, 5]


def test_run_that_never_reached_the_database_gets_its_row(path, tmp_path):
    """Of what its box says of it: killed before it could insert one."""
    box = box_of(tmp_path, mixed(3))
    header = replace(layout.read_box(box).header, node_id="ed25519:me", program="cron.py", boot_id="")
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        recover_box(connection, replace(layout.read_box(box), header=header))

    assert query(path, "SELECT run_id, node_id, version, pid, boot_id, started_us, program, role FROM runs") == [
        (RUN, "ed25519:me", "1", 2**22 + 1, None, header.started_us, "cron.py", "node")
    ]
    assert query(path, "SELECT count(*) FROM state WHERE name = '" + RUN + "'") == [(0,)]


def test_rows_that_are_gone_are_counted(path):
    """As a gap of their kind, and by their reason."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    before = metric('hearthnet_telemetry_dropped_total{reason="wal_lost"}')
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        recovery.count_missing(connection, (5, 2), 3)

    assert query(path, "SELECT kind, reason, count, run_id FROM gaps") == [
        ("trace", "wal_lost", 2, None),
        ("log", "wal_lost", 2, None),
    ]
    assert metric('hearthnet_telemetry_dropped_total{reason="wal_lost"}') - before == 4


def test_box_that_cannot_be_read_now_is_told_with_what_to_do(tmp_path, monkeypatch, logged):
    """It stays, and hides no other."""
    broken, whole = box_of(tmp_path, mixed(2)), box_of(tmp_path, mixed(2, OTHER), OTHER)
    read, error = layout.read_box, PermissionError(errno.EACCES, "Permission denied")

    def refuse(path):
        if path == broken:
            raise error
        return read(path)

    monkeypatch.setattr(layout, "read_box", refuse)

    assert [path for path, _ in recovery.leftover_boxes(tmp_path)] == [whole]
    (told,) = logged
    assert (told.getMessage(), told.path, told.error) == ("a black box cannot be read", str(broken), error)
    assert told.hint == hint_for(error)


def test_recoveries_add_up():
    """All that is told of several boxes."""
    total = Recovery(1, 2, 3, 4, Counter(killed=5), 6)
    total.add(Recovery(10, 20, 30, 40, Counter(killed=50, budget=7), 60))

    assert total == Recovery(11, 22, 33, 44, Counter(killed=55, budget=7), 66)
    assert total.dropped == 62


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_kernel_says_at_the_last_sample_how_the_run_ended(path, tmp_path, monkeypatch, samples):
    """At the time of the end where there is none; nothing of a run that ended in order."""
    monkeypatch.setattr(recovery.KernelSources, "of_box", lambda *_: Kernel("certain", ("oom-kill",)))
    box = layout.read_box(box_of(tmp_path, mixed(2)))
    clean = layout.read_box(box_of(tmp_path, mixed(2, OTHER), OTHER, ended_us=7_000_000))
    vitals = [Vitals(1_000 + at) for at in range(samples)]
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        for each in (box, clean):
            recover_box(connection, replace(each, vitals=vitals))
    (told, last_us), (told_of_clean, _) = query(path, "SELECT vitals, last_seen_us FROM runs ORDER BY run_id")

    found = orjson.loads(told)
    assert [sample["ts_us"] for sample in found] == [one.ts_us for one in vitals] or [last_us]
    assert [sample.get("kernel") for sample in found] == [
        *[None] * (len(found) - 1),
        {"confidence": "certain", "lines": ["oom-kill"]},
    ]
    assert "kernel" not in (told_of_clean or "")


def test_own_box_gives_back_what_the_database_lost(path, tmp_path):
    """Opened again, a new database gets what the run had committed; what is pending is left to the writer."""
    contents = layout.read_box(box_of(tmp_path, mixed(12)[2:], committed=9))
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        for _ in range(2):
            restore_committed(connection, contents, {10, 11}, 11)  # 12: a thread is about to hand it over

    assert numbers(path) == list(range(3, 10))
    assert query(path, "SELECT reason, count FROM gaps") == [("wal_lost", 2)]
    assert query(path, f"SELECT value FROM state WHERE name = '{RUN}'") == [(9,)]


def test_number_near_the_largest_integer_stops_nothing(path, tmp_path):
    """A damaged box may hold any number."""
    records = [a_trace(1, RUN), a_trace(2**63 - 1, RUN), a_log(3, RUN)]
    box = box_of(tmp_path, records, in_flight=1)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        recover_box(connection, layout.read_box(box))
        found = missing(connection, layout.read_box(box), recovery.records_of(layout.read_box(box)))

    assert {1, 3} <= set(numbers(path))
    assert found[1] == 0
    assert query(path, "SELECT end_reason FROM runs") == [(rows.UNCLEAN,)]


@pytest.mark.parametrize("committed", [7, 2**63 - 1])
def test_interrupted_trace_is_numbered_after_all_that_was_committed(path, tmp_path, committed):
    """As far as there are numbers: a damaged box may tell any."""
    box = replace(layout.read_box(box_of(tmp_path, mixed(3), in_flight=2)), committed_number=committed)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        assert recover_box(connection, box).interrupted == 2

    first, second = numbers(path)[-2:]
    assert (second, first >= min(committed, 2**61)) == (first + 1, True)


@pytest.mark.parametrize("sql", ["SELECT 1", "DELETE FROM traces", "DELETE FROM traces WHERE number < 5"])
@pytest.mark.parametrize("committed", [0, 9])
def test_box_that_could_not_be_removed_is_not_counted_again(path, tmp_path, sql, committed):
    """Its run is closed: whatever the ring has evicted of it since, it recovers nothing, and nothing is lost."""
    box = box_of(tmp_path, mixed(6), in_flight=1, committed=committed)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        first = recover_box(connection, layout.read_box(box))
        connection.execute(sql)
        before = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("traces", "logs", "gaps", "runs")]
        again = recover_box(connection, layout.read_box(box))
        after = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("traces", "logs", "gaps", "runs")]

    assert (first.runs, first.traces, first.logs, first.interrupted) == (1, 4, 2, 1)
    assert first.dropped == max(0, committed - 6)
    assert again == Recovery()
    assert after == before


def test_two_processes_that_recover_one_box_insert_it_once(path, tmp_path, monkeypatch):
    """The lock's file can be removed while a process holds it: then another one recovers beside it."""
    box = layout.read_box(box_of(tmp_path, mixed(6), in_flight=1))
    insert = recovery.merge

    def after_the_other(connection, records, **options):
        monkeypatch.setattr(recovery, "merge", insert)
        with closing(open_database(path, EMPTY_SCHEMA)) as other:
            recover_box(other, box)
        return insert(connection, records, **options)

    monkeypatch.setattr(recovery, "merge", after_the_other)
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        recover_box(connection, box)

    assert numbers(path) == [*range(1, 8)]


def test_run_that_ends_in_order_meanwhile_stays_so(path, monkeypatch):
    """A program without a box ends between the look at the runs and the look for its process."""
    with closing(open_database(path, EMPTY_SCHEMA)) as connection:
        connection.execute(rows.INSERT_RUN, (RUN, None, "0", 1, "another boot", 1, "x.py", "library"))

        def boot():
            with closing(open_database(path, EMPTY_SCHEMA)) as other:
                other.execute(rows.END_RUN, (2, rows.CLEAN, RUN))
            return "this boot"

        monkeypatch.setattr(layout, "this_boot", boot)
        recovery.close_other_runs(connection, set())

    assert query(path, "SELECT end_reason FROM runs") == [(rows.CLEAN,)]


def test_file_that_may_become_a_box_is_left_alone(tmp_path):
    """A young one, or one that is gone by now: another process makes or renames it. Nothing else becomes a box."""
    young, old, folder, dangling = (tmp_path / f"telemetry.{name}.box2" for name in ("1", "2", "3", "4"))
    young.touch()
    old.touch()
    os.utime(old, ns=(0, 0))
    folder.mkdir()
    dangling.symlink_to(tmp_path / "nothing")

    found = [recovery.is_written(path) for path in (young, tmp_path / "gone", old, folder, dangling)]
    assert found == [True, True, False, False, False]
