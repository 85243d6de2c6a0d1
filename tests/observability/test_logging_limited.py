"""`RateLimitedLogger`: one record a second for each key, a count of the others, and otherwise a logger like any."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import orjson
import pytest
from support.log_clock import CLOCKED
from support.reading import log_lines
from support.threads import at_once

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.observability.logs import adapters, messages
from hearthnet.observability.runtime import runtime

NAME = "hearthnet.test_limited"


@pytest.fixture
def lines(tmp_path):
    """Logging configured into a temporary folder; returns a reader of its lines."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="debug"))
    return lambda: log_lines(tmp_path)


@pytest.fixture
def now():
    """A clock that advances only when set; monotonic seconds."""
    return [100.0]


@pytest.fixture
def noisy(now):
    """A limited logger on that clock."""
    return RateLimitedLogger(NAME, clock=lambda: now[0])


def total(records):
    """How many records these stand for."""
    return sum(1 + record.get("repeats", 0) for record in records)


def test_one_passes_a_second_and_counts_the_others(lines, noisy, now):
    """Of many equal warnings within a second one passes; the next is in line and row for those dropped."""
    for _ in range(10):
        noisy.warning("lost peer", extra={"peer": "a"})
    noisy.warning("other message")
    now[0] += 1.0
    noisy.warning("lost peer", extra={"peer": "b"})

    assert [line["msg"] for line in lines()] == ["lost peer", "other message", "lost peer"]
    assert (lines()[2]["repeats"], lines()[2]["peer"]) == (9, "b")
    stored = runtime.recorder.pending_logs()
    assert [(entry.repeats, entry.extras) for entry in stored][2] == (9, b'{"peer":"b"}')
    assert sum(1 + entry.repeats for entry in stored) == total(lines()) == 12


def test_count_of_a_storm_that_has_ended_is_logged_like_that_of_any_message(lines, noisy):
    """Nothing more is logged of the message: one more record counts the rest, in line and row."""
    for _ in range(10):
        noisy.info("storm", key="k", extra={"n": 1})
    node_logging.log_dropped(all_of_them=True)

    assert [line.get("repeats") for line in lines()] == [None, 8]
    assert sum(1 + entry.repeats for entry in runtime.recorder.pending_logs()) == 10
    assert not messages.is_any_dropped()


def test_count_waits_until_the_keys_time_is_over(lines, noisy, monkeypatch):
    """Within the second of the record that passed, and in the one that its time ends in, no other record follows."""
    wall = [1_790_000_000_400_000_000]
    for module in (*CLOCKED, adapters):
        monkeypatch.setattr(module, "time_ns", lambda: wall[0])
    for _ in range(3):
        noisy.warning("storm")
    seen = []
    for _ in range(4):
        node_logging.log_dropped()
        seen.append(len(lines()))
        wall[0] += 700_000_000

    assert seen == [1, 1, 1, 2]
    assert total(lines()) == 3


def test_each_key_has_a_second_of_its_own(lines, noisy, now):
    """The key is the caller's; the count is the message's, whichever key is logged next."""
    for peer in ("a", "b", "a", "b", "b"):
        noisy.warning("lost peer", key=peer)
    now[0] += 1.0
    noisy.warning("lost peer", key="c")
    noisy.warning("lost peer", key="a")

    assert [line.get("repeats") for line in lines()] == [None, None, 3, None]


def test_two_limits_of_one_logger_are_one(lines, now):
    """Two wrappers of a logger share their second, by the logger or by its name."""
    for made in (NAME, get_logger(NAME)):
        RateLimitedLogger(made, clock=lambda: now[0]).warning("same")

    assert len(lines()) == 1


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_every_level_has_its_method(lines, noisy, level):
    """It is a logger: all methods, arguments, fields, and the caller's line for other handlers."""
    getattr(noisy, level)("%s of %d", "one", 2, extra={"n": 1})
    getattr(noisy, level)("%s of %d", "two", 2)

    (line,) = lines()
    assert (line["level"], line["msg"], line["n"], line["logger"]) == (level, "one of 2", 1, NAME)


def test_arguments_and_log_by_number(lines, noisy):
    """`log` takes a number, as a logger's does; what does not fit raises nothing."""
    noisy.log(logging.INFO, "by %s", "number")
    noisy.warning("%d things", "many")
    noisy.warning("no arguments: 100%")

    assert [line["msg"] for line in lines()] == [
        "by number",
        '%d things [TypeError in its arguments] ["many"]',
        "no arguments: 100%",
    ]


@pytest.mark.parametrize("method", ["error", "exception", "critical"])
def test_error_brings_its_traceback(lines, noisy, method):
    """The exception being handled is recorded, as `log.exception` does."""
    try:
        raise ValueError("broken")
    except ValueError:
        getattr(noisy, method)("failed")
    getattr(noisy, method)("failed otherwise")

    first, second = lines()
    assert first["exc"].startswith("Traceback")
    assert (first["exc_type"], first["exc_message"]) == ("ValueError", "broken")
    assert "ValueError: broken" in runtime.recorder.pending_logs()[0].exc
    assert "exc" not in second


def test_warning_has_no_traceback_unless_asked(lines, noisy):
    """Below error an exception being handled is the caller's affair."""
    try:
        raise ValueError("broken")
    except ValueError as error:
        noisy.warning("careful")
        noisy.warning("asked", exc_info=True)
        noisy.warning("given", exc_info=error)

    assert ["exc" in line for line in lines()] == [False, True, True]


def test_record_below_the_level_takes_no_time(tmp_path, noisy):
    """A warning that the level drops leaves the key to the error that follows."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="error"))
    noisy.warning("x", key="k")
    noisy.debug("y", key="k")
    noisy.error("z", key="k")

    assert [line["msg"] for line in log_lines(tmp_path)] == ["z"]
    assert not messages.is_any_dropped()


def test_record_before_configuring_takes_no_time(tmp_path, noisy, capsys):
    """What went to stderr before is not why the same message is missing from the file."""
    noisy.warning("early")
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    noisy.warning("early")

    assert [line["msg"] for line in log_lines(tmp_path)] == ["early"]
    assert capsys.readouterr().err == "early\n"


def test_other_handlers_get_one_a_second_too(lines, noisy, now, logged):
    """Every handler gets the record that passes, with the caller's line and the count."""
    for _ in range(5):
        noisy.warning("storm of %s", "one")
    now[0] += 1.0
    noisy.warning("storm of %s", "two")
    RateLimitedLogger(logging.getLogger("foreign.library")).warning("foreign")

    assert [record.getMessage() for record in logged] == ["storm of one", "storm of two", "foreign"]
    assert logged[1].repeats == 4
    assert {(record.filename, record.funcName) for record in logged} == {
        (Path(__file__).name, "test_other_handlers_get_one_a_second_too")
    }
    assert lines()[1]["repeats"] == 4


def test_callers_own_count_is_no_count_of_ours(lines, noisy, now):
    """A field called `repeats` is renamed, as one of any logger is; it is not added to the records."""
    noisy.warning("m", extra={"repeats": 3})
    get_logger(NAME).warning("n", extra={"repeats": 4})
    noisy.warning("m")
    now[0] += 1.0
    noisy.warning("m", extra={"repeats": 5})

    assert [(line.get("x_repeats"), line.get("repeats")) for line in lines()] == [(3, None), (4, None), (None, 1)]
    assert [entry.repeats for entry in runtime.recorder.pending_logs()] == [0, 0, 1]


def test_limited_messages_that_are_forgotten_are_counted(lines, noisy, monkeypatch):
    """More keys than are remembered: the drops are of the message, and none is lost."""
    monkeypatch.setattr(messages, "_MAX_REMEMBERED", 20)
    for number in range(60):
        noisy.warning("lost peer", key=f"peer {number}")
        noisy.warning("lost peer", key=f"peer {number}")
    node_logging.log_dropped(all_of_them=True)

    assert total(lines()) == 120


def test_budget_of_the_message_holds_besides(lines, now, monkeypatch):
    """More keys in a second than the message's budget: the records and counts still add up, in lines and rows."""
    wall = [1_790_000_000_000_000_000]
    for module in (*CLOCKED, adapters):
        monkeypatch.setattr(module, "time_ns", lambda: wall[0])
    monkeypatch.setattr(messages, "LINES_A_SECOND", 20)
    noisy = RateLimitedLogger(NAME, clock=lambda: now[0])
    for _ in range(3):
        for number in range(150):
            noisy.info("lost peer", key=f"{number % 50}")
        now[0] += 1.0
        wall[0] += 1_000_000_000
    node_logging.log_dropped(all_of_them=True)

    assert total(lines()) == 450
    assert sum(1 + entry.repeats for entry in runtime.recorder.pending_logs()) == 450
    assert len(lines()) < 70


@pytest.mark.parametrize("extra", [5, "text", ["a"], None, {"ms": 1}])
def test_limited_message_takes_any_extra(lines, noisy, now, extra):
    """What is no mapping raises nothing, with a count and without one."""
    for _ in range(2):
        noisy.warning("odd", extra=extra)
    now[0] += 1.0
    noisy.warning("odd", extra=extra)

    first, second = lines()
    assert second.pop("repeats") == 1
    assert list(first.items())[1:] == list(second.items())[1:]


def test_limited_message_logged_within_another_does_not_wait(lines, now):
    """A signal handler or a finalizer logs in the middle of a limited record: both are logged, without a deadlock."""
    interrupted = []

    def clock():
        if not interrupted:
            interrupted.append(True)
            with runtime.lock:
                noisy.warning("inner")
        return now[0]

    noisy = RateLimitedLogger(NAME, clock=clock)

    def work():
        with runtime.lock:  # as where the interruption comes within it
            noisy.warning("outer")

    outer = threading.Thread(target=work, daemon=True)
    outer.start()
    outer.join(10)

    assert not outer.is_alive()
    assert [line["msg"] for line in lines()] == ["inner", "outer"]


def test_threads_share_a_key(lines, noisy):
    """Of 8,000 equal warnings of eight threads one is logged, and all are counted."""
    at_once(lambda _: [noisy.warning("storm") for _ in range(1_000)], range(8))
    node_logging.log_dropped(all_of_them=True)

    assert total(lines()) == 8_000
    assert len(lines()) == 2


def test_forked_child_does_not_log_its_parents_count(lines, noisy):
    """Drops before a fork are logged once, by the parent."""
    for _ in range(3):
        noisy.warning("storm")
    child = os.fork()
    if child == 0:
        try:
            node_logging.log_dropped(all_of_them=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    node_logging.log_dropped(all_of_them=True)

    assert [line.get("repeats") for line in lines()] == [None, 1]


def test_secret_of_a_limited_message_is_replaced(lines, noisy, capsys):
    """Arguments, fields and tracebacks are redacted as any logger's are; the key is recorded nowhere."""
    said = "password=" + "hunter2" * 2  # a traceback has the source of this line
    try:
        raise ValueError(said)
    except ValueError:
        noisy.error("sent %s", said, key=said, extra={"token": said[9:]})

    assert said[9:] not in orjson.dumps(lines()).decode()
    assert lines()[0]["token"] == "[redacted]"
    assert said[9:] not in str(runtime.recorder.pending_logs())
    assert sys.exc_info() == (None, None, None)
