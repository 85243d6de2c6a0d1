"""Structured logging: every record one JSON line in the daily file, and a row for telemetry.db.

Modules call `get_logger(__name__)` and log constant strings with fields in `extra=`. A record is shaped once: the
JSON of its fields serves the line and the row. Its trace and span come from the context.

    log = get_logger(__name__)
    log.info("routed", extra={"capability": "llm.chat", "ms": 12})

Logging never raises, whatever it is handed, and holds no lock while it works.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from hearthnet.constants import LEVELS, MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES
from hearthnet.observability import recorder as recording
from hearthnet.observability.context import current
from hearthnet.observability.logfile import DailyFile
from hearthnet.observability.record import LogRecord, encode, encode_value, fit, safe_text

__all__ = ["JsonFormatter", "Logger", "RateLimitedLogger", "configure", "get_logger", "shutdown"]

TRACE_LOGGER: Final = "hearthnet.trace"  # its "done" lines go to the JSON log alone: the trace's row says it all

_RESERVED: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
# Keys that the line or the row has of its own; a field of that name is kept under `x_<name>`.
_OWN_KEYS: Final = frozenset({"ts", "level", "logger", "msg", "trace_id", "span_id", "exc"})
_LEVEL_NAMES: Final = {getattr(logging, name.upper()): name for name in LEVELS}
# The row's other columns (ids, names, message) take the rest of MAX_LOG_ROW_BYTES.
_ROW_TEXT_BYTES: Final = 1_024
_MAX_REMEMBERED: Final = 1_024


class LoggingConfig(Protocol):
    """What `configure` needs of `ObservabilityConfig`."""

    @property
    def log_level(self) -> str:
        """The lowest level that HearthNet's own loggers pass on."""

    @property
    def log_dir(self) -> Path | None:
        """Where the daily files lie; None: no files."""


class Logger(logging.Logger):
    """A stdlib logger that keeps `extra` in one piece, so that no key in it can raise or overwrite a field."""

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
        """Returns the record; fields that clash with its attributes stay in `extras` alone."""
        record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        record.hearthnet_extras = extra
        if type(extra) is dict and _RESERVED.isdisjoint(extra):
            record.__dict__.update(extra)
        return record


def get_logger(name: str) -> logging.Logger:
    """Returns the logger for a module's `__name__`; it emits JSON lines once `configure` has run."""
    logger = logging.getLogger(name)
    root = name.partition(".")[0]
    if root not in _own_roots:
        _own_roots.add(root)
        logging.getLogger(root).setLevel(_level)
    if type(logger) is logging.Logger:
        # Only our own loggers change: setLoggerClass would change everybody's from here on.
        logger.__class__ = Logger
    return logger


_own_roots: set[str] = {"hearthnet"}  # packages whose loggers pass on `log_level` and above
_level: int = logging.NOTSET


class Shaped:
    """A log record in the form that its sinks want: the line's parts and the row's."""

    __slots__ = ("exc", "extras", "level", "msg", "now_s", "source", "span_id", "trace_id")

    def __init__(self, source: logging.LogRecord) -> None:
        self.source = source
        self.now_s = source.created
        self.level = _LEVEL_NAMES.get(source.levelno) or _nearest_level(source.levelno)
        self.msg = _message(source)
        self.extras = encode(_fields(source))
        self.exc = _traceback(source)
        scope = current.get()
        self.trace_id = None if scope is None else scope.trace.trace_id
        self.span_id = None if scope is None else scope.span_id

    def line(self) -> bytes:
        """Returns the JSON line without its newline: ts, level, logger, msg, then the ids and the fields."""
        line = self._line(self.extras)
        if len(line) > MAX_JSON_LINE_BYTES:
            line = self._line(fit(self.extras, MAX_JSON_LINE_BYTES // 4))
        return line

    def _line(self, extras: bytes) -> bytes:
        head = b'{"ts":"%b","level":"%b","logger":%b,"msg":%b' % (
            _timestamp(self.now_s), self.level.encode(), _json_name(self.source.name), _json_text(self.msg),
        )  # fmt: skip
        if self.trace_id is not None:
            head += b',"trace_id":"%b"' % self.trace_id.encode()
            if self.span_id is not None:
                head += b',"span_id":"%b"' % self.span_id.encode()
        if len(extras) > 2:  # "{}"
            head += b"," + extras[1:-1]
        if self.exc is not None:
            head += b',"exc":' + _json_text(self.exc)
        return head + b"}"

    def row(self) -> LogRecord:
        """Returns the record for the store, numbered."""
        recorder = recording.active
        exc = self.exc
        extras = fit(self.extras, _ROW_TEXT_BYTES) if exc or len(self.msg) > _ROW_TEXT_BYTES else self.extras
        return LogRecord(
            recorder.next_seq(), recorder.run_id, int(self.now_s * 1e6), self.level,
            safe_text(self.source.name, 128), safe_text(self.msg, _ROW_TEXT_BYTES), self.trace_id, self.span_id,
            1 if self.source.levelno >= logging.WARNING else 0, 0,
            fit(extras, MAX_LOG_ROW_BYTES - 2 * _ROW_TEXT_BYTES),
            None if exc is None else _tail(exc, _ROW_TEXT_BYTES),
        )  # fmt: skip


def _message(source: logging.LogRecord) -> str:
    try:
        return safe_text(source.getMessage())
    except Exception as error:  # arguments that do not fit the template, or raise  # noqa: BLE001
        return safe_text(f"{safe_text(source.msg)} [{type(error).__name__} in its arguments]")


def _fields(source: logging.LogRecord) -> Mapping[Any, Any] | None:
    """Returns the extras: as given to our own loggers, or found among a foreign record's attributes."""
    extras = source.__dict__.get("hearthnet_extras", _RESERVED)
    if extras is _RESERVED:
        extras = {key: value for key, value in source.__dict__.items() if key not in _RESERVED}
    if extras is None:
        return None
    if not isinstance(extras, Mapping):
        return {"extra": extras}
    if type(extras) is dict and _OWN_KEYS.isdisjoint(extras) and all(type(key) is str for key in extras):
        return extras
    return _renamed(extras)


def _renamed(extras: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the fields under names that are text and clash with nothing of the line's own, or with each other."""
    renamed: dict[str, Any] = {}
    for key, value in extras.items():
        name = safe_text(key)
        while name in _OWN_KEYS or name in renamed or (name != key and name in extras):
            name = f"x_{name}"
        renamed[name] = value
    return renamed


def _traceback(source: logging.LogRecord) -> str | None:
    if source.exc_info and source.exc_info[1] is not None:
        try:
            return _tail(_plain.formatException(source.exc_info), MAX_JSON_LINE_BYTES // 4)
        except Exception as error:  # an exception whose own `__str__` raises  # noqa: BLE001
            return f"{type(source.exc_info[1]).__name__}: [{type(error).__name__} while formatting]"
    return _tail(source.stack_info, MAX_JSON_LINE_BYTES // 4) if source.stack_info else None


def _tail(text: str, limit: int) -> str:
    """Returns the end of a traceback, where the error stands, within `limit` bytes."""
    safe = safe_text(text, 16 * limit)
    raw = safe.encode()
    return safe if len(raw) <= limit else "[cut]…" + raw[len(raw) - limit + 8 :].decode("utf-8", "ignore")


def _json_text(text: str) -> bytes:
    """Returns text as JSON of at most a quarter of a line: a control character is six bytes there. Keeps the end."""
    encoded = encode_value(text)
    while len(encoded) > MAX_JSON_LINE_BYTES // 4:
        text = "[cut]…" + text[len(text) - len(text) * MAX_JSON_LINE_BYTES // 4 // len(encoded) + 8 :]
        encoded = encode_value(text)
    return encoded


def _nearest_level(levelno: int) -> str:
    return next((name for number, name in reversed(_LEVEL_NAMES.items()) if levelno >= number), LEVELS[0])


_plain = logging.Formatter()
_names: dict[str, bytes] = {}
_second: tuple[int, bytes] = (-1, b"")


def _json_name(name: str) -> bytes:
    encoded = _names.get(name)
    if encoded is None:
        if len(_names) >= _MAX_REMEMBERED:
            _names.clear()
        encoded = _names[name] = encode_value(safe_text(name, 128))
    return encoded


def _timestamp(now_s: float) -> bytes:
    """Returns UTC with milliseconds; the part down to the second is kept for all records of that second."""
    global _second
    now_ms = int(now_s * 1_000)
    second, ms = divmod(now_ms, 1_000)
    kept = _second
    if kept[0] != second:
        kept = _second = (second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode())
    return b"%b%03dZ" % (kept[1], ms)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without a newline at its end."""
        return Shaped(record).line().decode()


class JsonHandler(logging.Handler):
    """Writes each record to the daily file and offers it to the recorder. Never raises, takes no lock."""

    def __init__(self, file: DailyFile | None) -> None:
        super().__init__()
        self.file = file
        self.failures = 0  # records that could be neither written nor stored: an error of this code

    def createLock(self) -> None:  # noqa: N802  # the standard library's name
        """Makes no lock: each sink is safe from many threads by itself."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Emits the record without the standard library's lock around it."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Shapes the record once and hands it to both sinks."""
        try:
            shaped = Shaped(record)
            file = self.file
            if file is not None:
                if file.is_shedding and record.levelno < logging.WARNING:
                    file.shed_lines += 1
                else:
                    file.write(shaped.line() + b"\n", shaped.now_s)
            if record.name != TRACE_LOGGER:
                recording.active.offer_log(shaped.row())
        except Exception:  # the border to the program that is watched: count, never raise  # noqa: BLE001
            self.failures += 1

    def close(self) -> None:
        """Lets go of the file."""
        self.file = None
        super().close()


_handler: JsonHandler | None = None
_configure_lock = threading.Lock()


def configure(config: LoggingConfig) -> None:
    """Installs the JSON handler; a second call replaces what the first installed.

    Loggers made by `get_logger` pass on `config.log_level` and above, other libraries' warnings and errors.
    """
    global _handler, _level
    with _configure_lock:
        file = DailyFile(config.log_dir) if config.log_dir is not None else None
        if _handler is None:
            _handler = JsonHandler(file)
            logging.getLogger().addHandler(_handler)
        else:
            # Swapped in place: no record falls between two handlers. The old file closes with its last writer.
            _handler.file = file
        _level = logging.getLevelName(config.log_level.upper())
        for root in _own_roots:
            logging.getLogger(root).setLevel(_level)


def shutdown() -> None:
    """Takes back what `configure` installed; the file closes with the last thread that writes to it."""
    global _handler
    with _configure_lock:
        if _handler is not None:
            logging.getLogger().removeHandler(_handler)
            _handler.close()
            _handler = None


def lost_lines() -> int:
    """Returns how many lines could not be written to the JSON log since `configure`."""
    handler = _handler
    if handler is None:
        return 0
    return handler.failures + (handler.file.lost_lines if handler.file is not None else 0)


def log_file() -> DailyFile | None:
    """Returns the file that the JSON lines go to; None before `configure`, and where there is none."""
    return None if _handler is None else _handler.file


def keep_quiet() -> None:
    """Has records go nowhere where `configure` does not run: the standard library would print them."""
    logging.getLogger("hearthnet").addHandler(logging.NullHandler())


_limits: dict[str, dict[str, tuple[float, int]]] = {}
_limits_lock = threading.Lock()


class RateLimitedLogger:
    """Passes at most one record a second for each message key, and says with the next how many it held back.

    Args:
        logger: where to log.
        interval_s: the least time between two records of a key.
        clock: monotonic seconds; tests hand in their own.
    """

    def __init__(
        self, logger: logging.Logger, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.logger = logger
        self.interval_s = interval_s
        self._clock = clock
        # Of the logger, not of this wrapper: two wrappers of one logger keep one limit.
        self._keys = _limits.setdefault(logger.name, {})

    def log(self, level: int, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs `msg` unless its key (default: the message itself) was logged less than `interval_s` ago."""
        suppressed = self._admit(key or msg)
        if suppressed is None:
            return
        fields = dict(extra or {})
        if suppressed:
            fields["suppressed"] = suppressed
        self.logger.log(level, msg, extra=fields, exc_info=sys.exc_info() if level >= logging.ERROR else None)

    def _admit(self, key: str) -> int | None:
        """Returns how many were held back since the last one passed, or None: this one is held back too."""
        now = self._clock()
        with _limits_lock:
            last, suppressed = self._keys.get(key, (float("-inf"), 0))
            if now - last < self.interval_s:
                self._keys[key] = (last, suppressed + 1)
                return None
            if len(self._keys) >= _MAX_REMEMBERED:
                self._keys.clear()
            self._keys[key] = (now, 0)
            return suppressed

    def info(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level info, limited."""
        self.log(logging.INFO, msg, key=key, extra=extra)

    def warning(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level warning, limited."""
        self.log(logging.WARNING, msg, key=key, extra=extra)

    def error(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level error, limited, with the traceback of an exception being handled."""
        self.log(logging.ERROR, msg, key=key, extra=extra)


def _free_locks_in_child() -> None:
    # A thread of the parent may have held one at the fork; it is not there to give it back.
    global _configure_lock, _limits_lock
    _configure_lock, _limits_lock = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_free_locks_in_child)
