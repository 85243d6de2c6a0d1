"""`hearthnet trace recent`: order and times, on terminals of any width, in any zone."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from support.terminal import on_terminal

from hearthnet.cli.main import _run
from hearthnet.cli.trace.recent import _times
from hearthnet.database import TELEMETRY, open_database
from hearthnet.locations import locate
from hearthnet.observability import telemetry, trace

ID = re.compile("01HXR4Z6W5S9E2JQ4Y0T7B3M[0-9]C")


@pytest.fixture
def kolkata(monkeypatch):
    """A zone with half an hour in its offset."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(*started, ms=20_000.0):
    """Records a trace for each start; each lasted so long."""
    with telemetry.open():
        for number in range(len(started)):
            with trace.new_trace("experimental.echo", trace_id=f"01HXR4Z6W5S9E2JQ4Y0T7B3M{number}C"):
                pass
    with closing(open_database(locate().data_dir / "telemetry.db", TELEMETRY)) as connection:
        for number, moment in enumerate(started):
            values = (round(moment.timestamp() * 1e6), ms, f"01HXR4Z6W5S9E2JQ4Y0T7B3M{number}C")
            connection.execute("UPDATE traces SET started_us = ?, duration_ms = ? WHERE trace_id = ?", values)
        connection.commit()


@pytest.mark.usefixtures("kolkata")
def test_times_are_ends_in_local_time(capsys):
    """Without a terminal each row has date, time and offset; nothing is cut or padded."""
    record(datetime(2026, 11, 26, 11, 14, 16, tzinfo=UTC))
    assert _run(["trace", "recent"]) == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["ended", "trace", "capability", "result", "ms", "error"]
    assert row == "2026-11-26 16:44:36+05:30 01HXR4Z6W5S9E2JQ4Y0T7B3M0C experimental.echo ok     20000.0"


NOW = datetime.now(UTC)
SHORT = r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        (timedelta(), SHORT),
        (timedelta(days=3), rf"\d\d-\d\d {SHORT}|\d{{4}}-\d\d-\d\d {SHORT}"),
        (timedelta(days=400), rf"\d{{4}}-\d\d-\d\d {SHORT}"),
    ],
)
def test_date_of_other_days(ago, expected):
    """A short time has the seconds always, the month of another day, the year of another year."""
    title, (cell,) = _times([round((NOW - ago).timestamp() * 1e6)], is_wide=False)
    assert re.fullmatch(r"UTC([+-]\d{1,2}(:\d\d)?)?", title)
    assert re.fullmatch(expected, cell)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("UTC", "UTC"), ("Asia/Kolkata", "UTC+5:30"), ("America/St_Johns", "UTC-3:30"), ("Asia/Tokyo", "UTC+9")],
)
def test_zone_is_the_heading(zone, expected, monkeypatch):
    """As short as the times below it."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert _times([1_780_000_000_000_000 + 180 * 86_400_000_000], is_wide=False)[0] == expected
    monkeypatch.undo()
    time.tzset()


def test_rows_of_two_offsets_have_each_their_own(monkeypatch):
    """When clocks were put back in between."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    moments = [round(datetime(2026, 10, day, 12, tzinfo=UTC).timestamp() * 1e6) for day in (24, 26)]
    assert _times(moments, is_wide=False) == ("ended", ["2026-10-24 14:00:00+02:00", "2026-10-26 13:00:00+01:00"])
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("columns", [72, 80, 109, 110, 124, 125, 140])
@pytest.mark.parametrize("colour", [{}, {"NO_COLOR": "1"}])
def test_ids_are_whole_on_any_terminal(columns, colour):
    """No line is wider than the terminal, no id is cut, whatever the day; NO_COLOR has no colours."""
    record(NOW - timedelta(days=400), NOW - timedelta(days=3), NOW - timedelta(minutes=1))
    text = on_terminal("trace", "recent", columns=columns, **colour).text
    assert ("\x1b[32m" in text) is not bool(colour)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= columns
    assert [ID.findall(line) for line in lines[1:]] == [[f"01HXR4Z6W5S9E2JQ4Y0T7B3M{n}C"] for n in (2, 1, 0)]


@pytest.mark.parametrize("columns", [72, 80, 109, 110])
def test_error_is_seen_on_any_terminal(columns):
    """Below its trace where there is no room for a column; cut at the edge, and on one line."""
    with telemetry.open(console="off"):
        with trace.new_trace("a.first"):
            pass
        with trace.new_trace("a.second") as failed:
            failed.fail("timeout", "no reply\nfrom " + "\u4e16" * 100)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal("trace", "recent", columns=columns).text).splitlines()

    (shown,) = [line for line in lines if "no reply" in line]
    assert ("a.sec" in shown) is (columns >= 110)
    assert max(map(cell_len, lines)) <= columns
    if columns < 110:
        assert "a.sec" in lines[lines.index(shown) - 1]
        assert shown.startswith(" " * 9 + "no reply\\nfrom \u4e16")
        assert shown.endswith("\u2026")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "2026-11-26T11:14:36Z"], 1),
        (["--since", "2026-11-26 16:44:36+05:30"], 1),
        (["--since", "2026-11-26T11:14:37Z"], 0),
        (["--until", "2026-11-26T11:14:36Z"], 0),
        (["--until", "2026-11-26T11:14:37Z"], 1),
        (["--since", "2026-11-26T11:14:20Z", "--until", "2026-11-26T11:14:30Z"], 0),
    ],
)
def test_times_asked_for_are_those_shown(arguments, expected, capsys):
    """A trace of 20 s counts at its end."""
    record(datetime(2026, 11, 26, 11, 14, 16, tzinfo=UTC))
    assert _run(["trace", "recent", "--json", *arguments]) == 0
    assert len(json.loads(capsys.readouterr().out)) == expected
    assert _run(["trace", "recent", *arguments]) == 0
    assert capsys.readouterr().err == ("" if expected else "no traces match\n")


def test_cut_list_says_so(capsys):
    """Where a time was asked for, all of that time are expected."""
    record(NOW, NOW, NOW)
    assert _run(["trace", "recent", "2", "--since", "1d"]) == 0
    assert capsys.readouterr().err == "older traces match, too: hearthnet trace recent 20 …\n"
    assert _run(["trace", "recent", "3", "--since", "1d"]) == 0
    assert capsys.readouterr().err == ""
