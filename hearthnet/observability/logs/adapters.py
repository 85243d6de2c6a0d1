"""Loggers around a logger: with fields of their own, or limited. Each is a `LoggerAdapter` of the standard library.

log = get_logger(__name__).bind(user="ann")
log.info("paid", extra={"amount": 5})           has user and amount
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from time import monotonic, time_ns
from types import MappingProxyType

from hearthnet.observability.logs.context_fields import copied, without_secrets
from hearthnet.observability.logs.messages import ERROR, admit_key, find, with_repeats
from hearthnet.observability.records.record import clean_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["BoundLogger", "LimitedLogger", "refuse"]


def refuse(keywords: Mapping[str, object]) -> NoReturn:
    """Says how a field is logged that was passed as a keyword.

    Raises:
        TypeError: always, as by the standard library's loggers.
    """
    name = next(iter(keywords))
    raise TypeError(f'{name}= is no argument of a logger: use extra={{"{name}": …}}, or log.bind({name}=…)')


class BoundLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger with fields of its own, which every record of it has. It does not change: `bind` returns another one.

    It has the methods and attributes of a `logging.Logger`, which `logger` is. A field that a call names itself is the
    call's.

    Args:
        logger: where to log.
        values: the fields, as `fields` takes them.
    """

    def __init__(self, logger: logging.Logger, values: Mapping[str, Any]) -> None:
        self._fields = dict(values)
        super().__init__(logger, MappingProxyType(self._fields))

    def bind(self, /, **values: Any) -> BoundLogger:
        """Returns a logger with these fields besides, or instead of those of the same names."""
        return BoundLogger(self.logger, {**self._fields, **copied(values)})

    def unbind(self, /, *names: str) -> BoundLogger:
        """Returns a logger without the fields of these names; one that it does not have is no error."""
        return BoundLogger(self.logger, {name: value for name, value in self._fields.items() if name not in names})

    def getChild(self, suffix: str) -> BoundLogger:  # noqa: N802  # the standard library's name
        """Returns the logger below this one with the same fields."""
        return BoundLogger(self.logger.getChild(suffix), self._fields)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Adds the fields to those of a call; for adapters around this one, which call it."""
        kwargs["extra"] = self._with_own(kwargs.get("extra"))
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, extra: Any = None, stacklevel: int = 1, **more: Any) -> None:
        """Logs a record with the fields."""
        self.logger.log(level, msg, *args, extra=self._with_own(extra), stacklevel=stacklevel + 1, **more)

    def debug(self, msg: object, *args: object, extra: Any = None, stacklevel: int = 1, **more: Any) -> None:
        """Logs at level debug. Below the logger's level, a trace may keep the record until it ends."""
        self.logger.debug(msg, *args, extra=self._with_own(extra), stacklevel=stacklevel + 1, **more)

    def _with_own(self, extra: Any) -> Any:
        if not extra:
            return self._fields
        try:
            return {**self._fields, **extra}
        except Exception:  # no mapping, or one that raises while it is read: the logger copes  # noqa: BLE001
            return extra

    if not TYPE_CHECKING:  # a type checker would take any misspelled name for a logger's

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name == "logger":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self.logger, name)

    def __reduce__(self) -> tuple[type[BoundLogger], tuple[logging.Logger, dict[str, Any]]]:
        return type(self), (self.logger, without_secrets(self._fields))

    def __copy__(self) -> BoundLogger:
        return self  # it does not change

    def __deepcopy__(self, _: dict[int, Any]) -> BoundLogger:
        return self

    def __repr__(self) -> str:
        return f"<BoundLogger {self.logger.name} {' '.join(self._fields)}>"


class LimitedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger for noisy messages: at most one record a second for each message key.

    The next record of the message has in `repeats` how many were dropped before it; if none follows, they are logged
    like those of a message over its budget. A record below the logger's level takes no key's time.

    Args:
        logger: where to log.
        interval_s: the least time between two records of a key.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(self, logger: logging.Logger, interval_s: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(logger, {})
        self.interval_s = interval_s
        self._clock = clock

    def log(  # type: ignore[override]  # the key is one keyword more
        self,
        level: int,
        msg: object,
        *args: object,
        key: str | None = None,
        exc_info: Any = None,
        extra: Any = None,
        **more: Any,
    ) -> None:
        """Logs a record unless one of its `key` was logged less than `interval_s` ago.

        The key is the message, without its arguments, if none is given. At error and above, `exc_info` is the exception
        being handled.
        """
        if not self.isEnabledFor(level):
            return
        message = find(self.name, level, clean_text(msg))
        now_s = self._clock()
        if not admit_key(self.name, message.text if key is None else key, now_s, self.interval_s):
            message.drop_until(int(time_ns() / 1e9 + self.interval_s))
            return
        if dropped := message.take_dropped_records():
            extra = with_repeats(extra, dropped)
        if exc_info is None and level >= ERROR:
            exc_info = sys.exc_info()[1]
        more["stacklevel"] = more.get("stacklevel", 1) + 1
        self.logger.log(level, msg, *args, exc_info=exc_info, extra=extra, **more)
