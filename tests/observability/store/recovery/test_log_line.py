"""A line of the JSON log becomes the record that it was written for, or none."""

from __future__ import annotations

import json

import orjson
import pytest

from hearthnet.observability.store.recovery.log_line import Reading, line_of, record_of, time_of

TRACE_ID = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
TS = "2026-03-01T10:00:00.000Z"
TS_US = 1_772_359_200_000_000
LOG = {"ts": TS, "level": "info", "logger": "hearthnet.x", "msg": "working"}
DONE = {
    "ts": TS, "level": "info", "logger": "hearthnet.trace", "msg": "done", "trace_id": TRACE_ID, "capability": "a.b",
    "result": "ok", "ms": 1.5,
}  # fmt: skip


def record(line, slow_ms=5_000.0, **changes):
    """The record of a line, as the seventh of its run."""
    return record_of(orjson.dumps({**line, **changes}), 7, "run", Reading(slow_ms))


@pytest.mark.parametrize(
    ("logger", "msg", "kind"),
    [
        ("hearthnet.trace", "done", "TraceRecord"),
        ("hearthnet.x", "done", "LogRecord"),  # many programs log that word
        ("hearthnet.a", "done", "LogRecord"),
        ("hearthnet.trace", "working", "LogRecord"),
        ("hearthnet.trace", "begun", "LogRecord"),
    ],
)
def test_line_of_a_trace_has_its_logger_and_its_word(logger, msg, kind):
    """Any other line is a log record's, whatever fields it has."""
    assert type(record(DONE, logger=logger, msg=msg)).__name__ == kind


def test_trace_of_a_line():
    """It began as long before the line as it lasted; what a line does not have is empty."""
    found = record(DONE, ms=1_500, error="too slow")

    assert found == (
        0, "run", 7, TRACE_ID, None, "a.b", None, TS_US - 1_500_000, 0, 1_500.0, "ok", "too slow", 0, b"[]", b"{}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "is_notable"),
    [
        ({"ms": 99.9}, 0),
        ({"ms": 100}, 1),
        ({"ms": 101}, 1),
        ({"result": "timeout"}, 1),
        ({"level": "warning"}, 0),
        ({"ms": 0}, 0),
    ],
)
def test_slow_or_failed_trace_is_notable(changes, is_notable):
    """By what it was, not by the level of its line."""
    assert record(DONE, slow_ms=100.0, **changes).notable == is_notable


@pytest.mark.parametrize(
    "changes",
    [
        {"ms": True}, {"ms": -0.001}, {"ms": 1e12}, {"ms": "1"}, {"ms": None}, {"result": 1}, {"result": None},
        {"capability": None}, {"trace_id": "no id"}, {"trace_id": None}, {"level": "loud"}, {"level": None},
        {"ts": "2026-03-01T10:00:00.000"}, {"ts": "yesterday"}, {"ts": 5}, {"msg": 1}, {"logger": None},
    ],
)  # fmt: skip
def test_line_with_another_program_s_values_is_none(changes):
    """Nothing is guessed."""
    assert record(DONE, **changes) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"null", b"\xff"])
def test_what_is_no_object_is_no_line(raw):
    """A line that was torn, or another program's."""
    assert line_of(raw) is None
    assert record_of(raw, 1, "run", Reading(1.0)) is None


def test_log_record_of_a_line():
    """Its own fields are columns, the rest are extras."""
    found = record(LOG, level="warning", trace_id=TRACE_ID, span_id="0123456789abcdef", n=1, exc="KeyError: 'k'")

    assert found == (
        0, "run", 7, TS_US, "warning", "hearthnet.x", "working", TRACE_ID, "0123456789abcdef", 1, 0, b'{"n":1}',
        "KeyError: 'k'",
    )  # fmt: skip


@pytest.mark.parametrize("span_id", ["0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", 7, None, [1]])
def test_ids_that_are_none_are_not_taken(span_id):
    """A column has an id or nothing."""
    found = record(LOG, trace_id="x", span_id=span_id)

    assert (found.trace_id, found.span_id) == (None, None)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_warnings_and_worse_are_notable(level):
    """As when they were recorded."""
    assert record(LOG, level=level).notable == (level not in {"debug", "info"})


def test_long_texts_share_a_row():
    """The end of a traceback is kept, and the beginning of the rest; together they fit."""
    long = "x" * 8_000
    found = record(LOG, logger=long, msg=long, exc=f"{long}KeyError: 'k'", **dict.fromkeys("abc", long))

    assert found.msg.startswith("xxx")
    assert found.exc.startswith("[cut]…x")
    assert found.exc.endswith("xKeyError: 'k'")
    assert 900 < len(found.exc.encode()) <= 1_024
    assert 900 < len(found.msg.encode()) <= 1_024
    assert len(found.logger.encode()) == 128
    assert 900 < len(found.extras) <= 1_024


@pytest.mark.parametrize("beside", [{"msg": "x" * 1_025}, {"exc": "KeyError"}, {"msg": "x" * 8_000, "exc": "KeyError"}])
def test_fields_beside_a_long_message_or_a_traceback_have_a_quarter_of_the_row(beside):
    """Either is enough."""
    assert 900 < len(record(LOG, a="x" * 4_000, **beside).extras) <= 1_024
    assert 1_900 < len(record(LOG, a="x" * 4_000, msg="x" * 1_024).extras) <= 2_048


@pytest.mark.parametrize("count", [1_024, 1_025])
def test_traceback_within_its_share_is_whole(count):
    """One that is longer by a character loses its beginning."""
    exc = "x" * (count - len("KeyError")) + "KeyError"
    found = record(LOG, exc=exc)

    assert (found.exc == exc) is (count == 1_024)
    assert found.exc.endswith("xKeyError")
    assert 1_000 < len(found.exc.encode()) <= 1_024


def test_fields_of_a_short_record_have_the_row_to_themselves():
    """Beside neither a traceback nor a long message they keep more."""
    found = record(LOG, a="x" * 1_500)

    assert orjson.loads(found.extras) == {"a": "x" * 1_500}
    assert 2_000 < len(record(LOG, a="x" * 2_000, b="y" * 2_000).extras) <= 2_048


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (2**63, str(2**63)), (-(2**63) - 1, "-9223372036854775809"),
        (-(10**20), str(-(10**20))),
        (10**20, "100000000000000000000"), (10**300, "1" + "0" * 300), (1.5e300, 1.5e300), (7, 7),
    ],
)  # fmt: skip
def test_integer_of_any_size_keeps_its_digits(number, kept):
    """As text where 64 bits do not hold it, in a list, too; never as a float, which has sixteen digits."""
    raw = json.dumps({**LOG, "a": number, "b": [number]}).encode()
    found = record_of(raw, 7, "run", Reading(5_000.0))

    assert orjson.loads(found.extras) == {"a": kept, "b": [kept]}


def test_duration_of_many_digits_is_no_duration():
    """Nor does a line that nests deep beside such a number end in an error."""
    assert record_of(json.dumps({**DONE, "ms": 10**20}).encode(), 7, "run", Reading(5_000.0)) is None
    deep = b'{"n": 10000000000000000000000, "a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    assert line_of(deep) is None or line_of(deep)["n"] == "10000000000000000000000"


@pytest.mark.parametrize(
    ("ts", "expected"),
    [(TS, TS_US), ("2026-03-01T12:00:00.001+02:00", TS_US + 1_000), ("1970-01-01T00:00:00.250Z", 250_000)],
)
def test_time_of_a_line_is_in_utc(ts, expected):
    """In microseconds, as exact as a line is: to the millisecond."""
    assert time_of({"ts": ts}) == expected
    assert isinstance(time_of({"ts": ts}), int)
