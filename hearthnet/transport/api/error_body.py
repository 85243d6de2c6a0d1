"""Error responses: maps exceptions to wire errors, without secrets."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from hearthnet.errors import WireError
from hearthnet.observability import get_logger
from hearthnet.observability.records.record import clean_text

__all__ = ["error_body", "wire_error_of", "internal_error", "validation_failure"]

log = get_logger(__name__)

_MAX_PLACE_PARTS: Final = 4


def error_body(error: WireError) -> dict[str, Any]:
    """Returns the body of an error response; its message is redacted, since a handler may quote its input."""
    return {**error.body(), "message": clean_text(error.message)}


def wire_error_of(error: BaseException) -> WireError:
    """Returns the wire error for an exception that is not an `Exception`, such as `sys.exit` in a handler.

    Raises:
        BaseException: raised again when the call itself is cancelled, by a stop or because its caller left.
    """
    if isinstance(error, WireError):
        return error
    task = asyncio.current_task()
    # If this task was not asked to cancel, the cancellation is the handler's own: of something it waited for.
    if isinstance(error, GeneratorExit) or task is None or task.cancelling():
        raise error
    log.error("capability raised an exit or a cancellation", exc_info=error)
    return WireError("internal_error", "the capability failed; the node's log has the cause")


def validation_failure(error: RequestValidationError) -> WireError:
    """Returns the wire error for a parameter or body that does not match its route's schema."""
    first = error.errors()[0]
    # The location may be a key in the caller's body: `error_body` redacts and cuts it. Values are never included.
    place = ".".join(str(part) for part in first["loc"][:_MAX_PLACE_PARTS])
    return WireError("bad_request", f"{place}: {first['msg']}")


def internal_error() -> WireError:
    """Returns the wire error for a bug of ours: no details."""
    return WireError("internal_error", "the node's log has the cause")
