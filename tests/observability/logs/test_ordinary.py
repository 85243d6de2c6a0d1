"""An ordinary record says the same as by the way of all others: in its line, its row, and its frame in the box."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import count
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.log_clock import set_log_clock

from hearthnet.constants import MAX_KEYS
from hearthnet.forensics import box as layout
from hearthnet.forensics.frames import FRAME, pack
from hearthnet.observability import logging as node_logging
from hearthnet.observability import trace
from hearthnet.observability.logging import get_logger
from hearthnet.observability.logs import messages, ordinary
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.logs.fields import fields
from hearthnet.observability.logs.handler import is_alone
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.record import SHORT_CHARS
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.redaction import rules
from hearthnet.observability.redaction.rules import REDACTED
from hearthnet.observability.runtime import runtime

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
NAME = "hearthnet.ordinary_test"
TRACES = get_logger("hearthnet.trace")
log = get_logger(NAME)

# Also hostile: what tells a secret, what cannot be encoded, what ends a line or an array, and keys of the line's own.
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["said", "\u2028\u0085", "\ud800", "],null]", '"', "password=tiger1234", "tiger1234", "%s %d", "é" * 99]
    ),
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXTS, st.just([1, {"a": "b"}]),
    st.builds("x".__mul__, st.sampled_from([900, 1_100])),
)  # fmt: skip
KEYS = st.sampled_from(["model", "size", "password", "ts", "trace_id", "repeats", "é", 'a"b', 7])
EXTRAS = st.one_of(st.none(), st.dictionaries(KEYS, VALUES, max_size=4), st.just([("a", 1)]))
LEVELS = st.sampled_from([10, 15, 20, 30, 40, 50])
RECORDS = st.lists(st.tuples(LEVELS, TEXTS, EXTRAS, st.booleans()), min_size=1, max_size=4)
PLACES = st.sampled_from(["nowhere", "trace", "span", "ended", "fields"])


@pytest.fixture
def recorder(tmp_path):
    """Logging into a folder, and a recorder with a box."""
    node_logging.install_sinks(SimpleNamespace(log_level="debug", log_dir=tmp_path, keep_debug_of_failures=False))
    box = BlackBox(tmp_path / "telemetry.x.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(4_096, 256_000, 4)))
    made = Recorder(RUN, lambda *_: None)
    made.keep_in(box)
    runtime.install(made)
    yield made
    runtime.install(None)
    box.close(remove=True)


@contextmanager
def inside(place):
    """A place where records are made."""
    if place == "nowhere":
        yield
    elif place == "fields":
        with fields(job="nightly"):
            yield
    else:
        with trace.trace("a.b") as begun, trace.span("c") if place == "span" else nullcontext():
            if place == "ended":
                begun.end()
            yield


def logged(level, text, extra, has_argument):
    """Logs a record."""
    log.log(level, text, *(("x",) if has_argument else ()), extra=extra)


def told(records, recorder, folder, *, is_any):
    """Returns what is told of records, each logged five times; by the way of all others if `is_any`."""
    messages.forget()
    before = len(b"".join(path.read_bytes() for path in log_paths(folder)))
    frames = []
    recorder.logs.queue.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recorder.box, "logs", SimpleNamespace(write=frames.append, ordinals=count(1)))
        set_log_clock(patched, lambda: 1_790_000_000_123_456_789)
        for budget, most in (("ROWS_A_SECOND", 2), ("NOTABLE_ROWS_A_SECOND", 3), ("LINES_A_SECOND", 4)):
            patched.setattr(messages, budget, most)
        if is_any:
            patched.setattr(node_logging, "take_ordinary", lambda *_: False)
        for _ in range(5):
            for record in records:
                logged(*record)
    lines = b"".join(path.read_bytes() for path in log_paths(folder))[before:]
    rows = [(kept[0], kept[1], *kept[3:]) for kept in recorder.logs.queue]
    payloads = [frame[FRAME.size :].partition(b",")[2] for frame in frames]  # each has its own number
    assert all(pack(frame[FRAME.size :], ordinal) == frame for ordinal, frame in enumerate(frames, 1))
    known = messages.known_messages.values()
    counts = [(one.text, one.lines, one.dropped_lines, one.dropped_rows) for one in known]
    return lines, rows, payloads, counts, runtime.handler.failures


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(RECORDS, PLACES)
@example([(20, "said", {"size": 2**70}, False)], "nowhere")
@example([(20, "said", {"model": "\ud800"}, False)], "span")
@example([(20, "said", {"model": "\u2028\u0085"}, False)], "trace")
def test_both_ways_tell_the_same(recorder, tmp_path, records, place):
    """Any records anywhere leave the same lines, rows, frames and counts, whichever way they take."""
    with inside(place):
        ordinary_way = told(records, recorder, tmp_path, is_any=False)
        any_way = told(records, recorder, tmp_path, is_any=True)

    assert ordinary_way == any_way
    assert any_way[-1] == 0


@pytest.fixture
def taken(recorder, monkeypatch):
    """For each record of a message that is known, whether the ordinary way took it."""
    seen = []

    def take(*arguments):
        seen.append(ordinary.take_ordinary(*arguments))
        return seen[-1]

    monkeypatch.setattr(node_logging, "take_ordinary", take)
    return seen


@pytest.mark.parametrize("place", ["nowhere", "trace", "span"])
@pytest.mark.parametrize("level", [20, 30, 50])
def test_ordinary_records_take_their_own_way(taken, recorder, tmp_path, place, level):
    """But for the first of a message, which is encoded then. The box has what the buffer has."""
    with inside(place):
        for number in range(3):
            log.log(level, "ordinary", extra={"number": number})
            log.info("without fields")

    assert taken == [True] * 4
    lines = [line for path in log_paths(tmp_path) for line in path.read_bytes().splitlines() if b"done" not in line]
    assert [orjson.loads(line).get("number") for line in lines] == [0, None, 1, None, 2, None]
    frames = [orjson.loads(frame.payload) for frame in recorder.box.contents().logs]
    assert [frame[0] for frame in frames] == [kept[2] for kept in recorder.logs.queue]
    assert [frame[-2] for frame in frames] == [orjson.loads(kept[-2]) for kept in recorder.logs.queue]


class Taking(logging.Handler):
    """Another handler."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def emit(self, record):
        """Keeps the message."""
        self.seen.append(record.getMessage())


@pytest.mark.parametrize("where", [NAME, "hearthnet", ""])
def test_handler_that_is_added_gets_the_very_next_record(taken, where):
    """Wherever among the loggers it is."""
    log.info("said")
    log.info("said")
    added, logger = Taking(), logging.getLogger(where)
    logger.addHandler(added)
    try:
        log.info("said")
    finally:
        logger.removeHandler(added)
    log.info("said")

    assert added.seen == ["said"]
    assert taken == [True, False, True]


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("where", [NAME, TRACES.name, "hearthnet"])
@pytest.mark.parametrize("handlers", ["none", "ours", "ours twice", "another", "ours and another"])
def test_loggers_are_walked_as_by_the_other_way(taken, monkeypatch, handlers, where, propagates):
    """A record is ordinary if our handler alone gets it, whichever logger has that, or stops its way up."""
    log.info("said")
    ours, another = runtime.handler, Taking()
    added = {
        "none": [],
        "ours": [ours],
        "ours twice": [ours, ours],
        "another": [another],
        "ours and another": [ours, another],
    }
    monkeypatch.setattr(logging.getLogger(where), "propagate", propagates)
    monkeypatch.setattr(logging.getLogger(where), "handlers", added[handlers])
    for of_root in ("ours", "another", "ours and another"):
        monkeypatch.setattr(logging.root, "handlers", added[of_root])
        taken.clear()
        is_expected = is_alone(log, ours)
        log.info("said")

        assert taken == [is_expected]
        assert ordinary.write_done(TRACES, 20, {"trace_id": RUN}) is is_alone(TRACES, ours)


class Undecided(dict):
    """Fields that cannot be asked whether there are any."""

    def __bool__(self):
        raise RuntimeError("undecided")


def test_fields_of_another_type_are_left_to_the_other_way(taken, recorder):
    """Also those whose own methods raise: the record is kept all the same."""
    for extra in ({}, Undecided(size=3), [("size", 3)]):
        log.info("said", extra=extra)

    assert taken == [False, False]  # the first was not known yet
    assert [orjson.loads(kept[-2]) for kept in recorder.logs.queue][:2] == [{}, {"size": 3}]
    assert runtime.handler.failures == 0


def test_filter_that_is_added_sees_the_very_next_record(taken):
    """Of the logger, and of our handler."""
    log.info("said")
    seen = []
    for filtered in (log, runtime.handler):
        filtered.addFilter(kept := lambda record: seen.append(record.getMessage()) or True)
        log.info("said")
        filtered.removeFilter(kept)

    assert seen == ["said", "said"]
    assert taken == [False, False]


def test_ring_without_space_at_its_end_begins_again(taken, recorder, tmp_path, monkeypatch):
    """The newest records are in the box, however many there were."""
    now = count(1_790_000_000_000_000_000, 1_000_000_000)
    set_log_clock(monkeypatch, lambda: next(now))
    box = BlackBox(tmp_path / "telemetry.y.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(4_096, 4_096, 4)))
    recorder.keep_in(box)
    for _ in range(100):
        log.info("said")
    numbers = [orjson.loads(frame.payload)[0] for frame in box.contents().logs]
    box.close(remove=True)

    assert taken == [True] * 99
    assert 10 < len(numbers) < 100
    assert numbers == list(range(101 - len(numbers), 101))


def test_handlers_own_level_is_kept_to(taken, recorder, tmp_path, monkeypatch):
    """By records, and by the lines of ended traces."""
    for level in (20, 30, 40):
        log.log(level, "said")
    lines_before = b"".join(path.read_bytes() for path in log_paths(tmp_path)).count(b"\n")
    monkeypatch.setattr(runtime.handler, "level", 30)
    for level in (20, 30, 40):
        log.log(level, "said")
        assert ordinary.write_done(TRACES, level, {"trace_id": RUN})

    assert taken == [False, True, True]
    lines = b"".join(path.read_bytes() for path in log_paths(tmp_path)).splitlines()[lines_before:]
    assert [orjson.loads(line)["level"] for line in lines] == ["warning", "warning", "error", "error"]
    assert len(recorder.logs) == 5


def test_a_place_that_raises_is_a_failure_and_no_error(taken, monkeypatch):
    """Counted, as on the other way: the program goes on."""
    log.info("said")
    monkeypatch.setattr(ordinary, "MS", ())
    log.info("said")

    assert taken == [True]
    assert runtime.handler.failures == 1


def test_records_beyond_the_budget_of_rows_have_their_lines(taken, recorder, tmp_path, monkeypatch):
    """By the same way: a message that is logged in a loop costs no more than others. What it drops is told later."""
    now = [1_790_000_000_123_456_789]
    set_log_clock(monkeypatch, lambda: now[0])
    for _ in range(30):
        log.info("said")

    assert taken == [True] * 29
    assert len(recorder.logs) == messages.ROWS_A_SECOND
    assert messages.find(NAME, 20, "said").dropped_rows == 20
    lines = b"".join(path.read_bytes() for path in log_paths(tmp_path))
    assert lines.count(b'"said"') == 30

    now[0] += 1_000_000_000
    log.info("said")
    assert taken[29:] == [False]
    assert [kept[10] for kept in recorder.logs.queue][-2:] == [19, 0]
    log.info("said")
    assert taken[30:] == [True]


def test_full_budget_of_lines_is_left_to_the_other_way(taken, recorder, monkeypatch):
    """Which counts what it drops."""
    monkeypatch.setattr(messages, "LINES_A_SECOND", 12)
    set_log_clock(monkeypatch, lambda: 1_790_000_000_123_456_789)
    for _ in range(20):
        log.info("said")

    assert taken == [True] * 11 + [False] * 8
    said = messages.find(NAME, 20, "said")
    assert (said.dropped_lines, said.dropped_rows) == (8, 10)


def test_record_of_a_trace_beyond_the_budget_of_rows_is_held(taken, recorder, monkeypatch):
    """By the other way: the trace has it if it fails."""
    set_log_clock(monkeypatch, lambda: 1_790_000_000_123_456_789)

    def fail():
        with trace.trace("a.b"):
            for _ in range(messages.ROWS_A_SECOND + 2):
                log.info("said")
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()

    assert taken[:9] == [True] * 9
    assert taken[9:11] == [False] * 2
    assert [kept[6] for kept in recorder.logs.queue].count("said") == messages.ROWS_A_SECOND + 2


@pytest.mark.parametrize("is_done_first", [True, False])
@pytest.mark.parametrize("seconds", [0, 1, 60, -1, -1_000])
def test_clock_that_is_set_says_so_at_once(taken, recorder, tmp_path, monkeypatch, seconds, is_done_first):
    """Forwards or back: no line has the second of the one before, and no row has another time than its line."""
    now = [1_790_000_000_000_000_000]
    set_log_clock(monkeypatch, lambda: now[0])
    for _ in range(2):
        log.info("said")
    ordinary.write_done(TRACES, 20, {"trace_id": RUN})
    now[0] += seconds * 1_000_000_000 + 999_999_999
    if is_done_first:
        ordinary.write_done(TRACES, 20, {"trace_id": RUN})
    log.info("said")

    assert taken == [True, True]
    lines = [line for path in log_paths(tmp_path) for line in path.read_bytes().splitlines()]
    times = sorted(datetime.fromisoformat(orjson.loads(line)["ts"]).timestamp() for line in lines)
    assert times == sorted([1_790_000_000.0] * 3 + [1_790_000_000.999 + seconds] * (1 + is_done_first))
    frames = [orjson.loads(frame.payload) for frame in recorder.box.contents().logs]
    since_us = 1_790_000_000_000_000
    assert [frame[1] - since_us for frame in frames] == [0, 0, seconds * 1_000_000 + 999_999]
    assert [kept[3] for kept in recorder.logs.queue] == [frame[1] for frame in frames]


@pytest.mark.parametrize("has_journal", [False, True])
@pytest.mark.parametrize("is_talkative", [True, False])
@pytest.mark.parametrize("is_shedding", [True, False])
@pytest.mark.parametrize("level", [20, 30])
def test_line_of_an_ended_trace_goes_where_it_should(
    monkeypatch, recorder, level, is_shedding, is_talkative, has_journal
):
    """To the file unless that sheds, to a talkative console; that of a notable trace to each, and to the journal."""
    written, shown, sent = [], [], []
    file = SimpleNamespace(
        ready=None,
        is_ready=lambda second: not is_shedding,
        append=written.append,
        write=lambda line, second: written.append(line),
        is_shedding=is_shedding,
        shed_lines=0,
    )
    monkeypatch.setattr(runtime.handler, "file", file)
    console = SimpleNamespace(is_talkative=is_talkative, show=lambda *line: shown.append(line[1:]))
    monkeypatch.setattr(runtime.handler, "console", console)
    journal = SimpleNamespace(send_text=lambda *said: sent.append(said)) if has_journal else None
    monkeypatch.setattr(runtime, "journal", journal)
    assert ordinary.write_done(TRACES, level, {"trace_id": RUN, "ms": 1.5, "error": "a\u2028b"})

    notable = level == 30
    assert [len(line.decode().splitlines()) for line in written] == [1] * (notable or not is_shedding)
    assert {orjson.loads(line)["error"] for line in written} <= {"a\u2028b"}
    assert file.shed_lines == (is_shedding and not notable)
    name = "warning" if notable else "info"
    assert shown == [("hearthnet.trace", name, notable)] * (notable or is_talkative)
    assert sent == [(name, "hearthnet.trace", "done", {"ms": 1.5, "error": "a\u2028b"}, RUN)] * (
        notable and has_journal
    )
    assert runtime.handler.failures == 0


@pytest.mark.parametrize("is_talkative", [True, False])
@pytest.mark.parametrize("level", [20, 30])
def test_ordinary_record_is_shown_on_a_talkative_console(monkeypatch, taken, recorder, level, is_talkative):
    """A notable one on any."""
    shown = []
    console = SimpleNamespace(is_talkative=is_talkative, show=lambda *line: shown.append(line[1:]))
    monkeypatch.setattr(runtime.handler, "console", console)
    for _ in range(2):
        log.log(level, "said")

    name = "warning" if level == 30 else "info"
    assert taken == [True]
    assert shown == [(NAME, name, level == 30)] * (2 if level == 30 or is_talkative else 0)


def test_each_second_has_the_whole_budget(taken, recorder, monkeypatch):
    """Of rows and of lines, to the last one."""
    monkeypatch.setattr(messages, "LINES_A_SECOND", 12)
    now = [1_790_000_000_123_456_789]
    set_log_clock(monkeypatch, lambda: now[0])
    log.info("said")
    for _ in range(2):
        taken.clear()
        recorder.logs.queue.clear()
        now[0] += 1_000_000_000
        for _ in range(messages.ROWS_A_SECOND):
            log.info("said")
        assert (taken, len(recorder.logs)) == ([True] * messages.ROWS_A_SECOND, messages.ROWS_A_SECOND)
    for _ in range(3):
        log.info("said")

    assert taken[messages.ROWS_A_SECOND :] == [True, True, False]


class Text(str):
    """A text that may tell another one."""

    __slots__ = ()


# Fields, and whether they can be encoded as they are.
FIELDS = {
    "nothing": ({}, True),
    "a number": ({"size": 3}, True),
    "a truth": ({"size": True}, True),
    "none": ({"size": None}, True),
    "a float": ({"size": -2.5}, True),
    "infinity": ({"size": float("-inf")}, False),
    "no number": ({"size": float("nan")}, False),
    "as large as can be": ({"size": 2**64 - 1}, True),
    "too large": ({"size": 2**64}, False),
    "a short text": ({"model": "llama"}, True),
    "a text of just the limit": ({"model": "a " * (SHORT_CHARS // 2)}, True),
    "a longer text": ({"model": "a " * (SHORT_CHARS // 2) + "a"}, False),
    "a text that tells a secret": ({"model": "password=tiger1234"}, False),
    "a text that is no text": ({"model": Text("llama")}, False),
    "half a character": ({"model": "\ud800"}, False),
    "a list": ({"model": [1]}, False),
    "bytes": ({"model": b"llama"}, False),
    "many": ({f"key_{number}": 1 for number in range(MAX_KEYS)}, True),
    "too many": ({f"key_{number}": 1 for number in range(MAX_KEYS + 1)}, False),
    "a key of the line": ({"msg": 1}, False),
    "a key of the row": ({"repeats": 1}, False),
    "a key that is no text": ({7: 1}, False),
    "a secret behind others": ({"size": 3, "model": "llama", "password": "tiger1234"}, False),
    "a list behind others": ({"size": 3, "model": "llama", "items": [1]}, False),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_taken_that_can_be_encoded_as_they_are(taken, recorder, name):
    """Each time, also when their names are known."""
    extra, is_ordinary = FIELDS[name]
    log.info("said")
    for _ in range(2):
        log.info("said", extra=extra)

    assert taken == [is_ordinary] * 2
    assert len(recorder.logs) == 3
    if is_ordinary:
        assert [orjson.loads(kept[-2]) for kept in recorder.logs.queue][1:] == [extra, extra]
    assert b"tiger1234" not in recorder.box.logs.memory[:]
    assert runtime.handler.failures == 0


@pytest.mark.parametrize("kind", ["journal", "large", "just not large"])
def test_what_the_short_way_copes_with(taken, monkeypatch, kind):
    """The journal is for the other way, as are fields that must be cut."""
    log.info("said")
    extra = None
    if kind == "journal":
        monkeypatch.setattr(runtime, "journal", SimpleNamespace(send=lambda *_: None))
    else:
        room = messages.MESSAGE_BYTES - len('{"a":"","b":"","c":"","d":"","e":""}\n') + (kind == "large")
        extra = {key: "x" * (room // 5 + (room % 5 if key == "a" else 0)) for key in "abcde"}
    log.info("said", extra=extra)

    assert taken == [kind == "just not large"]
    assert runtime.handler.failures == 0


def test_line_of_an_ended_trace_that_cannot_be_written_is_counted(monkeypatch, recorder):
    """It raises nothing into the program."""
    monkeypatch.setattr(runtime.handler, "file", SimpleNamespace(ready=None, is_ready=None))

    assert ordinary.write_done(TRACES, 20, {"trace_id": RUN, "ms": 1.5})
    assert runtime.handler.failures == 1


def test_key_that_is_harmless_with_some_values_is_not_remembered(taken, recorder, tmp_path):
    """`token` with a number is a count, with a text it is a secret, whatever was logged before."""
    for value in (3, 3, "tiger1234", 3):
        log.info("said", extra={"token": value})

    lines = [orjson.loads(line) for path in log_paths(tmp_path) for line in path.read_bytes().splitlines()]
    assert [line["token"] for line in lines] == [orjson.loads(kept[-2])["token"] for kept in recorder.logs.queue]
    assert lines[2]["token"] == REDACTED
    assert b"tiger1234" not in recorder.box.logs.memory[:]


def test_key_that_becomes_secret_is_redacted_in_the_very_next_record(taken, recorder, tmp_path):
    """Names that were found harmless are forgotten when others become secret."""
    for _ in range(2):
        log.info("said", extra={"shelf": "tiger1234"})
    rules.configure(keys=["shelf"])
    for _ in range(2):  # the first makes the message known again
        log.info("said", extra={"shelf": "tiger1234"})

    kept = [orjson.loads(kept[-2])["shelf"] for kept in recorder.logs.queue]
    assert kept == ["tiger1234", "tiger1234", REDACTED, REDACTED]


def test_records_while_the_disk_is_nearly_full_are_left_to_the_other_way(taken, recorder, tmp_path):
    """It has the lines of warnings alone, and counts the others; all have their rows."""
    for level in (20, 30):
        log.log(level, "said")
    runtime.handler.file.is_shedding = True
    for level in (20, 30):
        log.log(level, "said")
    runtime.handler.file.is_shedding = False
    log.info("said")

    assert taken == [False, False, True]
    assert runtime.handler.file.shed_lines == 1
    assert len(recorder.logs) == 5
    assert sum(path.read_bytes().count(b"\n") for path in log_paths(tmp_path)) == 4


def test_records_without_a_file_have_their_rows(taken, recorder):
    """By the same way."""
    runtime.handler.file = None
    for _ in range(3):
        log.info("said", extra={"size": 3})

    assert taken == [True, True]
    assert len(recorder.logs) == 3
