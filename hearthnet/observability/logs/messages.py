"""What is known of a message, its logger and its level, once it has been logged: its bytes in the line, its budget.

Messages are constants, so the few that a program has are encoded once and looked up from then on. Each has a budget a
second, for the lines of the JSON log and for the rows of the store. What comes beyond is counted and told, with the
next record of that message, or within a second or two by who asks `held_back`: as one record more, whose `repeats`
says for how many others it stands.
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
    "held_back_by_level",
    "json_text",
    "held_back",
    "is_any_held_back",
    "level_name",
]

LINES_A_SECOND: Final = 1_000
ROWS_A_SECOND: Final = 10  # of what is not notable; the JSON log has the rest
NOTABLE_ROWS_A_SECOND: Final = 100
MESSAGE_BYTES: Final = 1_024  # of a row; its other text columns take the rest of what it may have
_MAX_REMEMBERED: Final = 1_024
_LOGGER_BYTES: Final = 128
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # the standard library's numbers

_known: dict[tuple[str, int, str], Message] = {}
on_change(_known.clear)
_over: dict[Message, None] = {}  # those that were held back, in the order of the first time
_told: dict[str, int] = {}  # how many records were held back, of those that were told, by level


class Message:
    """A message of a logger at a level.

    Attributes:
        level: its name in lower case.
        is_notable: whether it is a warning or worse.
        head: its part of the JSON line, from the end of the time on.
        logger: the logger's name, for the row.
        text: the message, for the row.
        is_long: whether it takes a row's room from the fields.
    """

    __slots__ = (
        "_lines", "_rows", "_rows_a_second", "_second", "head", "held_lines", "held_rows", "is_long", "is_notable",
        "level", "logger", "text",
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
        self.held_lines = self.held_rows = 0

    def admit_line(self, second: int) -> bool:
        """Tells whether one more line of this second is within the budget; else it is counted, and so is its row."""
        if second != self._second:
            self._second = second
            self._lines = self._rows = 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            return True
        self._hold(1)
        return False

    def admit_row(self) -> bool:
        """Tells whether one more row of the second of `admit_line` is within the budget; else it is for `hold_row`."""
        self._rows += 1
        return self._rows <= self._rows_a_second

    def hold_row(self) -> None:
        """Counts one more row as held back."""
        self._hold(0)

    def _hold(self, lines: int) -> None:
        with runtime.lock:
            self.held_lines += lines
            self.held_rows += 1
            _over[self] = None

    def is_over(self, now_second: int | None) -> bool:
        """Tells whether records were held back, in a second other than `now_second`."""
        return self.held_rows > 0 and self._second != now_second

    def take_held_back(self) -> tuple[int, int]:
        """Returns how many lines and rows were held back since the last call."""
        with runtime.lock:
            held = self.held_lines, self.held_rows
            self.held_lines = self.held_rows = 0
            _told[self.level] = _told.get(self.level, 0) + held[1]
            _over.pop(self, None)
            return held


def find(logger: str, levelno: int, text: str) -> Message:
    """Returns what is known of a message."""
    if len(text) > 4 * MESSAGE_BYTES:
        text = safe_text(text, 4 * MESSAGE_BYTES)
    message = _known.get((logger, levelno, text))
    if message is None:
        message = Message(logger, levelno, text)
        if len(_known) >= _MAX_REMEMBERED:
            _known.clear()  # what was held back of them stands in `_over` still
        _known[logger, levelno, text] = message
    return message


def held_back(now_second: int | None) -> list[Message]:
    """Returns the messages of which records were held back, in seconds other than `now_second` (None: in any)."""
    if not _over:
        return []
    with runtime.lock:
        return [message for message in _over if message.is_over(now_second)]


def held_back_by_level() -> dict[str, int]:
    """Returns how many records have been held back and told by now, by level; only ever more until `forget`."""
    return _told.copy()


def is_any_held_back() -> bool:
    """Tells whether anything waits to be told."""
    return bool(_over)


def json_text(text: str) -> bytes:
    """Returns text as JSON of at most a quarter of a line: a control character is six bytes there. Keeps the end."""
    encoded = encode_value(text)
    while len(encoded) > MAX_JSON_LINE_BYTES // 4:
        text = "[cut]…" + text[len(text) - len(text) * MAX_JSON_LINE_BYTES // 4 // len(encoded) + 8 :]
        encoded = encode_value(text)
    return encoded


_LEVEL_NAMES: Final = {10 * number: name for number, name in enumerate(LEVELS, 1)}  # the standard library's numbers


def level_name(levelno: int) -> str:
    """Returns the name of a level; of one in between, that of the next lower one."""
    name = _LEVEL_NAMES.get(levelno)
    if name is not None:
        return name
    return next((name for number, name in reversed(_LEVEL_NAMES.items()) if levelno >= number), LEVELS[0])


def forget() -> None:
    """Begins anew, with budgets that are not used yet."""
    _known.clear()
    _over.clear()
    _told.clear()


runtime.at_fork(forget)
