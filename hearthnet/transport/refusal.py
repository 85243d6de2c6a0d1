"""The error that an answer tells: what went wrong, for whoever called, and no secret in it."""

from __future__ import annotations

import asyncio
from typing import Any

from hearthnet.errors import WireError
from hearthnet.observability import get_logger
from hearthnet.observability.record import clean_text

__all__ = ["error_body", "failure_of"]

log = get_logger(__name__)


def error_body(error: WireError) -> dict[str, Any]:
    """Returns the body of the answer; its message is a handler's own, which may quote whatever it was handed."""
    return {**error.body(), "message": clean_text(error.message)}


def failure_of(error: BaseException) -> WireError:
    """Returns what a caller is told of what ended a call without being an error: `sys.exit`, say, in its handler.

    Raises:
        BaseException: raised again when it is the call itself that is cancelled, by a stop or as its caller left.
    """
    if isinstance(error, WireError):
        return error
    task = asyncio.current_task()
    # A cancellation that nobody asked this task for is the handler's own: of something that it waited for.
    if isinstance(error, GeneratorExit) or task is None or task.cancelling():
        raise error
    log.error("capability ended in a way that no capability may", exc_info=error)
    return WireError("internal_error", "the capability failed; the node's log has the cause")
