"""Structured logging: every record one JSON line in the daily file, and a row for telemetry.db.

Modules call `get_logger(__name__)` and log constant strings with fields in `extra=`. A record is encoded once,
for the line and the row. Its trace and span are those of the context in which it was made.

    log = get_logger(__name__)
    log.info("routed", extra={"capability": "llm.chat", "ms": 12})

Logging never raises, whatever it is passed, and holds no lock. A program's own handlers, filters and factories get a
record in the standard way, and what they do to it counts. Records of our loggers have no secrets for any handler, and
come to ours even where the program's set-up has taken it away (`logs/set_up.py` puts it back).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from hearthnet import observability
from hearthnet.observability.logs.adapters import BoundLogger, LimitedLogger, refuse
from hearthnet.observability.logs.context_fields import context_fields, copied, current_fields, with_fields
from hearthnet.observability.logs.messages import (
    DEBUG,
    Entry,
    Message,
    Place,
    exc_info_of,
    find,
    forget,
    forget_keys,
    is_any_dropped,
    keep_on,
    messages_with_drops,
    new_entry,
    place,
    repeats_in,
    repeats_of,
    said_once,
    text_of,
    timestamp,
)
from hearthnet.observability.logs.set_up import look, passes_on
from hearthnet.observability.logs.standard_records import (
    DONE,
    TRACE_LOGGER,
    add_fields,
    created_ns,
    entry_of,
    fields_of,
    place_of,
    redact,
    said,
)
from hearthnet.observability.logs.tracebacks import Error, ExcInfo
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import clean_text, one_line
from hearthnet.observability.redaction.told import told_throughout
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability.logs.console import Console, Mode
    from hearthnet.observability.logs.daily_file import DailyFile
    from hearthnet.observability.settings import LoggingConfig

__all__ = ["JsonFormatter", "Logger", "RateLimitedLogger", "configure", "get_logger", "install_sinks", "shutdown"]

_OURS: Final = frozenset({"hearthnet_extras", "hearthnet_fields", "hearthnet_place", "hearthnet_taken"})
_RESERVED: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"} | _OURS
_MAX_UNFED: Final = 3  # checks, of one a second: a listener may be late
_get_factory: Final = logging.getLogRecordFactory
is_enabled: Final = logging.Logger.isEnabledFor


class Record(logging.LogRecord):
    """A record that knows its trace and the context's fields, however late and by whatever thread it is handled.

    In slots: formatters that print all other attributes of a record are not to print these.
    """

    __slots__ = ("hearthnet_extras", "hearthnet_fields", "hearthnet_place", "hearthnet_shown", "hearthnet_taken")

    def __init__(self, name: str, *args: Any, **named: Any) -> None:
        super().__init__(name, *args, **named)
        self.hearthnet_place = place()
        self.hearthnet_fields = current_fields()
        handler: JsonHandler | None = runtime.handler
        if handler is not None and name not in _own_loggers and handler.is_taken_away():
            handler.count_missed()


Factory = Callable[..., logging.LogRecord]


def _placed(make: Factory) -> Factory:
    """Returns a program's own record factory with the same knowledge."""

    def made(*args: Any, **named: Any) -> logging.LogRecord:
        record = make(*args, **named)
        record.hearthnet_place = place()
        record.hearthnet_fields = current_fields()
        return record

    return made


class Logger(logging.Logger):
    """A stdlib logger that keeps `extra` whole, so no key in it can raise or overwrite a field.

    Its records have no secrets, whichever handler gets them.
    """

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
        """Returns the record; its fields are attributes of it, and all of them are in `hearthnet_extras`."""
        record = logging.getLogRecordFactory()(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        extra = with_fields(extra)
        record.hearthnet_fields = None  # they are attributes, like the call's own
        try:
            fields, _ = told_throughout(lambda: redact(record, extra))
            if extra is not None:
                add_fields(record, fields, _RESERVED)
        except Exception as error:  # must not raise into the program  # noqa: BLE001
            record.hearthnet_extras = {"extra": f"[{type(extra).__name__}: {type(error).__name__}]"}
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
        **unknown: object,
    ) -> None:
        """Passes the record straight to our handler if no other handler would get it.

        The standard way looks up the caller's line, the process and the thread, which our lines do not have, and takes
        three times as long. Other keywords raise, as they do there.
        """
        if unknown:
            refuse(unknown)
        handler: JsonHandler | None = runtime.handler
        if (
            handler is None
            or stack_info
            or self.filters
            or handler.filters
            or _get_factory() is not Record
            or not _is_alone(self, handler)
        ):
            super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)
        elif level >= handler.level:
            if context_fields.get() is not None:
                extra = with_fields(extra)
            handler.take(self.name, level, text_of(msg, args), exc_info_of(exc_info), extra)
        else:
            handler.count_missed()

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802  # the standard library's name
        """Passes a record to the handlers; to ours also where it was taken away, or is not passed on to."""
        handler: JsonHandler | None = runtime.handler
        if handler is not None and not handler.is_reached(self):
            handler.take_directly(record)
        super().callHandlers(record)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the same
        """Returns whether records of a level are logged; counts one that others than our settings prevent."""
        if is_enabled(self, level):
            return True
        if level >= runtime.level and runtime.handler is not None:
            runtime.handler.count_missed()
        return False

    def debug(self, msg: object, *args: object, stacklevel: int = 1, **more: Any) -> None:
        """Logs at level debug. Below the logger's level, a trace may keep the record until it ends."""
        if is_enabled(self, DEBUG):
            self._log(DEBUG, msg, args, stacklevel=stacklevel + 1, **more)
        elif runtime.keep_debug and (scope := current.get()) is not None:
            keep_on(scope, self.name, text_of(msg, args), {**more, "extra": with_fields(more.get("extra"))})

    def bind(self, /, **fields: Any) -> BoundLogger:
        """Returns a logger whose records all have these fields; this one does not change. Values are copied now."""
        return BoundLogger(self, copied(fields))


def _is_alone(logger: logging.Logger, handler: logging.Handler) -> bool:
    """Returns whether a logger's records reach `handler` and no other."""
    walked: logging.Logger | None = logger
    while walked is not None:
        handlers = walked.handlers
        if handlers:
            return len(handlers) == 1 and handlers[0] is handler and (walked.parent is None or not walked.propagate)
        walked = walked.parent if walked.propagate else None
    return False


def get_logger(name: str) -> Logger:
    """Returns the logger for a module's `__name__`; it emits JSON lines from `configure` or `telemetry.open` on.

    A logger of a class that the program has set (`logging.setLoggerClass`) stays of that class, and gets `bind`.
    """
    root = name.partition(".")[0]
    if root not in _own_roots:
        _own_roots.add(root)
        _set_level(root)
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        # Only our own loggers: setLoggerClass would change all further ones.
        logger.__class__ = Logger
        _own_loggers[name] = logger
    elif not hasattr(logger, "bind"):
        logger.bind = Logger.bind.__get__(logger)  # type: ignore[attr-defined]
    return cast("Logger", logger)


_own_roots: set[str] = {"hearthnet"}  # packages whose loggers pass on `log_level` and above
_own_loggers: dict[str, logging.Logger] = {}


def _set_level(root: str) -> None:
    is_new = root not in logging.root.manager.loggerDict
    logger = logging.getLogger(root)
    if is_new:
        logger.level = runtime.level  # `setLevel` clears a cache of every logger that there is
    elif logger.level != runtime.level:
        logger.setLevel(runtime.level)


def own_roots() -> list[logging.Logger]:
    """Returns the loggers of their packages, which have the configured level."""
    return [logging.getLogger(root) for root in sorted(_own_roots)]


class RateLimitedLogger(LimitedLogger):
    """A logger for noisy messages: at most one record a second for each message key; see `LimitedLogger`.

    Args:
        logger: where to log, or its name.
        interval_s: the least time between two records of a key.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(
        self, logger: logging.Logger | str, interval_s: float = 1.0, clock: Callable[[], float] = monotonic
    ) -> None:
        super().__init__(get_logger(logger) if isinstance(logger, str) else logger, interval_s, clock)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without a newline at its end."""
        return entry_of(record, _RESERVED).line().decode()[:-1]


class JsonHandler(logging.Handler):
    """Writes each record to the daily file and offers it to the recorder. Never raises, takes no lock.

    Attributes:
        file: of the JSON lines; None: there is none.
        console: shows records on stderr; None: there is none.
        failures: records neither written nor stored: a bug here.
        missed: records that the program's set-up kept from us: a disabled logger, a level, a removed handler.
        is_fed: whether a queue's listener or another handler passes records to us, since we are not the root's.
        unfed_looks: checks of the set-up since the first record that came past the loggers' handlers, and by no queue.
        factories: of records, that of the program before and ours.
        obstacles: what kept records from us at the last check of the set-up.
    """

    def __init__(self, file: DailyFile | None) -> None:
        super().__init__()
        self.file = file
        self.console: Console | None = None
        self.failures = 0
        self.missed = 0
        self.is_fed = False
        self.unfed_looks = -1
        self.obstacles: list[str] = []
        self.factories: tuple[Factory, Factory] = (logging.LogRecord, logging.LogRecord)

    def createLock(self) -> None:  # noqa: N802  # the standard library's name
        """Makes no lock: each sink is thread-safe by itself."""
        self.lock = None

    def is_reached(self, logger: logging.Logger) -> bool:
        """Returns whether records of a logger come to this handler, at once or by way of another."""
        walked: logging.Logger | None = logger
        while walked is not None:
            if self in walked.handlers or (self.is_fed and any(map(passes_on, walked.handlers))):
                return True
            walked = walked.parent if walked.propagate else None
        return False

    def is_taken_away(self) -> bool:
        """Returns whether records of other libraries do not come here, and it is not meant so.

        It is meant so where the program has given this handler to its own package's logger, or has put it behind a
        queue: nothing shows the latter until the first record comes through, unless none does for a while.
        """
        handlers = logging.root.handlers
        if self in handlers or any(self in logger.handlers for logger in own_roots()):
            return False
        return self.unfed_looks > _MAX_UNFED or not any(map(passes_on, handlers))

    def count_missed(self) -> None:
        """Counts a record that does not come to this handler."""
        with runtime.lock:
            self.missed += 1

    def handle(self, record: logging.LogRecord) -> bool:
        """Emits the record without the standard library's lock around it."""
        if self not in logging.root.handlers:
            self.is_fed, self.unfed_looks = True, -1
        return not getattr(record, "hearthnet_taken", False) and self._filter_and_emit(record)

    def take_directly(self, record: logging.LogRecord) -> None:
        """Emits a record that would not come here; a copy of it that does after all is not emitted again."""
        if record.levelno >= self.level:
            self._filter_and_emit(record)
            record.hearthnet_taken = True
            self.unfed_looks = max(self.unfed_looks, 0)  # not fed, or it would not come directly

    def _filter_and_emit(self, record: logging.LogRecord) -> bool:
        passed: object = self.filter(record) if self.filters else True
        if passed:
            # From Python 3.12 on a filter may return another record.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes and records a standard library record, but for the console's own lines where stderr is a logger."""
        if self.console is not None and self.console.is_writing:
            return
        try:
            text, error = said(record)
            message = find(record.name, record.levelno, text)
            self._take(message, fields_of(record, _RESERVED), error, created_ns(record), place_of(record))
        except Exception:  # must not raise into the program  # noqa: BLE001
            self.failures += 1

    def take(self, logger: str, level: int, text: str, exc_info: ExcInfo | None, extra: object) -> None:
        """Writes and records a record given in parts."""
        try:
            self._take(find(logger, level, text), extra, exc_info and Error(exc_info), time_ns(), None)
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1

    def _take(self, message: Message, extra: object, error: Error | None, now_ns: int, made: Place | None) -> None:
        """Encodes the record once and passes it to both sinks, within its message's budget."""
        second = now_ns // 1_000_000_000
        if message.dropped_rows and message.has_drops_before(second):
            self.log_repeats(message)
        repeats = repeats_in(extra) if type(extra) is dict and "repeats" in extra else 0
        if not message.admit_line(second):
            message.drop(repeats, repeats)
            return
        error, made = said_once(message, error, made)
        entry = new_entry(message, extra, error, now_ns, made, repeats)
        self._write(entry.line(), message, now_ns)
        if message.logger == TRACE_LOGGER:
            return
        if runtime.journal is not None:
            runtime.journal.send(entry)
        if message.admit_row():
            runtime.recorder.record_log(entry.values())
        elif not self._is_held(entry, message):
            message.drop(0, 1 + repeats)

    def _is_held(self, entry: Entry, message: Message) -> bool:
        """Returns whether the record's trace, if it is running here, keeps it until it ends."""
        scope = current.get()
        is_own = scope is not None and scope.trace.trace_id == entry.trace_id and not entry.repeats
        return is_own and scope.trace.hold(entry.values(), message)  # type: ignore[union-attr]

    def _write(self, line: bytes, message: Message, now_ns: int) -> None:
        if (file := self.file) is not None:
            if file.is_shedding and not message.is_notable:
                file.shed_lines += 1
            else:
                file.write(line, now_ns / 1e9)
        console = self.console
        if console is not None and (console.is_talkative or message.is_notable):
            console.show(line, message.logger, message.level, message.is_notable)

    def log_repeats(self, message: Message) -> None:
        """Writes and records how many records of a message were dropped."""
        lines, dropped_rows = message.take_dropped()
        now_ns = time_ns()
        if lines:
            self._write(repeats_of(message, lines, now_ns)[0], message, now_ns)
            if runtime.journal is not None:
                shown = message.shown()
                runtime.journal.send_text(shown.level, shown.logger, shown.text, {"repeats": lines - 1})
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
            self._write(one_line(line), message, now_ns)
            if runtime.journal is not None and message.is_notable:
                runtime.journal.send_text(message.level, TRACE_LOGGER, DONE, fields, trace_id)
        except Exception:  # as above  # noqa: BLE001
            self.failures += 1


_trace_log = get_logger(TRACE_LOGGER)


def configure(config: ObservabilityConfig, *, console: Mode = "auto") -> None:
    """Installs every sink: console, daily file, black box, and the store, which is closed when the process ends.

    Idempotent: the same settings again change nothing; with others the store is closed and opened anew. Folders that
    are not set are the standard ones. `telemetry.open`, called later, takes over. Levels are those of `install_sinks`.
    The call returns when records of earlier runs are recovered: after milliseconds as a rule, 30 s at most.

    Raises:
        ConfigError: raised with the name of a setting that cannot be.
        RuntimeError: raised within a `telemetry.open` that has other settings.
    """
    observability.open_store(config, console)


def install_sinks(config: LoggingConfig, *, console: Mode = "off") -> None:
    """Installs the JSON handler with its file, without a store; a second call replaces the first one's settings.

    Loggers made by `get_logger` pass on `config.log_level` and above, other libraries' warnings and errors.

    Raises:
        ValueError: raised when there is no such mode of the console.
    """
    from hearthnet.observability.logs.console import console_of  # late: a program may log without either
    from hearthnet.observability.logs.daily_file import DailyFile

    shown = console_of(console, logging.root)
    with runtime.config_lock:
        file = DailyFile(config.log_dir) if config.log_dir is not None else None
        if runtime.handler is None:
            runtime.handler = JsonHandler(file)
            forget_keys()  # a message that was logged before is new here
            make = logging.getLogRecordFactory()
            ours = Record if make is logging.LogRecord else _placed(make)
            runtime.handler.factories = make, ours
            logging.setLogRecordFactory(ours)
        else:
            # Swapped in place: no record falls between two handlers. The old file closes with its last writer.
            runtime.handler.file = file
        runtime.handler.console = shown
        reattach()
        runtime.level = logging.getLevelName(config.log_level.upper())
        runtime.keep_debug = config.keep_debug_of_failures
        for root in _own_roots:
            _set_level(root)


def reattach() -> bool:
    """Adds the installed handler to the root logger, if other code's configuration has removed it; returns whether."""
    handler: JsonHandler | None = runtime.handler
    if handler is None or handler in logging.root.handlers:
        return False
    handler.is_fed = False
    handler.unfed_looks = -1
    logging.root.addHandler(handler)
    return True


def check_set_up() -> None:
    """Puts back what the program's own set-up of logging took away; the telemetry thread calls it once a second."""
    handler: JsonHandler | None = runtime.handler
    try:
        if handler is not None:
            look(handler, list(_own_loggers.values()), own_roots(), reattach)
    except Exception:  # other code's handlers may be anything  # noqa: BLE001
        handler.failures += 1  # type: ignore[union-attr]  # there is one


def warn_visibly(logger: logging.Logger, msg: str, reason: str) -> None:
    """Logs a warning; prints it to stderr if neither the daily file nor a handler of the program takes it."""
    dropped = dropped_lines()
    logger.warning(msg, extra={"reason": reason})
    handler: JsonHandler | None = runtime.handler
    is_written = handler is not None and handler.file is not None and dropped_lines() == dropped
    is_written = is_written or (handler is not None and handler.console is not None)
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
            logging.root.removeHandler(handler)
            if handler.console is not None:
                handler.console.close()
            # Not in `close`: the standard library calls that of every handler whenever a program uses `dictConfig`.
            handler.file = handler.console = None
            handler.close()
            runtime.handler = None
            make, ours = handler.factories
            if logging.getLogRecordFactory() is ours:  # else others have built on it
                logging.setLogRecordFactory(make)


_quiet: Final = logging.NullHandler()


def _reset() -> None:
    shutdown()
    runtime.journal = None
    logging.getLogger("hearthnet").removeHandler(_quiet)
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
    handler: JsonHandler | None = runtime.handler
    if handler is not None:
        for message in messages_with_drops(None if all_of_them else time_ns() // 1_000_000_000):
            handler.log_repeats(message)
    return is_any_dropped()


def dropped_lines() -> int:
    """Returns how many lines could not be written to the JSON log since `configure`."""
    handler: JsonHandler | None = runtime.handler
    return 0 if handler is None else handler.failures + (handler.file.dropped_lines if handler.file is not None else 0)


def missed_records() -> int:
    """Returns how many records the program's own set-up of logging kept from us since `configure`."""
    handler: JsonHandler | None = runtime.handler
    return 0 if handler is None else handler.missed


def log_file() -> DailyFile | None:
    """Returns the current file of JSON lines; None before `configure`, or without one."""
    handler: JsonHandler | None = runtime.handler
    return None if handler is None else handler.file


def keep_quiet() -> None:
    """Installs a NullHandler, so that an unconfigured program prints nothing."""
    logging.getLogger("hearthnet").addHandler(_quiet)
