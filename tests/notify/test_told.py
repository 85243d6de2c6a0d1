"""What is told, once, of checks that fail, flap and are well again."""

from __future__ import annotations

import stat

import orjson
import pytest

from hearthnet.notify.kept import STATE_FILE
from hearthnet.notify.told import QUIET_S, WELL_RUNS, opened

NOW = 1_800_000_000.0
MONTH_S = 30 * 86_400.0


def result(status, name="keys_present", detail="has mode 0644"):
    """A check's result in the JSON report."""
    return {"name": name, "status": status, "detail": detail, "fix": "chmod 600 key"}


class Runs:
    """Runs of the doctor, a quarter of an hour apart, each of which reads the file and writes it."""

    def __init__(self, directory, level="fail", channels=("a",)):
        self.directory, self.level, self.channels, self.now_s = directory, level, channels, NOW

    def __call__(self, *results, sent=True, every_s=900.0):
        """One run; returns what is to be sent to the first channel."""
        with opened(self.directory) as told:
            waiting = self.note(told, *results, sent=sent, every_s=every_s)
            told.save()
        return waiting

    def note(self, told, *results, sent=True, every_s=900.0):
        """One run of many, for which the file stays open: each time it is written takes a while."""
        self.now_s += every_s
        told.note(results, self.level, self.now_s, self.channels)
        waiting = told.pending[self.channels[0]]
        if sent:
            told.sent(self.channels[0])
        return [(event.name, event.status) for event in waiting]


@pytest.fixture
def runs(tmp_path):
    """Runs with one channel."""
    return Runs(tmp_path)


def test_failure_is_told_once_and_so_is_its_end(runs):
    """At once when it fails, and after two runs without it."""
    assert runs(result("pass")) == []
    assert runs(result("fail")) == [("keys_present", "fail")]
    assert [runs(result("fail", detail=f"{n} keys")) for n in range(5)] == [[]] * 5
    assert runs(result("pass")) == []
    assert runs(result("pass")) == [("keys_present", "pass")]
    assert runs(result("pass")) == []


def test_check_that_flaps_is_one_message(runs):
    """It is not well again before that has held."""
    found = [runs(result(status)) for status in ("fail", "pass") * 10]

    assert found == [[("keys_present", "fail")], *[[]] * 19]


def test_check_that_flaps_slowly_is_told_of_once_an_hour(runs, tmp_path):
    """Two healthy runs between failures, every minute."""
    with opened(tmp_path) as told:
        found = [runs.note(told, result(status), every_s=60) for status in ("fail", *("pass",) * WELL_RUNS) * 40]

    failures = [at for at, events in enumerate(found) if ("keys_present", "fail") in events]
    assert len(failures) == 2
    assert (failures[1] - failures[0]) * 60 >= QUIET_S


def test_quiet_hour_begins_with_the_last_message(runs):
    """Also with the one that says that the check is well."""
    runs(result("fail"))
    runs(result("pass"), every_s=7_200)
    assert runs(result("pass")) == [("keys_present", "pass")]

    assert [runs(result("fail"), every_s=900) for _ in range(3)] == [[]] * 3
    assert runs(result("fail"), every_s=900) == [("keys_present", "fail")]


def test_failure_within_the_quiet_hour_is_told_after_it(runs):
    """It is late, and not lost."""
    runs(result("fail"), every_s=60)
    runs(result("pass"), every_s=60)
    runs(result("pass"), every_s=60)
    found = [runs(result("fail"), every_s=600) for _ in range(8)]

    assert [events for events in found if events] == [[("keys_present", "fail")]]


@pytest.mark.parametrize(("level", "expected"), [("fail", []), ("warn", [("keys_present", "warn")])])
def test_warnings_are_told_if_asked_for(tmp_path, level, expected):
    """By default failures alone."""
    assert Runs(tmp_path, level)(result("warn")) == expected


def test_warning_that_becomes_a_failure_is_told_again(tmp_path):
    """And a failure that becomes a warning is not."""
    runs = Runs(tmp_path, "warn")
    runs(result("warn"))

    assert runs(result("fail")) == [("keys_present", "fail")]
    assert runs(result("warn")) == []


def test_failure_that_becomes_a_warning_is_not_well(runs):
    """Below the level that is told, and not well either."""
    assert runs(result("fail")) == [("keys_present", "fail")]
    for _ in range(WELL_RUNS + 1):
        assert runs(result("warn")) == []
    assert [runs(result("pass")) for _ in range(WELL_RUNS)][-1] == [("keys_present", "pass")]


def test_check_that_is_well_now_and_then_is_not_well(runs):
    """It must be so twice in a row, a warning between is none."""
    statuses = ("fail", *("pass", "warn") * 4, *("pass", "skip", "pass"))

    assert [event for status in statuses for event in runs(result(status))] == [
        ("keys_present", "fail"),
        ("keys_present", "pass"),
    ]


def test_skipped_check_changes_nothing(runs):
    """It says nothing about how things are."""
    runs(result("fail"))

    assert [runs(result("skip")) for _ in range(5)] == [[]] * 5
    assert runs() == []


def test_what_could_not_be_sent_is_sent_later(runs):
    """Also what is over by then."""
    assert runs(result("fail"), sent=False) == [("keys_present", "fail")]
    assert runs(result("pass"), sent=False) == [("keys_present", "fail")]
    assert runs(result("pass")) == [("keys_present", "fail"), ("keys_present", "pass")]
    assert runs(result("pass")) == []


def test_new_channel_is_told_how_things_are(tmp_path):
    """What it has missed."""
    Runs(tmp_path)(result("fail"))
    runs = Runs(tmp_path, channels=("b",))

    assert runs(result("fail")) == [("keys_present", "fail")]
    assert runs(result("fail")) == []


def test_channel_that_no_run_has_is_forgotten_after_a_month(tmp_path):
    """And before, if there are many of them."""
    Runs(tmp_path)(result("fail"), sent=False)
    many = Runs(tmp_path, channels=[f"c{number}" for number in range(40)])
    many(result("fail"))
    runs = Runs(tmp_path, channels=("b",))
    runs(result("fail"))
    left = orjson.loads((tmp_path / STATE_FILE).read_bytes())
    runs(result("fail"), every_s=31 * 86_400)

    assert len(left["pending"]) == len(left["seen_s"]) == 17
    assert orjson.loads((tmp_path / STATE_FILE).read_bytes())["pending"].keys() == {"b"}


def test_channel_that_is_away_for_weeks_keeps_a_bounded_file(runs, tmp_path):
    """The newest changes are kept."""
    with opened(tmp_path) as told:
        for number in range(60):
            runs.note(told, result("fail", name=f"check_{number}", detail="x" * 10_000), sent=False)
        told.save()

    assert len(orjson.loads((tmp_path / STATE_FILE).read_bytes())["pending"]["a"]) == 50
    assert runs(sent=False)[-1] == ("check_59", "fail")


def test_clock_that_was_set_back_silences_nothing(runs):
    """A time in the future is no quiet hour."""
    runs(result("fail"))
    runs(result("pass"))
    runs(result("pass"))
    runs.now_s -= 10 * 86_400

    assert runs(result("fail")) == [("keys_present", "fail")]


def test_file_is_private(runs, tmp_path):
    """It has the details of checks."""
    runs(result("fail"))

    assert stat.S_IMODE((tmp_path / STATE_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"5", b"\xff\x00", b"{}", b'{"version": 1}', b" " * (17 << 20)]
)
def test_file_that_is_no_state_counts_as_empty(runs, tmp_path, content):
    """What fails is told again, which is better than never."""
    runs(result("fail"))
    (tmp_path / STATE_FILE).write_bytes(content)

    assert runs(result("fail")) == [("keys_present", "fail")]


def changed(tmp_path, place, value):
    """Puts a value into the state file; None takes away what is there."""
    document = orjson.loads((tmp_path / STATE_FILE).read_bytes())
    *way, last = place
    part = document
    for key in way:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    (tmp_path / STATE_FILE).write_bytes(orjson.dumps(document))


KNOWN, WAITING = ("known", "keys_present"), ("pending", "b", 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("version",), value) for value in (None, 0, 2, "1")),
        *(((key,), value) for key in ("known", "pending", "told_s", "seen_s") for value in (None, [], 5, {"a": "x"})),
        *((("saves",), value) for value in (None, "1", -1, 2**60, [])),
        (("is_apart",), None),
        *(((*KNOWN, key), None) for key in ("name", "status", "detail", "fix", "since_s", "at_s", "well_runs")),
        *(((*KNOWN, "status"), value) for value in ("pass", "skip", 5)),
        *(((*KNOWN, "well_runs"), value) for value in (-1, WELL_RUNS, "0", [])),
        *(((*WAITING, key), None) for key in ("name", "status", "detail", "fix", "since_s", "at_s")),
        *(((*WAITING, key), value) for key in ("name", "detail", "fix") for value in (0, 5, [], False)),
        *(((*WAITING, "status"), value) for value in ("skip", "", 5, [])),
        *(((*WAITING, key), value) for key in ("since_s", "at_s") for value in (-1, -0.5, 4e9, 1e300, "1", [])),
        *(((key, "a"), value) for key in ("told_s", "seen_s") for value in (-1, 4e9, "1")),
    ],
    ids=str,
)
def test_damaged_file_counts_as_empty(tmp_path, place, value):
    """So does one of a later version, and one with a part that is missing, or that no doctor has written."""
    Runs(tmp_path, channels=("a", "b"))(result("fail"))
    changed(tmp_path, place, value)

    assert Runs(tmp_path, channels=("a",))(result("fail")) == [("keys_present", "fail")]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("saves",), 0),
        (("is_apart",), False),
        (("told_s", "a"), 0),
        (("seen_s", "a"), 3_999_999_999),
        ((*KNOWN, "status"), "warn"),
        ((*KNOWN, "well_runs"), WELL_RUNS - 1),
        ((*WAITING, "status"), "pass"),
        ((*WAITING, "fix"), "x"),
        *(((*WAITING, key), value) for key in ("since_s", "at_s") for value in (0, 0.5, 1, 3_999_999_999)),
    ],
    ids=str,
)
def test_file_that_a_doctor_may_have_written_is_read(tmp_path, place, value):
    """To the bounds of each value: nothing is told twice."""
    Runs(tmp_path, channels=("a", "b"))(result("fail"))
    changed(tmp_path, place, value)

    assert Runs(tmp_path, "warn")(result("warn")) == []
    assert orjson.loads((tmp_path / STATE_FILE).read_bytes())["pending"]["b"] != []


@pytest.mark.parametrize(
    ("since_s", "is_told"), [(-0.5, True), (0.0, False), (0.5, False), (QUIET_S - 0.5, False), (QUIET_S, True)]
)
def test_quiet_hour_is_an_hour(runs, since_s, is_told):
    """From the message that the check is well again; a clock that was set back ends it."""
    for status in ("fail", *("pass",) * WELL_RUNS):
        runs(result(status))

    assert runs(result("fail"), every_s=since_s) == ([("keys_present", "fail")] if is_told else [])


@pytest.mark.parametrize(
    ("since_s", "is_kept"), [(0, True), (MONTH_S - 1, True), (MONTH_S, False), (1 - MONTH_S, True), (-MONTH_S, False)]
)
def test_channel_that_is_away_waits_for_a_month(tmp_path, since_s, is_kept):
    """As long as that, whichever way the clock is set meanwhile."""
    Runs(tmp_path, channels=("away",))(result("fail"), sent=False)
    Runs(tmp_path, channels=("other",))(result("fail"), every_s=900 + since_s)

    assert ("away" in orjson.loads((tmp_path / STATE_FILE).read_bytes())["pending"]) is is_kept


@pytest.mark.parametrize(("status", "fix"), [("fail", "chmod 600 key"), ("warn", "chmod 600 key"), ("pass", None)])
def test_change_has_what_the_check_said(tmp_path, status, fix):
    """As bounded text; there is nothing to fix once it is well. It has failed since it was first found so."""
    with opened(tmp_path) as told:
        told.note([result("warn", name="n" * 200, detail="d" * 2_000)], "warn", NOW, ["a"])
        for number in range(WELL_RUNS):
            told.note([result(status, name="n" * 200, detail="d" * 2_000)], "warn", NOW + number, ["a"])
        event = told.pending["a"][-1]

    assert (event.status, event.fix, event.since_s) == (status, fix, NOW)
    assert event.at_s == NOW + (WELL_RUNS - 1 if status == "pass" else 0)
    assert (len(event.name.encode()), len(event.detail.encode())) == (128, 1_024)


def test_check_without_a_fix_has_none(tmp_path):
    """Rather than the word."""
    with opened(tmp_path) as told:
        told.note([{**result("fail"), "fix": None}], "fail", NOW, ["a"])

    assert [event.fix for event in told.pending["a"]] == [None]
