"""The handler of the JSON log, the records that it gets, and the loggers that are ours.

A record comes in parts, straight from a logger of ours (`take`), or as one of the standard library (`emit`). Either way
it is encoded once, and goes to the daily file, the console, systemd's journal and the recorder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time_ns

from hearthnet.constants import TRACE_LOGGER
from hearthnet.observability.logs.context_fields import current_fields
from hearthnet.observability.logs.messages import (
    Entry,
    Message,
    Place,
    find,
    new_entry,
    place,
    repeats_in,
    repeats_of,
    said_once,
)
from hearthnet.observability.logs.set_up import passes_on
from hearthnet.observability.logs.standard_records import (
    created_ns,
    entry_of,
    fields_of,
    place_of,
    said,
)
from hearthnet.observability.logs.tracebacks import Error, ExcInfo
from hearthnet.observability.records.context import current
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.observability.logs.console import Console
    from hearthnet.observability.logs.daily_file import DailyFile

__all__ = [
    "RESERVED", "Factory", "JsonFormatter", "JsonHandler", "Record", "is_alone", "loggers", "own_roots", "placed",
    "roots",
]  # fmt: skip

_OURS: Final = frozenset({"hearthnet_extras", "hearthnet_fields", "hearthnet_place", "hearthnet_taken"})
RESERVED: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"} | _OURS
_MAX_UNFED: Final = 3  # checks, of one a second: a listener may be late

roots: Final = {"hearthnet"}  # packages whose loggers pass on `log_level` and above
loggers: Final[dict[str, logging.Logger]] = {}  # ours, by name


def own_roots() -> list[logging.Logger]:
    """Returns the loggers of their packages, which have the configured level."""
    return [logging.getLogger(root) for root in sorted(roots)]


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
        if handler is not None and name not in loggers and handler.is_taken_away():
            handler.count_missed()


Factory = Callable[..., logging.LogRecord]


def placed(make: Factory) -> Factory:
    """Returns a program's own record factory with the same knowledge."""

    def made(*args: Any, **named: Any) -> logging.LogRecord:
        record = make(*args, **named)
        record.hearthnet_place = place()
        record.hearthnet_fields = current_fields()
        return record

    return made


def is_alone(logger: logging.Logger, handler: logging.Handler) -> bool:
    """Returns whether a logger's records reach `handler` and no other. Not remembered: any of it may change. 0.2 us."""
    walked = logger
    while not (handlers := walked.handlers):
        if (parent := walked.parent) is None or not walked.propagate:
            return False
        walked = parent
    return len(handlers) == 1 and handlers[0] is handler and (walked.parent is None or not walked.propagate)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ts, level, logger, msg, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without a newline at its end."""
        return entry_of(record, RESERVED).line().decode()[:-1]


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
            self._take(message, fields_of(record, RESERVED), error, created_ns(record), place_of(record))
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
