"""The error that an answer tells: what went wrong, for whoever called, and no secret in it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from hearthnet.errors import WireError
from hearthnet.observability import get_logger
from hearthnet.observability.records.record import clean_text

__all__ = ["error_body", "failure_of", "internal", "misfit"]

log = get_logger(__name__)

_MAX_PLACE_PARTS: Final = 4


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


def misfit(error: RequestValidationError) -> WireError:
    """Returns what a caller is told of a parameter or body that does not fit its route."""
    first = error.errors()[0]
    # The place may be a name in the caller's own body: `error_body` cleans and cuts it. Values are not told.
    place = ".".join(str(part) for part in first["loc"][:_MAX_PLACE_PARTS])
    return WireError("bad_request", f"{place}: {first['msg']}")


def internal() -> WireError:
    """Returns all that a caller is told of a mistake of ours."""
    return WireError("internal_error", "the node's log has the cause")
