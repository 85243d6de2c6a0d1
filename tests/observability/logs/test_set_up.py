"""What a program's own set-up of logging takes away: noticed, put back or logged, counted, and redacted meanwhile."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import queue
import sys

import pytest
from support import forkserver
from support.reading import log_lines, rows
from support.waiting import wait_until

from hearthnet.constants import DATABASE
from hearthnet.observability import get_logger, metrics, telemetry, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.runtime import runtime

NAME = "hearthnet.test_set_up"
FOREIGN = "somelib.test_set_up"
CORRECTED = "the program's logging set-up was in the way and is corrected"
HIDES = "the program's logging set-up hides records"
HIDES_NO_MORE = "the logging set-up hides no more records"


@pytest.fixture(autouse=True)
def as_before():
    """What a test does to the process's logging is undone."""
    root, manager = logging.root, logging.root.manager
    handlers, level = root.handlers.copy(), root.level
    made = {name: (made.level, made.propagate, made.disabled) for name, made in loggers().items()}
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    manager.disable = 0
    for name, logger in loggers().items():
        before, logger.propagate, logger.disabled = made.get(name, (0, True, False))
        logger.handlers.clear()
        logger.filters.clear()
        if logger.level != before:
            logger.setLevel(before)


def loggers():
    """All that there are."""
    return {name: made for name, made in logging.root.manager.loggerDict.items() if isinstance(made, logging.Logger)}


@pytest.fixture
def lines(observability):
    """Logging configured without a thread that looks; returns a reader of the lines."""
    node_logging.install_sinks(observability)
    return lambda: log_lines(observability.log_dir)


def force():
    """Another library's import, or a script's main."""
    logging.basicConfig(force=True, stream=sys.stdout, level=logging.WARNING)


def dict_config():
    """The default: every logger that exists is disabled."""
    logging.config.dictConfig({"version": 1})


def dict_config_root():
    """A root with handlers of its own, or none."""
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"handlers": []}})


def file_config(tmp_path_factory=None):
    """The old way, which disables as well."""
    import io

    logging.config.fileConfig(
        io.StringIO(
            "[loggers]\nkeys=root\n[handlers]\nkeys=none\n[formatters]\nkeys=\n"
            "[logger_root]\nhandlers=none\n[handler_none]\nclass=NullHandler\nargs=()\n"
        )
    )


def no_handlers():
    """Assigned."""
    logging.root.handlers = []


def clear_handlers():
    """In place."""
    logging.root.handlers.clear()


def remove_each():
    """The recipe of many answers on the web."""
    for handler in logging.root.handlers[:]:
        logging.root.removeHandler(handler)


def remove_and_close():
    """The same, tidily."""
    for handler in logging.root.handlers[:]:
        logging.root.removeHandler(handler)
        handler.close()


def cut_off():
    """Our package's records go to no root."""
    get_logger(NAME)
    logging.getLogger("hearthnet").propagate = False


def cut_off_here():
    """Nor those of one logger, which has a handler of its own."""
    logging.getLogger(NAME).propagate = False
    logging.getLogger(NAME).addHandler(logging.NullHandler())


def disable_here():
    """One logger is disabled."""
    logging.getLogger(NAME).disabled = True


def replace_handlers():
    """A list of others."""
    logging.root.handlers = [logging.NullHandler(), logging.StreamHandler(sys.stdout)]


TAKEN_AWAY = [
    force, dict_config, dict_config_root, file_config, no_handlers, clear_handlers, remove_each, remove_and_close,
    cut_off, cut_off_here, disable_here, replace_handlers,
]  # fmt: skip
DISABLING = {dict_config, file_config, disable_here}


@pytest.mark.parametrize("take_away", TAKEN_AWAY)
def test_set_up_is_put_back_and_logged_once(lines, take_away):
    """After one look all is as before; until then our own records come, or are counted."""
    log = get_logger(NAME)
    log.error("before")
    take_away()
    log.error("meanwhile")
    node_logging.check_set_up()
    node_logging.check_set_up()
    log.error("after")
    logging.getLogger(f"{FOREIGN}.{take_away.__name__}").error("foreign")

    said = [line["msg"] for line in lines()]
    is_disabled = take_away in DISABLING
    assert [msg for msg in said if msg != CORRECTED] == [
        "before",
        *(["meanwhile"] if not is_disabled else []),
        "after",
        "foreign",
    ]
    assert said.count(CORRECTED) == (take_away not in (cut_off, cut_off_here))
    assert node_logging.missed_records() == is_disabled
    assert len([row for row in runtime.recorder.pending_logs() if row.msg == "after"]) == 1


@pytest.mark.parametrize("take_away", TAKEN_AWAY)
def test_done_line_comes_or_is_counted(lines, take_away):
    """A trace that ends in the meantime has its line, or a count says that it has not."""
    with trace.new_trace("a.b") as started:
        take_away()

    done = [line for line in lines() if line["msg"] == "done"]
    assert len(done) + node_logging.missed_records() == 1
    assert [line["trace_id"] for line in done] in ([], [started.trace_id])
    node_logging.check_set_up()
    with trace.new_trace("a.b"):
        pass
    assert [line["msg"] for line in lines()].count("done") == len(done) + 1


def test_foreign_records_that_did_not_come_are_counted(lines):
    """Of other libraries nothing comes while the handler is away: how many, is in the warning and on the page."""
    logging.getLogger(FOREIGN).warning("before")
    no_handlers()
    for _ in range(3):
        logging.getLogger(FOREIGN).warning("meanwhile")
    node_logging.check_set_up()
    logging.getLogger(FOREIGN).warning("after")

    assert [(line["msg"], line.get("missed")) for line in lines()] == [
        ("before", None),
        (CORRECTED, 3),
        ("after", None),
    ]
    assert lines()[1]["put_back"] == ["handler of the root logger"]
    assert lines()[1]["level"] == "warning"


def test_many_disabled_loggers_are_one_warning(lines):
    """Whatever the number of loggers, the warning is bounded."""
    for number in range(200):
        get_logger(f"{NAME}.n{number}")
    dict_config()
    node_logging.check_set_up()

    (line,) = lines()
    assert (line["msg"], len(line["put_back"])) == (CORRECTED, 11)
    assert line["put_back"][-1].endswith(" more")
    assert not any(get_logger(f"{NAME}.n{number}").disabled for number in range(200))


def test_loggers_of_others_stay_as_they_were_set(lines):
    """Only ours are put back: the program may mean its own."""
    foreign = logging.getLogger(FOREIGN)
    dict_config()
    node_logging.check_set_up()

    assert foreign.disabled
    foreign.disabled = False


def off():
    """All of logging."""
    logging.disable(logging.CRITICAL)


def raised():
    """Our package's level."""
    logging.getLogger("hearthnet").setLevel(logging.CRITICAL + 10)


def raised_by_config():
    """The same in a dictionary."""
    logging.config.dictConfig(
        {"version": 1, "disable_existing_loggers": False, "loggers": {"hearthnet": {"level": "CRITICAL"}},
         "incremental": True}
    )  # fmt: skip


def raised_handlers():
    """A loop over all handlers."""
    for handler in logging.root.handlers:
        handler.setLevel(logging.CRITICAL)


@pytest.mark.parametrize(
    ("decide", "by"),
    [
        (off, ["logging.disable(50)"]),
        (raised, ["level critical of hearthnet"]),
        (raised_by_config, ["level critical of hearthnet"]),
        (raised_handlers, ["level critical of the handler"]),
    ],
)
def test_decision_of_a_person_stays_and_is_logged_and_counted(lines, decide, by):
    """It is respected, said once in line and row, counted, and its end is said with the count."""
    log = get_logger(NAME)
    decide()
    node_logging.check_set_up()
    node_logging.check_set_up()
    for _ in range(4):
        log.error("hidden")
    assert [(line["msg"], line["by"]) for line in lines()] == [(HIDES, by)]
    assert [row.msg for row in runtime.recorder.pending_logs()] == [HIDES]
    assert node_logging.missed_records() == 4
    logging.disable(logging.NOTSET)
    logging.getLogger("hearthnet").setLevel(logging.INFO)
    runtime.handler.setLevel(logging.NOTSET)
    node_logging.check_set_up()
    log.error("seen")

    assert [(line["msg"], line.get("missed")) for line in lines()][1:] == [(HIDES_NO_MORE, 4), ("seen", None)]


def test_what_hides_nothing_is_not_logged(lines):
    """Debug off, a level below ours, a handler beside ours, a filter: none of them takes anything away."""
    logging.disable(logging.DEBUG)
    logging.getLogger("hearthnet").setLevel(logging.DEBUG)
    logging.root.addHandler(logging.NullHandler())
    runtime.handler.addFilter(lambda record: True)
    logging.root.setLevel(logging.ERROR)
    node_logging.check_set_up()

    assert lines() == []
    assert node_logging.missed_records() == 0


def test_handler_behind_a_queue_stays_there(lines):
    """A program that moves all handlers behind a queue meant it: nothing is put back, each record comes once."""
    waiting = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting, *logging.root.handlers)
    logging.root.handlers = [logging.handlers.QueueHandler(waiting)]
    listener.start()
    for number in range(3):
        node_logging.check_set_up()
        get_logger(NAME).error(f"ours {number}")
        logging.getLogger(FOREIGN).error(f"foreign {number}")
        wait_until(lambda number=number: len(lines()) == 2 * number + 2, lines)
    listener.stop()

    assert len(logging.root.handlers) == 1
    assert sorted(line["msg"] for line in lines()) == [
        f"{whose} {n}" for whose in ("foreign", "ours") for n in range(3)
    ]
    assert node_logging.missed_records() == 0


def test_queue_that_leads_elsewhere_is_no_place_for_us(lines):
    """A queue of the program's own, whose listener has not our handler: it is put back as soon as that shows."""
    logging.root.handlers = [logging.handlers.QueueHandler(queue.SimpleQueue())]
    get_logger(NAME).error("ours")
    for _ in range(4):
        node_logging.check_set_up()
    logging.getLogger(FOREIGN).error("foreign")
    get_logger(NAME).error("ours again")

    assert [line["msg"] for line in lines()] == ["ours", CORRECTED, "foreign", "ours again"]


def test_place_behind_a_queue_ends_with_the_queue(lines):
    """Once the program has set up anew, what it did before is no reason to wait for a listener."""
    waiting = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting, *logging.root.handlers)
    logging.root.handlers = [logging.handlers.QueueHandler(waiting)]
    get_logger(NAME).error("queued")
    listener.start()
    listener.stop()
    no_handlers()
    node_logging.check_set_up()
    logging.root.handlers = [logging.handlers.QueueHandler(queue.SimpleQueue())]
    get_logger(NAME).error("later")

    assert [line["msg"] for line in lines()] == ["queued", CORRECTED, "later"]


def test_late_listener_is_waited_for(lines):
    """A queue that is not emptied for a while is still our place: no record comes twice."""
    waiting = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting, *logging.root.handlers)
    logging.root.handlers = [logging.handlers.QueueHandler(waiting)]
    get_logger(NAME).error("ours")
    for _ in range(2):
        node_logging.check_set_up()
        logging.getLogger(FOREIGN).error("foreign")
    listener.start()
    listener.stop()
    for _ in range(9):
        node_logging.check_set_up()

    assert [line["msg"] for line in lines()] == ["ours", "foreign", "foreign"]
    assert node_logging.missed_records() == 0


def test_handler_given_to_our_package_stays_there(lines):
    """Moved from the root to a package's logger: that package's records alone are wanted."""
    logging.root.removeHandler(runtime.handler)
    logging.getLogger("hearthnet").addHandler(runtime.handler)
    get_logger(NAME).error("ours")
    node_logging.check_set_up()
    get_logger(NAME).error("ours again")
    logging.getLogger(FOREIGN).error("foreign")

    assert [line["msg"] for line in lines()] == ["ours", "ours again"]


def test_handler_of_the_program_that_raises_ends_nothing(lines, monkeypatch):
    """A set-up that cannot be checked is counted, and the telemetry thread goes on."""

    class Odd(list):
        def __contains__(self, item):
            raise RuntimeError("no")

    monkeypatch.setattr(logging.root, "handlers", Odd())
    node_logging.check_set_up()

    assert node_logging.dropped_lines() == 1


def test_level_of_the_handler_holds_for_what_comes_directly(lines):
    """A record below it does not come past the loggers either."""
    runtime.handler.setLevel(logging.ERROR)
    no_handlers()
    get_logger(NAME).warning("below")
    get_logger(NAME).error("above")

    assert [line["msg"] for line in lines()] == ["above"]


def test_filter_of_the_handler_holds_for_what_comes_directly(lines):
    """An operator's filter is asked on every way."""
    runtime.handler.addFilter(lambda record: "secret" not in record.getMessage())
    no_handlers()
    get_logger(NAME).error("a secret")
    get_logger(NAME).error("no such thing")

    assert [line["msg"] for line in lines()] == ["no such thing"]


@pytest.mark.parametrize("take_away", [force, dict_config, off])
def test_telemetry_thread_notices_within_a_second_or_two(observability, take_away):
    """Nothing calls; the line, the row and the count on the metrics page come by themselves."""
    settings = observability.model_copy(update={"flush_interval_s": 60.0})
    with telemetry.open(settings) as opened:
        take_away()
        get_logger(NAME).error("meanwhile")
        logging.getLogger(FOREIGN).error("meanwhile, foreign")
        wait_until(
            lambda: {line["msg"] for line in log_lines(settings.log_dir)} & {CORRECTED, HIDES},
            lambda: log_lines(settings.log_dir),
        )
        counted = "SELECT count(*) FROM logs WHERE msg IN (?, ?)"
        # The row comes behind the line.
        wait_until(lambda: opened.flush() and rows(settings.data_dir / DATABASE, counted, CORRECTED, HIDES) == [(1,)])
        missed = node_logging.missed_records()
        assert missed >= 1
        page = metrics.exposition()[0].decode()
        assert f'hearthnet_telemetry_dropped_total{{reason="log_set_up"}} {float(missed)}' in page


PRINTED = """
import logging, sys
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry
from hearthnet.observability.redaction.rules import register_secrets
secret = "r3g1stered" * 2
register_secrets([secret])
with telemetry.open(ObservabilityConfig(data_dir={data!r}, log_dir={log!r})):
    logging.basicConfig(force=True, stream=sys.stdout, format="%(name)s: %(message)s")
    get_logger("hearthnet.store").error("an error of our own, " + secret)
    logging.getLogger("plain").error("an error of another")
"""


def test_handler_that_took_our_place_prints_no_secret(tmp_path):
    """The program's own set-up works as it means it; what it prints of ours is redacted, and the file has it too."""
    program = PRINTED.format(data=str(tmp_path / "data"), log=str(tmp_path / "logs"))
    done = forkserver.run([sys.executable, "-c", program], check=True)

    assert done.stdout.splitlines()[:2] == [
        "hearthnet.store: an error of our own, [redacted]",
        "plain: an error of another",
    ]
    assert log_lines(tmp_path / "logs")[0]["msg"] == "an error of our own, [redacted]"
