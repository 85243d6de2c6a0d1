"""Log messages and their records: what each costs is bounded, and a record is encoded once for all its sinks.

A message is a logger, a level and a constant text. The few that a program has are encoded once and then looked up. Each
has a budget a second, for lines of the JSON log and for rows of the store. Records beyond it are dropped and counted.
The count is logged with the next record of that message, or within a second or two by the caller of
`messages_with_drops`: as one more record, whose `repeats` is the number of others that it represents.

An `Entry` is one record: a line for the JSON log, values for the black box and the store, with its extras encoded once
for both. `RateLimitedLogger` limits a message further, to one record a second for each key that its caller names.
Nothing here raises, whatever a record holds.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from time import gmtime, strftime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from hearthnet.constants import LEVELS, MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import (
    LogValues,
    clean_text,
    encode,
    encode_plain,
    encode_value,
    fit,
    hide,
    hide_encoded,
    safe_text,
)
from hearthnet.observability.redaction.rules import on_change, scrub, take_told
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    import logging

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "MESSAGE_BYTES",
    "WARNING",
    "Entry",
    "ExcInfo",
    "Message",
    "RateLimitedLogger",
    "dropped_by_level",
    "encode_extras",
    "exc_info_of",
    "find",
    "forget",
    "is_any_dropped",
    "json_text",
    "level_name",
    "log_suppressed",
    "messages_with_drops",
    "repeats_of",
    "stack_of",
    "text_of",
    "timestamp",
]

LINES_A_SECOND: Final = 1_000
ROWS_A_SECOND: Final = 10  # that are not notable; the JSON log has the rest
NOTABLE_ROWS_A_SECOND: Final = 100
MESSAGE_BYTES: Final = 1_024  # of a row; its other text columns share the rest
_MAX_REMEMBERED: Final = 1_024
_LOGGER_BYTES: Final = 128
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # the standard library's numbers

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

# Keys of the line or the row itself; a field of that name is stored as `x_<name>`.
_OWN_KEYS: Final = frozenset({"ts", "level", "logger", "msg", "trace_id", "span_id", "exc", "repeats"})
_EXC_BYTES: Final = 1_024  # of a row
_MS: Final = tuple(b"%03d" % ms for ms in range(1_000))
_second: tuple[int, bytes] = (-1, b"")

_known: dict[tuple[str, int, str], Message] = {}
on_change(_known.clear)
_with_drops: dict[Message, None] = {}  # messages with dropped records, in the order of the first drop
_logged: dict[str, int] = {}  # dropped records that have been logged, by level


class Message:
    """A message of a logger at a level.

    Attributes:
        level: its name in lower case.
        is_notable: whether it is a warning or worse.
        head: its part of the JSON line, from the end of the time on.
        logger: the logger's name, for the row.
        text: the message, for the row.
        is_long: whether it takes space in the row from the fields.
        told: secrets that the message names, for the rest of its records.
    """

    __slots__ = (
        "_lines", "_rows", "_rows_a_second", "_second", "dropped_lines", "dropped_rows", "head", "is_long",
        "is_notable", "level", "logger", "text", "told",
    )  # fmt: skip

    def __init__(self, logger: str, levelno: int, text: str) -> None:
        self.level = level_name(levelno)
        self.is_notable = int(levelno >= WARNING)
        safe = clean_text(text)
        self.told = take_told()
        self.logger = clean_text(logger, _LOGGER_BYTES)
        self.head = b'Z","level":"%b","logger":%b,"msg":%b' % (
            self.level.encode(), encode_value(self.logger), json_text(safe),
        )  # fmt: skip
        self.text = safe_text(safe, MESSAGE_BYTES)
        self.is_long = len(safe) > MESSAGE_BYTES // 4
        self._second = -1
        self._lines = self._rows = 0
        self._rows_a_second = NOTABLE_ROWS_A_SECOND if self.is_notable else ROWS_A_SECOND
        self.dropped_lines = self.dropped_rows = 0

    def without(self, told: Iterable[str]) -> Message:
        """Returns a copy of the message without these secrets."""
        hidden = copy(self)
        hidden.head, hidden.text = hide_encoded(self.head, told), hide(self.text, told)
        return hidden

    def admit_line(self, second: int) -> bool:
        """Returns whether one more line this second is within the budget; if not, counts it and its row as dropped."""
        if second != self._second:
            self._second = second
            self._lines = self._rows = 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            return True
        self._drop(1)
        return False

    def admit_row(self) -> bool:
        """Returns whether one more row in the second of `admit_line` is within the budget."""
        self._rows += 1
        return self._rows <= self._rows_a_second

    def drop_row(self) -> None:
        """Counts one dropped row."""
        self._drop(0)

    def _drop(self, lines: int) -> None:
        with runtime.lock:
            self.dropped_lines += lines
            self.dropped_rows += 1
            _with_drops[self] = None

    def has_drops_before(self, now_second: int | None) -> bool:
        """Returns whether records were dropped in a second other than `now_second`."""
        return self.dropped_rows > 0 and self._second != now_second

    def take_dropped(self) -> tuple[int, int]:
        """Returns how many lines and rows were dropped since the last call."""
        with runtime.lock:
            held = self.dropped_lines, self.dropped_rows
            self.dropped_lines = self.dropped_rows = 0
            _logged[self.level] = _logged.get(self.level, 0) + held[1]
            _with_drops.pop(self, None)
            return held


def find(logger: str, levelno: int, text: str) -> Message:
    """Returns the message, made on first use."""
    if len(text) > 4 * MESSAGE_BYTES:
        text = safe_text(text, 4 * MESSAGE_BYTES)
    message = _known.get((logger, levelno, text))
    if message is None:
        message = Message(logger, levelno, text)
        if len(_known) >= _MAX_REMEMBERED:
            _known.clear()  # those with dropped records stay in `_with_drops`
        _known[logger, levelno, text] = message
    return message


def messages_with_drops(now_second: int | None) -> list[Message]:
    """Returns the messages with records dropped in seconds other than `now_second` (None: in any)."""
    if not _with_drops:
        return []
    with runtime.lock:
        return [message for message in _with_drops if message.has_drops_before(now_second)]


def dropped_by_level() -> dict[str, int]:
    """Returns how many dropped records have been logged, by level; never falls until `forget`."""
    return _logged.copy()


def is_any_dropped() -> bool:
    """Returns whether dropped records have not been logged yet."""
    return bool(_with_drops)


def json_text(text: str) -> bytes:
    """Returns text as JSON of at most a quarter of a line: a control character is six bytes there. Keeps the end."""
    encoded = encode_value(text)
    while len(encoded) > MAX_JSON_LINE_BYTES // 4:
        text = "[cut]…" + text[len(text) - len(text) * MAX_JSON_LINE_BYTES // 4 // len(encoded) + 8 :]
        encoded = encode_value(text)
    return encoded


_LEVEL_NAMES: Final = {10 * number: name for number, name in enumerate(LEVELS, 1)}  # the standard library's numbers


def level_name(levelno: int) -> str:
    """Returns the name of a level; for one in between, that of the next lower one."""
    name = _LEVEL_NAMES.get(levelno)
    if name is not None:
        return name
    return next((name for number, name in reversed(_LEVEL_NAMES.items()) if levelno >= number), LEVELS[0])


def forget() -> None:
    """Forgets all messages, budgets and counts."""
    _known.clear()
    _with_drops.clear()
    _logged.clear()


runtime.at_fork(forget)


class Entry:
    """One log record, encoded.

    Args:
        message: its logger, level and text.
        extras: its fields as JSON.
        exc: the traceback.
        now_ns: its time, nanoseconds since 1970.
    """

    __slots__ = ("exc", "extras", "message", "now_ns", "span_id", "trace_id")

    def __init__(self, message: Message, extras: bytes, exc: str | None, now_ns: int) -> None:
        self.message = message
        self.extras = extras
        self.exc = exc
        if told := take_told() + message.told:  # in one place of a record by its name, in another without
            self.message = message.without(told)
            self.extras = hide_encoded(extras, told)
            self.exc = None if exc is None else hide(exc, told)
        self.now_ns = now_ns
        scope = current.get()
        self.trace_id: str | None = None if scope is None else scope.trace.trace_id or None
        self.span_id: str | None = None if scope is None else scope.span_id

    def line(self) -> bytes:
        """Returns the JSON line, its newline included: ts, level, logger, msg, then the ids and the fields."""
        line = self._line(self.extras)
        if len(line) > MAX_JSON_LINE_BYTES:
            line = self._line(fit(self.extras, MAX_JSON_LINE_BYTES // 4))
        return line

    def _line(self, extras: bytes) -> bytes:
        parts = [timestamp(self.now_ns), self.message.head]
        if self.trace_id is not None:
            parts.append(b',"trace_id":"%b"' % self.trace_id.encode())
            if self.span_id is not None:
                parts.append(b',"span_id":"%b"' % self.span_id.encode())
        if len(extras) > 2:  # "{}"
            parts += (b",", extras[1:-1])
        if self.exc is not None:
            parts += (b',"exc":', json_text(self.exc))
        parts.append(b"}\n")
        return b"".join(parts)

    def values(self) -> LogValues:
        """Returns the record for the store; the recorder numbers it."""
        message, extras, exc = self.message, self.extras, self.exc
        if len(extras) > _EXC_BYTES:
            room = MAX_LOG_ROW_BYTES - 2 * MESSAGE_BYTES
            extras = fit(extras, MESSAGE_BYTES if exc is not None or message.is_long else room)
        return (
            self.now_ns // 1_000, message.level, message.logger, message.text, self.trace_id,
            self.span_id, message.is_notable, 0, extras, None if exc is None else _tail(exc, _EXC_BYTES),
        )  # fmt: skip


def repeats_of(message: Message, count: int, now_ns: int) -> tuple[bytes, LogValues]:
    """Returns the line and the values of one record in place of `count` equal ones."""
    line = b'%b%b,"repeats":%d}\n' % (timestamp(now_ns), message.head, count - 1)
    return line, (
        now_ns // 1_000, message.level, message.logger, message.text, None, None, message.is_notable,
        count - 1, b"{}", None,
    )  # fmt: skip


def timestamp(now_ns: int) -> bytes:
    """Returns the start of a line: UTC in milliseconds. Caches the part down to the second."""
    global _second
    second, rest = divmod(now_ns, 1_000_000_000)
    kept = _second
    if kept[0] != second:
        kept = _second = (second, strftime('{"ts":"%Y-%m-%dT%H:%M:%S.', gmtime(second)).encode())
    return kept[1] + _MS[rest // 1_000_000]


def text_of(msg: object, args: Any) -> str:
    """Returns the message with its arguments filled in, as the standard library does."""
    if type(msg) is str and not args:
        return msg
    try:
        text = str(msg)
        if args:
            only = args[0] if isinstance(args, tuple) and len(args) == 1 else None
            text = text % (only if isinstance(only, Mapping) and only else args)
        return text
    except Exception as error:  # arguments that do not fit the template, or raise  # noqa: BLE001
        return f"{clean_text(msg)} [{type(error).__name__} in its arguments]"


def exc_info_of(given: object) -> ExcInfo | None:
    """Returns the exception that a logger's `exc_info` argument names, or None."""
    if not given:
        return None
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    found: Any = given if isinstance(given, tuple) else sys.exc_info()
    return found if len(found) == 3 and isinstance(found[1], BaseException) else None


def encode_extras(extra: object, exc_info: ExcInfo | None) -> tuple[bytes, str | None]:
    """Returns the fields as JSON, with those of the exception, and the traceback."""
    if exc_info is None or exc_info[1] is None:
        if extra is None:
            return b"{}", None
        encoded = encode_plain(extra)
        if encoded is not None and _OWN_KEYS.isdisjoint(extra):  # type: ignore[arg-type]  # a dictionary, then
            return encoded, None
        return encode(_mapping(extra)), None
    error = exc_info[1]
    described = {"exc_type": type(error).__qualname__, "exc_message": clean_text(error)}
    return encode({**_mapping(extra), **described}), _traceback(exc_info)


def _mapping(extra: object) -> Mapping[Any, Any]:
    """Returns the fields by names that are text and clash neither with the line's own keys nor with each other."""
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        return {"extra": extra}
    try:
        return _renamed(extra)
    except Exception as error:  # a mapping that raises while it is read  # noqa: BLE001
        return {"extra": f"[{type(extra).__name__}: {type(error).__name__}]"}


def _renamed(extras: Mapping[Any, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, value in extras.items():
        name = clean_text(key)
        while name in _OWN_KEYS or name in renamed or (name != key and name in extras):
            name = f"x_{name}"
        renamed[name] = value
    return renamed


def _traceback(exc_info: ExcInfo) -> str:
    try:
        return _tail("".join(traceback.format_exception(*exc_info)).rstrip("\n"), MAX_JSON_LINE_BYTES // 4)
    except Exception as error:  # an exception whose own `__str__` raises  # noqa: BLE001
        return f"{type(exc_info[1]).__name__}: [{type(error).__name__} while formatting]"


def _tail(text: str, limit: int) -> str:
    """Returns the end of a traceback, which names the error, within `limit` bytes."""
    safe = scrub(safe_text(text, 16 * limit))
    raw = safe.encode()
    return safe if len(raw) <= limit else "[cut]…" + raw[len(raw) - limit + 8 :].decode("utf-8", "ignore")


def stack_of(stack_info: str | None) -> str | None:
    """Returns a requested stack, within the bounds of a line."""
    return _tail(stack_info, MAX_JSON_LINE_BYTES // 4) if stack_info else None


class _Limit:
    """When a message was last logged, and how many were dropped since."""

    __slots__ = ("last_s", "level", "msg", "suppressed")

    def __init__(self, last_s: float, suppressed: int, level: int, msg: str) -> None:
        self.last_s = last_s
        self.suppressed = suppressed
        self.level = level
        self.msg = msg


_limits: dict[str, dict[str, _Limit]] = {}
_wrappers: dict[str, RateLimitedLogger] = {}  # one for each logger


class RateLimitedLogger:
    """Passes at most one record a second for each message key; the next one has the number of those dropped.

    Args:
        logger: where to log.
        interval_s: the least time between two records of a key.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(
        self, logger: logging.Logger, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.logger = logger
        self.interval_s = interval_s
        self._clock = clock
        # Of the logger, not of this wrapper: two wrappers of one logger keep one limit.
        self._keys = _limits.setdefault(logger.name, {})
        _wrappers[logger.name] = self

    def log(self, level: int, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs `msg` unless its key (default: the message itself) was logged less than `interval_s` ago."""
        suppressed = self._admit(key or msg, level, msg)
        if suppressed is None:
            return
        if suppressed:
            extra = _with_count(extra, suppressed)
        self.logger.log(level, msg, extra=extra, exc_info=sys.exc_info() if level >= ERROR else None)

    def _admit(self, key: str, level: int, msg: str) -> int | None:
        """Returns how many were dropped since the last one passed, or None: this one is dropped too."""
        now_s = self._clock()
        forgotten: list[_Limit] = []
        with runtime.lock:
            limit = self._keys.get(key)
            if limit is not None and now_s - limit.last_s < self.interval_s:
                limit.suppressed += 1
                return None
            suppressed = 0
            if limit is not None:
                suppressed, limit.suppressed = limit.suppressed, 0
            if len(self._keys) >= _MAX_REMEMBERED:
                forgotten = list(self._keys.values())
                self._keys.clear()
            self._keys[key] = _Limit(now_s, 0, level, msg)
        self._log_counts(forgotten)
        return suppressed

    def log_due(self, *, all_of_them: bool) -> None:
        """Logs the number dropped of each message that has been silent since (or of all)."""
        now_s = self._clock()
        with runtime.lock:
            due = [limit for limit in self._keys.values() if all_of_them or now_s - limit.last_s >= self.interval_s]
        self._log_counts(due)

    def _log_counts(self, limits: Iterable[_Limit]) -> None:
        """Logs how many were dropped, one record for each message, whatever its keys."""
        counts: Counter[tuple[int, str]] = Counter()
        with runtime.lock:
            for limit in limits:
                suppressed, limit.suppressed = limit.suppressed, 0
                if suppressed:
                    counts[limit.level, limit.msg] += suppressed
        for (level, msg), suppressed in counts.items():
            self.logger.log(level, msg, extra={"suppressed": suppressed})

    def info(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level info, limited."""
        self.log(INFO, msg, key=key, extra=extra)

    def warning(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level warning, limited."""
        self.log(WARNING, msg, key=key, extra=extra)

    def error(self, msg: str, *, key: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Logs at level error, limited, with the traceback of an exception being handled."""
        self.log(ERROR, msg, key=key, extra=extra)


def _with_count(extra: object, suppressed: int) -> dict[str, Any]:
    try:
        return {**extra, "suppressed": suppressed} if extra else {"suppressed": suppressed}  # type: ignore[dict-item]
    except Exception:  # no mapping, or one that raises while it is read: the logger copes  # noqa: BLE001
        return {"extra": extra, "suppressed": suppressed}


def log_suppressed(*, all_of_them: bool = False) -> None:
    """Logs how many records were dropped of messages that have been silent since (or of all)."""
    for wrapper in list(_wrappers.values()):
        wrapper.log_due(all_of_them=all_of_them)


def _forget_limits() -> None:
    for keys in _limits.values():  # the wrappers hold them
        keys.clear()


runtime.at_fork(_forget_limits)
