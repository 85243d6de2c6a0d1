"""How a trace can end, in the words that stand in SQL, metrics, JSON and the command line alike."""

from __future__ import annotations

from typing import Final

from hearthnet.errors import HTTP_STATUS, WireError

__all__ = ["CANCELLED", "INTERRUPTED", "OK", "RESULTS", "is_failure", "result_of"]

OK: Final = "ok"
CANCELLED: Final = "cancelled"
INTERRUPTED: Final = "interrupted"  # its run died
RESULTS: Final = frozenset({OK, CANCELLED, INTERRUPTED, *HTTP_STATUS})


def is_failure(result: str) -> bool:
    """Tells whether a trace with this result failed: it is neither `ok` nor `cancelled`."""
    return result not in (OK, CANCELLED)


def result_of(error: BaseException) -> str:
    """Returns the result of a trace that this exception ended."""
    if isinstance(error, WireError):
        return error.code
    if isinstance(error, TimeoutError):
        return "timeout"
    # Cancellation, GeneratorExit, KeyboardInterrupt: the work was cut short, it was not wrong.
    return "internal_error" if isinstance(error, Exception) else CANCELLED
