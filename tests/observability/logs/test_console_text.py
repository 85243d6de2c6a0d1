"""Lines of the JSON log as text for people."""

from __future__ import annotations

import re
import traceback

import orjson
import pytest

from hearthnet.observability import trace
from hearthnet.observability.logs.console_text import text_of_line

RECORD = {"ts": "2026-05-26T08:14:22.281Z", "level": "info", "logger": "app.sync", "msg": "working"}
DONE = {**RECORD, "logger": "hearthnet.trace", "msg": "done", "trace_id": "01M8MXPDA831G2S0GZETXTBR6A"}


@pytest.fixture(autouse=True)
def in_india(monkeypatch):
    """Local time differs from UTC."""
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(values, *, is_for_people=True, has_colour=False):
    """The text of a line."""
    return text_of_line(orjson.dumps(values), is_for_people=is_for_people, has_colour=has_colour)


def test_record_on_a_terminal():
    """A short local time, the level, the logger, the message, the fields; no trace id."""
    values = {**RECORD, "trace_id": "01M8", "span_id": "ab", "status": 503, "backend": "desk"}

    assert text(values) == "13:44:22.281 info    app.sync: working  status=503 backend=desk\n"


def test_record_elsewhere():
    """Date, zone and trace id too: it may be read later, and on another machine."""
    shown = text({**RECORD, "level": "warning", "trace_id": "01M8"}, is_for_people=False)

    assert shown == "2026-05-26 13:44:22.281+05:30 warning app.sync: working  trace_id=01M8\n"


def test_record_in_colour():
    """The same text, and every colour ends."""
    values = {**RECORD, "level": "error", "n": 1}
    shown = text(values, has_colour=True)

    assert "\x1b[31merror" in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == text(values)
    assert shown.count("\x1b[0m") * 2 == shown.count("\x1b[")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('a="b"', r'"a=\"b\""'),
        ("", '""'),
        (12.3456789, "12.346"),
        (0.00012345, "0.000123"),
        (None, "null"),
        ([1, "a"], '[1,"a"]'),
        ({"k": 1.23456}, '{"k":1.235}'),
        ("x" * 1_000, "x" * 300 + "…"),
        ("日本", "日本"),
    ],
)
def test_values(value, shown):
    """Texts as they are where nothing is lost, others as JSON; few digits, and long ones are cut."""
    assert text({**RECORD, "v": value}) == f"13:44:22.281 info    app.sync: working  v={shown}\n"


@pytest.mark.parametrize("place", ["msg", "logger", "v", "exc", "key"])
@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x00", "\x7f", "\x9b", "\r", "\u202e", "\u2066", "\u200f"])
def test_terminal_obeys_no_text(place, character):
    """Characters that move the cursor, ring, colour, or reorder text are escaped, wherever they are."""
    values = {**RECORD, **({character: 1} if place == "key" else {place: f"a{character}[31mb"})}
    for has_colour in (True, False):
        shown = text(values, has_colour=has_colour)
        assert character not in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(r"\\[xu]|\\r", text(values)) or character == "\r"


def test_further_lines_are_indented():
    """Of a message and of a traceback: none can be taken for a record of its own."""
    exc = "Traceback (most recent call last):\n  File x\nKeyError: 'k'"
    values = {**RECORD, "msg": "one\ntwo\r\nthree", "exc": exc, "exc_type": "KeyError", "exc_message": "'k'"}

    assert text(values).splitlines() == [
        "13:44:22.281 info    app.sync: one",
        "    two",
        "    three",
        "    Traceback (most recent call last):",
        "      File x",
        "    KeyError: 'k'",
    ]


def test_trace_that_has_ended():
    """Its name, how it ended, how long it took, and its id, for `hearthnet trace`."""
    values = {**DONE, "capability": "nightly", "result": "ok", "ms": 30.671777}

    assert text(values) == "13:44:22.281 info    nightly ok in 30.672 ms  01M8MXPDA831G2S0GZETXTBR6A\n"


def test_trace_that_has_failed():
    """With its error."""
    ended = {"capability": "night\x1bly", "result": "timeout", "ms": 30, "error": "E: \x1b" + "x" * 500}
    values = {**DONE, **ended, "level": "warning"}

    assert text(values).startswith("13:44:22.281 warning night\\u001bly timeout in 30 ms: E: \\u001bxxx")
    assert text(values).endswith("x…  01M8MXPDA831G2S0GZETXTBR6A\n")


def test_empty_message():
    """A record is a line in any case."""
    assert text({**RECORD, "msg": ""}) == "13:44:22.281 info    app.sync: \n"


def test_frames_of_decorators_are_not_shown():
    """They are between the program's own; the JSON log has them."""

    @trace.span("step")
    def fail():
        raise KeyError("k")

    try:
        fail()
    except KeyError:
        exc = traceback.format_exc()
    shown = text({**RECORD, "exc": exc})

    assert "decorator.py" in exc
    assert "decorator.py" not in shown
    assert shown.count(__file__) == exc.count(__file__) == 2
    assert shown.endswith("    KeyError: 'k'\n")
