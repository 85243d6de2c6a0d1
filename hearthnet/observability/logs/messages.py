"""Log messages and their records: what each costs is bounded, and a record is encoded once for all its sinks.

A message is a logger, a level and a constant text. The few that a program has are encoded once and then looked up. Each
has a budget a second, for lines of the JSON log and for rows of the store. Records beyond it are dropped and counted.
The count is logged with the next record of that message, or within a second or two by the caller of
`messages_with_drops`: as one more record, whose `repeats` is the number of others that it represents.

An `Entry` is one record: a line for the JSON log, values for the black box and the store, with its extras encoded once
for both. A message may have a limit besides, of one record in a time for each key that its caller names (`admit_key`);
what that drops is counted with the rest. Nothing here raises, whatever a record holds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import copy
from time import gmtime, strftime, time_ns

from orjson import dumps

from hearthnet.constants import CRASH_LOGGER, LEVELS, MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES, TRACE_LOGGER
from hearthnet.observability.logs.tracebacks import Error, ExcInfo, Texts, passed_by, texts_of
from hearthnet.observability.records.context import current, innermost
from hearthnet.observability.records.record import (
    LogValues,
    clean_text,
    encode,
    encode_plain,
    encode_value,
    fit,
    is_a,
    one_line,
    safe_text,
)
from hearthnet.observability.redaction.rules import on_change
from hearthnet.observability.redaction.told import Known, Told, calls, told_throughout
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.observability.records.context import Scope

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "MESSAGE_BYTES",
    "MS",
    "OWN_KEYS",
    "WARNING",
    "Entry",
    "Message",
    "Place",
    "Repeats",
    "admit_key",
    "dropped_by_level",
    "new_entry",
    "exc_info_of",
    "find",
    "forget",
    "forget_keys",
    "is_any_dropped",
    "json_text",
    "keep_on",
    "known_messages",
    "latest",
    "level_name",
    "messages_with_drops",
    "place",
    "repeats_in",
    "repeats_of",
    "said_once",
    "start_of",
    "text_of",
    "timestamp",
    "with_repeats",
]

LINES_A_SECOND: Final = 1_000
ROWS_A_SECOND: Final = 10  # that are not notable; the JSON log has the rest
NOTABLE_ROWS_A_SECOND: Final = 100
MESSAGE_BYTES: Final = 1_024  # of a row; its other text columns share the rest
_MAX_REMEMBERED: Final = 1_024
_MAX_WAIT_S: Final = 60  # for the end of a key's time, with the count of its drops
_LOGGER_BYTES: Final = 128
_TELLING_CHARS: Final = 100  # of an error's message, for finding it in a traceback
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # the standard library's numbers

# Keys of the line or the row itself; a field of that name is stored as `x_<name>`.
OWN_KEYS: Final = frozenset({"ts", "level", "logger", "msg", "trace_id", "span_id", "after_trace", "exc", "repeats"})
# To format one takes twice as long.
MS: Final = tuple(map(b"%03d".__mod__, range(1_000)))
Second = tuple[int, bytes, int, int]  # since 1970; how its lines begin; when it began in ns and in us
latest: Final[list[Second]] = [(-1, b"", -1_000_000_000, -1_000_000)]  # that of the last line

known_messages: Final[dict[tuple[str, int, str], Message]] = {}
on_change(known_messages.clear)
_with_drops: dict[Message, None] = {}  # messages with dropped records, in the order of the first drop
_logged: dict[str, int] = {}  # dropped records that have been logged, by level


class Message:
    """A message of a logger at a level.

    Attributes:
        level: its name in lower case.
        is_notable: whether it is a warning or worse.
        columns: level, logger and text as the row's JSON has them; `untraced` goes on to repeats, for no trace.
        second: of its budget, since 1970; `lines` is how much of it is used: the first of them have rows.
        rows_a_second: the budget of its rows.
        ordinary_a_second: the budget of its lines; 0 if it tells a secret, or has no rows. Likewise `ordinary_rows`.
        head: its part of the JSON line, from the end of the time on; `opened` ends with the comma before the fields.
        logger: the logger's name, for the row.
        text: the message, for the row.
        is_long: whether it takes space in the row from the fields.
        told: secrets that the message names, for the rest of its records.
    """

    __slots__ = (
        "_hidden", "_raw", "_until", "columns", "dropped_lines", "dropped_rows", "head", "is_long", "is_notable",
        "level", "lines", "logger", "opened", "ordinary_a_second", "ordinary_rows", "rows_a_second", "second", "text",
        "told", "untraced",
    )  # fmt: skip

    def __init__(self, logger: str, levelno: int, text: str) -> None:
        self.level = level_name(levelno)
        self.is_notable = int(levelno >= WARNING)
        self.logger = clean_text(logger, _LOGGER_BYTES)
        calls_before = calls[0]
        self._write(text)
        self.told = () if calls[0] == calls_before else self._tells(text)
        self._raw = text
        self._hidden: tuple[Sequence[str], Message] | None = None
        self.second = -1
        self._until = -1
        self.lines = 0
        self.rows_a_second = NOTABLE_ROWS_A_SECOND if self.is_notable else ROWS_A_SECOND
        is_ordinary = logger != TRACE_LOGGER and not self.told
        self.ordinary_a_second = LINES_A_SECOND if is_ordinary else 0
        self.ordinary_rows = min(self.rows_a_second, self.ordinary_a_second)
        self.dropped_lines = self.dropped_rows = 0

    def _write(self, text: str) -> None:
        safe = clean_text(text)
        self.head = b'Z","level":"%b","logger":%b,"msg":%b' % (
            self.level.encode(), encode_value(self.logger), json_text(safe),
        )  # fmt: skip
        self.opened = self.head + b","
        self.text = safe_text(safe, MESSAGE_BYTES)
        self.columns = dumps([self.level, self.logger, self.text])[1:-1]
        self.untraced = b"%b,null,null,%d,0," % (self.columns, self.is_notable)
        self.is_long = len(safe) > MESSAGE_BYTES // 4

    def _tells(self, text: str) -> tuple[str, ...]:
        with Told() as told:
            self._write(text)
        return tuple(told)

    def without(self, told: Sequence[str]) -> Message:
        """Returns the message without these secrets; itself if it has none of them. Counts and budget stay here."""
        if not any(value in self._raw for value in told):
            return self
        if self._hidden is None or self._hidden[0] != told:
            hidden = copy(self)
            with Known(told):
                hidden._write(self._raw)  # noqa: SLF001  # of its own class
            self._hidden = (told, hidden)
        return self._hidden[1]

    def shown(self) -> Message:
        """Returns the message as its last record had it: what others of it have told is a secret in all of them."""
        return self if self._hidden is None else self._hidden[1]

    def admit_line(self, second: int) -> bool:
        """Returns whether one more line this second is within the budget; if not, counts it and its row as dropped."""
        if second != self.second:
            self.second = second
            self.lines = 0
        self.lines += 1
        if self.lines <= LINES_A_SECOND:
            return True
        self.drop(1, 1)
        return False

    def admit_row(self) -> bool:
        """Returns whether one more row in the second of `admit_line` is within the budget."""
        return self.lines <= self.rows_a_second

    def drop_row(self) -> None:
        """Counts one dropped row."""
        self.drop(0, 1)

    def drop_until(self, second: int) -> None:
        """Counts one dropped record whose key's time ends in `second`, after which the count is logged."""
        self.drop(1, 1)
        self._until = min(second, time_ns() // 1_000_000_000 + _MAX_WAIT_S)

    def drop(self, lines: int, rows: int) -> None:
        """Counts dropped lines and rows."""
        with runtime.lock:
            self.dropped_lines += lines
            self.dropped_rows += rows
            _with_drops[self] = None

    def has_drops_before(self, now_second: int | None) -> bool:
        """Returns whether records were dropped in a second other than `now_second`, and no key's time is under way."""
        if self.dropped_rows == 0 or self.second == now_second:
            return False
        # A clock that was set back must not keep the count for long.
        return now_second is None or not 0 <= self._until - now_second <= _MAX_WAIT_S

    def take_dropped(self) -> tuple[int, int]:
        """Returns how many lines and rows were dropped since the last call."""
        with runtime.lock:
            held = self.dropped_lines, self.dropped_rows
            self.dropped_lines = self.dropped_rows = 0
            _logged[self.level] = _logged.get(self.level, 0) + held[1]
            _with_drops.pop(self, None)
            return held

    def take_dropped_records(self) -> int:
        """Returns how many records were dropped from both, for the next record to represent them."""
        if not self.dropped_lines:
            return 0
        lines, rows = self.take_dropped()
        if rows > lines:
            self.drop(0, rows - lines)
        return lines


def find(logger: str, levelno: int, text: str) -> Message:
    """Returns the message, made on first use."""
    if len(text) > 4 * MESSAGE_BYTES:
        text = safe_text(text, 4 * MESSAGE_BYTES)
    message = known_messages.get((logger, levelno, text))
    if message is None:
        message = Message(logger, levelno, text)
        if len(known_messages) >= _MAX_REMEMBERED:
            known_messages.clear()  # those with dropped records stay in `_with_drops`
        known_messages[logger, levelno, text] = message
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
    encoded = one_line(encode_value(text))
    while len(encoded) > MAX_JSON_LINE_BYTES // 4:
        text = "[cut]…" + text[len(text) - len(text) * MAX_JSON_LINE_BYTES // 4 // len(encoded) + 8 :]
        encoded = one_line(encode_value(text))
    return encoded


_LEVEL_NAMES: Final = {10 * number: name for number, name in enumerate(LEVELS, 1)}  # the standard library's numbers


def level_name(levelno: int) -> str:
    """Returns the name of a level; for one in between, that of the next lower one."""
    name = _LEVEL_NAMES.get(levelno)
    if name is not None:
        return name
    return next((name for number, name in reversed(_LEVEL_NAMES.items()) if levelno >= number), LEVELS[0])


def forget() -> None:
    """Forgets all messages, budgets, limits and counts."""
    forget_keys()
    known_messages.clear()
    _with_drops.clear()
    _logged.clear()


runtime.at_fork(forget)


# Of a log record: the ids of the running trace and of its innermost open span, and of the trace that the work has
# outlived. Each may be None. A record belongs to where it was made, wherever it is handled.
Place = tuple[str | None, str | None, str | None]

_NOWHERE: Final[Place] = (None, None, None)


def place() -> Place:
    """Returns the ids for a record that is made now, in this context."""
    scope = current.get()
    if scope is None:
        return _NOWHERE
    trace = scope.trace
    if trace.is_over:
        return None, None, trace.trace_id or None  # without an id: no trace is attached
    if scope.closed_ns:
        scope = innermost()
    return trace.trace_id, None if scope is None else scope.span_id, None


class Entry:
    """One log record, encoded.

    Args:
        message: its logger, level and text.
        extras: its fields as JSON.
        exc: the traceback.
        now_ns: its time, nanoseconds since 1970.
        made: where it was made; None: here and now.
        repeats: how many dropped records it represents besides itself.
    """

    __slots__ = ("after_trace", "exc", "extras", "message", "now_ns", "repeats", "span_id", "trace_id")

    def __init__(
        self,
        message: Message,
        extras: bytes,
        exc: Texts | None,
        now_ns: int,
        made: Place | None = None,
        repeats: int = 0,
    ) -> None:
        self.message = message
        self.extras = extras
        self.exc = exc
        self.now_ns = now_ns
        self.repeats = repeats
        self.trace_id, self.span_id, self.after_trace = place() if made is None else made

    def line(self) -> bytes:
        """Returns the JSON line, its newline included: ts, level, logger, msg, then the ids and the fields."""
        extras = self.extras
        is_short = len(extras) <= MESSAGE_BYTES and self.after_trace is None  # nearly always
        line = self._line(extras if is_short else self._fields(MAX_JSON_LINE_BYTES))
        if len(line) <= MAX_JSON_LINE_BYTES:
            return line
        line = self._line(self._fields(MAX_JSON_LINE_BYTES // 4))
        if len(line) > MAX_JSON_LINE_BYTES:  # escaped line ends are twice as long
            line = self._line(self._fields(MAX_JSON_LINE_BYTES // 8))
        return line

    def _fields(self, limit: int) -> bytes:
        """Returns the fields within so many bytes; first the mark of a record whose work has outlived its trace."""
        if self.after_trace is None:
            return fit(self.extras, limit)
        mark = b'"after_trace":"%b"' % self.after_trace.encode()
        extras = fit(self.extras, limit - len(mark) - 1)
        return b"{%b%b" % (mark, b"}" if len(extras) == 2 else b"," + extras[1:])

    def _line(self, extras: bytes) -> bytes:
        if self.trace_id is None and self.exc is None and not self.repeats and len(extras) > 2:  # the usual record
            line = b"%b%b,%b\n" % (timestamp(self.now_ns), self.message.head, extras[1:])
            return line if line.isascii() else one_line(line)
        parts = [timestamp(self.now_ns), self.message.head]
        if self.trace_id is not None:
            parts.append(b',"trace_id":"%b"' % self.trace_id.encode())
            if self.span_id is not None:
                parts.append(b',"span_id":"%b"' % self.span_id.encode())
        if len(extras) > 2:  # "{}"
            parts += (b",", extras[1:-1])
        if self.repeats:
            parts.append(b',"repeats":%d' % self.repeats)
        if self.exc is not None:
            parts += (b',"exc":', json_text(self.exc[0]))
        parts.append(b"}\n")
        line = b"".join(parts)
        return line if line.isascii() else one_line(line)

    def values(self) -> LogValues:
        """Returns the record for the store; the recorder numbers it."""
        message, exc, extras = self.message, self.exc, self.extras
        if len(extras) > MESSAGE_BYTES or self.after_trace is not None:
            is_shared = exc is not None or message.is_long
            extras = self._fields(MESSAGE_BYTES if is_shared else MAX_LOG_ROW_BYTES - 2 * MESSAGE_BYTES)
        return (
            self.now_ns // 1_000, message.level, message.logger, message.text, self.trace_id,
            self.span_id, message.is_notable, self.repeats, extras, None if exc is None else exc[1],
        )  # fmt: skip


def repeats_of(message: Message, count: int, now_ns: int) -> tuple[bytes, LogValues]:
    """Returns the line and the values of one record in place of `count` equal ones."""
    message = message.shown()
    line = b'%b%b,"repeats":%d}\n' % (timestamp(now_ns), message.head, count - 1)
    return line, (
        now_ns // 1_000, message.level, message.logger, message.text, None, None, message.is_notable,
        count - 1, b"{}", None,
    )  # fmt: skip


def timestamp(now_ns: int) -> bytes:
    """Returns the start of a line: UTC in milliseconds."""
    ms = now_ns // 1_000_000
    second = ms // 1_000
    kept = latest[0]
    return (kept[1] if kept[0] == second else start_of(second)[1]) + MS[ms % 1_000]


def start_of(second: int) -> Second:
    """Returns a second with the start of its lines, and remembers it."""
    start = strftime('{"ts":"%Y-%m-%dT%H:%M:%S.', gmtime(second)).encode()
    latest[0] = made = second, start, second * 1_000_000_000, second * 1_000_000
    return made


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
        shown = encode({"": args}).decode()[len('{"":') : -len("}")]  # bounded and redacted, whatever they are
        return f"{clean_text(msg, MESSAGE_BYTES // 2)} [{type(error).__name__} in its arguments] {shown}"


def keep_on(scope: Scope, logger: str, text: str, more: Mapping[str, Any]) -> None:
    """Gives a debug record below its logger's level to a trace to hold."""
    try:
        exc_info = exc_info_of(more.get("exc_info"))
        error = exc_info and Error(exc_info)
        scope.trace.hold(new_entry(find(logger, DEBUG, text), more.get("extra"), error, time_ns()).values())
    except Exception:  # must not raise into the program  # noqa: BLE001
        if runtime.handler is not None:
            runtime.handler.failures += 1


def exc_info_of(given: object) -> ExcInfo | None:
    """Returns the exception that a logger's `exc_info` argument names, or None."""
    if given is None:
        return None
    if is_a(given, BaseException):
        return type(given), given, given.__traceback__
    if issubclass(type(given), int | str | tuple) and not given:  # of other types even `bool` may raise
        return None
    found: Any = given if is_a(given, tuple) else sys.exc_info()
    return found if len(found) == 3 and is_a(found[1], BaseException) else None


def new_entry(
    message: Message, extra: object, said: Error | None, now_ns: int, made: Place | None = None, repeats: int = 0
) -> Entry:
    """Returns a record encoded. A secret that one part of it tells is replaced in all of it.

    Args:
        message: its logger, level and text.
        extra: its fields, as passed.
        said: what it says of an error.
        now_ns: as of `Entry`.
        made: as of `Entry`.
        repeats: as of `Entry`.
    """
    if said is None and not message.told:
        if extra is None:
            return Entry(message, b"{}", None, now_ns, made, repeats)
        encoded = encode_plain(extra)
        if encoded is not None and OWN_KEYS.isdisjoint(extra):  # type: ignore[arg-type]  # a dictionary, then
            return Entry(message, encoded, None, now_ns, made, repeats)
    (extras, exc), told = told_throughout(lambda: _encoded(extra, said), message.told)
    return Entry(message.without(told), extras, exc, now_ns, made, repeats)


def said_once(message: Message, error: Error | None, made: Place | None) -> tuple[Error | None, Place | None]:
    """Returns an error and its place for our handler: of one whose traceback it has taken, the trace that has it.

    A middleware logs an exception, and a server's logger tells of it a second time. What ends a program stays whole.
    """
    if error is None or error.exc_info is None or (passed := passed_by(error.exc_info)) is None:
        return error, made
    made = place() if made is None else made
    trace_id = passed.trace_to_tell(made[0])
    if trace_id is None or message.logger == CRASH_LOGGER:
        passed.note_logged()
        return error, made
    return error.recorded(), (trace_id, None, None)


def _encoded(extra: object, said: Error | None) -> tuple[bytes, Texts | None]:
    """Returns the fields as JSON, with those of the exception, and the traceback."""
    if said is None:
        return encode(_mapping(extra)), None
    described = {}
    if said.exc_info is not None and (error := said.exc_info[1]) is not None:
        described = {"exc_type": type(error).__qualname__, "exc_message": clean_text(error)}
        # Other code may have rewritten the traceback to hide the message.
        if said.text is not None and described["exc_message"].partition("\n")[0][:_TELLING_CHARS] not in said.text:
            del described["exc_message"]
    return encode({**_mapping(extra), **described}), texts_of(said)


class Repeats(int):
    """How many dropped records a record represents besides itself. A field of this type is the record's own."""


def with_repeats(extra: object, dropped: int) -> dict[Any, Any]:
    """Returns fields with the number of dropped records that theirs represents."""
    repeats = {"repeats": Repeats(dropped)}
    try:
        return {**extra, **repeats} if extra else repeats  # type: ignore[dict-item]
    except Exception:  # no mapping, or one that raises while it is read: the logger copes  # noqa: BLE001
        return {"extra": extra, **repeats}


def repeats_in(extra: Mapping[Any, Any]) -> int:
    """Returns the number that a limited logger has put into the fields."""
    found = extra.get("repeats")
    return found if type(found) is Repeats else 0


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
        if type(value) is Repeats:
            continue
        name = clean_text(key)
        while name in OWN_KEYS or name in renamed or (name != key and name in extras):
            name = f"x_{name}"
        renamed[name] = value
    return renamed


_keys: dict[tuple[str, str], float] = {}  # of a logger: when a record of each was last admitted, monotonic seconds


def admit_key(logger: str, key: str, now_s: float, interval_s: float) -> bool:
    """Returns whether a key's last record was admitted at least `interval_s` before; if so, its time begins anew."""
    with runtime.lock:
        last_s = _keys.get((logger, key))
        if last_s is not None and now_s - last_s < interval_s:
            return False
        if len(_keys) >= _MAX_REMEMBERED:
            _keys.clear()
        _keys[logger, key] = now_s
        return True


def forget_keys() -> None:
    """Begins the time of every key anew."""
    _keys.clear()
