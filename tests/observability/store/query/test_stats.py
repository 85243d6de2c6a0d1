"""`capability_stats`, compared with Python's own figures, on old databases, and without one."""

from __future__ import annotations

import math
import random
import sqlite3
from collections import defaultdict
from contextlib import closing

import pytest

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.errors import StoreError
from hearthnet.forensics.tables import NEWEST_VERSION
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.results import RESULTS, is_failure
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.query.stats import capability_stats, last_end
from hearthnet.observability.store.reader import Reader, TraceFilter

SECOND_US = 1_000_000


def call(seq: int, capability: str, result: str, ms: float) -> TraceRecord:
    """Returns a row of `traces`."""
    return TraceRecord(
        seq, "r", seq, f"t{seq}", None, capability, None, seq * SECOND_US, 0, ms, result, None, 0, b"[]", b"{}"
    )


def nearest_rank(sorted_ms: list[float], percent: int) -> float:
    """Returns the quantile as textbooks define it."""
    return sorted_ms[max(1, math.ceil(percent * len(sorted_ms) / 100)) - 1]


def computed(calls: list[TraceRecord]) -> list[dict]:
    """Returns the expected rows of the view."""
    groups: dict[str, list[TraceRecord]] = defaultdict(list)
    for record in calls:
        groups[record.capability].append(record)
    stats = []
    for capability, group in groups.items():
        durations = sorted(record.duration_ms for record in group)
        errors = sum(is_failure(record.result) for record in group)
        last_s = max(record.started_us for record in group) // SECOND_US
        stats.append({
            "capability": capability,
            "count": len(group),
            "errors": errors,
            "error_rate": pytest.approx(errors / len(group)),
            "p50_ms": nearest_rank(durations, 50),
            "p90_ms": nearest_rank(durations, 90),
            "p99_ms": nearest_rank(durations, 99),
            "max_ms": durations[-1],
            "last_ts": f"1970-01-01T{last_s // 3600:02}:{last_s // 60 % 60:02}:{last_s % 60:02}.000Z",
        })  # fmt: skip
    return sorted(stats, key=lambda item: (-item["count"], item["capability"]))


@pytest.fixture
def path(tmp_path):
    """Path of the database."""
    return tmp_path / "data" / "telemetry.db"


@pytest.fixture
def reader(path):
    """A reader of the database."""
    made = Reader(path)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(8))
def test_view_agrees_with_python(path, reader, seed):
    """Random calls of a few capabilities, many of equal length, groups of 1 to some hundred."""
    rng = random.Random(seed)
    names = [f"cap.n{number}" for number in range(rng.randint(1, 12))]
    weights = [rng.random() ** 3 + 1e-3 for _ in names]
    results = ["ok", "ok", *sorted(RESULTS)]
    calls = [
        call(seq, name, rng.choice(results), rng.choice([rng.expovariate(0.01), float(rng.randint(0, 9))]))
        for seq, name in enumerate(rng.choices(names, weights, k=rng.randint(1, 1_500)), 1)
    ]
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("BEGIN")
        old = rows.TRACES.columns.replace("number, ", "")
        insert = f"INSERT INTO traces ({old}) VALUES ({', '.join('?' * (len(TraceRecord._fields) - 1))})"
        connection.executemany(insert, [(*one[:2], *one[3:-2], "[]", "{}") for one in calls])
        connection.execute("COMMIT")

    assert capability_stats(reader) == computed(calls)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 99, 100, 101, 199, 200])
def test_quantiles_at_the_edges_of_a_rank(path, reader, count):
    """The quantiles are right for ranks that are whole numbers, and for those beside them."""
    calls = [call(seq, "a.b", "ok", float(seq)) for seq in range(1, count + 1)]
    with closing(open_database(path, TELEMETRY)) as connection:
        old = rows.TRACES.columns.replace("number, ", "")
        insert = f"INSERT INTO traces ({old}) VALUES ({', '.join('?' * (len(TraceRecord._fields) - 1))})"
        connection.executemany(insert, [(*one[:2], *one[3:-2], "[]", "{}") for one in calls])

    assert capability_stats(reader) == computed(calls)


def test_database_without_calls_has_no_rows(path, reader):
    """Without traces the view has no row, not one of nulls."""
    open_database(path, TELEMETRY).close()

    assert capability_stats(reader) == []


def old_database(path, calls) -> None:
    """A store with version 2 of the schema."""
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for number in ("0001_initial.sql", "0002_wear.sql"):
            connection.executescript((migrations_dir() / TELEMETRY.name / number).read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute("PRAGMA user_version = 2")
        old = rows.TRACES.columns.replace("number, ", "")
        insert = f"INSERT INTO traces ({old}) VALUES ({', '.join('?' * (len(TraceRecord._fields) - 1))})"
        connection.executemany(insert, [(*one[:2], *one[3:-2], "[]", "{}") for one in calls])


def test_old_database_gets_the_new_columns(path, reader):
    """Migration keeps the rows and the columns of older queries, and the new columns agree with them."""
    calls = [call(seq, "a.b", "ok" if seq < 8 else "timeout", float(seq)) for seq in range(1, 11)]
    old_database(path, calls)
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT * FROM capability_stats").fetchall()
        names = [row[1] for row in connection.execute("PRAGMA table_info(capability_stats)")]
        assert "errors" not in names

    with closing(open_database(path, TELEMETRY)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST_VERSION,)
        assert connection.execute("SELECT count(*) FROM traces").fetchone() == (10,)
        assert connection.execute(f"SELECT {', '.join(names)} FROM capability_stats").fetchall() == before
        assert connection.execute("SELECT failed, errors, ts = last_ts FROM capability_stats").fetchall() == [(3, 3, 1)]
    assert capability_stats(reader) == computed(calls)


def test_old_database_can_be_read_as_it_is(path, reader):
    """After an upgrade, before a node has run, the tools read the store and do not change it."""
    calls = [call(seq, "a.b", "ok", float(seq)) for seq in range(1, 4)]
    old_database(path, calls)

    assert capability_stats(reader) == computed(calls)
    assert reader.rows("PRAGMA user_version") == [(2,)]


def test_missing_database_raises(reader):
    """A missing database raises, and the caller decides what to do."""
    with pytest.raises(StoreError, match="does not exist"):
        capability_stats(reader)


def test_open_telemetry_answers_whatever_the_database_does(observability, logged):
    """Committed calls are counted; without a readable database there are none, and the reason is logged.

    The files go after the end of the telemetry thread: while it runs it makes a lost database anew and takes the
    calls back from the black box.
    """
    with telemetry.open(observability) as t:
        for _ in range(3):
            with trace.new_trace("a.b"):
                pass
        assert t.flush()
        ((item),) = t.capability_stats()
        assert (item["capability"], item["count"], item["errors"]) == ("a.b", 3, 0)

    for file in observability.data_dir.glob("telemetry.db*"):
        file.rename(observability.data_dir / f"away-{file.name}")
    assert t.capability_stats() == []
    assert any(record.msg == "telemetry.db cannot be read" for record in logged)


def test_stats_are_those_of_the_node_and_agree_with_the_view(path, reader):
    """Calls of another program are left out, once a node has recorded; without a node the view says the same."""
    calls = [call(seq, f"cap.n{seq % 3}", "ok" if seq % 4 else "timeout", float(seq * 7 % 50)) for seq in range(1, 60)]
    of_cron = [call(seq, "cron.copy", "timeout", 1.0)._replace(run_id="c") for seq in range(60, 70)]
    columns = "capability, count, errors, error_rate, p50_ms, p90_ms, p99_ms, max_ms, last_ts"
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.executemany(rows.TRACES.insert, [*calls, *of_cron])
        seen = connection.execute(f"SELECT {columns} FROM capability_stats ORDER BY count DESC, capability").fetchall()
        assert [tuple(item.values()) for item in capability_stats(reader)] == seen

        connection.execute(rows.INSERT_RUN, ("c", None, "1", 1, None, 1, "cron.py", "library"))
        connection.execute(rows.INSERT_RUN, ("r", "ed25519:n", "1", 1, None, 1, "hearthnet", "node"))
    assert capability_stats(reader) == computed(calls)


def test_program_of_a_run(path, reader):
    """The reader knows the programs of runs, finds the traces of one, and those of the node."""
    with closing(open_database(path, TELEMETRY)) as connection:
        for number in range(1_201):
            run = (f"r{number}", "ed25519:n" if number == 7 else None, "1", 1, None, 1, f"p{number % 2}.py", "library")
            connection.execute(rows.INSERT_RUN, run)
        connection.executemany(
            rows.TRACES.insert, [call(seq, "a.b", "ok", 1.0)._replace(run_id=f"r{seq}") for seq in range(1, 10)]
        )

    assert reader.programs([]) == {}
    assert reader.programs(["r3", "r4", "nowhere"]) == {"r3": "p1.py", "r4": "p0.py"}
    assert len(reader.programs([f"r{number}" for number in range(1_201)])) == 1_201
    assert [record.seq for record in reader.recent(9, TraceFilter(program="p0.py"))] == [8, 6, 4, 2]
    assert [record.seq for record in reader.recent(9, TraceFilter(of_node=True))] == [7]
    assert reader.has_node()


def test_old_database_has_no_programs(path, reader):
    """Before a node has migrated it, no program is known; that is no error."""
    old_database(path, [call(1, "a.b", "ok", 1.0)])

    assert not reader.knows_programs()
    assert reader.programs(["r"]) == {}
    assert not reader.has_node()
    assert reader.recent(9, TraceFilter(of_node=True)) == []


def test_filters_by_time_compare_the_end(path, reader):
    """A trace counts when it ended, as it is listed."""
    long = call(1, "a.b", "ok", 20_000.0)._replace(started_us=1_000_000)  # until 21 s
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.executemany(rows.TRACES.insert, [long])

    for since_us, until_us, count in (
        (2_000_000, None, 1), (21_000_000, None, 1), (21_000_001, None, 0), (None, 21_000_000, 0),
        (None, 21_000_001, 1), (2_000_000, 22_000_000, 1),
    ):  # fmt: skip
        wanted = TraceFilter(since_us=since_us, until_us=until_us)
        assert (len(reader.recent(9, wanted)), wanted.accepts(long)) == (count, bool(count))


def test_what_was_committed_since(path, reader):
    """A reader that follows gets each trace once, by seq."""
    with closing(open_database(path, TELEMETRY)) as connection:
        assert reader.last_seq() == 0
        connection.executemany(rows.TRACES.insert, [call(seq, "a.b", "ok", 1.0) for seq in range(1, 10)])

    assert reader.last_seq() == 9
    assert [record.seq for record in reader.recent(99, TraceFilter(seqs=(3, 6)))] == [6, 5, 4]
    assert reader.recent(99, TraceFilter(seqs=(9, 9))) == []


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([("n1", "ed25519:n", 1, "clean")], "clean"),
        ([("n1", "ed25519:n", 1, "clean"), ("n2", "ed25519:n", 2, None)], "unclean"),
        ([("n1", "ed25519:n", 1, "unclean"), ("c", None, 2, "clean")], "unclean"),
        ([("n2", "ed25519:n", 2, "clean"), ("n1", "ed25519:n", 1, None)], "clean"),
        ([("c", None, 1, "clean")], None),
    ],
)
def test_end_of_the_last_run(path, reader, runs, expected):
    """Of the node's own runs; one without an end did not stop cleanly."""
    with closing(open_database(path, TELEMETRY)) as connection:
        for run_id, node_id, started_us, reason in runs:
            connection.execute(rows.INSERT_RUN, (run_id, node_id, "1", 1, None, started_us, "p", "node"))
            connection.execute("UPDATE runs SET end_reason = ? WHERE run_id = ?", (reason, run_id))
        connection.commit()

    assert last_end(reader) == expected
