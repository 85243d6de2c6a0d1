"""Structured logging: each line valid JSON in the spec's order, files by UTC date, and never an exception."""

from __future__ import annotations

import datetime as dt
import io
import logging
import logging.config
import os
import stat
import sys
import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import forkserver
from support.threads import at_once

from hearthnet.config import ObservabilityConfig
from hearthnet.constants import MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES
from hearthnet.observability import logging as node_logging
from hearthnet.observability import trace
from hearthnet.observability.logging import JsonFormatter, get_logger
from hearthnet.observability.logs.daily_file import DailyFile, log_paths
from hearthnet.observability.runtime import runtime

DAY_S = 86_400


@pytest.fixture
def logs(tmp_path):
    """Logging configured into a temporary folder; returns a reader of its raw lines."""
    directory = tmp_path / "logs"
    node_logging.install_sinks(ObservabilityConfig(log_dir=directory, log_level="debug"))

    def read() -> list[bytes]:
        return [line for path in log_paths(directory) for line in path.read_bytes().splitlines()]

    read.directory = directory
    return read


def test_logger_writes_json_lines(logs):
    """Each line parses as JSON, with the expected fields in the expected order."""
    log = get_logger("hearthnet.bus.router")

    with trace.new_trace("llm.chat") as started:
        log.info("routed", extra={"capability": "llm.chat", "to": "7H4G", "ms": 12})
        with trace.span("inner") as inner:
            log.warning("retrying")

    first, second, done = (orjson.loads(line) for line in logs())
    assert list(first) == ["ts", "level", "logger", "msg", "trace_id", "capability", "to", "ms"]
    assert first["level"] == "info"
    assert first["logger"] == "hearthnet.bus.router"
    assert first["msg"] == "routed"
    assert first["trace_id"] == started.trace_id
    assert list(second) == ["ts", "level", "logger", "msg", "trace_id", "span_id"]
    assert second["span_id"] == inner.id
    assert (done["msg"], done["capability"], done["result"]) == ("done", "llm.chat", "ok")
    stamp = dt.datetime.strptime(first["ts"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC)
    assert first["ts"][-5:-1].startswith(".")
    assert len(first["ts"]) == 24
    assert abs((dt.datetime.now(dt.UTC) - stamp).total_seconds()) < 60


def test_done_line_of_a_failure_is_a_warning(logs):
    """A failed trace ends with a warning that names its result and error."""
    with trace.new_trace("a.b") as started:
        started.fail("timeout", "too slow")

    (done,) = (orjson.loads(line) for line in logs())
    assert (done["level"], done["result"], done["error"]) == ("warning", "timeout", "too slow")
    assert done["trace_id"] == started.trace_id


def test_exception_brings_its_traceback(logs):
    """`log.exception` keeps the traceback in the line and in the stored record."""
    log = get_logger("hearthnet.test")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", extra={"n": 1})

    (line,) = (orjson.loads(raw) for raw in logs())
    assert line["exc"].startswith("Traceback")
    assert line["exc"].endswith("ValueError: broken")
    assert runtime.recorder.pending_logs()[0].exc.endswith("ValueError: broken")


def test_fields_cannot_forge_the_records_own(logs):
    """A field named like one of the line's own is kept under another name; none raises."""
    own = {"ts": 1, "level": "x", "logger": "x", "msg": "x", "trace_id": "x", "span_id": "x", "exc": "x"}
    clashing = {"name": "n", "args": "a", "message": "m", "exc_info": "e", "levelname": "l", "process": 1}
    get_logger("hearthnet.test").info("real", extra={**own, **clashing})

    (line,) = (orjson.loads(raw) for raw in logs())
    assert (line["msg"], line["level"], line["logger"]) == ("real", "info", "hearthnet.test")
    assert {key: line[f"x_{key}"] for key in own} == own
    assert {key: line[key] for key in clashing} == clashing


class RaisingError(Exception):
    """An exception that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no")


def test_nothing_in_a_record_raises(logs, monkeypatch):
    """Wrong arguments, exceptions and values that cannot be shown, extras that are no mapping: all become lines."""
    # The test runner's own handlers raise on records that they cannot format; a node has none of them.
    ours = [handler for handler in logging.getLogger().handlers if isinstance(handler, node_logging.JsonHandler)]
    monkeypatch.setattr(logging.getLogger(), "handlers", ours)
    log = get_logger("hearthnet.test")
    log.info("wrong %d", "text")
    log.info("missing %s %s", 1)  # noqa: PLE1206  # the mistake is the point
    log.info(RaisingError())
    log.info("odd", extra="not a mapping")
    log.info("keys", extra={1: 2, None: 3})
    try:
        raise RaisingError
    except RaisingError:
        log.exception("raising")

    lines = [orjson.loads(raw) for raw in logs()]
    assert len(lines) == 6
    assert lines[0]["msg"] == 'wrong %d [TypeError in its arguments] ["text"]'
    assert lines[1]["msg"] == "missing %s %s [TypeError in its arguments] [1]"
    assert "RaisingError" in lines[5]["exc"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.text(),
    st.dictionaries(st.text(), st.text() | st.floats() | st.integers() | st.binary() | st.none(), max_size=8),
)
def test_any_record_is_one_valid_line(logs, msg, extras):
    """Whatever the message and the fields, one line of valid JSON without raw control characters comes out."""
    before = len(logs())
    get_logger("hearthnet.test").warning(msg, extra=extras)

    new = logs()[before:]
    assert len(new) == 1
    assert list(orjson.loads(new[0]))[:4] == ["ts", "level", "logger", "msg"]
    assert all(byte >= 0x20 for byte in new[0])


def test_line_and_row_are_bounded(logs):
    """A record of megabytes becomes a line of at most 32 KiB and a row of at most 4 KiB."""
    log = get_logger("hearthnet.test")
    big = {f"key{number}": "🜨" * 10_000 for number in range(100)}
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        log.exception("m" * 1_000_000, extra=big)

    assert len(logs()[0]) <= MAX_JSON_LINE_BYTES
    row = runtime.recorder.pending_logs()[0]
    assert sum(len(v) if isinstance(v, bytes) else len(str(v).encode()) for v in row) <= MAX_LOG_ROW_BYTES


def test_formatter_serves_any_handler():
    """`JsonFormatter` on a stdlib handler formats records of any logger, their attributes included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("foreign.library")
    logger.addHandler(handler)
    try:
        logger.warning("hello %s", "you", extra={"n": 1})
    finally:
        logger.removeHandler(handler)

    line = orjson.loads(stream.getvalue())
    assert (line["msg"], line["n"], line["logger"]) == ("hello you", 1, "foreign.library")


def test_other_libraries_warnings_go_the_same_way(logs):
    """A warning of a third-party logger is in the file; its chatter is not."""
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")

    assert [orjson.loads(raw)["msg"] for raw in logs()] == ["trouble"]


def test_configure_twice_writes_each_record_once(logs):
    """A second `configure` replaces the handler."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=logs.directory))
    get_logger("hearthnet.test").info("once")

    assert len(logs()) == 1


def test_level_of_the_configuration_holds(tmp_path):
    """Records below `log_level` are not written."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="warning"))
    get_logger("hearthnet.test").info("quiet")
    get_logger("hearthnet.test").warning("loud")

    assert b"quiet" not in log_paths(tmp_path)[0].read_bytes()
    assert b"loud" in log_paths(tmp_path)[0].read_bytes()


def test_files_are_private(logs, tmp_path):
    """The log file has mode 0600 in a folder of mode 0700, whatever the umask."""
    previous = os.umask(0o002)
    try:
        file = DailyFile(tmp_path / "fresh" / "logs", clock=lambda: 0.0)
        file.write(b"{}\n", 0.0)
        file.close()
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "fresh" / "logs" / "1970-01-01.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "fresh" / "logs").stat().st_mode) == 0o700


def test_day_rolls_at_midnight_utc(tmp_path):
    """The last record of a day and the first of the next lie in their own files; none is lost."""
    file = DailyFile(tmp_path, clock=lambda: 0.0)
    for number, now_s in enumerate((DAY_S - 0.001, DAY_S, DAY_S - 0.001, DAY_S + 5.0)):
        file.write(b"%d\n" % number, now_s)
    file.close()

    assert (tmp_path / "1970-01-01.log").read_bytes() == b"0\n"
    # The third was made before midnight and came in after it: it is not lost, and the file does not roll back.
    assert (tmp_path / "1970-01-02.log").read_bytes() == b"1\n2\n3\n"


def test_old_days_are_removed_and_nothing_else(tmp_path):
    """After fourteen days a day's files go; other files stay."""
    directory = tmp_path / "logs"
    directory.mkdir()
    for name in ("2026-05-01.log", "2026-05-01.2.log", "2026-05-12.log", "notes.log", "2026-05-01.txt"):
        (directory / name).write_text("")
    today = dt.datetime(2026, 5, 26, tzinfo=dt.UTC).timestamp()
    file = DailyFile(directory, clock=lambda: today)
    file.write(b"{}\n", today)
    file.close()

    left = sorted(path.name for path in directory.iterdir())
    assert left == ["2026-05-01.txt", "2026-05-12.log", "2026-05-26.log", "notes.log"]


def test_line_that_cannot_be_written_is_counted(tmp_path):
    """If no file can be made, logging continues and every dropped line is counted."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path / "logs"))
    get_logger("hearthnet.test").info("nowhere")
    get_logger("hearthnet.test").info("nowhere")

    assert node_logging.dropped_lines() == 2
    assert len(runtime.recorder.pending_logs()) == 2


def test_disk_that_fills_up_within_a_line_glues_nothing(tmp_path):
    """After a torn line the next one starts on a line of its own."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from hearthnet.observability.logs.daily_file import DailyFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = DailyFile(Path({str(tmp_path)!r}), clock=lambda: 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
file.write(b'{{"n":1}}\\n', 0.0)
file.write(b'{{"n":2222}}\\n', 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write(b'{{"n":3}}\\n', 0.0)
print(file.dropped_lines)
"""
    done = forkserver.run([sys.executable, "-c", script], check=True)

    assert done.stdout.strip() == "1"
    assert (tmp_path / "1970-01-01.log").read_bytes().splitlines() == [b'{"n":1}', b'{"n":22', b'{"n":3}']


def test_threads_write_whole_lines(logs):
    """Lines of eight threads never mix."""

    def write(name):
        log = get_logger("hearthnet.test")
        for number in range(300):
            log.info(f"line of {name}", extra={"thread": name, "number": number, "pad": "x" * 500})

    at_once(write, range(8))

    lines = [orjson.loads(raw) for raw in logs()]
    assert {(line["thread"], line["number"]) for line in lines} == {(t, n) for t in range(8) for n in range(300)}
    assert len(lines) == 2_400


def test_no_module_logs_past_us():
    """No module of the package uses the standard library's logging but those that wrap it."""
    package = Path(node_logging.__file__).parent.parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(line.startswith(("import logging", "from logging")) for line in path.read_text("utf-8").splitlines())
    ]

    assert sorted(users) == [
        "observability/logging.py",
        "observability/logs/adapters.py",
        "observability/logs/handler.py",
        "observability/logs/ordinary.py",
    ]


def test_control_characters_do_not_break_the_limit(logs):
    """A traceback of control characters, six bytes each in JSON, stays within the line."""
    try:
        raise ValueError("\x01" * 100_000)
    except ValueError:
        get_logger("hearthnet.test").exception("\x02" * 2_000, extra={"x": "\x03" * 2_000})

    (line,) = logs()
    assert len(line) <= MAX_JSON_LINE_BYTES
    assert orjson.loads(line)["level"] == "error"


def test_no_field_is_lost_to_another(logs):
    """Fields called like the renamed ones, or like the wrapper's own, are all kept."""
    get_logger("hearthnet.test").info("m", extra={"extras": 1, "x_ts": 2, "ts": 3, "x_x_ts": 4})

    (line,) = (orjson.loads(raw) for raw in logs())
    assert line["extras"] == 1
    assert {key: item for key, item in line.items() if "ts" in key and key not in ("ts", "extras")} == {
        "x_ts": 2,
        "x_x_x_ts": 3,
        "x_x_ts": 4,
    }


def test_logger_of_a_plugin_has_the_configured_level(logs):
    """A logger made by `get_logger` outside our package logs at the same level."""
    get_logger("someplugin.part").debug("heard")

    assert [orjson.loads(raw)["msg"] for raw in logs()] == ["heard"]


def test_reconfiguring_loses_no_line(logs):
    """While `configure` runs again and again, every record of every thread is in the file."""
    stop = threading.Event()
    counts = [0, 0]

    def write(name):
        log = get_logger("hearthnet.test")
        while not stop.is_set():
            log.info(f"line {counts[name] % 100}", extra={"thread": name, "number": counts[name]})
            counts[name] += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        node_logging.install_sinks(ObservabilityConfig(log_dir=logs.directory))
    stop.set()
    for thread in threads:
        thread.join()

    assert len(logs()) == sum(counts)


def test_closed_files_number_is_not_given_away(tmp_path):
    """After `close` a late line is discarded, never written to a file that was opened since."""
    file = DailyFile(tmp_path, clock=lambda: 0.0)
    file.write(b"one\n", 0.0)
    descriptor = file._fd
    file.close()
    with (tmp_path / "victim").open("wb") as victim:
        os.write(descriptor, b"late\n")
        assert victim.fileno() != descriptor
    file.write(b"two\n", 0.0)

    assert (tmp_path / "victim").read_bytes() == b""
    assert (tmp_path / "1970-01-01.log").read_bytes() == b"one\ntwo\n"


def test_record_of_the_future_removes_nothing(tmp_path):
    """Files expire by the clock, not by one record's time."""
    (tmp_path / "1970-01-01.log").write_text("kept")
    file = DailyFile(tmp_path, clock=lambda: 0.0)
    file.write(b"{}\n", 400 * DAY_S)

    assert (tmp_path / "1970-01-01.log").exists()


def test_file_named_after_no_day_is_left_alone(tmp_path):
    """`2026-13-45.log` is no day: it is neither removed nor in the way."""
    (tmp_path / "2026-13-45.log").write_text("")
    DailyFile(tmp_path, clock=lambda: 0.0).write(b"{}\n", 0.0)

    assert [path.name for path in log_paths(tmp_path)] == ["1970-01-01.log"]


def test_filter_of_the_handler_is_asked(logs):
    """A filter on our handler applies to a trace's "done" line as well."""
    (handler,) = (item for item in logging.getLogger().handlers if isinstance(item, node_logging.JsonHandler))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING)
    log = get_logger("hearthnet.filtered")
    log.info("left out")
    with trace.new_trace("a.b"):
        log.warning("kept")

    assert [orjson.loads(line)["msg"] for line in logs()] == ["kept"]


def test_configuration_by_somebody_else_does_not_end_the_lines(logs):
    """`dictConfig` closes every handler; later records are still written to the file."""
    log = get_logger("hearthnet.test")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    log.warning("afterwards")

    assert [orjson.loads(line)["msg"] for line in logs()] == ["afterwards"]


def test_configure_puts_a_handler_back_that_somebody_removed(logs):
    """What `basicConfig(force=True)` takes away is there again after the next `configure`, once."""
    handlers = logging.getLogger().handlers
    before = handlers.copy()
    try:
        handlers.clear()
        for _ in range(2):
            node_logging.install_sinks(ObservabilityConfig(log_dir=logs.directory))
        get_logger("hearthnet.test").warning("back")
    finally:
        handlers[:] = before

    assert [orjson.loads(line)["msg"] for line in logs()] == ["back"]


def test_other_handlers_are_told_the_caller(logged):
    """Other formatters find the line that logged, at every level."""
    log = get_logger("hearthnet.caller")
    log.debug("one")
    log.info("two")
    logging.LoggerAdapter(log, {"a": 1}).debug("three")

    assert [(record.filename, record.funcName) for record in logged] == [
        (Path(__file__).name, "test_other_handlers_are_told_the_caller")
    ] * 3


def test_record_factory_is_used(logged):
    """What a program adds to every record, by the standard library's factory, is on ours too."""
    standard = logging.getLogRecordFactory()

    def factory(*args, **named):
        record = standard(*args, **named)
        record.request = "r1"
        return record

    logging.setLogRecordFactory(factory)
    try:
        get_logger("hearthnet.test").warning("made")
    finally:
        logging.setLogRecordFactory(standard)

    assert [record.request for record in logged] == ["r1"]


@pytest.mark.parametrize("wrap", [lambda log: log, lambda log: log.bind(user="ann"), node_logging.RateLimitedLogger])
def test_field_as_a_keyword_is_refused_with_a_hint(wrap):
    """As in the standard library, whose message names a function that nobody has called."""
    with pytest.raises(TypeError, match=r'^amount= is no argument of a logger: use extra={"amount": …}, or log\.bind'):
        wrap(node_logging.get_logger("shop")).warning("paid", amount=5)
