"""A logger wrapper that limits noise: one record a second for each message, with the number of those dropped.

The number is logged with the next record of that message, or by `log_suppressed` when there is none.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from hearthnet.observability.logs.messages import ERROR, INFO, WARNING
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    import logging

__all__ = ["RateLimitedLogger", "log_suppressed"]

_MAX_REMEMBERED: Final = 1_024


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


def _forget() -> None:
    for keys in _limits.values():  # the wrappers hold them
        keys.clear()


runtime.at_fork(_forget)
