"""Times as people write and read them, in several zones."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.moments import at, duration, ended_us, in_local_time, iso, local, parse
from hearthnet.observability.logs import messages

NOW = datetime(2026, 11, 29, 16, 50, tzinfo=UTC)  # 22:20 in Kolkata


@pytest.fixture(params=["Asia/Kolkata"])
def zone(request, monkeypatch):
    """The local zone of the test."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def utc(us: int) -> str:
    """Returns a moment as text in UTC, with all digits that count."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat().removesuffix("+00:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1h", "2026-11-29T15:50:00"),
        ("90m", "2026-11-29T15:20:00"),
        ("2d", "2026-11-27T16:50:00"),
        ("1w", "2026-11-22T16:50:00"),
        ("45s ago", "2026-11-29T16:49:15"),
        ("1h30m", "2026-11-29T15:20:00"),
        (" 2D ", "2026-11-27T16:50:00"),
        ("0s", "2026-11-29T16:50:00"),
        ("now", "2026-11-29T16:50:00"),
        ("16:30", "2026-11-29T11:00:00"),
        ("9:05", "2026-11-29T03:35:00"),
        ("22:20", "2026-11-29T16:50:00"),
        ("22:21", "2026-11-28T16:51:00"),  # still to come: yesterday's
        ("16:30:05.25", "2026-11-29T11:00:05.250000"),
        ("16:30Z", "2026-11-29T16:30:00"),
        ("17:00Z", "2026-11-28T17:00:00"),
        ("today", "2026-11-28T18:30:00"),
        ("yesterday", "2026-11-27T18:30:00"),
        ("Yesterday 16:30", "2026-11-28T11:00:00"),
        ("2026-05-26", "2026-05-25T18:30:00"),
        ("2026-05-26 08:14", "2026-05-26T02:44:00"),
        ("2026-05-26T08:14:22", "2026-05-26T02:44:22"),
        ("2026-11-29T16:40:00Z", "2026-11-29T16:40:00"),
        ("2026-11-29t16:40:00.907z", "2026-11-29T16:40:00.907000"),
        ("2026-11-29 16:40:00.123456Z", "2026-11-29T16:40:00.123456"),
        ("2026-11-29 16:40:00+05:30", "2026-11-29T11:10:00"),
        ("2026-11-29 16:40:00 +0530", "2026-11-29T11:10:00"),
        ("2026-11-29 16:40:00.123 +0530", "2026-11-29T11:10:00.123000"),
        ("2026-11-29 16:40:00 Z", "2026-11-29T16:40:00"),
        ("20261129T171115Z", "2026-11-29T17:11:15"),
        ("11-26 16:44:36", "2026-11-26T11:14:36"),
        ("12-26 16:44:36", "2025-12-26T11:14:36"),
    ],
)
@pytest.mark.usefixtures("zone")
def test_each_form_is_read(text, expected):
    """Ages, times of day, days and every ISO form; without a zone it is local time."""
    assert utc(parse(text, NOW)) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "1", "1x", "-1h", "1.5h", "h", "16", "24:30", "16:60", "16:xx", "tomorrow", "yesterday 25:00",
     "2026-13-01", "2026-02-30", "2026-05", "02-30", "2026-05-26T", "2026-05-26T08:14:22+99:00", "999999999w",
     "0001-01-01", "1h 30", "\u0661\u0668:\u0663\u0660x", "1795970400000000"],
)  # fmt: skip
@pytest.mark.usefixtures("zone")
def test_anything_else_is_an_error_that_lists_the_forms(text):
    """No text is guessed at, and none ends in another exception."""
    with pytest.raises(ValueError, match=r"is not a time: use 90m \(ago\), 2d, 16:30, yesterday, 2026-05-26 or "):
        parse(text, NOW)


@given(st.text())
def test_no_text_raises_anything_else(text):
    """Whatever is typed is a time or a ValueError."""
    with suppress(ValueError):
        parse(text, NOW)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "UTC"], indirect=True)
@pytest.mark.usefixtures("zone")
@given(st.integers(min_value=946_684_800_000, max_value=4_102_444_800_000))
def test_what_is_printed_can_be_given_back(ms):
    """Local text with offset and UTC text, of any moment, also when clocks are put back."""
    assert parse(local(ms * 1_000)) == ms * 1_000
    assert parse(iso(ms * 1_000)) == ms * 1_000
    assert parse(in_local_time(iso(ms * 1_000))) == ms * 1_000


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000))
def test_moments_are_cut_as_in_the_json_log(us):
    """One record has one time to the millisecond: in its line, on the screen, in JSON, and in SQL."""
    written = messages.timestamp(us * 1_000).decode().removeprefix('{"ts":"') + "Z"
    with closing(sqlite3.connect(":memory:")) as connection:
        ((told,),) = connection.execute("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ? / 1000 / 1e3, 'unixepoch')", (us,))

    assert iso(us) == written == told
    assert local(us) == in_local_time(written)
    assert local(us, "seconds")[:19] == local(us)[:19]


def test_moments_out_of_range_are_numbers():
    """Whatever is in a damaged file can be printed."""
    assert (at(2**62), iso(2**62), iso(None), local(-(2**62))) == (None, None, None, f"{-(2**62)} us")
    assert iso(1, "microseconds") == "1970-01-01T00:00:00.000001Z"


def test_end_of_a_duration_is_cut():
    """To the microsecond, also where the sum as a floating-point number would be the next one."""
    assert ended_us(1_764_520_162_878_998, 0.001_9) == 1_764_520_162_878_999


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
@pytest.mark.usefixtures("zone")
def test_days_have_23_or_25_hours():
    """A day begins at its own midnight, whatever the clocks did since; an age counts hours that passed."""
    morning = datetime(2026, 10, 25, 7, 0, tzinfo=UTC)  # 08:00; clocks were put back at 03:00

    assert utc(parse("today", morning)) == "2026-10-24T22:00:00"
    assert utc(parse("00:30", morning)) == "2026-10-24T22:30:00"
    assert utc(parse("8h", morning)) == "2026-10-24T23:00:00"


@pytest.mark.usefixtures("zone")
def test_times_in_a_text_become_local():
    """Only times in UTC do; the digits stay as exact as they were."""
    text = "last seen at 2026-11-29T11:14:36.907Z, began 2026-11-29T11:14:36Z; 2026-11-29T11:14:36+01:00, 9999-99-99T"

    assert in_local_time(text) == (
        "last seen at 2026-11-29 16:44:36.907+05:30, began 2026-11-29 16:44:36+05:30; "
        "2026-11-29T11:14:36+01:00, 9999-99-99T"
    )
    assert in_local_time("2026-13-45T11:14:36Z") == "2026-13-45T11:14:36Z"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"), (0.0464, "46 ms"), (46.44, "46.4 s"), (119, "119.0 s"), (360, "6.0 min"), (7_200, "2.0 h"),
        (181_440, "2.1 d"), (-360, "-6.0 min"),
    ],
)  # fmt: skip
def test_durations(seconds, expected):
    """A duration has one unit."""
    assert duration(seconds) == expected
