"""A log record as its sinks need it: a line for the JSON log, values for the black box and the store.

The extras are encoded once for both. Nothing here raises, whatever a record holds.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from time import gmtime, strftime
from types import TracebackType
from typing import Any, Final

from hearthnet.constants import MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES
from hearthnet.observability.logs.messages import MESSAGE_BYTES, Message, json_text
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import LogValues, clean_text, encode, encode_plain, fit, safe_text
from hearthnet.observability.redaction.rules import scrub

__all__ = ["Entry", "ExcInfo", "encode_extras", "exc_info_of", "repeats_of", "stack_of", "text_of", "timestamp"]

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

# Keys of the line or the row itself; a field of that name is stored as `x_<name>`.
_OWN_KEYS: Final = frozenset({"ts", "level", "logger", "msg", "trace_id", "span_id", "exc", "repeats"})
_EXC_BYTES: Final = 1_024  # of a row
_MS: Final = tuple(b"%03d" % ms for ms in range(1_000))
_second: tuple[int, bytes] = (-1, b"")


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
