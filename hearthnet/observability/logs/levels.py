"""Log levels of a running program: third parties quiet, and single loggers more verbose for a limited time.

    with Levels() as levels:
        levels.set("bus", "debug", for_s=600)

Guarantees:
    - A level ends at its time, whatever the program's loop is doing: a timer thread ends it.
    - At most `MAX_OVERRIDES` at a time, each for at most `MAX_FOR_S`. Leaving the block ends them all.
    - A level that other code has set on a logger in the meantime is not undone.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from hearthnet.constants import LEVELS
from hearthnet.errors import EXIT_USAGE, HearthNetError
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import clean_text

__all__ = ["DEFAULT_FOR_S", "MAX_FOR_S", "THIRD_PARTY", "Levels", "LogLevelError", "Override"]

log = get_logger(__name__)
# Returns a logger unchanged: `get_logger` would make it ours and give its package our level.
_logger: Final = log.manager.getLogger

# Verbose libraries. Their records are written to the JSON log like ours. The root's level, which a library may lower
# for itself, does not apply to them.
THIRD_PARTY: Final[Mapping[str, str]] = {
    "aiosqlite": "warning",  # two lines for each statement
    "asyncio": "warning",
    "httpcore": "warning",  # a line for each step of a request
    "httpx": "warning",  # a line for each request
    "uvicorn": "warning",
    "uvicorn.access": "warning",  # a trace has more
    "uvicorn.error": "warning",  # "Started server process": the node logs that itself
    "zeroconf": "warning",
}
# Storing their records would make more of them, without end.
_NEVER_TALKATIVE: Final = frozenset({"aiosqlite"})

MAX_FOR_S: Final = 86_400.0  # for longer there is `observability.log_level`
DEFAULT_FOR_S: Final = 600.0
MAX_OVERRIDES: Final = 32  # a guess: more than a person can follow
_CLOSE_NAMES: Final = 3
_QUOTED_BYTES: Final = 100  # of the caller's text
_STEP: Final = 10  # between the standard library's numbers of two levels
_INFO: Final = _STEP * (LEVELS.index("info") + 1)

# Calls a function after so many seconds, in a thread; returns a function that cancels it.
StartTimer = Callable[[float, Callable[[], None]], Callable[[], None]]


class LogLevelError(HearthNetError):
    """Raised for an unknown logger or level, a time out of bounds, or too many levels at once."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Override:
    """A temporary level of a logger.

    Attributes:
        logger: its full name.
        level: the current one.
        was: the one to return to.
        left_s: seconds until then.
    """

    logger: str
    level: str
    was: str
    left_s: float


class _Held(NamedTuple):
    own: int  # the logger's own level before; 0: its parent's
    was: str
    level: str
    ends_at: float


def _start_thread(delay_s: float, function: Callable[[], None]) -> Callable[[], None]:
    timer = threading.Timer(delay_s, function)
    timer.name, timer.daemon = "log-levels", True
    timer.start()
    return timer.cancel


class Levels:
    """The levels of one program's loggers.

    Args:
        third_party: levels by logger, applied within `with` to loggers without a level of their own.
        clock: monotonic seconds; tests pass their own.
        start_timer: calls back at the end of a level; the same.
    """

    def __init__(
        self,
        third_party: Mapping[str, str] = THIRD_PARTY,
        clock: Callable[[], float] = time.monotonic,
        start_timer: StartTimer = _start_thread,
    ) -> None:
        self._third_party = third_party
        self._clock = clock
        self._start_timer = start_timer
        self._cancel_timer: Callable[[], None] = lambda: None
        self._lock = threading.RLock()  # a signal handler may set a level while its own thread does
        self._held: dict[str, _Held] = {}
        self._quieted: list[str] = []

    def __enter__(self) -> Self:
        for name, level in self._third_party.items():
            if _logger(name).level == 0:
                _logger(name).setLevel(level.upper())
                self._quieted.append(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set(self, logger: str, level: str, for_s: float = DEFAULT_FOR_S) -> Override:
        """Lets `logger`, and those below it, pass on `level` and above for `for_s` seconds.

        Args:
            logger: its name; for ours the prefix `hearthnet.` is optional.
            level: one of `constants.LEVELS`. Replaces a level that is set already; its time starts again.
            for_s: above 0, at most `MAX_FOR_S`.

        Raises:
            LogLevelError: raised for an unknown logger or level, a time out of bounds, or too many levels.
        """
        name = self.full_name(logger)
        _check(name, level, for_s)
        with self._lock:
            held = self._held.get(name)
            if held is None and len(self._held) >= MAX_OVERRIDES:
                hint = "take one back: hearthnet log level LOGGER --reset"
                raise LogLevelError(f"{MAX_OVERRIDES} loggers have another level already", hint=hint)
            target = _logger(name)
            own, was = (target.level, _name_of(target.getEffectiveLevel())) if held is None else held[:2]
            self._held[name] = _Held(own, was, level, self._clock() + for_s)
            target.setLevel(level.upper())
            self._arm_locked()
        _tell("log level changed", changed=name, to=level, was=was if held is None else held.level, for_s=for_s)
        return Override(name, level, was, for_s)

    def reset(self, logger: str | None = None) -> None:
        """Ends the level of `logger`, or of all. Does nothing for a logger without one.

        Raises:
            LogLevelError: raised when there is no such logger.
        """
        name = None if logger is None else self.full_name(logger)
        self._revert(lambda key, _: name in (None, key), "reset")

    def current(self) -> list[Override]:
        """Returns the levels that are set, by name."""
        now = self._clock()
        with self._lock:
            held = sorted(self._held.items())
        return [Override(name, item.level, item.was, item.ends_at - now) for name, item in held if item.ends_at > now]

    def close(self) -> None:
        """Ends all levels, third parties' as well. Idempotent."""
        self._revert(lambda *_: True, "closed")
        while self._quieted:
            name = self._quieted.pop()
            if _name_of(_logger(name).level) == self._third_party[name]:
                _logger(name).setLevel(0)

    def full_name(self, logger: str) -> str:
        """Returns the full name of `logger`: `bus` is `hearthnet.bus`, unless a library has that name.

        Raises:
            LogLevelError: raised when no logger has that name, so that a typo is reported.
        """
        known = log.manager.loggerDict.keys() | self._third_party.keys()
        own = f"hearthnet.{logger}"
        found = [name for name in (own, logger) if name in known]
        if logger.partition(".")[0] in {name.partition(".")[0] for name in self._third_party}:
            found = [name for name in (logger,) if name in known]
        if found:
            return found[0]
        close = [name for meant in (own, logger) for name in difflib.get_close_matches(meant, known, _CLOSE_NAMES)]
        near = f"near it: {', '.join(dict.fromkeys(close))}" if close else "names are in: hearthnet log"
        raise LogLevelError(f"no logger is named {clean_text(repr(logger), _QUOTED_BYTES)}", hint=near)

    def _expire(self) -> None:
        now = self._clock()
        self._revert(lambda _, held: held.ends_at <= now, "time is up")

    def _revert(self, ends: Callable[[str, _Held], bool], because: str) -> None:
        with self._lock:
            ended = [(name, held) for name, held in self._held.items() if ends(name, held)]
            for name, held in ended:
                del self._held[name]
                if _name_of(_logger(name).level) == held.level:
                    _logger(name).setLevel(held.own)
            self._arm_locked()
        for name, held in ended:
            now = _name_of(_logger(name).getEffectiveLevel())
            _tell("log level reverted", changed=name, to=now, was=held.level, because=because)

    def _arm_locked(self) -> None:
        """Starts a timer for the next end; one at a time, so at most one thread."""
        self._cancel_timer()
        self._cancel_timer = lambda: None
        if self._held:
            first = min(held.ends_at for held in self._held.values())
            self._cancel_timer = self._start_timer(max(0.0, first - self._clock()), self._expire)


def _check(name: str, level: str, for_s: float) -> None:
    if level not in LEVELS:
        raise LogLevelError(f"{clean_text(repr(level), _QUOTED_BYTES)} is no level", hint=f"one of {', '.join(LEVELS)}")
    if not 0 < for_s <= MAX_FOR_S:  # written like this, it refuses NaN too
        raise LogLevelError(f"{for_s:g} s is no time for a level", hint=f"above 0, at most {MAX_FOR_S:g} s")
    if name.partition(".")[0] in _NEVER_TALKATIVE and LEVELS.index(level) < LEVELS.index("warning"):
        raise LogLevelError(
            f"{name} stays at warning: storing its records makes more of them",
            hint="for what the store does: hearthnet log level observability.store=debug",
        )


def _name_of(number: int) -> str:
    return LEVELS[min(max(number // _STEP, 1), len(LEVELS)) - 1]


def _tell(msg: str, **fields: object) -> None:
    # At info, or at the lowest level that still passes: a change of visibility must itself be visible.
    log.log(max(_INFO, log.getEffectiveLevel()), msg, extra=fields)
