"""Budgets of log messages: dropped records are counted and logged, records of a failing trace are kept."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import re
import sqlite3
import threading
from contextlib import closing
from types import SimpleNamespace

import orjson
import pytest
from support.log_clock import set_log_clock
from support.reading import log_lines
from support.threads import at_once

from hearthnet.config import ObservabilityConfig
from hearthnet.constants import MAX_JSON_LINE_BYTES
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs import messages
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.logs.messages import find
from hearthnet.observability.logs.tracebacks import Error
from hearthnet.observability.records.stored import LogRecord
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.runtime import runtime

log = get_logger("hearthnet.test")


@pytest.fixture
def lines(tmp_path):
    """Logging configured into a temporary folder; returns a reader of its lines."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    return lambda: [orjson.loads(raw) for path in log_paths(tmp_path) for raw in path.read_bytes().splitlines()]


@pytest.fixture
def still(monkeypatch):
    """A clock that advances only when set; nanoseconds since 1970."""
    now = [1_790_000_000_000_000_000]
    set_log_clock(monkeypatch, lambda: now[0])
    return now


def total(records):
    """How many records these stand for."""
    return sum(1 + record.get("repeats", 0) for record in records)


def test_message_is_judged_anew_once_its_secret_is_known(lines):
    """A secret that was logged before it was registered is in no later record of the same message."""
    for _ in range(2):
        log.info("uses orchid-lantern-4471")
        register_secrets(["orchid-lantern-4471"])

    assert [line["msg"] for line in lines()] == ["uses orchid-lantern-4471", "uses [redacted]"]


def test_rows_beyond_the_budget_are_told_as_one(lines, still):
    """Of fifty equal records in a second ten are stored; the next second's first one brings the count of the rest."""
    for _ in range(50):
        log.info("again")
    still[0] += 1_000_000_000
    log.info("again")

    stored = runtime.recorder.pending_logs()
    assert [entry.repeats for entry in stored] == [0] * 10 + [39] + [0]
    assert [entry.ts_us for entry in stored] == [still[0] // 1_000 - 1_000_000] * 10 + [still[0] // 1_000] * 2
    assert total(lines()) == 51
    assert [line for line in lines() if "repeats" in line] == []  # the file has each of them
    assert messages.dropped_by_level() == {"info": 40}


def test_lines_beyond_the_budget_are_told_as_one(lines, still, monkeypatch):
    """A storm leaves a bounded number of lines, and a true count."""
    monkeypatch.setattr(messages, "LINES_A_SECOND", 100)
    for _ in range(1_000):
        log.warning("storm", extra={"pad": "x" * 100})
    still[0] += 1_000_000_000
    assert not node_logging.log_dropped()

    assert [line.get("repeats") for line in lines()] == [None] * 100 + [899]
    assert total(lines()) == 1_000
    assert sum(1 + entry.repeats for entry in runtime.recorder.pending_logs()) == 1_000
    assert all(entry.notable for entry in runtime.recorder.pending_logs())


def test_storm_of_four_threads_is_counted_truly(tmp_path):
    """100,000 equal warnings: few bytes on disk, and a count in file and store that is exact."""
    settings = ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "logs")

    def rage():
        for number in range(25_000):
            log.warning("storm", extra={"number": number})

    with telemetry.open(settings) as opened:
        at_once(lambda _: rage(), range(4))
        node_logging.log_dropped(all_of_them=True)
        assert opened.flush()
        stormy = [line for line in log_lines(tmp_path / "logs") if line["msg"] == "storm"]

    assert total(stormy) == 100_000
    # A second's budget is 1,000; even a machine that takes half a minute writes few of them.
    assert len(stormy) < 40_000
    with closing(sqlite3.connect(tmp_path / "data" / "telemetry.db")) as connection:
        count = connection.execute("SELECT sum(1 + repeats) FROM logs WHERE msg = 'storm'").fetchone()
    assert count == (100_000,)


def test_count_of_a_storm_that_has_ended_is_stored_by_itself(tmp_path, query_until):
    """Nothing more is logged after the storm: the telemetry thread logs the number dropped."""
    settings = ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "logs", flush_interval_s=0.05)
    with telemetry.open(settings):
        for _ in range(500):
            log.warning("storm")
        query_until(settings, "SELECT sum(1 + repeats) FROM logs WHERE msg = 'storm'", [(500,)])


def test_end_of_logging_tells_what_was_held_back(lines, still, monkeypatch):
    """Pending counts are logged when logging ends."""
    monkeypatch.setattr(messages, "LINES_A_SECOND", 1)
    for _ in range(7):
        log.info("again")
    read_later = lines
    node_logging.shutdown()

    assert total(read_later()) == 7


def test_different_messages_have_budgets_of_their_own(lines, still):
    """One noisy message takes nothing from another, nor from itself at another level."""
    for _ in range(50):
        log.info("noisy")
    log.info("quiet")
    log.warning("noisy")

    stored = [(entry.msg, entry.level) for entry in runtime.recorder.pending_logs()]
    assert stored == [("noisy", "info")] * 10 + [("quiet", "info"), ("noisy", "warning")]


def test_many_messages_are_not_remembered_for_ever(lines, still):
    """A program that formats variables into its messages grows nothing without end."""
    for number in range(3_000):
        log.info(f"message {number}")  # what one should not do

    assert len(messages.known_messages) <= 1_024
    assert len(lines()) == 3_000


def test_failing_trace_brings_what_it_logged(lines, still):
    """Records beyond the budget are stored after all if their trace fails, and with it; else they are counted."""
    for number in range(30):
        with trace.new_trace("a.b") as started:
            log.info("working", extra={"number": number})
            if number == 25:
                started.fail("timeout")

    stored = runtime.recorder.pending_logs()
    numbers = [orjson.loads(entry.extras)["number"] for entry in stored if not entry.repeats]
    assert numbers == [*range(10), 25]
    assert stored[-1].trace_id == trace.get_recent(5)[4].trace_id


def test_debug_of_a_failing_trace_is_kept_if_asked_for(tmp_path):
    """With `keep_debug_of_failures` a failing call's debug records are stored, a succeeding one's are not."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, keep_debug_of_failures=True))
    for name in ("good.call", "bad.call"):
        with trace.new_trace(name) as started, trace.span("step"):
            log.debug("details of %s", name, extra={"n": 1})
            if name == "bad.call":
                started.fail("timeout")

    (entry,) = runtime.recorder.pending_logs()
    assert (entry.msg, entry.level, entry.extras) == ("details of bad.call", "debug", b'{"n":1}')
    assert entry.trace_id == trace.get_recent(1)[0].trace_id
    assert entry.span_id == trace.get_recent(1)[0].spans[0].id
    assert not any(line["level"] == "debug" for line in log_lines(tmp_path))


def test_debug_of_a_failing_trace_is_not_kept_unasked(lines):
    """Without the setting, debug records below the level go nowhere."""
    with trace.new_trace("bad.call") as started:
        log.debug("details")
        started.fail("timeout")

    assert runtime.recorder.pending_logs() == []


def test_debug_outside_any_trace_is_not_kept(tmp_path):
    """There is nothing to keep it on."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, keep_debug_of_failures=True))
    log.debug("details")

    assert runtime.recorder.pending_logs() == []


def test_trace_holds_a_bounded_number_of_records(tmp_path):
    """A failing trace that logs without end keeps the first two hundred."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, keep_debug_of_failures=True))
    with trace.new_trace("bad.call") as started:
        for number in range(5_000):
            log.debug("step", extra={"number": number})
        started.fail("timeout")

    kept = [orjson.loads(entry.extras)["number"] for entry in runtime.recorder.pending_logs()]
    assert kept == list(range(200))


def test_hostile_debug_record_raises_nothing(tmp_path):
    """What is kept on a trace is shaped when it is logged, and may be anything."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, keep_debug_of_failures=True))
    with trace.new_trace("bad.call") as started:
        log.debug("wrong %d", "text", extra={1: object()})
        log.debug("odd", extra="no mapping", exc_info=True)  # noqa: LOG014  # the mistake is the point
        started.fail("timeout")

    assert [entry.msg for entry in runtime.recorder.pending_logs()] == [
        'wrong %d [TypeError in its arguments] ["text"]',
        "odd",
    ]


def test_other_handlers_get_every_record_the_standard_way(lines):
    """An added handler gets whole records; ours continues as before, within its budget."""
    seen = []

    class Collector(logging.Handler):
        def emit(self, record):
            seen.append((record.getMessage(), record.levelname, record.funcName, getattr(record, "n", None)))

    collector = Collector()
    logging.getLogger("hearthnet").addHandler(collector)
    try:
        log.info("for %s", "both", extra={"n": 7})
        with trace.new_trace("a.b"):
            pass
    finally:
        logging.getLogger("hearthnet").removeHandler(collector)
    log.info("ours alone", extra={"n": 8})

    assert seen[0] == ("for both", "INFO", "test_other_handlers_get_every_record_the_standard_way", 7)
    assert [line["msg"] for line in lines()] == ["for both", "done", "ours alone"]
    assert re.fullmatch(r"a\.b ok in [\d.]+ ms", seen[1][0])


def test_other_handlers_get_a_failed_trace_with_its_error(lines):
    """As the console has it: a formatter that shows the message alone says which trace, and why."""
    waiting = queue.SimpleQueue()
    other = logging.handlers.QueueHandler(waiting)
    logging.getLogger("hearthnet").addHandler(other)
    try:
        with pytest.raises(ValueError, match="no bank"), trace.trace("sync"):
            raise ValueError("no bank at 100 %")
    finally:
        logging.getLogger("hearthnet").removeHandler(other)

    record = waiting.get_nowait()
    shown = re.fullmatch(r"sync internal_error in [\d.]+ ms: ValueError: no bank at 100 %", record.getMessage())
    assert (shown is not None, record.capability, record.levelname) == (True, "sync", "WARNING")
    (line,) = lines()
    assert (line["msg"], line["error"]) == ("done", "ValueError: no bank at 100 %")


def test_filter_of_a_logger_is_asked(lines):
    """A filter decides here as anywhere."""
    log.addFilter(lambda record: "secret" not in record.getMessage())
    try:
        log.info("a secret")
        log.info("no such thing")
    finally:
        log.filters.clear()

    assert [line["msg"] for line in lines()] == ["no such thing"]


def test_long_message_is_one_however_often_it_comes(lines, still):
    """A message longer than a row's is cut before it is looked up, and has one budget."""
    for _ in range(20):
        log.info("x" * 5_000)

    assert len(runtime.recorder.pending_logs()) == 10
    assert find("hearthnet.test", 20, "x" * 5_000) is find("hearthnet.test", 20, "x" * 5_000)
    assert find("hearthnet.test", 20, "x" * 5_000).text.count("x") > 900


def test_records_of_a_trace_that_ends_well_are_counted(lines, still):
    """Records that a trace held and dropped in the end are logged as repeats; then none are pending."""
    with trace.new_trace("good.call"):
        for _ in range(50):
            log.info("working")
    assert messages.is_any_dropped() is True
    node_logging.log_dropped(all_of_them=True)

    stored = runtime.recorder.pending_logs()
    assert sum(1 + entry.repeats for entry in stored) == 50
    assert len(stored) == 11
    assert total(line for line in lines() if line["msg"] == "working") == 50  # the file has had them all along
    assert messages.is_any_dropped() is False


def test_records_of_a_trace_that_fails_are_not_counted_twice(lines, still):
    """Records stored with the failed trace are no repeats, and none are pending."""
    with trace.new_trace("bad.call") as started:
        for _ in range(50):
            log.info("working")
        started.fail("timeout")
    assert not messages.is_any_dropped()
    node_logging.log_dropped(all_of_them=True)

    assert [entry.repeats for entry in runtime.recorder.pending_logs()] == [0] * 50


def test_record_held_back_while_others_are_told_does_not_wait(lines, still, monkeypatch):
    """A finalizer logs while drops are being logged: it is counted, without a deadlock."""
    for _ in range(50):
        log.info("storm")
    has_drops_before = messages.Message.has_drops_before

    def interrupted(message, second):
        monkeypatch.setattr(messages.Message, "has_drops_before", has_drops_before)
        log.info("storm")
        return has_drops_before(message, second)

    monkeypatch.setattr(messages.Message, "has_drops_before", interrupted)
    telling = threading.Thread(target=node_logging.log_dropped, kwargs={"all_of_them": True}, daemon=True)
    telling.start()
    telling.join(10)

    assert not telling.is_alive()
    assert sum(1 + entry.repeats for entry in runtime.recorder.pending_logs()) == 51


def test_levels_are_those_of_the_standard_library():
    """Programs pass its numbers, and our own code passes these."""
    ours = messages.DEBUG, messages.INFO, messages.WARNING, messages.ERROR

    assert ours == (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "debug"), (10, "debug"), (19, "debug"), (20, "info"), (29, "info"), (39, "warning"), (49, "error"),
     (50, "critical"), (99, "critical")],
)  # fmt: skip
def test_level_in_between_has_the_name_of_the_next_lower_one(number, name):
    """Other libraries have levels of their own: 15, 25."""
    assert messages.level_name(number) == name


@pytest.mark.parametrize(
    ("number", "is_notable"), [(10, 0), (20, 0), (29, 0), (30, 1), (35, 1), (40, 1), (50, 1), (99, 1)]
)
def test_warnings_and_worse_are_notable(number, is_notable):
    """They have a share of the ring of their own, and more rows a second."""
    entry = messages.new_entry(find("hearthnet.test", number, "m"), None, None, 0)

    record = LogRecord(0, "run", 1, *entry.values())
    assert (record.notable, record.repeats) == (is_notable, 0)


def test_message_hides_what_its_fields_tell(lines, still):
    """A secret that stands in the text too is replaced in line and row, and in the record that counts the others."""
    for _ in range(50):
        log.info("sent orchid-lantern-4471", extra={"password": "orchid-lantern-4471"})
    node_logging.log_dropped(all_of_them=True)

    stored = runtime.recorder.pending_logs()
    assert {entry.msg for entry in stored} == {line["msg"] for line in lines()} == {"sent [redacted]"}
    assert [entry.repeats for entry in stored] == [0] * 10 + [39]


@pytest.mark.parametrize(
    "secrets", [("orchid-lantern-4471", "velvet-anchor-9902"), ("velvet-anchor-9902", "orchid-lantern-4471")]
)
def test_message_hides_what_each_of_its_records_tells(secrets):
    """One after the other; where nothing is told, it is as it was."""
    message = find("hearthnet.test", 20, "from orchid-lantern-4471 to velvet-anchor-9902")
    for secret in secrets:
        line = messages.new_entry(message, {"password": secret}, None, 0).line().decode()
        assert secret not in line
        assert "[redacted]" in line
    plain = messages.new_entry(message, {"n": 1}, None, 0).line().decode()

    assert "from orchid-lantern-4471 to velvet-anchor-9902" in plain


@pytest.mark.parametrize(("length", "fields_bytes"), [(256, 2_048), (257, 1_024), (900, 1_024)])
def test_long_message_takes_its_space_in_the_row_from_the_fields(length, fields_bytes):
    """A quarter of its share is short."""
    entry = messages.new_entry(find("hearthnet.test", 20, "x" * length), {"a": "y" * 2_000, "b": "z" * 2_000}, None, 0)
    row = LogRecord(0, "run", 1, *entry.values())

    assert fields_bytes - 100 < len(row.extras) <= fields_bytes
    assert len(row.msg) == length


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_line_of_just_the_limit_is_whole(more):
    """One byte more, and its fields are cut."""
    message = find("hearthnet.test", 20, "m")
    rest = len(messages.Entry(message, b'{"a":"","b":""}', None, 0).line())
    half = (MAX_JSON_LINE_BYTES - rest) // 2
    fields = {"a": "x" * half, "b": "x" * (MAX_JSON_LINE_BYTES - rest - half + more)}
    line = messages.Entry(message, orjson.dumps(fields), None, 0).line()

    assert ("[cut]" in line.decode()) == (more > 0)
    assert len(line) <= MAX_JSON_LINE_BYTES


@pytest.mark.parametrize("letter", ["x", "\x01", "ü"])
def test_text_within_its_share_of_a_line_is_whole_and_a_longer_one_keeps_its_end(letter):
    """A traceback's end tells most: as much of it stays as there is space for."""
    share = MAX_JSON_LINE_BYTES // 4
    count = (share - len('""')) // len(orjson.dumps(letter)[1:-1])
    whole = "x" * (share - len('""') - count * len(orjson.dumps(letter)[1:-1])) + letter * count
    shorter = orjson.loads(messages.json_text("beginning" + letter * count + "end"))

    assert len(orjson.dumps(whole)) == share
    assert messages.json_text(whole) == orjson.dumps(whole)
    assert shorter.startswith("[cut]…")
    assert shorter.endswith(letter + "end")
    assert share * 0.98 < len(orjson.dumps(shorter)) <= share


def test_text_of_any_length_is_cut_in_a_few_steps(monkeypatch):
    """Each step encodes it, in the thread of the caller."""
    encoded = []

    def encode(text):
        encoded.append(len(text))
        assert len(encoded) <= 3
        return orjson.dumps(text)

    monkeypatch.setattr(messages, "encode_value", encode)
    messages.json_text("x" * 10 * MAX_JSON_LINE_BYTES)

    assert encoded[1] < MAX_JSON_LINE_BYTES


def test_fields_beside_a_long_traceback_keep_a_quarter_of_the_line():
    """What does not fit is cut, not more."""
    long = "x" * MAX_JSON_LINE_BYTES
    fields = orjson.dumps({"n": 1, "long": long[:-1_000]})
    line = messages.Entry(find("hearthnet.test", 20, "m"), fields, (long, ""), 0).line()
    found = orjson.loads(line)

    assert len(line) <= MAX_JSON_LINE_BYTES
    assert found["n"] == 1
    assert MAX_JSON_LINE_BYTES // 4 - 100 < len(found["long"]) < MAX_JSON_LINE_BYTES // 4


def test_fields_that_grow_when_line_ends_are_escaped_are_cut_again():
    """U+0085 is two bytes of a field, and six of a line."""
    fields = orjson.dumps({"n": 1, "long": "\x85" * MAX_JSON_LINE_BYTES})
    line = messages.Entry(find("hearthnet.test", 20, "m"), fields, ("x" * MAX_JSON_LINE_BYTES, ""), 0).line()
    found = orjson.loads(line)

    assert len(line) <= MAX_JSON_LINE_BYTES
    assert len(line.splitlines()) == len(line.decode().splitlines()) == 1
    assert (found["msg"], found["n"]) == ("m", 1)
    assert len(found["long"]) > MAX_JSON_LINE_BYTES // 16 - 100
    assert found["exc"].endswith("x")


def test_row_has_the_time_in_microseconds():
    """Rounded down, as that of the line is to milliseconds."""
    entry = messages.Entry(find("hearthnet.test", 20, "m"), b"{}", None, 1_790_000_000_123_456_789)

    assert entry.values()[0] == 1_790_000_000_123_456
    assert orjson.loads(entry.line())["ts"].endswith("20.123Z")


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("%(a)s", ({"a": 1},)),
        ("%s and %s", ({"a": 1}, 2)),
        ("%s", ({},)),
        ("%s%%", (5,)),
        ("%d", (2.5,)),
        ("100 %", ()),
    ],
)
def test_arguments_are_filled_in_as_the_standard_library_does(text, args):
    """A mapping is one where it is the only argument, and has names."""
    record = logging.LogRecord("x", 20, "x.py", 1, text, args, None)

    assert messages.text_of(text, args) == record.getMessage()


def test_debug_record_that_cannot_be_kept_is_counted(lines, monkeypatch):
    """It raises nothing into the program, before logging is set up and after."""
    broken = SimpleNamespace(trace=None)
    messages.keep_on(broken, "hearthnet.test", "m", {})
    assert runtime.handler.failures == 1
    monkeypatch.setattr(runtime, "handler", None)
    messages.keep_on(broken, "hearthnet.test", "m", {})


@pytest.mark.parametrize(
    ("after_s", "is_admitted"), [(0.0, False), (59.9, False), (60.0, True), (60.1, True), (900.0, True)]
)
def test_key_is_admitted_again_once_its_time_is_over(after_s, is_admitted):
    """However long ago that was; then its time begins anew."""
    assert messages.admit_key("hearthnet.test", "k", 100.0, 60.0)
    assert messages.admit_key("hearthnet.test", "k", 100.0 + after_s, 60.0) is is_admitted
    assert messages.admit_key("hearthnet.test", "k", 161.0, 60.0) is not is_admitted


def test_limits_are_remembered_for_a_bounded_number_of_keys():
    """A caller may name a new key each time."""
    for number in range(3_000):
        assert messages.admit_key("hearthnet.test", str(number), 1.0, 60.0)
        assert not messages.admit_key("hearthnet.test", str(number), 2.0, 60.0)

    assert len(messages._keys) <= 1_024


def test_message_that_others_have_hidden_from_a_traceback_stays_hidden():
    """Their formatter has rewritten the text; the field beside it does not bring the message back."""
    error = ValueError("name of a patient")
    shown = ("Traceback: ValueError: name of a patient", "Traceback: ValueError: [hidden]")
    kept, hidden = (
        messages.new_entry(find("hearthnet.test", 40, "m"), None, Error((ValueError, error, None), text), 0).extras
        for text in shown
    )

    assert orjson.loads(kept) == {"exc_type": "ValueError", "exc_message": "name of a patient"}
    assert orjson.loads(hidden) == {"exc_type": "ValueError"}


def test_mark_of_a_trace_takes_no_more_than_its_own_space():
    """The fields beside it keep the rest of the line, and of the row."""
    place = (None, None, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C")
    fields = {"long": "x" * (MAX_JSON_LINE_BYTES // 2)}
    entry = messages.Entry(find("hearthnet.test", 20, "m"), orjson.dumps(fields), ("e", "e"), 0, place)
    found = orjson.loads(entry.line())
    row = entry.values()[8]

    assert (found["after_trace"], found["long"]) == (place[2], fields["long"])
    assert orjson.loads(row)["after_trace"] == place[2]
    assert messages.MESSAGE_BYTES - 10 <= len(row) <= messages.MESSAGE_BYTES


@pytest.mark.parametrize(("interval_s", "told_after_s"), [(10, 11), (60, 61), (61, 61), (300, 61), (10**9, 61)])
def test_drops_of_a_long_limit_are_told_once_a_minute(monkeypatch, interval_s, told_after_s):
    """A key's time may be longer than a count may wait: neither is it told at every record, nor only at the end."""
    now_s = 1_800_000_000
    monkeypatch.setattr(messages, "time_ns", lambda: now_s * 1_000_000_000)
    message = messages.Message("hearthnet.x", 30, "noisy")
    assert not message.has_drops_before(None)
    assert message.admit_line(now_s)
    message.drop_until(now_s + interval_s)

    assert not message.has_drops_before(now_s + 1)
    assert not message.has_drops_before(now_s + told_after_s - 1)
    assert message.has_drops_before(now_s + told_after_s)
    messages.forget()


@pytest.mark.parametrize("level", ["warning", "exception"])
def test_hostile_exc_info_is_no_exception(tmp_path, level):
    """Whatever is passed: its own `bool` may raise."""

    class Hostile:
        def __bool__(self):
            raise RuntimeError("no truth in here")

    settings = ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "logs")
    with telemetry.open(settings):
        getattr(get_logger("hearthnet.hostile"), level)("said", exc_info=Hostile())

    assert [line["msg"] for line in log_lines(settings.log_dir) if line["logger"] == "hearthnet.hostile"] == ["said"]


@pytest.mark.parametrize(("lines", "rows", "later"), [(3, 3, 0), (3, 5, 2), (3, 1, 0)])
def test_dropped_records_are_told_once(lines, rows, later):
    """A record represents as many as were dropped from both; what was dropped from the rows alone is told later."""
    message = find("hearthnet.test", 20, "told once")
    message.drop(lines, rows)

    assert message.take_dropped_records() == lines
    assert message.take_dropped() == (0, later)
    message.drop(lines, lines)
    message.take_dropped_records()
    assert message not in messages._with_drops
