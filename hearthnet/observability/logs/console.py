"""The console: records on stderr, for a person at a terminal, for cron's mail, or for a container's log.

| mode   | shows                                                                                                   |
|--------|---------------------------------------------------------------------------------------------------------|
| `auto` | text: on a terminal or in a notebook all, elsewhere warnings and errors; nothing that the program shows |
| `text` | text: all                                                                                               |
| `json` | the lines of the JSON log                                                                               |
| `off`  | nothing                                                                                                 |

It is a part of the JSON log's handler, no handler of its own: a record is encoded and redacted once, for file, store
and console. A record over the budget of its message is not shown either. Of HearthNet's own loggers text has warnings
and errors alone, of the store's errors, and no tracebacks that the interpreter prints: those of uncaught exceptions.

`auto` leaves a record to the program where another handler that it reaches prints to stdout or stderr.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final, Literal, Protocol, get_args

import orjson

from hearthnet.constants import CRASH_LOGGER, LEVELS, TRACE_LOGGER
from hearthnet.observability.logs.console_text import escaped_json, text_of_line
from hearthnet.observability.logs.messages import timestamp
from hearthnet.observability.logs.standard_error import StandardError

__all__ = ["Console", "Mode", "check_mode", "console_of"]

Mode = Literal["auto", "off", "text", "json"]

_PACKAGE: Final = "hearthnet."
_STORE: Final = "hearthnet.observability.store."
_LOGGER: Final = __name__
_ERRORS: Final = ("error", "critical")
_LOOP_ERROR: Final = "error in the event loop"  # the one record of its logger whose traceback nothing else prints


class Root(Protocol):
    """The standard library's root logger, as far as it is needed."""

    manager: Any


def console_of(mode: str, root: Root) -> Console | None:
    """Returns a console of this mode; None for `off`.

    Raises:
        ValueError: raised when there is no such mode.
    """
    found = check_mode(mode)
    return None if found == "off" else Console(found, root)


def check_mode(mode: str) -> Mode:
    """Returns the mode.

    Raises:
        ValueError: raised when there is no such mode.
    """
    known: tuple[Mode, ...] = get_args(Mode)
    for found in known:
        if mode == found:
            return found
    raise ValueError(f"console is one of {', '.join(known)}: got {mode!r}")


class Console:
    """Shows lines of the JSON log on stderr. Never raises, and never waits for long: see `standard_error`.

    Args:
        mode: all but `off`.
        root: the root logger.

    Attributes:
        is_talkative: whether it shows records below warning.
        failures: records that could not be shown: a bug here.
    """

    def __init__(self, mode: Mode, root: Root) -> None:
        self.mode = mode
        self.failures = 0
        self._root: Any = root
        self._out = StandardError()
        self._busy = threading.local()
        self.is_talkative = mode != "auto" or self._out.is_for_people

    @property
    def missed(self) -> int:
        """How many records were not shown because stderr took no more."""
        return self._out.missed

    @property
    def is_writing(self) -> bool:
        """Whether this thread is in `show`: what it logs now is our own line, by a stderr that leads to the log."""
        return hasattr(self._busy, "line")

    def close(self) -> None:
        """Says how many records were not shown, if that was not said yet and stderr takes it."""
        self._out.close(self._json_note if self.mode == "json" else self._text_note)

    def show(self, line: bytes, logger: str, level: str, is_notable: int) -> None:
        """Shows a line of the JSON log.

        Args:
            line: with its line end.
            logger: whose record it is.
            level: its name.
            is_notable: whether it is a warning or worse.
        """
        if self.is_writing:
            return
        self._busy.line = line
        try:
            self._show(line, logger, level, is_notable)
        except Exception:  # a program's own handler may be anything  # noqa: BLE001
            self.failures += 1
        finally:
            del self._busy.line

    def _show(self, line: bytes, logger: str, level: str, is_notable: int) -> None:
        if sys.stderr is not self._out.stream:  # redirected, or replaced, since the last line
            self._out.look_up()
            self.is_talkative = self.mode != "auto" or self._out.is_for_people
        if self.mode == "json":
            encoding = getattr(self._out.stream, "encoding", None)
            self._out.write(escaped_json(line.decode(), encoding), self._json_note)
        elif self._shows(logger, level, is_notable) and not self._is_shown_by_others(line, logger, level):
            shown = text_of_line(line, is_for_people=self._out.is_for_people, has_colour=self._out.has_colour)
            self._out.write(shown, self._text_note)

    def _shows(self, logger: str, level: str, is_notable: int) -> bool:
        if logger.startswith(_PACKAGE) and logger != TRACE_LOGGER:
            # One cause has many effects in the store: the first warning, of `telemetry`, says enough.
            return level in _ERRORS if logger.startswith(_STORE) else bool(is_notable)
        return bool(is_notable) or self.is_talkative

    def _is_shown_by_others(self, line: bytes, logger: str, level: str) -> bool:
        if logger == CRASH_LOGGER and orjson.loads(line)["msg"] != _LOOP_ERROR:
            return True
        return self.mode == "auto" and self._is_printed(logger, 10 * LEVELS.index(level) + 10)

    def _is_printed(self, name: str, levelno: int) -> bool:
        """Returns whether another handler prints a record of this logger to the console."""
        walked = self._root.manager.loggerDict.get(name)
        if not hasattr(walked, "handlers"):  # a placeholder, or none: a name that is longer than is kept
            walked = self._root
        while walked is not None:
            if any(levelno >= handler.level and _prints(handler) for handler in walked.handlers):
                return True
            walked = walked.parent if walked.propagate else None
        return False

    @staticmethod
    def _text_note(count: int) -> str:
        return f"hearthnet: {count} records are not shown here: nothing took them. The JSON log has them\n"

    @staticmethod
    def _json_note(count: int) -> str:
        from time import time_ns

        rest = orjson.dumps(
            {"level": "warning", "logger": _LOGGER, "msg": "records are not shown here", "missed": count}
        )
        return f'{timestamp(time_ns()).decode()}Z",{rest[1:].decode()}\n'


def _prints(handler: Any) -> bool:
    """Returns whether a handler prints to stdout or stderr: one of the standard library, or of rich.

    A filter of it may keep the record back. A buffer prints what its target prints, a queue what the handlers of its
    listener do, as far as it knows them: from Python 3.12 on.
    """
    try:
        if handler.filters:
            return False
        others = getattr(getattr(handler, "listener", None), "handlers", ())
        if any(_prints(other) for other in (*others, getattr(handler, "target", None)) if other is not None):
            return True
        stream = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    except Exception:  # any class of the program's  # noqa: BLE001
        return False
    return stream is not None and stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
