"""What the program's own set-up of logging has done to ours since the last look, put back or logged.

`basicConfig(force=True)`, `dictConfig` with its defaults, `root.handlers = []` take the handler away, or disable every
logger that there is; mostly that was not meant, so it is put back. The decisions of a person stay as they are:
`logging.disable`, a higher level of our loggers or of the handler. Both are logged as warnings, once, and the records
that did not come are counted (`missed`). These warnings go straight to the handler: nothing hides them.

While the handler is away, records of our own loggers still come to it (`Logger.callHandlers`); a QueueListener or a
MemoryHandler that passes records to it counts as its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hearthnet.observability.logs.messages import WARNING, level_name
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Final, Protocol

__all__ = ["look", "passes_on"]

_MAX_NAMED: Final = 10


if TYPE_CHECKING:

    class Watched(Protocol):
        """The JSON log's handler, as far as it is watched; its attributes are described there."""

        level: int
        missed: int
        obstacles: list[str]
        unfed_looks: int

        def is_taken_away(self) -> bool:
            """Returns whether records of other libraries do not come, and it is not meant so."""

        def take(self, logger: str, level: int, text: str, exc_info: None, extra: object) -> None:
            """Writes and records a record."""


def look(
    handler: Watched, own: Sequence[logging.Logger], roots: Sequence[logging.Logger], reattach: Callable[[], bool]
) -> None:
    """Puts back what was taken away; logs the obstacles to records, once, and their end.

    Args:
        handler: of the JSON log.
        own: our loggers.
        roots: those of their packages.
        reattach: adds the handler to the root logger; returns whether it was missing.
    """
    handler.unfed_looks += handler.unfed_looks >= 0
    back = ["handler of the root logger"] if handler.is_taken_away() and reattach() else []
    for logger in own:
        if logger.disabled:
            logger.disabled = False
            back.append(f"logger {logger.name}")
    if back:
        _tell(handler, "the program's logging set-up was in the way and is corrected", {"put_back": _named(back)})
    obstacles = _obstacles(handler, roots)
    if obstacles != handler.obstacles:
        handler.obstacles = obstacles
        said = "the program's logging set-up hides records" if obstacles else "the logging set-up hides no more records"
        _tell(handler, said, {"by": _named(obstacles)} if obstacles else {})


def passes_on(handler: logging.Handler) -> bool:
    """Returns whether a handler gives its records to others: a queue to its listener, a buffer to its target."""
    return hasattr(handler, "queue") or hasattr(handler, "target")


def _tell(handler: Watched, text: str, fields: dict[str, object]) -> None:
    handler.take(__name__, WARNING, text, None, {**fields, "missed": handler.missed})


def _named(names: list[str]) -> list[str]:
    more = len(names) - _MAX_NAMED
    return [*names[:_MAX_NAMED], f"{more} more"] if more > 0 else names


def _obstacles(handler: Watched, roots: Sequence[logging.Logger]) -> list[str]:
    """Returns the settings that keep records from the handler."""
    found: list[str] = []
    if (disabled := roots[0].manager.disable) >= max(runtime.level, 1):
        found.append(f"logging.disable({disabled})")
    if handler.level > runtime.level:
        found.append(f"level {level_name(handler.level)} of the handler")
    found += [f"level {level_name(logger.level)} of {logger.name}" for logger in roots if logger.level > runtime.level]
    return found
