"""The ring's rule, compared with a slow and plain model of it, and what a transaction knows of the rings."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.database import PARTS, TELEMETRY, open_database
from hearthnet.observability.store.ring import (
    BEGIN,
    READ,
    RECOUNT,
    SET,
    State,
    cursor_name,
    is_record_at_fault,
    lost_name,
    oldest_of,
    surplus,
    trial,
    without_oldest,
)
from hearthnet.observability.store.rows import LOGS, TRACES

SIZE, NOTABLE_SHARE, ORDINARY_SHARE = 10, 2, 8
BLANK = {"seq": 0, **{f"{name}.{notable}": 0 for name in ("traces", "logs") for notable in (0, 1)}}


def model(held, arrivals):
    """The rule in words, record by record: when full, a new one replaces the oldest of the class over its share."""
    rows = list(held)
    for arrival in [None, *arrivals]:
        rows += [] if arrival is None else [arrival]
        while len(rows) > SIZE:
            rows.remove(0 if rows.count(0) > ORDINARY_SHARE else 1)  # the first of its class is the oldest
    return rows.count(0), rows.count(1)


def counts(notables):
    """Returns how many are ordinary, and how many notable."""
    return notables.count(0), notables.count(1)


classes = st.lists(st.integers(0, 1), max_size=80)


@given(st.lists(classes, max_size=8))
def test_batches_follow_the_rule_record_by_record(batches):
    """What a batch replaces is what its records would replace one by one, whatever the order they come in."""
    held = (0, 0)
    for batch in batches:
        expected = model([0] * held[0] + [1] * held[1], batch)
        added = counts(batch)
        gone = surplus(held, added, SIZE)
        assert min(gone) >= 0
        held = held[0] + added[0] - gone[0], held[1] + added[1] - gone[1]
        assert held == expected
        assert sum(held) <= SIZE


@given(st.integers(0, 40), st.integers(0, 40))
def test_smaller_ring_evicts_the_surplus(ordinary, notable):
    """Of a table larger than the ring as many rows go by the same rule as make the rest fit."""
    gone = surplus((ordinary, notable), (0, 0), SIZE)

    assert (ordinary - gone[0], notable - gone[1]) == model([0] * ordinary + [1] * notable, [])


@given(classes)
def test_shares_are_safe(arrivals):
    """However many of one class arrive, the other keeps its newest up to its share."""
    held = (0, 0)
    for notable in arrivals:
        added = (1 - notable, notable)
        gone = surplus(held, added, SIZE)
        held = held[0] + added[0] - gone[0], held[1] + added[1] - gone[1]

    seen = counts(arrivals)
    assert held[0] >= min(seen[0], ORDINARY_SHARE)
    assert held[1] >= min(seen[1], NOTABLE_SHARE)


@pytest.mark.parametrize(
    ("held", "added", "gone"),
    [
        ((0, 0), (10, 0), (0, 0)),
        ((10, 0), (1, 0), (1, 0)),
        ((0, 10), (0, 1), (0, 1)),
        ((0, 3), (1_000, 0), (992, 1)),  # a flood of successes keeps two failures
        ((10, 0), (0, 1_000), (2, 998)),  # a flood of failures keeps eight successes
        ((8, 2), (5, 5), (5, 5)),
        ((0, 0), (0, 0), (0, 0)),
    ],
)
def test_examples(held, added, gone):
    """The rule, in numbers that can be checked by hand."""
    assert surplus(held, added, SIZE) == gone


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 30))
def test_eviction_for_space_takes_of_the_fuller_class(ordinary, notable, count):
    """Where the disk has no space, rows go from the class that is fuller for its share, and never more than it has."""
    gone = oldest_of((ordinary, notable), SIZE, count)

    assert 0 in gone
    assert gone[0] <= ordinary
    assert gone[1] <= notable
    if ordinary or notable:
        assert sum(gone) > 0
        at = gone.index(max(gone))
        fullness = (ordinary / ORDINARY_SHARE, notable / NOTABLE_SHARE)
        assert fullness[at] == max(fullness)


def test_eviction_for_space_takes_ordinary_rows_where_both_classes_are_as_full():
    """What failed is worth more."""
    assert oldest_of((2 * ORDINARY_SHARE, 2 * NOTABLE_SHARE), SIZE, 3) == (3, 0)


@given(st.lists(st.integers(0, 1), max_size=30), st.integers(0, 1), st.integers(0, 30))
def test_batch_larger_than_the_ring_loses_its_oldest(notables, notable, count):
    """Of the records of a class the first so many are left out; all others stay, in their order."""
    records = [(*[None] * LOGS.columns.split(", ").index("notable"), kind, at) for at, kind in enumerate(notables)]
    kept = without_oldest(records, LOGS, notable, count)

    assert [one for one in kept if LOGS.notable_of(one) != notable] == [
        one for one in records if LOGS.notable_of(one) != notable
    ]
    of_class = [one for one in records if LOGS.notable_of(one) == notable]
    assert [one for one in kept if LOGS.notable_of(one) == notable] == of_class[count:]
    assert all(one[-1] < other[-1] for one, other in pairwise(kept))


def test_state_writes_what_it_changed():
    """Counts follow what was inserted and deleted, of that table and class alone; the rest is not written."""
    state = State(json.dumps({**BLANK, "seq": 41, "traces.0": 7, "run": 3}))
    state.added(TRACES, (2, 1))
    state.evicted(TRACES, 0, 3)
    assert state.next_seq() == 42
    state.settle("run", 9)

    assert (state.held(TRACES), state.held(LOGS)) == ((6, 1), (0, 0))
    assert dict(state.changes()) == {"seq": 42, "traces.0": 6, "traces.1": 1, "run": 9}


def test_count_of_rows_never_falls_below_none():
    """More rows of a class may be there, and go, than were counted: some were inserted by hand."""
    state = State(json.dumps({**BLANK, "traces.0": 2}))
    state.evicted(TRACES, 0, 3)

    assert state.held(TRACES) == (0, 0)


def test_settled_number_never_falls():
    """A run's number only rises: what is settled stays settled."""
    state = State(json.dumps({**BLANK, "run": 9}))
    state.settle("run", 5)
    state.settle("other", 0)

    assert (state.settled("run"), state.settled("other")) == (9, 0)
    assert dict(state.changes()) == {"seq": 0}


def export_of(state, table):
    """Up to where a table is exported, and how many rows were lost on the way."""
    return state.cursor(table), dict(state.changes()).get(lost_name(table.name))


@pytest.mark.parametrize("sent", [0, 1, 7])
def test_export_goes_on_where_it_ended(sent):
    """Also one that had sent nothing. To begin or end it twice changes nothing."""
    state = State(json.dumps({**BLANK, "seq": 9}))
    state.begin_export("traces")
    state.move_cursor("traces", 0, sent)
    state.begin_export("traces")
    assert state.cursor(TRACES) == sent
    assert state.cursor(LOGS) is None

    state.end_export("traces")
    state.end_export("traces")
    assert export_of(state, TRACES) == (None, 0)
    state.begin_export("traces")
    assert state.cursor(TRACES) == sent


@pytest.mark.parametrize(
    ("held", "moved"), [(None, None), (-6, -6), (0, 0), (4, 4), (5, 8), (6, 6)], ids=["none", "ended", *"0456"]
)
def test_cursor_moves_from_where_it_was_alone(held, moved):
    """The database may be another one by now, whose rows were sent as far as it says."""
    name = cursor_name("traces")
    state = State(json.dumps({**BLANK, "seq": 9, **({} if held is None else {name: held})}))
    state.move_cursor("traces", 5, 8)

    assert dict(state.changes()).get(name, held) == moved


def test_rows_evicted_unsent_are_counted_once_there_is_an_export():
    """And no longer once it has ended, or once the backend knows of them."""
    state = State(json.dumps({**BLANK, "seq": 9}))
    state.lose(TRACES, 5)
    state.begin_export("traces")
    state.lose(TRACES, 2)
    state.lose(TRACES, 3)
    assert export_of(state, TRACES) == (0, 5)

    state.tell_lost("traces", 1)
    assert export_of(state, TRACES) == (0, 4)
    state.tell_lost("traces", 6)
    assert export_of(state, TRACES) == (0, 0)
    state.lose(TRACES, 3)
    state.end_export("traces")
    state.lose(TRACES, 1)
    assert export_of(state, TRACES) == (None, 0)


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [(None, (50, 4)), (0, (50, 7)), (1, (1, 3)), (20, (20, 3)), (-1, (None, 3)), (-6, (None, 3))],
    ids=["none", "new", "1", "20", "ended", "ended at 5"],
)
def test_export_of_a_replaced_database_is_taken_over(cursor, expected):
    """Where this one has sent nothing yet, and its export has not ended; what was lost in both is added up."""
    here = {} if cursor is None else {"otlp.traces": cursor, "otlp.traces.lost": 3}
    state = State(json.dumps({**BLANK, "seq": 99, **here}))
    state.resume_export("traces", 50, 4)
    state.tell_lost("traces", 0)

    assert export_of(state, TRACES) == expected


def test_marks_of_a_run_count_up():
    """Each transaction has the next one, and is told from those of other runs."""
    state = State(json.dumps(BLANK))

    assert [state.mark("run"), state.mark("run"), state.mark("other")] == [1, 2, 1]
    assert (state.marks("run"), state.marks("none")) == (2, 0)
    assert {2, 1} <= {value for name, value in state.changes() if name != "seq"}


def test_counting_anew_finds_rows_below_the_hint():
    """Rows inserted by hand below the seq where a class was thought to begin are found, so that they can go."""
    state = State(json.dumps({**BLANK, "traces.0.from": 500}))
    state.correct(TRACES, (3.0, 1.0))

    assert state.held(TRACES) == (3, 1)
    assert state.first(TRACES, 0) < -(2**60)


def test_recount_counts_the_rows_of_each_class(tmp_path):
    """Rows that were deleted by hand are noticed by whoever opens the store next."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY)) as connection:
        connection.executemany(SET, [("logs.0", 99), ("logs.1", 99), ("traces.1", 5)])
        for seq, notable in enumerate((0, 0, 1), 1):
            connection.execute(
                "INSERT INTO logs (seq, run_id, number, ts_us, level, logger, msg, notable, repeats, extras)"
                " VALUES (?, 'r', ?, 0, 'info', 'x', 'm', ?, 0, '{}')",
                (seq, seq, notable),
            )
        for statement in RECOUNT:
            connection.execute(statement)
        ((found, pages, free),) = connection.execute(BEGIN).fetchall()
        state = State(found)

    assert (state.held(LOGS), state.held(TRACES)) == ((2, 1), (0, 0))
    assert pages > free >= 0


@pytest.mark.parametrize(
    ("lowest", "thought", "expected"),
    [(1, 0, 0), (1_000, 0, 0), (1_001, 0, 1_001), (9_000, 8_500, 8_500), (9_000, 7_999, 9_000), (5, 9, 5), (-7, 0, -7)],
)
def test_recount_finds_where_a_class_begins(tmp_path, lowest, thought, expected):
    """Where the search for its oldest row would pass many rows of the other class, or would miss some of its own."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY)) as connection:
        connection.execute(SET, ("logs.1.from", thought))
        for seq, notable in ((-9, 0), (lowest, 1), (lowest + 1, 1)):
            connection.execute(
                "INSERT INTO logs (seq, run_id, number, ts_us, level, logger, msg, notable, repeats, extras)"
                " VALUES (?, 'r', 1, 0, 'info', 'x', 'm', ?, 0, '{}')",
                (seq, notable),
            )
        for statement in RECOUNT:
            connection.execute(statement)
        state = State(connection.execute(READ).fetchone()[0])

    assert state.first(LOGS, 1) == expected


@pytest.fixture(scope="module")
def new_store(tmp_path_factory):
    """A script that makes a store without rows."""
    with closing(open_database(tmp_path_factory.mktemp("store") / "telemetry.db", TELEMETRY)) as connection:
        return "\n".join(connection.iterdump())


@pytest.fixture
def store(new_store):
    """That store, in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(new_store)
        yield connection


REFUSED_EVENTS = [
    *(f"{event} ON {table}" for event in ("INSERT", "DELETE") for table in ("traces", "logs", "gaps", "runs", "state")),
    "INSERT ON state WHEN NEW.name = '1'",  # the run is open
    "DELETE ON state WHEN OLD.name = '1'",  # and closed
    *(f"INSERT ON state WHEN NEW.name = '{table}.{notable}'" for table in ("traces", "logs") for notable in (0, 1)),
    "UPDATE ON state WHEN NEW.name = 'seq'",
    "UPDATE OF vitals ON runs",
    "UPDATE OF commits ON runs",
    "UPDATE OF ended_us ON runs WHEN NEW.end_reason = 'clean'",
    "UPDATE OF ended_us ON runs WHEN NEW.end_reason = 'unclean'",
    "UPDATE OF ended_us ON runs WHEN OLD.ended_us IS NOT NULL AND NEW.ended_us IS NULL",
]


def test_trial_passes_where_nothing_refuses(store):
    """It needs no more than what migrations make."""
    trial(store)


@pytest.mark.parametrize("event", REFUSED_EVENTS)
def test_trial_writes_whatever_telemetry_writes(store, event):
    """A trigger that refuses any of it is met in the trial, before it is met with records."""
    store.execute(f"CREATE TRIGGER mine BEFORE {event} BEGIN SELECT RAISE(ABORT, 'no thanks'); END")

    with pytest.raises(sqlite3.IntegrityError, match="no thanks"):
        trial(store)


@pytest.mark.parametrize(
    "unique",
    [
        *(f"traces ({column})" for column in ("run_id", "trace_id", "parent_id", "version", "error", "notable")),
        *(f"logs ({column})" for column in ("run_id", "msg", "trace_id", "span_id", "exc", "repeats")),
        "traces (notable) WHERE parent_id IS NULL AND version IS NULL AND error IS NULL",
        "traces (notable) WHERE parent_id IS NOT NULL AND version IS NOT NULL AND error IS NOT NULL",
        "logs (notable) WHERE trace_id IS NULL AND exc IS NULL",
        "logs (notable) WHERE trace_id IS NOT NULL AND exc IS NOT NULL",
        "runs (node_id)",
        "gaps (kind, reason, count)",
    ],
)
def test_trial_has_two_records_alike(store, unique):
    """An index that takes only one record of a kind, with values or without them, is met in the trial."""
    store.execute(f"CREATE UNIQUE INDEX mine ON {unique}")

    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
        trial(store)


def test_trial_has_durations_of_a_part_of_a_millisecond(store):
    """A column of whole numbers takes some durations, but not all."""
    ((made,),) = store.execute("SELECT sql FROM sqlite_schema WHERE name = 'traces'")
    changed = made.replace("duration_ms     REAL", "duration_ms     INTEGER")
    assert changed != made
    store.executescript(f"DROP TABLE traces; {changed}")

    with pytest.raises(sqlite3.IntegrityError, match="cannot store REAL value in INTEGER column"):
        trial(store)


def refused(name):
    """An error as SQLite raises it where a constraint is not met."""
    error = sqlite3.IntegrityError("refused")
    error.sqlite_errorname = f"SQLITE_CONSTRAINT_{name}"
    return error


@pytest.mark.parametrize(
    ("error", "change", "is_at_fault"),
    [
        (refused("NOTNULL"), "", True),
        (refused("DATATYPE"), "", True),
        (refused("UNIQUE"), "", False),  # our schema has no such constraint
        (refused("TRIGGER"), "", False),
        (refused("FOREIGNKEY"), "", False),
        (refused("CHECK"), "", False),
        (sqlite3.InterfaceError("no such type"), "DROP TABLE gaps", True),
        (refused("NOTNULL"), "DROP TABLE gaps", False),
        (refused("NOTNULL"), "CREATE UNIQUE INDEX mine ON traces (notable)", False),
        (refused("NOTNULL"), "CREATE INDEX mine ON traces (notable)", True),
    ],
    ids=lambda part: getattr(part, "sqlite_errorname", part),
)
def test_record_is_at_fault_where_the_schema_is_ours(store, error, change, is_at_fault):
    """Else the records after it would be refused too, and dropped one by one."""
    store.execute(change)

    assert is_record_at_fault(error, store.execute(PARTS).fetchall()) is is_at_fault
