"""Queries that are run: order, pages, counts, bounds, and what is said when nothing is found."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.searched import NOW_US, a_span, log, seqs, trace, write

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.errors import StoreError
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError
from hearthnet.observability.store.search import compile_query, run_query, select

ORDERS = ["newest", "slowest"]


def compiled(text, table="traces"):
    """A query at a fixed moment."""
    return compile_query(text, table, now_us=NOW_US)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Twenty traces, whose durations repeat, and a log record."""
    return write(
        tmp_path_factory.mktemp("run") / "telemetry.db",
        *(trace(number, [a_span("find")] * 2, {"n": number}, duration_ms=number % 5 + 0.1) for number in range(1, 21)),
        log(21, {"peer": "x"}, exc="Traceback", repeats=2),
    )


def test_rows_have_the_columns_of_their_table(path):
    """The extras decoded, the program, and the number of spans instead of the spans."""
    (row,) = run_query(path, compiled("n:7")).rows
    assert row == {
        "seq": 7, "run_id": "run", "trace_id": "run-7", "parent_id": None, "capability": "a.b", "version": None,
        "started_us": 7_000_000, "duration_ms": 2.1, "result": "ok", "error": None, "notable": 0, "span_count": 2,
        "extras": {"n": 7}, "program": "run.py",
    }  # fmt: skip
    (row,) = run_query(path, compiled("peer:x", "logs")).rows
    assert row == {
        "seq": 21, "run_id": "run", "ts_us": 21_000_000, "level": "info", "logger": "x", "msg": "21", "trace_id": None,
        "span_id": None, "repeats": 2, "extras": {"peer": "x"}, "exc": "Traceback", "program": "run.py",
    }  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_pages_have_every_row_once(path, order):
    """In one order; each page counts all that match."""
    whole = run_query(path, compiled("n:>2"), order, 100)
    keys = [(row["duration_ms"] if order == "slowest" else 0, row["seq"]) for row in whole.rows]
    assert (whole.next, len(keys), keys) == (None, 18, sorted(keys, reverse=True))

    pages, place = [], None
    while True:
        page = run_query(path, compiled("n:>2"), order, 4, place)
        pages += page.rows
        assert (page.count, page.count_is_exact) == (18, True)
        if (place := page.next) is None:
            break
    assert pages == whole.rows


@pytest.mark.parametrize(
    ("order", "place"), [("newest", "x"), ("newest", "1:2.0"), ("slowest", "7"), ("slowest", "1:nan")]
)
def test_place_of_another_order_is_refused(path, order, place):
    """It comes from a client."""
    with pytest.raises(QueryError, match="is no place in this order"):
        run_query(path, compiled(""), order, 4, place)


def test_count_is_bounded(path, monkeypatch):
    """From there on it is a lower bound."""
    monkeypatch.setattr(select, "MAX_COUNT", 10)
    many, few = run_query(path, compiled(""), n=3), run_query(path, compiled("n:>10"), n=3)
    assert (many.count, many.count_is_exact, many.count_text) == (10, False, "10+")
    assert (few.count, few.count_is_exact, few.count_text) == (10, True, "10")


def test_query_with_problems_is_not_run(path):
    """Nor is one for another order."""
    with pytest.raises(QueryError, match="there is no result 'x'"):
        run_query(path, compiled("result:x"))
    with pytest.raises(QueryError, match="only traces"):
        run_query(path, compiled("", "logs"), "slowest")


def test_query_ends_at_its_deadline(path):
    """Whatever it has found."""
    with pytest.raises(QueryLimitError, match="the search takes longer than 0 s"):
        run_query(path, compiled("find"), timeout_s=0)


def test_nothing_is_changed(path):
    """The connection can only read, and leaves no transaction."""
    before = path.read_bytes()
    run_query(path, compiled("find model:x"))
    assert path.read_bytes() == before


def test_missing_and_broken_databases(tmp_path):
    """Are reported as by every command."""
    with pytest.raises(StoreError, match="does not exist"):
        run_query(tmp_path / "telemetry.db", compiled(""))
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database at all" * 1_000)
    with pytest.raises(StoreError, match="file is not a database"):
        run_query(broken, compiled(""))


def test_invalid_json_and_text_do_not_go_unnoticed(tmp_path):
    """JSON that is none is an error; bytes that are no text are replaced."""
    path = write(tmp_path / "telemetry.db", trace(1), trace(2, error="e"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE traces SET error = CAST(x'ff65' AS TEXT) WHERE seq = 2")
        connection.commit()
        assert run_query(path, compiled("error:E")).rows[0]["error"] == "\N{REPLACEMENT CHARACTER}e"
        connection.execute("UPDATE traces SET extras = '{' WHERE seq = 1")
        connection.commit()
    assert seqs(path, "result:ok error:e") == [2]
    with pytest.raises(StoreError, match="malformed JSON"):
        run_query(path, compiled("caller:x*"))


def test_database_of_an_older_version_is_read(tmp_path):
    """Its runs have no program."""
    path = tmp_path / "telemetry.db"
    with closing(sqlite3.connect(path)) as connection:
        for file in sorted((migrations_dir() / "telemetry").glob("000[1-5]*.sql")):
            connection.executescript(file.read_text("utf-8"))
        row = "1, 'r', 't', NULL, 'a.b', NULL, 0, 0, 1, 'ok', NULL, 0, '[]', '{}'"
        connection.execute(f"INSERT INTO traces VALUES ({row})")
        connection.commit()
    assert [(row["seq"], row["program"]) for row in run_query(path, compiled("a.b")).rows] == [(1, None)]
    with pytest.raises(StoreError, match="no such column: program"):
        run_query(path, compiled("program:x"))


# --- nothing found


def test_newest_match_outside_the_time_is_named(path):
    """If the rest of the query matches; with what the store has."""
    found = run_query(path, compiled("n:<=7 since:1970-01-02"))
    assert (found.rows, found.count, found.newest_match_us) == ([], 0, 7_002_100)
    assert (found.oldest_us, found.newest_us) == (1_001_100, 20_000_100)
    assert run_query(path, compiled("n:99 since:1970-01-02")).newest_match_us is None
    assert run_query(path, compiled("n:99")).newest_match_us is None
    assert run_query(path, compiled("n:7 until:1970-01-02")).newest_match_us is None


def test_store_without_records(tmp_path):
    """Has no oldest one."""
    open_database(tmp_path / "telemetry.db", TELEMETRY).close()
    found = run_query(tmp_path / "telemetry.db", compiled("x since:1h"))
    assert (found.rows, found.oldest_us, found.newest_us, found.newest_match_us) == ([], None, None, None)


@pytest.mark.parametrize(
    ("text", "table", "message", "hint"),
    [
        ("N:7", "traces", "no recent trace has the attribute N", 'to search for the text, quote it: "N:7"'),
        ("resutl:ok", "traces", "no recent trace has the attribute resutl", "did you mean result?"),
        ("peers:x", "logs", "no recent log record has the attribute peers", "did you mean peer?"),
        (
            "host:8080",
            "logs",
            "no recent log record has the attribute host",
            'to search for the text, quote it: "host:8080"',
        ),
    ],
)
def test_name_that_no_record_has_is_doubted(path, text, table, message, hint):
    """Any name may be that of an attribute, so it is no error."""
    (problem,) = run_query(path, compiled(text, table)).problems
    assert problem == (message, hint, 0, len(text))


@pytest.mark.parametrize("text", ["n:99", "-missing:x n:99", "zzz", "result:timeout"])
def test_name_that_is_known_is_not_doubted(path, text):
    """Nor one that the records must not have."""
    found = run_query(path, compiled(text))
    assert (found.count, found.problems) == (0, [])


def test_status_of_a_response_has_a_short_name(tmp_path):
    """Of traces, beside an attribute that is called so; it is not doubted where the long one is known."""
    long, short = {"http.response.status_code": 500}, {"status": 503}
    path = write(tmp_path / "t.db", trace(1, extras=long), trace(2, extras=short), log(3, long), log(4, short))
    assert [row["seq"] for row in run_query(path, compiled("status:>=500")).rows] == [2, 1]
    assert [row["seq"] for row in run_query(path, compiled("-status:503")).rows] == [1]
    assert [row["seq"] for row in run_query(path, compiled("status:>=500", "logs")).rows] == [4]
    assert run_query(path, compiled("status:404")).problems == []
