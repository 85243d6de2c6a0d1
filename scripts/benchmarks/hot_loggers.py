"""The peers that log, each set up as its own documentation says for speed, writing to a file in the caller's thread."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["Json", "Loguru", "Stdlib", "Structlog"]

NAME: Final = "bench.hot"
_MAX_BYTES: Final = 40_000_000  # larger than what a turn writes: rolling over itself is not measured
_KEPT_FILES: Final = 14

Kind = Literal["extras", "plain", "debug"]


class FileLogger:
    """What all have in common: a file whose lines are counted in the end."""

    run: Callable[[Sequence[str]], None]

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._path = folder / "peer.log"
        self.run = getattr(self, f"_run_{kind}")

    def flush(self) -> None:
        """Has nothing to wait for: each line is written before the call returns."""

    def close(self) -> int:
        """Returns how many lines are in the file."""
        with self._path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)


class Stdlib(FileLogger):
    """The standard library's logger, with a plain file of text unless another handler is given."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        super().__init__(folder, kind)
        handler = self._handler()
        self._logger = logging.getLogger(NAME)
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(handler)
        self._logger.propagate = False

    def _handler(self) -> logging.Handler:
        handler = logging.FileHandler(self._path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        return handler

    def _run_extras(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message, extra={"capability": "llm.chat", "to": "7H4G", "ms": 12.5, "size": 3})

    def _run_plain(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message)

    def _run_debug(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.debug(message, extra={"model": "tiny", "size": 3})


class Json(Stdlib):
    """The same with python-json-logger and a handler that rotates, by size or by day."""

    def __init__(self, folder: Path, rotates: Literal["size", "day"]) -> None:
        self._rotates = rotates
        super().__init__(folder, "extras")

    def _handler(self) -> logging.Handler:
        from pythonjsonlogger.json import JsonFormatter

        handler: logging.Handler
        if self._rotates == "size":
            handler = logging.handlers.RotatingFileHandler(
                self._path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8"
            )
        else:
            handler = logging.handlers.TimedRotatingFileHandler(
                self._path, when="midnight", utc=True, backupCount=_KEPT_FILES, encoding="utf-8"
            )
        # Its own timestamp is cheaper than asctime.
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", timestamp=True))
        return handler


class Structlog(FileLogger):
    """structlog as its page on performance says: filtered by class, cached, orjson, bytes to a file."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        import orjson
        import structlog

        super().__init__(folder, kind)
        self._file = self._path.open("ab")
        structlog.configure(
            cache_logger_on_first_use=True,
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            logger_factory=structlog.BytesLoggerFactory(file=self._file),
        )
        # Bound: what get_logger returns is a proxy that binds anew at each call.
        self._logger: Any = structlog.get_logger().bind(logger=NAME)

    def _run_extras(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message, capability="llm.chat", to="7H4G", ms=12.5, size=3)

    def _run_plain(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message)

    def _run_debug(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.debug(message, model="tiny", size=3)

    def close(self) -> int:
        """Returns how many lines are in the file."""
        self._file.close()
        return super().close()


class Loguru(FileLogger):
    """loguru with its own JSON, no queue."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        from loguru import logger

        super().__init__(folder, kind)
        self._logger = logger
        logger.remove()
        logger.add(self._path, level="INFO", serialize=True, enqueue=False)

    def _run_extras(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message, capability="llm.chat", to="7H4G", ms=12.5, size=3)

    def _run_plain(self, messages: Sequence[str]) -> None:
        log = self._logger
        for message in messages:
            log.info(message)

    def close(self) -> int:
        """Returns how many lines are in the file."""
        self._logger.remove()
        return super().close()
