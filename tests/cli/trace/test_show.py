"""`hearthnet trace show`: which trace is meant, and what is shown of it."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import pytest
from support.terminal import on_terminal

from hearthnet.cli.main import _run
from hearthnet.locations import locate
from hearthnet.observability import get_logger, telemetry, trace


@pytest.fixture
def ids():
    """Records three traces in the standard folder and returns their ids, oldest first."""
    made = []
    with telemetry.open():
        for name in ("one", "two", "three"):
            started = trace.new_trace(name, trace_id=f"01HXR4Z6W5S9E2JQ4Y0T7B3M{len(made)}C")
            with started, trace.span("step", values={"a": [True, None]}, text="x y " * 60):
                made.append(started.trace_id)
    return made


def shown(capsys, *words):
    """Returns the names of the traces that a command shows."""
    assert _run(["trace", *words, "--json"]) == 0
    return [item["capability"] for item in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("last", "three"), ("Last", "three"), ("-1", "three"), ("-2", "two"), ("-3", "one"),
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M0", "one"), ("01hxr4z6w5s9e2jq4y0t7b3m1", "two"),
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M2C", "three"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("ids")
def test_each_reference_shows_one(reference, expected, capsys):
    """With and without `show`, options before or behind."""
    assert shown(capsys, "show", reference) == [expected]
    assert shown(capsys, reference) == [expected]
    assert _run(["trace", "show", "--json", reference]) == 0
    assert json.loads(capsys.readouterr().out)[0]["capability"] == expected


@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("-4", 1, "error: there is no trace -4: only 3 traces\nhint: hearthnet trace recent lists them\n"),
        (
            "01HXR5",
            1,
            "error: no trace 01HXR5 in the ring\nhint: its log records may still exist: hearthnet log --trace",
        ),
        (
            "01HXR4",
            2,
            "error: several traces begin with 01HXR4\nhint: type more of the id: 01HXR4Z6W5S9E2JQ4Y0T7B3M2C, ",
        ),
        ("lost", 2, "'lost' is no trace id, no beginning of one, and no place like last or -2"),
        ("8ABC", 2, "'8ABC' is no trace id"),
        ("-0", 2, "No such option"),
        ("--jsn", 2, "No such option"),
        ("01HXR4*", 2, "is no trace id"),
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M2CX", 2, "is no trace id"),
        ("", 2, "is no trace id"),
    ],
)
@pytest.mark.usefixtures("ids")
def test_anything_else_is_an_error(reference, code, said, capsys):
    """With a hint how to go on."""
    assert _run(["trace", "show", reference]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("last", "there is no trace last: none is recorded there\n"),
        ("-1", "there is no trace -1: none is recorded there\n"),
        ("01HXR4", "no trace 01HXR4 in the ring\n"),
    ],
)
def test_empty_store_has_no_last_trace(reference, said, capsys):
    """That is an error, not a traceback."""
    with telemetry.open():
        pass
    assert _run(["trace", "show", reference]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_nothing_is_wrapped_or_padded_for_a_program(ids, capsys):
    """However long a value is, each span has one line, without trailing blanks."""
    assert _run(["trace", "show", ids[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("step ")
    assert lines[3].endswith(f'values={{"a":[true,null]}}  text="{"x y " * 60}"')
    assert [line for line in lines if line != line.rstrip()] == []


def test_narrow_terminal_gets_whole_moments_and_ids(ids):
    """Each of them is on one line; bars are ASCII where the locale is."""
    for locale, drawn in (("C", "#"), ("C.UTF-8", "█")):
        code, text, _ = on_terminal("trace", "show", ids[0], columns=80, LANG=locale, LC_CTYPE="")
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
        assert code == 0
        assert re.fullmatch(r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", lines[1])
        assert lines[2].startswith(f"trace {ids[0]}  run ")
        assert drawn in lines[3]
        assert max(map(len, lines)) <= 80


@pytest.fixture
def logged():
    """A trace that returned to this program: two visits, each with its log records; and a record of another one."""
    with telemetry.open(console="off"):
        log = get_logger("kitchen")
        for number in range(2):
            with trace.new_trace("tea.make", trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M0C"):
                log.warning("kettle \x1b[2J %d", number, extra={"n": number})
                try:
                    raise KeyError("leaf")
                except KeyError:
                    log.exception("no tea")
        with trace.new_trace("other"):
            log.error("of another trace")
    return "01HXR4Z6W5S9E2JQ4Y0T7B3M0C"


def test_log_records_are_beside_the_spans(logged, capsys):
    """Each visit has its own, in order, with all that they say; without what a terminal would obey."""
    assert _run(["trace", "show", logged, "--json"]) == 0
    visits = sorted(json.loads(capsys.readouterr().out), key=lambda visit: visit["started_us"])
    said = [[log["msg"].rpartition(" ")[2] for log in visit["logs"]] for visit in visits]
    assert said == [["0", "tea"], ["1", "tea"]]
    assert [visit["logs"][0]["extras"] for visit in visits] == [{"n": 0}, {"n": 1}]
    assert all("KeyError: 'leaf'" in visit["logs"][1]["exc"] for visit in visits)

    assert _run(["trace", "show", logged]) == 0
    text = capsys.readouterr().out
    assert re.search(r"(?m)^warning \S*[\u25b2^]\S* at \d+\.\d\d ms kitchen: kettle .*1  n=1$", text)
    assert re.search(r"(?m) kitchen: no tea  KeyError: 'leaf'$", text)
    assert "\x1b[2J" not in text
    assert "of another trace" not in text


def test_log_records_of_visits_that_overlap(capsys):
    """A program that calls itself: by their spans, and by the times at which both had not ended."""
    log = get_logger("kitchen")
    with telemetry.open(console="off"):
        outer = trace.new_trace("outer")
        with trace.span("boil"), trace.new_trace("inner", trace_id=outer.trace_id), trace.span("pour"):
            log.warning("pouring")
        log.warning("boiled")
        outer.end()
        trace.detach()
    assert _run(["trace", "show", outer.trace_id, "--json"]) == 0
    visits = json.loads(capsys.readouterr().out)
    said = {visit["capability"]: [log["msg"] for log in visit["logs"]] for visit in visits}
    assert said == {"outer": ["boiled"], "inner": ["pouring"]}


def test_log_record_after_the_clock_was_set_back(capsys, monkeypatch):
    """It is of the trace all the same."""
    with telemetry.open(console="off"), trace.new_trace("tea") as started, monkeypatch.context() as clock:
        clock.setattr("hearthnet.observability.logging.time_ns", lambda: 1_000_000_000)
        get_logger("kitchen").warning("no tea")
    assert _run(["trace", "show", started.trace_id]) == 0
    assert "kitchen: no tea" in capsys.readouterr().out


def test_many_log_records_are_bounded(capsys):
    """In the text; the rest is where it says."""
    with telemetry.open(console="off"), trace.new_trace("busy") as started:
        for number in range(70):
            get_logger("kitchen").warning(f"line {number}")
    assert _run(["trace", "show", "last"]) == 0
    text = capsys.readouterr().out
    assert text.count("kitchen: line") == 50
    assert f"20 log records more: hearthnet log --trace {started.trace_id}" in text


def test_commands_that_are_named_read_the_same_folder(tmp_path, capsys):
    """Else a person who copies one is told of another store, or of none."""
    with telemetry.open(tmp_path / "runs", console="off"), trace.new_trace("busy") as started:
        for number in range(70):
            get_logger("kitchen").warning(f"line {number}")
    data = ["--data", str(tmp_path / "runs")]
    assert _run(["trace", "show", "last", *data]) == 0
    assert f"hearthnet log --trace {started.trace_id} --data {tmp_path / 'runs'}" in capsys.readouterr().out
    for reference in ("-4", "01HXR5"):
        assert _run(["trace", "show", reference, *data]) == 1
        assert f" --data {tmp_path / 'runs'}" in capsys.readouterr().err


def test_store_of_an_older_version_shows_its_trace(ids, capsys):
    """Without log records that cannot be read."""
    with closing(sqlite3.connect(locate().data_dir / "telemetry.db")) as connection:
        connection.execute("DROP TABLE logs")
        connection.commit()
    assert _run(["trace", "show", ids[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["logs"] == []


def test_log_takes_the_last_trace(ids, capsys):
    """`log --trace` knows places, too."""
    for reference, trace_id in (("last", ids[2]), ("-2", ids[1])):
        assert _run(["log", "--trace", reference, "--json"]) == 0
        assert {line["trace_id"] for line in json.loads(capsys.readouterr().out)} == {trace_id}
