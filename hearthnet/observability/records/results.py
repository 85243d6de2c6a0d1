"""The results of traces, in the words used by SQL, metrics, JSON and the command line alike."""

from __future__ import annotations

from collections.abc import Iterator

from hearthnet.errors import HTTP_STATUS, WireError
from hearthnet.observability.records.record import is_a

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["CALLERS_ERRORS", "CANCELLED", "INTERRUPTED", "OK", "RESULTS", "decisive", "is_failure", "result_of"]

OK: Final = "ok"
CANCELLED: Final = "cancelled"
INTERRUPTED: Final = "interrupted"  # its run ended without it
RESULTS: Final = frozenset({OK, CANCELLED, INTERRUPTED, *HTTP_STATUS})
# The caller's mistakes, and limits that it went over: they say nothing of this node's health.
CALLERS_ERRORS: Final = frozenset(
    {"bad_request", "schema_mismatch", "invalid_signature", "unauthorized", "revoked", "not_found", "expired",
     "rate_limited"}
)  # fmt: skip

_TIMEOUT: Final = "timeout"
_UNEXPECTED: Final = "internal_error"
# The least telling first: one failure in a group cancels the others or makes them time out.
_RANKS: Final = {CANCELLED: 0, _TIMEOUT: 1, _UNEXPECTED: 3}
_OTHER_RANK: Final = 2


def is_failure(result: str) -> bool:
    """Returns whether a trace with this result failed: it is neither `ok` nor `cancelled`."""
    return result not in (OK, CANCELLED)


def result_of(error: BaseException) -> str:
    """Returns the result of a trace that this exception ended; of a group, that of its decisive one."""
    error = decisive(error)
    if is_a(error, WireError):
        return error.code
    if is_a(error, TimeoutError):
        return _TIMEOUT
    if is_a(error, SystemExit) and _has_failing_status(error):
        return _UNEXPECTED
    # Cancellation, GeneratorExit, KeyboardInterrupt: the work was cut short, it was not wrong.
    return _UNEXPECTED if is_a(error, Exception) else CANCELLED


def _has_failing_status(error: SystemExit) -> bool:
    """Returns whether a program ends so with another status than 0: with a text or any other object it is 1."""
    stored: Any = SystemExit.code  # the descriptor: not by code of the exception's class, or its own
    code: object = stored.__get__(error)
    return not (code is None or (is_a(code, int) and int.__index__(code) == 0))


def decisive(error: BaseException) -> BaseException:
    """Returns the exception itself, or of a group the one that is closest to the cause; of equals, the first.

    An unexpected error ranks above a wire error, that above a timeout, and that above a cancellation.
    """
    if not is_a(error, BaseExceptionGroup):
        return error
    return max(_leaves(error), key=lambda leaf: _RANKS.get(result_of(leaf), _OTHER_RANK))


def _leaves(group: BaseException) -> Iterator[BaseException]:
    """Yields the exceptions of a group and of the groups in it, in their order."""
    waiting = [group]
    while waiting:
        error = waiting.pop()
        if is_a(error, BaseExceptionGroup):
            waiting.extend(reversed(error.exceptions))
        else:
            yield error
