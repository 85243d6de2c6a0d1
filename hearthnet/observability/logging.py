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

from hearthnet import observability
from hearthnet.constants import TRACE_LOGGER
from hearthnet.observability.logs.adapters import BoundLogger, LimitedLogger, refuse
from hearthnet.observability.logs.context_fields import context_fields, copied, with_fields
from hearthnet.observability.logs.handler import (
    RESERVED,
    JsonFormatter,
    JsonHandler,
    Record,
    is_alone,
    loggers,
    own_roots,
    placed,
    roots,
)
from hearthnet.observability.logs.messages import (
    DEBUG,
    INFO,
    exc_info_of,
    forget,
    forget_keys,
    is_any_dropped,
    keep_on,
    known_messages,
    messages_with_drops,
    text_of,
)
from hearthnet.observability.logs.ordinary import take_ordinary, write_done
from hearthnet.observability.logs.set_up import look
from hearthnet.observability.logs.standard_records import (
    add_fields,
    redact,
)
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.redaction.rules import prepare
from hearthnet.observability.redaction.told import told_throughout
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability.logs.console import Mode
    from hearthnet.observability.logs.daily_file import DailyFile
    from hearthnet.observability.settings import LoggingConfig

__all__ = ["JsonFormatter", "Logger", "RateLimitedLogger", "configure", "get_logger", "install_sinks", "shutdown"]

_get_factory: Final = logging.getLogRecordFactory
is_enabled: Final = logging.Logger.isEnabledFor
_known: Final = known_messages.get


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
                add_fields(record, fields, RESERVED)
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
        """Passes a record on: an ordinary one by its own way, see `logs/ordinary.py`."""
        handler: JsonHandler | None = runtime.handler
        message = _known((self.name, level, msg)) if type(msg) is str else None
        if (
            message is None or args or exc_info is not None or stack_info or unknown or handler is None
            or _get_factory() is not Record or not take_ordinary(handler, self, level, message, extra)
        ):  # fmt: skip
            self._log_any(level, msg, args, exc_info, extra, stack_info, stacklevel + 1, **unknown)

    def _log_any(
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
            or not is_alone(self, handler)
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

    def info(self, msg: object, *args: object, extra: Any = None, stacklevel: int = 1, **more: Any) -> None:
        """Logs at level info: most records are of this level."""
        if not is_enabled(self, INFO):
            self.isEnabledFor(INFO)  # counts what does not come
            return
        handler: JsonHandler | None = runtime.handler
        message = _known((self.name, INFO, msg)) if type(msg) is str else None
        if (
            message is None or args or more or handler is None or _get_factory() is not Record
            or not take_ordinary(handler, self, INFO, message, extra)
        ):  # fmt: skip
            self._log_any(INFO, msg, args, extra=extra, stacklevel=stacklevel + 1, **more)

    def debug(self, msg: object, *args: object, stacklevel: int = 1, **more: Any) -> None:
        """Logs at level debug. Below the logger's level, a trace may keep the record until it ends."""
        if is_enabled(self, DEBUG):
            self._log(DEBUG, msg, args, stacklevel=stacklevel + 1, **more)
        elif runtime.keep_debug and (scope := current.get()) is not None:
            keep_on(scope, self.name, text_of(msg, args), {**more, "extra": with_fields(more.get("extra"))})

    def bind(self, /, **fields: object) -> BoundLogger:
        """Returns a logger whose records all have these fields; this one does not change. Values are copied now."""
        return BoundLogger(self, copied(fields))


def get_logger(name: str) -> Logger:
    """Returns the logger for a module's `__name__`; it emits JSON lines from `configure` or `telemetry.open` on.

    A logger of a class that the program has set (`logging.setLoggerClass`) stays of that class, and gets `bind`.
    """
    root = name.partition(".")[0]
    if root not in roots:
        roots.add(root)
        _set_level(root)
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        # Only our own loggers: setLoggerClass would change all further ones.
        logger.__class__ = Logger
        loggers[name] = logger
    elif not hasattr(logger, "bind"):
        logger.bind = Logger.bind.__get__(logger)  # type: ignore[attr-defined]
    return logger  # type: ignore[return-value]  # or of the program's own class, which has the same methods now


def _set_level(root: str) -> None:
    is_new = root not in logging.root.manager.loggerDict
    logger = logging.getLogger(root)
    if is_new:
        logger.level = runtime.level  # `setLevel` clears a cache of every logger that there is
    elif logger.level != runtime.level:
        logger.setLevel(runtime.level)


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
    prepare()
    with runtime.config_lock:
        file = DailyFile(config.log_dir) if config.log_dir is not None else None
        if runtime.handler is None:
            runtime.handler = JsonHandler(file)
            forget_keys()  # a message that was logged before is new here
            make = logging.getLogRecordFactory()
            ours = Record if make is logging.LogRecord else placed(make)
            runtime.handler.factories = make, ours
            logging.setLogRecordFactory(ours)
        else:
            # Swapped in place: no record falls between two handlers. The old file closes with its last writer.
            runtime.handler.file = file
        runtime.handler.console = shown
        reattach()
        runtime.level = logging.getLevelName(config.log_level.upper())
        runtime.keep_debug = config.keep_debug_of_failures
        for root in roots:
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
            look(handler, list(loggers.values()), own_roots(), reattach)
    except Exception:  # other code's handlers may be anything  # noqa: BLE001
        handler.failures += 1  # type: ignore[union-attr]  # there is one


def warn_visibly(logger: logging.Logger, msg: str, reason: str) -> None:
    """Logs a warning; prints it to stderr if neither the daily file nor a handler of the program takes it."""
    dropped = dropped_lines()
    logger.warning(msg, extra={"reason": reason})
    handler: JsonHandler | None = runtime.handler
    is_written = handler is not None and handler.file is not None and dropped_lines() == dropped
    is_written = is_written or (handler is not None and handler.console is not None)
    is_passed_on = handler is None or not is_alone(logger, handler)
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
    for root in roots:
        logging.getLogger(root).setLevel(logging.NOTSET)


runtime.at_reset(_reset)


def log_done(level: int, fields: dict[str, Any]) -> bool:
    """Writes the line of a trace that has ended, as `write_done` does; False if other handlers must get the record."""
    return write_done(_trace_log, level, fields)


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
    if handler is None:
        return 0
    return handler.failures + (handler.file.dropped_lines if handler.file is not None else 0)


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
