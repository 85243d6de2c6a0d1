"""Levels of loggers at run time: what passes, for how long, and how it comes back by itself."""

from __future__ import annotations

import logging
import threading

import orjson
import pytest
from support.threads import at_once

from hearthnet.constants import LEVELS
from hearthnet.observability import get_logger
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.logs.levels import MAX_FOR_S, MAX_OVERRIDES, THIRD_PARTY, Levels, LogLevelError

BUS = "hearthnet.test_levels.bus"  # a package of its own: what other tests leave on the real one is not ours


class Time:
    """A clock and the timers that hang on it; nothing passes unless a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.timers: list[list] = []

    def start_timer(self, delay_s, function):
        """Has a function called at its time; returns what cancels that."""
        timer = [self.now_s + delay_s, function]
        self.timers.append(timer)

        def cancel():
            if timer in self.timers:
                self.timers.remove(timer)

        return cancel

    def pass_by(self, seconds: float) -> None:
        """Lets time pass and runs what is due."""
        self.now_s += seconds
        for timer in [timer for timer in self.timers if timer[0] <= self.now_s]:
            self.timers.remove(timer)
            timer[1]()


@pytest.fixture
def time():
    """A clock that does not advance."""
    return Time()


@pytest.fixture
def levels(time, observability):
    """Levels on that time; logging is configured at level info."""
    node_logging.install_sinks(observability)
    get_logger(f"{BUS}.router")
    with Levels(clock=lambda: time.now_s, start_timer=time.start_timer) as made:
        yield made


@pytest.fixture
def lines(observability):
    """What the JSON log says at the time of asking."""

    def read(logger: str) -> list[dict]:
        raw = [raw for path in log_paths(observability.log_dir) for raw in path.read_bytes().splitlines()]
        return [line for line in map(orjson.loads, raw) if line["logger"] == logger]

    return read


def events(lines) -> list[tuple]:
    """The log records of changes."""
    told = lines("hearthnet.observability.logs.levels")
    return [(line["msg"], line["changed"], line["was"], line["to"], line.get("because")) for line in told]


def test_debug_reaches_the_log_until_its_time_is_up(levels, time, lines):
    """Debug records of a logger and of those below it are lines of the JSON log for as long as asked, no others."""
    get_logger(f"{BUS}.router").debug("before")
    levels.set(BUS, "debug", for_s=60)
    get_logger(f"{BUS}.router").debug("routed", extra={"ms": 3})
    get_logger("hearthnet.test_levels.other").debug("unseen")
    time.pass_by(59.9)
    get_logger(f"{BUS}.router").debug("still")
    time.pass_by(0.1)
    get_logger(f"{BUS}.router").debug("after")

    assert [(line["level"], line["msg"]) for line in lines(f"{BUS}.router")] == [
        ("debug", "routed"),
        ("debug", "still"),
    ]
    assert lines("hearthnet.test_levels.other") == []
    assert events(lines) == [
        ("log level changed", BUS, "info", "debug", None),
        ("log level reverted", BUS, "debug", "info", "time is up"),
    ]
    assert levels.current() == []
    assert time.timers == []


def test_logger_can_be_made_quieter(levels, time, lines):
    """A level may be raised as well: records below it are dropped until it reverts."""
    levels.set(BUS, "error", for_s=10)
    get_logger(BUS).warning("held back")
    time.pass_by(10)
    get_logger(BUS).warning("seen")

    assert [line["msg"] for line in lines(BUS)] == ["seen"]


def test_each_level_ends_at_its_own_time(levels, time):
    """Three levels with three times end one after the other, and what is listed says how long each has left."""
    for name, for_s in (("a", 30), ("b", 10), ("c", 20)):
        get_logger(f"hearthnet.test_levels.{name}")
        levels.set(f"test_levels.{name}", "debug", for_s)
    seen = []
    for _ in range(4):
        seen.append([(item.logger[-1], item.left_s) for item in levels.current()])
        time.pass_by(10)

    assert seen == [[("a", 30), ("b", 10), ("c", 20)], [("a", 20), ("c", 10)], [("a", 10)], []]


def test_same_logger_again_begins_anew(levels, time, lines):
    """A second level for a logger replaces the first one and its time; it returns to what was at the very start."""
    levels.set(BUS, "debug", for_s=10)
    time.pass_by(9)
    levels.set(BUS, "error", for_s=10)
    time.pass_by(9)
    assert [(item.level, item.was, item.left_s) for item in levels.current()] == [("error", "info", 1.0)]
    time.pass_by(1)

    assert logging.getLogger(BUS).level == logging.NOTSET
    assert [event[2:4] for event in events(lines)] == [("info", "debug"), ("debug", "error"), ("error", "info")]


def test_timer_that_comes_early_waits_on(levels, time):
    """A timer that fires before its time ends nothing, and another one is under way."""
    levels.set(BUS, "debug", for_s=10)
    (timer,) = time.timers
    timer[1]()

    assert len(levels.current()) == 1
    time.pass_by(10)
    assert levels.current() == []


def test_level_reverts_with_nobody_asking(observability):
    """With the real clock and a real thread a level ends by itself, in a program that only waits."""
    node_logging.install_sinks(observability)
    get_logger(BUS)
    reverted = threading.Event()

    class Watching(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "log level reverted":
                reverted.set()

    watching = Watching()
    logging.getLogger("hearthnet.observability.logs.levels").addHandler(watching)
    try:
        with Levels() as levels:
            levels.set(BUS, "debug", for_s=0.05)
            assert reverted.wait(20)
            assert not get_logger(BUS).isEnabledFor(logging.DEBUG)
    finally:
        logging.getLogger("hearthnet.observability.logs.levels").removeHandler(watching)


def test_leaving_the_block_takes_everything_back(time, observability, lines):
    """At the end of the program's block no level, no timer and no third party's level is left."""
    node_logging.install_sinks(observability)
    get_logger(BUS)
    with Levels(clock=lambda: time.now_s, start_timer=time.start_timer) as levels:
        levels.set(BUS, "debug")
        levels.set("httpx", "debug")
    levels.close()

    assert time.timers == []
    assert logging.getLogger(BUS).level == logging.getLogger("httpx").level == logging.NOTSET
    assert [event[1::3] for event in events(lines)[2:]] == [(BUS, "closed"), ("httpx", "closed")]


def test_what_others_set_meanwhile_is_kept(levels, time):
    """A level that other code set in the meantime is not undone at the end."""
    levels.set(BUS, "debug", for_s=10)
    logging.getLogger(BUS).setLevel(logging.CRITICAL)
    time.pass_by(10)

    assert logging.getLogger(BUS).level == logging.CRITICAL
    logging.getLogger(BUS).setLevel(logging.NOTSET)


def test_reset_takes_back_one_or_all(levels, lines):
    """`reset` ends the level of one logger, or of all; of a logger that has none it changes nothing."""
    levels.set(BUS, "debug")
    levels.set("httpx", "info")
    levels.reset("asyncio")
    levels.reset(BUS)
    assert [item.logger for item in levels.current()] == ["httpx"]
    levels.reset()

    assert levels.current() == []
    assert [event[4] for event in events(lines)] == [None, None, "reset", "reset"]


@pytest.mark.parametrize("level", LEVELS)
def test_change_is_seen_whatever_passes(time, observability, lines, level):
    """A change of level is logged even if `log_level` lets only errors pass."""
    node_logging.install_sinks(observability.model_copy(update={"log_level": level}))
    get_logger(BUS)
    with Levels(clock=lambda: time.now_s, start_timer=time.start_timer) as levels:
        levels.set(BUS, "debug")

    assert [event[0] for event in events(lines)] == ["log level changed", "log level reverted"]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        (BUS, BUS),
        (f"{BUS}.router", f"{BUS}.router"),
        ("test_levels.bus", BUS),
        ("hearthnet", "hearthnet"),
        ("uvicorn.error", "uvicorn.error"),
        ("asyncio", "asyncio"),
        ("zeroconf", "zeroconf"),  # not imported, but known
    ],
)
def test_names(levels, given, full):
    """A name of ours may go without `hearthnet.`; a library's is its own."""
    assert levels.full_name(given) == full


@pytest.mark.parametrize(
    "name", ["", "root", "hearthnet.", "bus.", "tets_levels.bus", "uvicorn.nothing", "a b\n", "x" * 999]
)
def test_unknown_logger_is_refused(levels, name):
    """A typo is an error that suggests similar names, and makes no logger."""
    before = len(logging.Logger.manager.loggerDict)
    with pytest.raises(LogLevelError) as caught:
        levels.set(name, "debug")

    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert len(caught.value.message) < 200
    assert len(logging.Logger.manager.loggerDict) == before


def test_near_names_are_told(levels):
    """The hint for a slip of the hand has the name that was meant."""
    with pytest.raises(LogLevelError) as caught:
        levels.set("test_levels.buss", "debug")

    assert BUS in caught.value.hint


@pytest.mark.parametrize(
    ("level", "for_s"),
    [
        ("loud", 10),
        ("", 10),
        ("DEBUG", 10),
        ("debug", 0),
        ("debug", -1),
        ("debug", MAX_FOR_S + 1),
        ("debug", float("nan")),
    ],
)
def test_bad_level_or_time_is_refused(levels, level, for_s):
    """An unknown level, or a time out of bounds, changes nothing."""
    with pytest.raises(LogLevelError):
        levels.set(BUS, level, for_s)

    assert levels.current() == []


@pytest.mark.parametrize("level", ["debug", "info"])
def test_library_that_stores_the_log_stays_quiet(levels, level):
    """What stores the log cannot be made to log that as well, without end."""
    with pytest.raises(LogLevelError, match="stays at warning"):
        levels.set("aiosqlite", level)

    levels.set("aiosqlite", "error")
    assert not logging.getLogger("aiosqlite").isEnabledFor(logging.WARNING)


def test_number_of_levels_is_bounded(levels):
    """Beyond the bound a new one is refused; one that is there can still be changed."""
    for number in range(MAX_OVERRIDES):
        get_logger(f"hearthnet.test_levels.n{number}")
        levels.set(f"test_levels.n{number}", "debug")
    with pytest.raises(LogLevelError, match="already"):
        levels.set(BUS, "debug")
    levels.set("test_levels.n0", "error")

    assert len(levels.current()) == MAX_OVERRIDES


def test_third_parties_are_quiet_and_go_the_same_way(observability, lines):
    """Whatever the root lets pass, of libraries warnings alone become lines; unless the program wants it otherwise."""
    node_logging.install_sinks(observability)
    root, httpx = logging.getLogger(), logging.getLogger("httpx")
    before = root.level
    root.setLevel(logging.DEBUG)
    httpx.setLevel(logging.INFO)  # the program's own wish
    try:
        with Levels():
            for name in THIRD_PARTY:
                logging.getLogger(name).info("noise")
                logging.getLogger(name).warning("told", extra={"of": name})
        assert logging.getLogger("uvicorn.error").isEnabledFor(logging.DEBUG)
    finally:
        root.setLevel(before)
        httpx.setLevel(logging.NOTSET)

    for name in THIRD_PARTY:
        expected = ["noise", "told"] if name == "httpx" else ["told"]
        assert [line["msg"] for line in lines(name)] == expected
        assert type(logging.getLogger(name)) is logging.Logger


def test_many_threads_at_once(levels, time):
    """Levels set and taken back by many threads leave nothing behind."""
    names = [f"hearthnet.test_levels.t{number}" for number in range(8)]

    def work(name):
        get_logger(name)
        for _ in range(50):
            levels.set(name, "debug")
            levels.current()
            levels.reset(name)

    at_once(work, names)

    assert levels.current() == []
    assert time.timers == []
    assert all(logging.getLogger(name).level == logging.NOTSET for name in names)


def test_level_set_while_this_thread_sets_one():
    """A signal handler that switches debug on may come in the middle of another change: neither waits."""
    made = []

    def interrupted(delay_s, function):
        if not made:
            made.append(True)
            levels.set("root", "debug", 10)
        return lambda: None

    levels = Levels({"root": "info", "hearthnet": "info"}, start_timer=interrupted)
    thread = threading.Thread(target=levels.set, args=("hearthnet", "warning", 10), daemon=True)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()
    assert len(levels.current()) == 2
    levels.close()
