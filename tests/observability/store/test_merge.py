"""Records that come from a box, a damaged database or a log are put into the rings by their rule, in order, once."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, CeilingError, open_database
from hearthnet.observability.store import merge as merging
from hearthnet.observability.store.merge import known_numbers, merge, transaction
from hearthnet.observability.store.rows import LOGS, TRACES

SIZE, ORDINARY_SHARE = 10, 8


@pytest.fixture
def database(tmp_path):
    """An empty telemetry.db."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY)) as connection:
        yield connection


@pytest.fixture
def small(monkeypatch):
    """Rings of ten rows, transactions of seven."""
    for table in (TRACES, LOGS):
        monkeypatch.setattr(table, "size", SIZE)
    monkeypatch.setattr(merging, "_CHUNK_ROWS", 7)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A database that all examples of a property share."""
    path = tmp_path_factory.mktemp("merge") / "telemetry.db"
    with closing(open_database(path, TELEMETRY._replace(reserve_bytes=0))) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


def numbers(connection, table="traces"):
    """Returns the numbers of the rows in the order of their seq."""
    return [row[0] for row in connection.execute(f"SELECT number FROM {table} ORDER BY seq")]


def state(connection):
    """Returns the rows of `state` by name."""
    return dict(connection.execute("SELECT name, value FROM state"))


def counted(connection):
    """Returns the rows of each class as they are, under the names that `state` has for them."""
    return {
        f"{table}.{notable}": connection.execute(
            f"SELECT count(*) FROM {table} WHERE notable = ?", (notable,)
        ).fetchone()[0]
        for table in ("traces", "logs")
        for notable in (0, 1)
    }


def model(rows, arrivals):
    """The rule in words: when full, a new record replaces the oldest of the class that is over its share."""
    rows = list(rows)
    for record in arrivals:
        rows.append(record)
        if len(rows) > SIZE:
            ordinary = [row for row in rows if not row.notable]
            rows.remove(ordinary[0] if len(ordinary) > ORDINARY_SHARE else next(row for row in rows if row.notable))
    return rows


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 1)), max_size=30), max_size=5), st.integers(1, 12))
def test_rings_are_what_they_would_be_record_by_record(shared, batches, chunk):
    """Whatever comes in whatever batches, larger than a ring or not: the rows are those of the plain rule."""
    shared.executescript("DELETE FROM traces; DELETE FROM logs; UPDATE state SET value = 0;")
    expected, number = {"traces": [], "logs": []}, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_CHUNK_ROWS", chunk)
        patch.setattr(TRACES, "size", SIZE)
        patch.setattr(LOGS, "size", SIZE)
        for batch in batches:
            records = []
            for is_log, notable in batch:
                number += 1
                record = (a_log if is_log else a_trace)(number, notable=notable)
                records.append(record)
                name = "logs" if is_log else "traces"
                expected[name] = model(expected[name], [record])
            merge(shared, records)
            for name, rows in expected.items():
                assert numbers(shared, name) == [row.number for row in rows]
            assert counted(shared).items() <= state(shared).items()


def test_seq_follows_the_numbers_across_tables(database):
    """The order of commits is the order in which the records were made, whichever table they are in."""
    merge(database, [(a_log if number % 3 else a_trace)(number) for number in range(1, 20)])

    rows = database.execute("SELECT seq, number FROM traces UNION ALL SELECT seq, number FROM logs ORDER BY seq")
    assert [number for _, number in rows.fetchall()] == list(range(1, 20))
    assert state(database)["seq"] == 19


def test_seq_of_a_salvaged_row_is_kept_while_it_is_free(database):
    """Whoever reads by a cursor over seq meets no row twice; a seq that is taken is given anew."""
    merge(database, [a_trace(1, seq=70), a_trace(2, seq=75)])
    merge(database, [a_trace(3, seq=75), a_trace(4)])

    assert database.execute("SELECT seq, number FROM traces ORDER BY seq").fetchall() == [
        (70, 1),
        (75, 2),
        (76, 3),
        (77, 4),
    ]


@pytest.mark.usefixtures("small")
def test_older_records_push_out_no_newer_ones(database):
    """Of the records of a run that ended long ago only those are taken that are newer than a full ring's oldest."""
    merge(database, [a_trace(number, "new") for number in range(100, 110)])
    inserted = merge(database, [*(a_trace(number, "old") for number in range(1, 60)), a_trace(105, "old")])

    assert inserted == 1
    assert sorted(numbers(database)) == [101, 102, 103, 104, 105, 105, 106, 107, 108, 109]


@pytest.mark.usefixtures("small")
def test_older_records_fill_what_is_free(database):
    """A ring that is not full takes old records too, the newest of them if there are more than fit."""
    merge(database, [a_trace(number, "new") for number in range(100, 106)])
    merge(database, [a_trace(number, "old") for number in range(1, 20)])

    assert sorted(numbers(database)) == [16, 17, 18, 19, *range(100, 106)]


@pytest.mark.usefixtures("small")
def test_wal_of_a_merge_is_used_anew_after_each_transaction(database, tmp_path):
    """Whatever a box holds: all that was merged is in the file."""
    merge(database, [a_trace(number) for number in range(1, 11)])
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "telemetry.db").read_bytes())

    with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as alone:
        assert numbers(alone) == list(range(1, 11))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("held", "old", "inserted"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_record_is_too_old_for_its_own_class_alone(database, held, old, inserted):
    """One of a class that uses the other's slots pushes out the oldest of these, however old it is itself."""
    merge(database, [a_trace(number, "new", notable=held) for number in range(100, 110)])

    assert merge(database, [a_trace(1, "old", notable=old)], run_id="old") == inserted
    assert sum(counted(database).values()) == SIZE


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("cursor", "lost"), [(None, None), (0, 4), (3, 1), (4, None), (10, None)])
def test_evicted_rows_that_were_not_exported_are_counted(database, cursor, lost):
    """As the writer counts them."""
    merge(database, [a_trace(number) for number in range(1, 11)])
    if cursor is not None:
        database.execute("INSERT INTO state VALUES ('otlp.traces', ?)", (cursor,))
    merge(database, [a_trace(number) for number in range(11, 15)])

    assert state(database).get("otlp.traces.lost") == lost


@pytest.mark.usefixtures("small")
def test_records_that_the_ring_never_held_are_lost_to_the_export_too(database, monkeypatch):
    """There are more in one transaction than it has slots; rows deleted by hand are no loss."""
    monkeypatch.setattr(merging, "_CHUNK_ROWS", 100)
    database.execute("INSERT INTO state VALUES ('otlp.traces', 0)")
    merge(database, [a_trace(number) for number in range(1, 16)])
    assert state(database)["otlp.traces.lost"] == 5

    database.execute("DELETE FROM traces")
    merge(database, [a_trace(number) for number in range(21, 24)])
    assert state(database)["otlp.traces.lost"] == 5


@pytest.mark.usefixtures("small")
def test_age_is_that_of_the_end(database):
    """A trace that lasted long is as new as its end: it is what happened last, and is not left out for its start."""
    merge(database, [a_trace(number, "new", notable=1) for number in range(100, 110)])
    long = a_trace(1, "old", notable=1, duration_ms=200_000.0)
    assert merge(database, [long]) == 1

    assert database.execute("SELECT count(*) FROM traces WHERE run_id = 'old'").fetchone() == (1,)


@pytest.mark.usefixtures("small")
def test_two_runs_with_equal_numbers_are_both_kept(database):
    """Numbers identify a record within its run only."""
    for run_id in ("one", "two"):
        merge(database, [a_trace(number, run_id) for number in range(1, 5)], run_id=run_id)

    rows = "SELECT count(*), count(DISTINCT seq), count(DISTINCT run_id || number) FROM traces"
    assert database.execute(rows).fetchone() == (8, 8, 8)
    assert known_numbers(database, "one", 2) == {3, 4}
    assert known_numbers(database, "two", 0) == {1, 2, 3, 4}
    assert (state(database)["one"], state(database)["two"]) == (4, 4)


@pytest.mark.usefixtures("small")
def test_each_transaction_settles_what_it_has_inserted(database, monkeypatch):
    """If a merge is ended half-way, the database knows exactly how far it came."""
    genuine, calls = merging.admit, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise sqlite3.OperationalError("database or disk is full")
        return genuine(*arguments)

    monkeypatch.setattr(merging, "admit", failing)
    records = [(a_log if number % 2 else a_trace)(number) for number in range(1, 20)]
    with pytest.raises(sqlite3.OperationalError):
        merge(database, records, run_id="run")

    assert state(database)["run"] == 7
    assert known_numbers(database, "run", 0) == set(range(1, 8))
    assert not database.in_transaction


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [1, 6, 7, 8, 14])
def test_merge_of_what_is_settled_does_nothing(database, count):
    """A box that is recovered again adds no row and evicts none; what is new in it is added."""
    records = [(a_log if number % 2 else a_trace)(number, notable=number % 3 == 0) for number in range(1, count + 1)]
    first = merge(database, records, run_id="run")
    before = state(database), numbers(database), numbers(database, "logs")

    assert merge(database, records, run_id="run") == 0
    assert (state(database), numbers(database), numbers(database, "logs")) == before
    assert merge(database, [*records, a_trace(count + 1)], run_id="run") == 1
    assert first == count


def test_what_raises_changes_nothing(database):
    """A transaction that is left by an error is rolled back, rows and counts."""
    before = state(database)

    def fail():
        with transaction(database) as changes:
            merging.admit(database, changes, [a_trace(1), a_log(2)])
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert state(database) == before
    assert numbers(database) == numbers(database, "logs") == []


@pytest.mark.parametrize(
    "bad", [{"capability": b"\xff"}, {"started_us": "x"}, {"spans": None}, {"started_mono_ns": 2**63}]
)
def test_row_of_a_wrong_type_costs_itself_alone(database, bad):
    """Of a damaged source, the rows beside one that cannot be stored are stored, and it is not counted."""
    merge(database, [a_trace(1), a_trace(2, **bad), a_trace(3)])

    assert numbers(database) == [1, 3]
    assert counted(database).items() <= state(database).items()


def test_schema_that_refuses_every_record_costs_none(database):
    """What others have added to our tables is at fault: the records stay where they come from."""
    database.execute("CREATE TRIGGER mine BEFORE INSERT ON logs BEGIN SELECT RAISE(ABORT, 'no more'); END")
    with pytest.raises(sqlite3.IntegrityError, match="no more"):
        merge(database, [a_trace(1), a_log(2)], run_id="run")

    assert (numbers(database), "run" in state(database)) == ([], False)


@pytest.mark.parametrize("seq", [2**63 - 1, 2**62, -5])
def test_row_with_an_absurd_seq_does_not_use_up_the_numbers(database, seq):
    """A damaged seq near the largest integer is replaced: seqs must last for all records to come."""
    merge(database, [a_trace(1, seq=seq), a_trace(2), a_log(3)])
    merge(database, [a_trace(4)])

    assert numbers(database) == [1, 2, 4]
    assert 0 < state(database)["seq"] < 2**62


@pytest.mark.parametrize(("seq", "given"), [(0, 1), (1, 1), (2, 2), (2**53 - 1, 2**53 - 1), (2**53, 1), (2**53 + 1, 1)])
def test_seq_is_kept_up_to_where_it_must_be_damage(database, seq, given):
    """The first of an empty database is 1."""
    merge(database, [a_trace(1, seq=seq), a_log(2)])

    assert database.execute("SELECT seq FROM traces UNION ALL SELECT seq FROM logs").fetchall() == [
        (given,),
        (given + 1,),
    ]
    assert state(database)["seq"] == given + 1


@pytest.mark.parametrize(("more", "is_evicting"), [(50, False), (49, True)])
def test_ceiling_of_the_file_evicts_where_a_page_is_missing(database, monkeypatch, more, is_evicting):
    """Where the new rows need just as many as the file may still take, all are kept."""
    merge(database, [a_trace(number) for number in range(1, 11)])
    database.execute("VACUUM")
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages + more}")
    monkeypatch.setattr(merging, "pages_for", lambda _: 50)
    merge(database, [a_trace(11)])

    assert numbers(database) == ([] if is_evicting else list(range(1, 12)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "by_hand", ["DELETE FROM traces", "DELETE FROM traces WHERE seq < 8", "UPDATE traces SET notable = 1"]
)
def test_rows_changed_by_hand_stop_nothing(database, by_hand):
    """If the counts are wrong because somebody deleted or changed rows, a full ring is counted anew and goes on."""
    merge(database, [a_trace(number) for number in range(1, 11)])
    database.execute(by_hand)
    merge(database, [a_trace(number) for number in range(11, 40)])

    kept = database.execute("SELECT number FROM traces ORDER BY number DESC").fetchall()
    assert [row[0] for row in kept[:8]] == list(range(39, 31, -1))
    assert len(kept) <= SIZE


@pytest.mark.usefixtures("small")
def test_ceiling_of_the_file_evicts_more_than_the_rule(database):
    """Where the file may not grow, the oldest rows make space for new ones of any size."""
    text = b'{"v":"%s"}' % (b"x" * 60_000)
    merge(database, [a_trace(number, extras=text) for number in range(1, 11)])
    database.execute("VACUUM")
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    merge(database, [a_trace(number, extras=text) for number in range(11, 13)])

    kept = numbers(database)
    assert kept[-2:] == [11, 12]
    assert database.execute("PRAGMA page_count").fetchone()[0] <= pages + 2
    assert counted(database).items() <= state(database).items()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("held", [0, 3])
def test_records_that_no_eviction_has_space_for_are_left(database, held):
    """All rows have gone for them by then: the file is too small for one such."""
    merge(database, [a_trace(number) for number in range(1, held + 1)])
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages}")

    assert merge(database, [a_trace(9, extras=b'"%b"' % (b"x" * 20_000_000))]) == 0
    assert numbers(database) == []


@pytest.mark.parametrize(("held", "gone"), [(200, 50), (5_000, 100)])
def test_ceiling_of_the_file_evicts_a_little_at_a_time(database, held, gone):
    """Fifty rows or a fiftieth, the oldest, make space for a small record: not half of what is kept."""
    database.execute("PRAGMA synchronous = OFF")
    merge(database, [a_trace(number, extras=b"x" * 3_000) for number in range(1, held + 1)])
    database.execute("VACUUM")
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    database.execute(f"PRAGMA max_page_count = {pages}")
    merge(database, [a_trace(held + 1)])

    assert numbers(database) == list(range(gone + 1, held + 2))


@pytest.mark.parametrize(("foreign", "is_blamed"), [(0.4, False), (0.5, False), (0.52, True), (0.9, True)])
def test_tables_of_others_are_blamed_where_they_take_more_than_half(database, monkeypatch, foreign, is_blamed):
    """Else rows of ours make space."""
    text = b'{"v":"%s"}' % (b"x" * 60_000)
    merge(database, [a_trace(number, extras=text) for number in range(1, 11)])
    database.execute("VACUUM")
    ((pages,),) = database.execute("PRAGMA page_count").fetchall()
    pages += pages % 2
    database.execute(f"PRAGMA max_page_count = {pages}")
    monkeypatch.setattr(merging, "foreign_pages", lambda _: int(pages * foreign))

    if is_blamed:
        with pytest.raises(CeilingError):
            merge(database, [a_trace(11, extras=text)])
    assert merge(database, [] if is_blamed else [a_trace(11, extras=text)]) == (not is_blamed)
