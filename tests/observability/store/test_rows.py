"""Conversion of records to rows and back."""

from __future__ import annotations

import sqlite3
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.record import encode, safe_text
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store import rows

text = st.text(max_size=50).map(safe_text)
maybe = st.none() | text | st.sampled_from(["", "0", "0.0"])
integer = st.integers(-(2**63), 2**63 - 1)
small = st.integers(1, 2**40)
extras = st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4).map(encode)

traces = st.builds(
    TraceRecord, st.just(0), text, small, text, maybe, text, maybe, integer, integer,
    st.floats(0, 1e9), text, maybe, st.sampled_from([0, 1]), st.just(b"[]"), extras,
)  # fmt: skip
logs = st.builds(
    LogRecord,
    st.just(0),
    text,
    small,
    integer,
    text,
    text,
    text,
    maybe,
    maybe,
    st.sampled_from([0, 1]),
    integer,
    extras,
    maybe,
)


def stored(tmp_path_factory, insert: str, row: tuple, select: str) -> tuple:
    """Inserts a row and returns what SQLite reads back."""
    with_path = tmp_path_factory.mktemp("rows") / "telemetry.db"
    connection = open_database(with_path, TELEMETRY)
    try:
        connection.execute(insert, row)
        return connection.execute(select).fetchone()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An open database that all examples of a property share."""
    connection = open_database(tmp_path_factory.mktemp("rows") / "telemetry.db", TELEMETRY)
    yield connection
    connection.close()


def assert_survives(database, table, record):
    """A batch with the numbers that follow the record's, whose seqs are a hundred more, is read back as it was."""
    last = record.number + rows.ROWS_AT_ONCE
    batch = [record._replace(number=number) for number in range(record.number, last)]
    database.execute(f"DELETE FROM {table.name}")

    values = (table.values_of(one, 100) for one in batch)
    database.execute(table.insert_many, list(chain.from_iterable(values)))
    database.execute(table.insert, table.with_seq(record._replace(number=last), 100 + last))

    found = database.execute(f"SELECT {table.columns} FROM {table.name} ORDER BY seq").fetchall()
    expected = [*batch, record._replace(number=last)]
    assert [table.record_of(row) for row in found] == [one._replace(seq=100 + one.number) for one in expected]


@given(record=traces)
def test_trace_survives_its_row(database, record):
    """A trace record is the same after its row, inserted alone or with others in one statement."""
    assert_survives(database, rows.TRACES, record)


@given(record=logs)
def test_log_record_survives_its_row(database, record):
    """A log record is the same after its row, inserted alone or with others in one statement."""
    assert_survives(database, rows.LOGS, record)


def test_trace_survives_the_database(tmp_path_factory):
    """A trace with every kind of character is the same after a round trip through SQLite."""
    record = TraceRecord(
        7, "run", 5, "id", None, "a.b", "1.0", 1, 2, 3.5, "ok", safe_text("\x00\ud800ü\n"), 1, b'[{"id":"x"}]',
        encode({"k": "\u2028🜨"}),
    )  # fmt: skip

    row = stored(tmp_path_factory, rows.TRACES.insert, record, f"SELECT {rows.TRACES.columns} FROM traces")

    assert rows.TRACES.record_of(row) == record


def test_log_record_survives_the_database(tmp_path_factory):
    """A log record is the same after a round trip through SQLite."""
    record = LogRecord(7, "run", 5, 1, "info", "l", safe_text("\x00\ud800ü\n"), None, "s", 0, 2, b"{}", None)

    row = stored(tmp_path_factory, rows.LOGS.insert, record, f"SELECT {rows.LOGS.columns} FROM logs")

    assert rows.LOGS.record_of(row) == record


def test_rows_are_strict(tmp_path_factory):
    """The schema refuses a value of the wrong type."""
    record = LogRecord(7, "run", 5, "no time", "info", "l", "m", None, None, 0, 0, b"{}", None)

    with pytest.raises(sqlite3.IntegrityError, match="ts_us"):
        stored(tmp_path_factory, rows.LOGS.insert, record, "SELECT 1")


def test_trace_shows_its_fields_decoded():
    """Its spans and fields are JSON in the record, and values to a reader."""
    shown = rows.as_dict(a_trace(3, spans=b'[{"name":"s"}]', extras=b'{"n":1}'))

    assert (shown["number"], shown["spans"], shown["extras"]) == (3, [{"name": "s"}], {"n": 1})
