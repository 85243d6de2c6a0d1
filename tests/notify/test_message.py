"""What a message about changes says: to people by its title and text, to programs by its document."""

from __future__ import annotations

import socket
import time

import pytest

from hearthnet.notify.message import about, one_line, trial
from hearthnet.notify.told import Event

NOW = 1_800_000_000.0
HOST = socket.gethostname()
ICON = "\N{FIRE}"  # four bytes


def event(status="fail", *, name="disk", detail="it is full", fix=None, since_s=NOW, at_s=NOW):
    """A change."""
    return Event(name, status, detail, fix, since_s, at_s)


def text_of(*events):
    """The text about changes."""
    return about(events, NOW).text


@pytest.fixture
def far_east(monkeypatch):
    """A machine nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("statuses", "title", "urgency"),
    [
        (["fail"], "disk fails", "high"),
        (["warn"], "disk warns", "default"),
        (["pass"], "disk is well again", "low"),
        (["fail"] * 2, "2 checks failing", "high"),
        (["pass", "warn"], "1 check warning, 1 check well again", "default"),
        (["warn", "pass", "fail"], "1 check failing, 1 check warning, 1 check well again", "high"),
        ([], "", "low"),
    ],
)
def test_title_counts_the_changes_and_the_worst_is_how_urgent_it_is(statuses, title, urgency):
    """One change is named; of several there is a count of each kind, worst first."""
    made = about([event(status) for status in statuses], NOW)

    assert made.title == f"HearthNet on {HOST}: {title}".strip()
    assert made.urgency == urgency


def test_changes_are_told_worst_first_then_in_their_order():
    """Each with its mark."""
    found = [("pass", 1), ("warn", 2), ("fail", 9), ("fail", 3), ("warn", 1)]
    made = about([event(status, name=f"{status}_{at}", at_s=NOW - 10 + at) for status, at in found], NOW)

    names = [line.partition(" (")[0].partition(":")[0] for line in made.text.splitlines()]
    assert names == ["FAIL fail_3", "FAIL fail_9", "WARN warn_1", "WARN warn_2", "WELL pass_1"]
    assert tuple(one.name for one in made.events) == ("fail_3", "fail_9", "warn_1", "warn_2", "pass_1")
    assert type(made.events) is tuple


@pytest.mark.parametrize("made_by", [trial, lambda now_s: about([event()], now_s)])
def test_host_is_one_line(monkeypatch, made_by):
    """Whatever the machine is called."""
    monkeypatch.setattr(socket, "gethostname", lambda: "a\x1b\nb")
    made = made_by(NOW)

    assert made.host == "a b"
    assert made.title.startswith("HearthNet on a b: ")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (event(), "FAIL disk: it is full"),
        (event(fix="rm -r\n/old"), "FAIL disk: it is full\n  fix: rm -r /old"),
        (event(at_s=NOW - 60), "FAIL disk: it is full"),
        (event(at_s=NOW - 61), "FAIL disk (2027-01-15 16:58): it is full"),
        (event("warn", at_s=NOW - 86_400), "WARN disk (2027-01-14 17:00): it is full"),
        (event("pass", since_s=NOW - 3_600), "WELL disk (not well since 2027-01-15 16:00): it is full"),
        (event(name="a\nb\x1b[1m", detail="c\u202ed\x00"), "FAIL a b [1m: c d"),
    ],
)
def test_line_says_what_when_and_what_to_do(far_east, change, text):
    """A time is this machine's, and there only if the change is not of this minute."""
    assert text_of(change) == text


@pytest.mark.parametrize("spare", [-1, 0, 1, 2, 3, 4])
def test_text_of_just_the_limit_is_whole(spare):
    """A longer one is cut between characters, and says where the rest is."""
    head = len("FAIL disk: ")
    detail = "x" * (3_500 - head - 4 + spare) + ICON
    text = text_of(event(detail=detail))

    if spare <= 0:
        assert text == f"FAIL disk: {detail}"
    else:
        assert text == f"FAIL disk: {detail[:-1]}\n… more: hearthnet doctor"[: 3_500 + 40]


def test_cut_text_keeps_what_fits():
    """To the last character that does."""
    text = text_of(event(detail=ICON * 2_000))

    kept, _, rest = text.partition("\n")
    assert kept == "FAIL disk: " + ICON * ((3_500 - 11) // 4)
    assert rest == "… more: hearthnet doctor"


def test_title_is_one_bounded_line():
    """Whatever a check is called."""
    made = about([event(name="a\r\n" + "b" * 200)], NOW)

    assert len(made.title) == 160
    assert made.title.startswith(f"HearthNet on {HOST}: a bbb")


def test_document_has_all_of_it_for_a_program():
    """Times are in UTC, whole seconds."""
    first = event("warn", fix="free some", since_s=NOW - 7_200, at_s=NOW - 60.4)
    made = about([first], NOW + 0.9)

    assert made.document() == {
        "version": 1,
        "title": f"HearthNet on {HOST}: disk warns",
        "message": made.text,
        "text": f"{made.title}\n{made.text}",
        "urgency": "default",
        "host": HOST,
        "ts": "2027-01-15T08:00:00Z",
        "changes": [
            {
                "name": "disk",
                "status": "warn",
                "detail": "it is full",
                "fix": "free some",
                "since": "2027-01-15T06:00:00Z",
                "ts": "2027-01-15T07:58:59Z",
            }
        ],
    }


def test_trial_says_that_it_is_one():
    """It is about no check."""
    document = trial(NOW).document()

    assert document["title"] == f"HearthNet on {HOST}: a test"
    assert document["message"].startswith("This is a test: ")
    assert (document["changes"], document["urgency"], document["ts"]) == ([], "default", "2027-01-15T08:00:00Z")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("  a b ", "a b"),
        ("a\r\n\t\x00b", "a b"),
        ("a\x1f b\x7f c\x9f", "a  b  c"),
        ("a\u2028b\u202ec\u2066d\u2069e\u061cf\u200eg\u200fh", "a b c d e f g h"),
        ("grün \u200b\u202f", "grün \u200b"),
        ("a\ud800b", "a?b"),
    ],
)
def test_one_line_has_nothing_that_ends_it_or_turns_it_around(text, line):
    """What is left is as it was, without blanks around it."""
    assert one_line(text) == line


def test_many_changes_are_one_message_worst_first():
    """Within what a phone shows."""
    events = [
        Event(f"check_{n}", status, "d" * 200, None, NOW, NOW) for n, status in enumerate(["pass", "warn", "fail"] * 20)
    ]
    made = about(events, NOW)

    assert made.title.endswith(": 20 checks failing, 20 checks warning, 20 checks well again")
    assert made.text.startswith("FAIL check_2:")
    assert len(made.text.encode()) < 4_096
