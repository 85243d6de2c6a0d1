"""Which capability fails at present, since when, and where."""

from __future__ import annotations

from contextlib import closing

import pytest
from support.records import a_trace
from support.stores import put

from hearthnet.observability.store.query.trouble import last_failure_us, trouble
from hearthnet.observability.store.reader import Reader

SECOND_US = 1_000_000
SPANS = (
    b'[{"id": "a", "parent": null, "name": "handle", "duration_ms": 9}, {"id": "b", "parent": "a", "name": "connect",'
    b' "duration_ms": 7}, {"id": "c", "parent": "a", "name": "read", "duration_ms": 1}]'
)


@pytest.fixture
def found(tmp_path):
    """What is found a minute after the last of some calls: `.` is one that succeeded, a letter one that failed."""

    def find(results, now_us=None, **changes):
        named = {
            ".": "ok",
            "c": "cancelled",
            "t": "timeout",
            "i": "interrupted",
            "n": "not_found",
            "e": "internal_error",
        }
        records = [
            a_trace(
                number,
                result=named[letter],
                notable=int(letter not in ".c"),
                error=f"E{number}",
                spans=SPANS,
                **changes,
            )
            for number, letter in enumerate(results, 1)
        ]
        put(tmp_path / "t.db", records)
        with closing(Reader(tmp_path / "t.db")) as reader:
            return trouble(reader, now_us or (len(results) + 60) * SECOND_US), last_failure_us(reader)

    return find


def test_nothing_fails(found):
    """All calls succeed, are cancelled, or there are none."""
    assert found("....c.c") == (None, None)


def test_empty_store(found):
    """No call at all."""
    assert found("") == (None, None)


def test_share_since_error_and_span(found):
    """The first failure after the last success before the newest one, and the longest step without steps below it."""
    result, last_us = found("....tttet")

    assert result == {
        "capability": "a.b", "count": 9, "failed": 5, "seq": 9, "result": "timeout", "error": "E9",
        "since_us": 5 * SECOND_US, "span": "connect",
    }  # fmt: skip
    assert last_us == 9 * SECOND_US


def test_success_in_between_begins_anew(found):
    """It fails since its last success."""
    assert found("ttt.tt")[0]["since_us"] == 5 * SECOND_US


@pytest.mark.parametrize("results", ["ttt" + 40 * ".", "tt", 15 * "." + "ttt", "nnnnn", "iiiii"])
def test_what_is_no_trouble(found, results):
    """Failures long past, two, under a fifth, the callers' own mistakes, and calls that a dying run interrupted."""
    result, _ = found(results)

    assert result is None


def test_failures_that_were_asked_for_do_not_count(found):
    """A test of the echo service is no trouble."""
    assert found("tttttt", extras=b'{"asked_for":true}') == (None, None)


def test_old_failure_is_not_at_present(found):
    """Nothing was called for an hour: whether it would fail is not known."""
    result, last_us = found("tttttt", now_us=3_700 * SECOND_US)

    assert (result, last_us) == (None, 6 * SECOND_US)


def test_damaged_spans_name_no_step(found):
    """The rest is still known."""
    result, _ = found("tttt")
    assert result["span"] == "connect"


def test_worst_of_several(tmp_path):
    """The one with most failures."""
    records = [a_trace(number, result="timeout", notable=1, capability="few", spans=b"x") for number in range(1, 4)]
    records += [a_trace(number, result="timeout", notable=1, capability="many", spans=b"x") for number in range(4, 9)]
    put(tmp_path / "t.db", records)
    with closing(Reader(tmp_path / "t.db")) as reader:
        result = trouble(reader, 20 * SECOND_US)

    assert (result["capability"], result["span"]) == ("many", None)
