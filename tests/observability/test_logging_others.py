"""Other people's filters, factories, adapters, queues and handlers: what they do to a record counts, for every sink."""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import pickle
import queue
import time

import orjson
import pytest
from support.reading import log_lines

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logging import JsonFormatter
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.runtime import runtime

NAME = "hearthnet.test_others"
FOREIGN = "somelib.test_others"
EMAIL = {"email": "ann@example.org"}


class Silent(logging.Handler):
    """Another handler: records go the standard way when it is attached."""

    def emit(self, record):
        """Takes a record."""


@pytest.fixture(params=["ours alone", "another beside"])
def lines(request, tmp_path, monkeypatch):
    """Logging configured, alone or with another handler; returns a reader of the lines."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="debug"))
    others = [Silent()] if request.param == "another beside" else []
    monkeypatch.setattr(logging.root, "handlers", [runtime.handler, *others])
    yield lambda: log_lines(tmp_path)
    for name in (NAME, FOREIGN):
        logger = logging.getLogger(name)
        logger.filters.clear()
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(params=[NAME, FOREIGN])
def log(request):
    """A logger of ours, or of another library."""
    return get_logger(NAME) if request.param == NAME else logging.getLogger(FOREIGN)


@pytest.fixture
def factory():
    """Puts a record factory in, until the test is over."""
    before = logging.getLogRecordFactory()
    yield logging.setLogRecordFactory
    logging.setLogRecordFactory(before)


def stored():
    """The newest row: message and fields."""
    row = runtime.recorder.pending_logs()[-1]
    return row.msg, orjson.loads(row.extras)


def hide(record):
    """An operator's own redaction."""
    if hasattr(record, "email"):
        record.email = "[hidden]"
    return True


def remove(record):
    """Takes a field away."""
    record.__dict__.pop("email", None)
    return True


def add_context(record):
    """The cookbook's way to add context."""
    record.tenant = "t1"
    return True


def change_message(record):
    """Another text."""
    record.msg, record.args = "changed", ()
    return True


def lower_level(record):
    """Another level and name."""
    record.levelno, record.levelname, record.name = logging.INFO, "INFO", "renamed.logger"
    return True


@pytest.mark.parametrize("place", ["logger", "handler", "handler by a class"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (hide, {"msg": "sent", "email": "[hidden]", "n": 1}),
        (remove, {"msg": "sent", "email": None, "n": 1}),
        (add_context, {"msg": "sent", "email": "ann@example.org", "tenant": "t1"}),
        (change_message, {"msg": "changed", "email": "ann@example.org"}),
        (lower_level, {"msg": "sent", "level": "info", "logger": "renamed.logger"}),
    ],
)
def test_filter_counts(lines, log, place, change, expected):
    """Whatever a filter does to a record of whatever logger is in the line, the row and the box."""

    class Changing(logging.Filter):
        def filter(self, record):
            return change(record)

    owner = log if place == "logger" else runtime.handler
    owner.addFilter(Changing() if place == "handler by a class" else change)
    log.warning("sent", extra={**EMAIL, "n": 1})

    (line,) = lines()
    assert {key: line.get(key) for key in expected} == expected
    msg, fields = stored()
    said = {**fields, "msg": msg}
    assert {key: said.get(key) for key in expected if key not in ("level", "logger")} == {
        key: value for key, value in expected.items() if key not in ("level", "logger")
    }


@pytest.mark.parametrize("extra", [{"name": "n", "email": "ann@example.org"}, {"args": 1, 5: 2, "email": "e"}])
def test_filter_counts_beside_fields_that_clash(lines, extra):
    """Fields named like a record's own attributes are kept, and do not bring the others back."""
    log = get_logger(NAME)
    log.addFilter(hide)
    log.warning("sent", extra=extra)

    (line,) = lines()
    assert line["email"] == "[hidden]"
    assert {str(key): value for key, value in extra.items() if key != "email"}.items() <= line.items()


def test_record_that_a_filter_returns_instead_is_the_one(lines, monkeypatch):
    """From Python 3.12 on a filter may return another record."""
    other = logging.makeLogRecord({"name": FOREIGN, "msg": "instead", "levelno": logging.WARNING})
    runtime.handler.addFilter(lambda record: True)
    monkeypatch.setattr(runtime.handler, "filter", lambda record: other)
    get_logger(NAME).warning("first")

    assert [line["msg"] for line in lines()] == ["instead"]


def test_traceback_that_a_filter_rewrote_is_the_one(lines, log):
    """A text in place of the traceback is recorded, and the message that it hides is not, in no field."""

    def rewrite(record):
        record.exc_text = "Traceback hidden\nValueError: [hidden]"
        return True

    log.addFilter(rewrite)
    try:
        raise ValueError("ann@example.org")
    except ValueError:
        log.exception("failed")

    assert lines()[0]["exc"] == "Traceback hidden\nValueError: [hidden]"
    assert lines()[0]["exc_type"] == "ValueError"
    assert "ann" not in str(lines()) + str(runtime.recorder.pending_logs())


def test_traceback_that_a_filter_took_away_is_gone(lines, log):
    """A record without an error has none."""

    def without(record):
        record.exc_info = record.exc_text = record.stack_info = None
        return True

    log.addFilter(without)
    log.error("failed", exc_info=ValueError("x"), stack_info=True)

    assert {"exc", "exc_type", "exc_message"}.isdisjoint(lines()[0])


@pytest.mark.parametrize("created", [float("nan"), float("inf"), -1e15, 1e15, "yesterday", None])
def test_time_that_is_none_is_now(lines, log, created):
    """A record with an impossible time is neither lost nor filed under another day."""

    def set_time(record):
        record.created = created
        return True

    log.addFilter(set_time)
    log.warning("when")

    assert lines()[0]["ts"][:4] == time.strftime("%Y", time.gmtime())
    assert node_logging.dropped_lines() == 0


@pytest.mark.parametrize("is_chained", [True, False])
def test_factory_counts(lines, log, factory, is_chained):
    """What a factory adds is a field, on every way; the trace is known where it hands on, or handles at once."""
    make = logging.getLogRecordFactory() if is_chained else logging.LogRecord

    def adding(*args, **named):
        record = make(*args, **named)
        record.tenant = "t1"
        return record

    factory(adding)
    with trace.new_trace("a.b") as started:
        log.warning("made", extra=EMAIL)

    assert (lines()[0]["tenant"], lines()[0]["email"]) == ("t1", "ann@example.org")
    assert lines()[0]["trace_id"] == started.trace_id
    assert stored() == ("made", {"tenant": "t1", **EMAIL})


def test_factory_that_was_there_before_stays(tmp_path, factory):
    """A program's own class of records, set before we are configured, goes on, and learns the trace."""

    class Own(logging.LogRecord):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            self.tenant = "t1"

    factory(Own)
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    waiting = logging.handlers.MemoryHandler(100, target=runtime.handler)
    foreign = logging.getLogger(FOREIGN)
    foreign.propagate = False
    foreign.addHandler(waiting)
    try:
        with trace.new_trace("made.here") as made:
            foreign.warning("made")
        with trace.new_trace("handled.here"):
            waiting.setLevel(logging.CRITICAL)
            waiting.flush()
    finally:
        foreign.propagate = True
        foreign.removeHandler(waiting)

    (line,) = [line for line in log_lines(tmp_path) if line["msg"] == "made"]
    assert (line["trace_id"], line["tenant"]) == (made.trace_id, "t1")
    assert type(logging.makeLogRecord({})) is Own


def test_factory_is_as_before_after_the_end(tmp_path):
    """Without telemetry records are those of the standard library."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    assert logging.getLogRecordFactory() is not logging.LogRecord
    node_logging.shutdown()

    assert logging.getLogRecordFactory() is logging.LogRecord


def test_own_factory_is_as_before_after_the_end(tmp_path, factory):
    """However often a program configures and closes, its factory is not wrapped again and again."""

    def own(*args, **named):
        return logging.LogRecord(*args, **named)

    factory(own)
    for _ in range(3):
        node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
        node_logging.shutdown()

    assert logging.getLogRecordFactory() is own


def test_factory_built_on_ours_stays(tmp_path, factory):
    """What a program has put on top meanwhile is not taken away at the end."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    make = logging.getLogRecordFactory()

    def own(*args, **named):
        return make(*args, **named)

    factory(own)
    node_logging.shutdown()

    assert logging.getLogRecordFactory() is own
    get_logger(NAME).info("made without a handler")


def test_adapter_counts(lines, log):
    """Fields of an adapter, and its message."""

    class Prefixing(logging.LoggerAdapter):
        def process(self, msg, kwargs):
            return f"[{self.extra['tenant']}] {msg}", {**kwargs, "extra": self.extra}

    Prefixing(log, {"tenant": "t1"}).warning("adapted")

    assert (lines()[0]["msg"], lines()[0]["tenant"]) == ("[t1] adapted", "t1")


# --- records that are handled later, or elsewhere


@pytest.fixture
def queued(tmp_path, monkeypatch):
    """The cookbook's set-up: a QueueHandler on the root, a QueueListener with our handler; returns what ends it."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="debug"))
    waiting = queue.SimpleQueue()
    monkeypatch.setattr(logging.root, "handlers", [logging.handlers.QueueHandler(waiting)])
    listener = logging.handlers.QueueListener(waiting, runtime.handler)

    def handle_all():
        listener.start()
        listener.stop()
        return log_lines(tmp_path)

    return handle_all


def test_queued_records_belong_to_the_trace_that_made_them(queued, log):
    """Ours, foreign ones and the "done" line: each once, with the ids of where it was made."""
    with trace.new_trace("made.here") as made, trace.span("step") as step:
        log.warning("first", extra={"n": 1})
        log.warning("second")
    log.warning("outside")

    found = queued()
    assert sorted(line["msg"] for line in found) == ["done", "first", "outside", "second"]
    by_msg = {line["msg"]: line for line in found}
    assert [by_msg[msg].get("trace_id") for msg in ("first", "second", "done")] == [made.trace_id] * 3
    assert [by_msg[msg]["span_id"] for msg in ("first", "second")] == [step.id] * 2
    assert (by_msg["first"]["n"], "trace_id" in by_msg["outside"]) == (1, False)
    rows = {row.msg: (row.trace_id, row.span_id) for row in runtime.recorder.pending_logs()}
    assert rows == {"first": (made.trace_id, step.id), "second": (made.trace_id, step.id), "outside": (None, None)}


def test_queued_record_is_handled_by_the_listener_once_it_runs(queued, tmp_path):
    """A program that put us behind a queue keeps its own thread free of our file."""
    log = get_logger(NAME)
    log.warning("opening")
    queued()  # something has come through
    log.warning("queued")
    before = [line["msg"] for line in log_lines(tmp_path)]

    assert before == ["opening"]
    assert [line["msg"] for line in queued()] == ["opening", "queued"]


def test_queued_traceback_is_a_traceback(queued, log):
    """A queue's handler writes it into the message; type, frames and cause are kept as a traceback, not cut off."""
    try:
        try:
            raise LookupError("root")
        except LookupError as error:
            raise ValueError("m" * 5_000) from error
    except ValueError:
        log.exception("failed")

    found = next(line for line in queued() if line["logger"] == log.name)
    assert found["msg"] == "failed"
    for text in (found["exc"], runtime.recorder.pending_logs()[-1].exc):
        assert "LookupError: root" in text
        assert "ValueError: mmm" in text
        assert __file__ in text


def test_memory_handler_keeps_the_trace(lines, log):
    """Filled in one trace, flushed in another: the record is the first one's, and held by none."""
    waiting = logging.handlers.MemoryHandler(1_000, flushLevel=logging.CRITICAL, target=runtime.handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(waiting)
    with trace.new_trace("made.here") as made:
        for _ in range(30):
            log.info("made")
    with trace.new_trace("handled.here") as other:
        waiting.flush()
        other.fail("timeout")

    found = [line for line in lines() if line["msg"] == "made"]
    assert {line["trace_id"] for line in found} == {made.trace_id}
    assert len(found) == 30
    stored = [row for row in runtime.recorder.pending_logs() if row.msg == "made"]
    assert {row.trace_id for row in stored} == {made.trace_id}
    assert len(stored) == 10  # the budget: the trace that failed is another one


def test_record_that_is_pickled_keeps_its_trace(lines, log):
    """Through a queue between processes; a plain copy of its attributes has nothing that is not its own."""
    taken = []
    catching = logging.Handler()
    catching.emit = lambda record: taken.append(pickle.dumps(record))
    log.addHandler(catching)
    with trace.new_trace("made.here") as made:
        log.warning("sent", extra={"n": 1})
    log.handlers.clear()
    runtime.handler.handle(pickle.loads(taken[0]))

    again = [line for line in lines() if line["msg"] == "sent"][-1]
    assert (again["trace_id"], again["n"]) == (made.trace_id, 1)
    assert not [key for key in pickle.loads(taken[0]).__dict__ if "hearthnet" in key]


def send(waiting, config):
    """What a worker logs through a queue of multiprocessing."""
    node_logging.install_sinks(config)
    logging.root.handlers = [logging.handlers.QueueHandler(waiting)]
    with trace.new_trace("worker.here") as made:
        logging.getLogger(FOREIGN).warning("from a worker", extra={"made": made.trace_id})
    waiting.close()
    waiting.join_thread()


def test_record_of_another_process_keeps_its_trace(lines, tmp_path):
    """A listener in the parent writes the records of its workers."""
    context = multiprocessing.get_context("fork")
    waiting = context.Queue()
    worker = context.Process(target=send, args=(waiting, ObservabilityConfig(log_dir=tmp_path / "worker")))
    worker.start()
    with trace.new_trace("listener.here"):
        record = waiting.get(timeout=60)
        runtime.handler.handle(record)
    worker.join()

    found = next(line for line in lines() if line["msg"] == "from a worker")
    assert found["trace_id"] == found["made"]


def test_formatter_elsewhere_has_the_trace_of_the_maker(lines, log):
    """`JsonFormatter` on a handler that formats later."""
    taken = []
    catching = logging.Handler()
    catching.emit = taken.append
    log.addHandler(catching)
    with trace.new_trace("made.here") as made:
        log.warning("sent", extra=EMAIL)
    with trace.new_trace("formatted.here"):
        line = orjson.loads(JsonFormatter().format(taken[0]))

    assert (line["trace_id"], line["email"]) == (made.trace_id, "ann@example.org")


# --- secrets, in what other handlers print


SECRET = "hunter2" * 3


@pytest.fixture
def printed(lines, monkeypatch):
    """What a handler of the standard library prints of our records."""
    found = []
    printing = logging.Handler()
    printing.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    printing.emit = lambda record: found.append(f"{printing.format(record)} {vars(record)}")
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, printing])
    return found


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        ((f"password={SECRET}",), None),
        (("login %s", f"token={SECRET}"), None),
        (("login %s and %d", f"token={SECRET}", "x"), None),
        (("%(a)s", {"b": f"token={SECRET}"}), None),
        (("registered %s", f"r3g1stered-{SECRET}"), None),
        (("login",), {"password": SECRET}),
        (("login",), {"note": f"password={SECRET}"}),
        (("login",), {"nested": {"api_key": SECRET, "n": 1}}),
        (("login",), {"headers": [("authorization", SECRET)]}),
        (("login",), {"name": f"password={SECRET}"}),
        (("login",), {"error": ValueError(f"password={SECRET}")}),
    ],
)
def test_records_of_ours_have_no_secrets_for_other_handlers(lines, printed, args, extra):
    """Message, arguments, fields: redacted before any handler gets them; a library's own records are its affair."""
    register_secrets([f"r3g1stered-{SECRET}"])
    get_logger(NAME).warning(*args, extra=extra)

    assert len(printed) == 1
    assert SECRET not in printed[0] + str(lines())
    assert "[redacted]" in printed[0] + str(lines())


def test_traceback_and_stack_have_no_secrets_for_other_handlers(lines, printed):
    """The traceback is redacted for what prints it as the standard library does."""
    try:
        raise ValueError(f"password={SECRET}")
    except ValueError:
        get_logger(NAME).exception("failed", stack_info=True)

    assert "ValueError: password=[redacted]" in printed[0].partition(" {")[0]
    assert SECRET not in printed[0].partition(" {")[0] + str(lines())


def test_what_has_no_secret_is_passed_on_as_it_is(lines, printed, logged):
    """Arguments, fields and errors are the caller's own objects, for handlers that want them."""
    thing, error = object(), ValueError("x")
    get_logger(NAME).warning("about %s", thing, extra={"thing": thing, "values": [1, thing]}, exc_info=error)

    record = logged[-1]
    assert (record.msg, record.args) == ("about %s", (thing,))
    assert record.thing is thing
    assert record.values[1] is thing
    assert record.exc_info[1] is error
    assert record.exc_text is None or "ValueError: x" in record.exc_text


def test_arguments_that_do_not_fit_are_shown_to_all(lines, printed, capsys):
    """No handler complains on stderr; the error that was the argument is there."""
    get_logger(NAME).error("failed:", ValueError("disk on fire"))

    assert "disk on fire" in printed[0]
    assert "disk on fire" in lines()[0]["msg"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("failed:", ValueError("disk on fire")), "disk on fire"),
        (("user %s did %s", "ann"), "ann"),
        (("took {} ms", 12), "12"),
        (("%d items", "many"), "many"),
        (("%(a)s", {"b": "seen"}), "seen"),
        (("%s", "one", "two", {"three": 3}), "three"),
        (("100% of", "all"), "all"),
        (("%*d", "wide"), "wide"),
        (("no arguments wanted", None, b"raw", 5.5), "5.5"),
        (("x" * 3_000 + "%d", "the last"), "the last"),
    ],
)
def test_arguments_that_do_not_fit_are_recorded(lines, log, args, shown, monkeypatch):
    """Message and arguments, bounded: whoever made the record."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.error(*args)

    said = lines()[0]["msg"]
    assert args[0][:400] in said
    assert shown in said
    assert shown in runtime.recorder.pending_logs()[-1].msg
    assert "Error in its arguments]" in said or "ValueError" in said


def test_arguments_that_do_not_fit_are_bounded(lines, log, monkeypatch):
    """A megabyte of arguments is no megabyte of a line."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.error("failed:", "x" * 1_000_000, ["y" * 1_000] * 1_000, f"password={SECRET}")  # noqa: PLE1205

    assert len(lines()[0]["msg"]) < 8_192
    assert SECRET not in str(lines())


@pytest.mark.parametrize("edge", [128, 512, 1_024, 2_048, 4_096, 8_192, 131_072])
def test_secret_at_the_edge_of_a_cut_leaves_no_half(lines, log, edge, monkeypatch):
    """Wherever message, field, name of a field, argument or error is cut: it was searched for secrets before."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    secret = "s3cr3t" * 5
    register_secrets([secret])
    for size in range(max(0, edge - len(secret) - 8), edge + 8, 5):
        text = "m" * size + secret + "n" * 300
        log.warning(text)
        log.warning("field", extra={"long": text, text: 1, "in": [text]})
        log.warning("%d", text)
        log.warning("error", exc_info=ValueError(text))

    assert "s3cr3t" not in str(lines()) + str(runtime.recorder.pending_logs())


@pytest.mark.parametrize(
    "line_end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\n", "\r\n"]
)
def test_line_is_one_line_for_every_reader(lines, log, line_end):
    """Whatever `str.splitlines` takes for an end of a line is escaped: in message, fields, names, tracebacks."""
    text = f"a{line_end}b"
    with trace.new_trace(text) as started:
        log.error(text, extra={text: text, "in": [text]}, exc_info=ValueError(text))
        started.fail("timeout", text)
    path = next(iter(runtime.handler.file.directory.glob("*.log")))

    raw = path.read_text("utf-8")
    assert len(raw.splitlines()) == raw.count("\n") == 2
    found = [orjson.loads(line) for line in raw.splitlines()]
    assert (found[0]["msg"], found[0][text], found[0]["exc_message"]) == (text,) * 3
    assert found[1]["error"] == text


def test_call_below_the_level_is_not_missed(lines):
    """Records that our own settings drop are what was asked for: at any level, with `isEnabledFor` too."""
    logging.getLogger("hearthnet").setLevel(logging.ERROR)
    runtime.level = logging.ERROR
    log = get_logger(NAME)
    for call in (log.debug, log.info, log.warning):
        call("off")
    assert not log.isEnabledFor(logging.INFO)

    assert node_logging.missed_records() == 0
    assert lines() == []
