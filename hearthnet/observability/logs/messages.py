"""Log sites: a logger, a level and a constant message, with their encoded bytes and their budget of records.

Messages are constants, so the few that a program has are encoded once and then looked up. Each has a budget a second,
for lines of the JSON log and for rows of the store. Records beyond it are dropped and counted. The count is logged with
the next record of that message, or within a second or two by the caller of `messages_with_drops`: as one more record,
whose `repeats` is the number of others that it represents.
"""

from __future__ import annotations

from typing import Final

from hearthnet.constants import LEVELS, MAX_JSON_LINE_BYTES
from hearthnet.observability.records.record import clean_text, encode_value, safe_text
from hearthnet.observability.redaction.rules import on_change
from hearthnet.observability.runtime import runtime

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "MESSAGE_BYTES",
    "WARNING",
    "Message",
    "find",
    "forget",
    "dropped_by_level",
    "json_text",
    "messages_with_drops",
    "is_any_dropped",
    "level_name",
]

LINES_A_SECOND: Final = 1_000
ROWS_A_SECOND: Final = 10  # that are not notable; the JSON log has the rest
NOTABLE_ROWS_A_SECOND: Final = 100
MESSAGE_BYTES: Final = 1_024  # of a row; its other text columns share the rest
_MAX_REMEMBERED: Final = 1_024
_LOGGER_BYTES: Final = 128
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # the standard library's numbers

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
    """

    __slots__ = (
        "_lines", "_rows", "_rows_a_second", "_second", "dropped_lines", "dropped_rows", "head", "is_long",
        "is_notable", "level", "logger", "text",
    )  # fmt: skip

    def __init__(self, logger: str, levelno: int, text: str) -> None:
        self.level = level_name(levelno)
        self.is_notable = int(levelno >= WARNING)
        safe = clean_text(text)
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
