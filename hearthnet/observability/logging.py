"""Structured logging: every record one JSON line in the daily file, and a row for telemetry.db.

Modules call `get_logger(__name__)` and log constant strings with fields in `extra=`. A record is encoded once,
for the line and the row. Its trace and span are those of the context.

    log = get_logger(__name__)
    log.info("routed", extra={"capability": "llm.chat", "ms": 12})

Logging never raises, whatever it is passed, and holds no lock.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from hearthnet import observability
from hearthnet.observability.logs.messages import (
    DEBUG,
    Entry,
    ExcInfo,
    Message,
    RateLimitedLogger,
    encode_extras,
    exc_info_of,
    find,
    forget,
    is_any_dropped,
    log_suppressed,
    messages_with_drops,
    repeats_of,
    stack_of,
    text_of,
    timestamp,
)
from hearthnet.observability.records.context import Scope, current
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    from pathlib import Path

    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability.logs.daily_file import DailyFile

__all__ = ["JsonFormatter", "Logger", "RateLimitedLogger", "configure", "get_logger", "install_sinks", "shutdown"]

DONE: Final = "done"
TRACE_LOGGER: Final = "hearthnet.trace"  # its "done" lines are written to the JSON log alone: the trace has a row

_RESERVED: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "hearthnet_extras"}


class LoggingConfig(Protocol):
    """The part of `ObservabilityConfig` that `install_sinks` needs."""

    @property
    def log_level(self) -> str:
        """The lowest level that HearthNet's own loggers pass on."""

    @property
    def keep_debug_of_failures(self) -> bool:
        """Whether the debug records of a trace that fails or is slow are stored, whatever the level."""

    @property
    def log_dir(self) -> Path | None:
        """The folder of the daily files; None: no files."""


class Logger(logging.Logger):
    """A stdlib logger that keeps `extra` whole, so no key in it can raise or overwrite a field."""

    def makeRecord(  # noqa: N802  # name and signature are the standard library's
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """Returns the record; fields that clash with its attributes are in `extras` only."""
        record = logging.getLogRecordFactory()(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        record.hearthnet_extras = extra
        if type(extra) is dict and _RESERVED.isdisjoint(extra):
            record.__dict__.update(extra)
        return record

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Mapping[str, object] | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        """Passes the record straight to our handler if no other handler would get it.

        The standard way looks up the caller's line, the process and the thread, which our lines do not have, and takes
        three times as long.
        """
        handler: JsonHandler | None = runtime.handler
        if handler is None or stack_info or self.filters or handler.filters or not _is_alone(self, handler):
            super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)
        elif level >= handler.level:
            handler.take(self.name, level, text_of(msg, args), exc_info and exc_info_of(exc_info), extra)

    def debug(self, msg: object, *args: object, stacklevel: int = 1, **more: Any) -> None:
        """Logs at level debug. Below the logger's level, a trace may keep the record until it ends."""
        if self.isEnabledFor(DEBUG):
            self._log(DEBUG, msg, args, stacklevel=stacklevel + 1, **more)
        elif runtime.keep_debug and (scope := current.get()) is not None:
            _keep_on(scope, self.name, text_of(msg, args), more)


def _is_alone(logger: logging.Logger, handler: logging.Handler) -> bool:
    """Returns whether a logger's records reach `handler` and no other."""
    walked: logging.Logger | None = logger
    while walked is not None:
        if walked.handlers:
            return walked.handlers == [handler] and (walked.parent is None or not walked.propagate)
        if not walked.propagate:
            return False
        walked = walked.parent
    return False


def _keep_on(scope: Scope, logger: str, text: str, more: Mapping[str, Any]) -> None:
    """Gives a debug record below its logger's level to a trace to hold."""
    try:
        extras, exc = encode_extras(more.get("extra"), exc_info_of(more.get("exc_info")))
        scope.trace.hold(Entry(find(logger, DEBUG, text), extras, exc, time_ns()).values())
    except Exception:  # must not raise into the program  # noqa: BLE001
        if runtime.handler is not None:
            runtime.handler.failures += 1


def get_logger(name: str) -> logging.Logger:
    """Returns the logger for a module's `__name__`; it emits JSON lines from `configure` or `telemetry.open` on."""
    logger = logging.getLogger(name)
    root = name.partition(".")[0]
    if root not in _own_roots:
        _own_roots.add(root)
        logging.getLogger(root).setLevel(runtime.level)
    if type(logger) is logging.Logger:
        # Only our own loggers: setLoggerClass would change all further ones.
        logger.__class__ = Logger
    return logger


_own_roots: set[str] = {"hearthnet"}  # packages whose loggers pass on `log_level` and above


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without a newline at its end."""
        message = find(record.name, record.levelno, text_of(record.msg, record.args))
        extras, exc = encode_extras(_extras(record), exc_info_of(record.exc_info))
        return Entry(message, extras, exc or stack_of(record.stack_info), _created_ns(record)).line().decode()[:-1]


def _extras(record: logging.LogRecord) -> object:
    """Returns the extras as passed to our own loggers, or those among a foreign record's attributes."""
    extras = record.__dict__.get("hearthnet_extras", _RESERVED)
    if extras is not _RESERVED:
        return extras
    return {key: value for key, value in record.__dict__.items() if key not in _RESERVED} or None


def _created_ns(record: logging.LogRecord) -> int:
    return int(record.created * 1e6) * 1_000


class JsonHandler(logging.Handler):
    """Writes each record to the daily file and offers it to the recorder. Never raises, takes no lock."""

    def __init__(self, file: DailyFile | None) -> None:
        super().__init__()
        self.file = file
        self.failures = 0  # records neither written nor stored: a bug here

    def createLock(self) -> None:  # noqa: N802  # the standard library's name
        """Makes no lock: each sink is thread-safe by itself."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emits the record without the standard library's lock around it."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Writes and records a standard library record."""
        try:
            message = find(record.name, record.levelno, text_of(record.msg, record.args))
            exc_info = exc_info_of(record.exc_info)
            self._take(message, _extras(record), exc_info, stack_of(record.stack_info), _created_ns(record))
        except Exception:  # must not raise into the program  # noqa: BLE001
            self.failures += 1

    def take(self, logger: str, level: int, text: str, exc_info: ExcInfo | None, extra: object) -> None:
        """Writes and records a record given in parts."""
        try:
            self._take(find(logger, level, text), extra, exc_info, None, time_ns())
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1

    def _take(self, message: Message, extra: object, exc_info: ExcInfo | None, stack: str | None, now_ns: int) -> None:
        """Encodes the record once and passes it to both sinks, within its message's budget."""
        second = now_ns // 1_000_000_000
        if message.dropped_rows and message.has_drops_before(second):
            self.log_repeats(message)
        if not message.admit_line(second):
            return
        extras, exc = encode_extras(extra, exc_info)
        entry = Entry(message, extras, exc or stack, now_ns)
        self._write(entry.line(), message, now_ns)
        if message.logger == TRACE_LOGGER:
            return
        if message.admit_row():
            runtime.recorder.record_log(entry.values())
        elif (scope := current.get()) is None or not scope.trace.hold(entry.values(), message):
            message.drop_row()

    def _write(self, line: bytes, message: Message, now_ns: int) -> None:
        file = self.file
        if file is None:
            return
        if file.is_shedding and not message.is_notable:
            file.shed_lines += 1
        else:
            file.write(line, now_ns / 1e9)

    def log_repeats(self, message: Message) -> None:
        """Writes and records how many records of a message were dropped."""
        lines, dropped_rows = message.take_dropped()
        now_ns = time_ns()
        if lines:
            self._write(repeats_of(message, lines, now_ns)[0], message, now_ns)
        if dropped_rows:
            runtime.recorder.record_log(repeats_of(message, dropped_rows, now_ns)[1])

    def take_done(self, level: int, trace_id: str, fields: dict[str, Any]) -> None:
        """Writes the line of a trace that has ended. Not limited."""
        try:
            message = find(TRACE_LOGGER, level, DONE)
            now_ns = time_ns()
            line = b'%b%b,"trace_id":"%b",%b\n' % (
                timestamp(now_ns), message.head, trace_id.encode(), orjson.dumps(fields)[1:],
            )  # fmt: skip
            self._write(line, message, now_ns)
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1


_trace_log = get_logger(TRACE_LOGGER)


def configure(config: ObservabilityConfig) -> None:
    """Installs every sink: the daily file, the black box, and the store, which is closed when the process ends.

    Idempotent: the same settings again change nothing; with others the store is closed and opened anew. Folders that
    are not set are the standard ones. `telemetry.open`, called later, takes over. Levels are those of `install_sinks`.
    The call returns when records of earlier runs are recovered: after milliseconds as a rule, 30 s at most.

    Raises:
        ConfigError: raised with the name of a setting that cannot be.
        RuntimeError: raised within a `telemetry.open` that has other settings.
    """
    observability.open_store(config)


def install_sinks(config: LoggingConfig) -> None:
    """Installs the JSON handler with its file, without a store; a second call replaces the first one's settings.

    Loggers made by `get_logger` pass on `config.log_level` and above, other libraries' warnings and errors.
    """
    from hearthnet.observability.logs.daily_file import DailyFile  # late: a program may log without a file

    with runtime.config_lock:
        file = DailyFile(config.log_dir) if config.log_dir is not None else None
        if runtime.handler is None:
            runtime.handler = JsonHandler(file)
        else:
            # Swapped in place: no record falls between two handlers. The old file closes with its last writer.
            runtime.handler.file = file
        reattach()
        runtime.level = logging.getLevelName(config.log_level.upper())
        runtime.keep_debug = config.keep_debug_of_failures
        for root in _own_roots:
            logging.getLogger(root).setLevel(runtime.level)


def reattach() -> None:
    """Adds the installed handler to the root logger once more, if other code's configuration has removed it."""
    handler: JsonHandler | None = runtime.handler
    if handler is not None:
        logging.getLogger().addHandler(handler)  # the standard library adds none twice


def warn_visibly(logger: logging.Logger, msg: str, reason: str) -> None:
    """Logs a warning; prints it to stderr if neither the daily file nor a handler of the program takes it."""
    dropped = dropped_lines()
    logger.warning(msg, extra={"reason": reason})
    handler: JsonHandler | None = runtime.handler
    is_written = handler is not None and handler.file is not None and dropped_lines() == dropped
    is_passed_on = handler is None or not _is_alone(logger, handler)
    if not is_written and not is_passed_on and sys.stderr is not None:
        with suppress(OSError, ValueError):  # closed by the program
            sys.stderr.write(f"hearthnet: {msg}: {clean_text(reason)}\n")


def shutdown() -> None:
    """Undoes `install_sinks`; the file closes with the last thread that writes to it."""
    log_dropped(all_of_them=True)
    forget()
    runtime.keep_debug = False
    with runtime.config_lock:
        handler: JsonHandler | None = runtime.handler
        if handler is not None:
            logging.getLogger().removeHandler(handler)
            # Not in `close`: the standard library calls that of every handler whenever a program uses `dictConfig`.
            handler.file = None
            handler.close()
            runtime.handler = None


def _reset() -> None:
    shutdown()
    runtime.level = logging.NOTSET
    for root in _own_roots:
        logging.getLogger(root).setLevel(logging.NOTSET)


runtime.at_reset(_reset)


def log_done(level: int, trace_id: str, fields: dict[str, Any]) -> bool:
    """Writes the line of a trace that has ended; returns False if other handlers must get the record too.

    Args:
        level: the standard library's number.
        trace_id: a ULID.
        fields: of a trace's record, so that they can be encoded as they are.
    """
    handler: JsonHandler | None = runtime.handler
    if handler is None or _trace_log.filters or handler.filters or not _is_alone(_trace_log, handler):
        return False
    if level >= handler.level:
        handler.take_done(level, trace_id, fields)
    return True


def log_dropped(*, all_of_them: bool = False) -> bool:
    """Logs the drops of messages that have been silent since (or of all); returns whether any remain.

    The telemetry thread calls it now and then: the count of a storm that has ended must not wait for the next one.
    """
    log_suppressed(all_of_them=all_of_them)
    handler: JsonHandler | None = runtime.handler
    if handler is not None:
        for message in messages_with_drops(None if all_of_them else time_ns() // 1_000_000_000):
            handler.log_repeats(message)
    return is_any_dropped()


def dropped_lines() -> int:
    """Returns how many lines could not be written to the JSON log since `configure`."""
    handler: JsonHandler | None = runtime.handler
    if handler is None:
        return 0
    return handler.failures + (handler.file.dropped_lines if handler.file is not None else 0)


def log_file() -> DailyFile | None:
    """Returns the current file of JSON lines; None before `configure`, or without one."""
    handler: JsonHandler | None = runtime.handler
    return None if handler is None else handler.file


def keep_quiet() -> None:
    """Installs a NullHandler, so that an unconfigured program prints nothing."""
    logging.getLogger("hearthnet").addHandler(logging.NullHandler())
