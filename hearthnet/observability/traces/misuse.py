"""Logs, once for each, the codes that a program sets as a trace's result and that no result has."""

from __future__ import annotations

from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import is_a
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["known_code"]

log = get_logger(__name__)

_INSTEAD: Final = "internal_error"
_MAX_TOLD: Final = 100
_MAX_CHARS: Final = 128  # of a code that is remembered
_class_name: Final = type.__dict__["__name__"].__get__
_told: set[str] = set()
runtime.at_fork(_told.clear)


def known_code(code: object) -> str:
    """Returns the code if a trace may have it as its result; else `internal_error`, and logs the first of its kind."""
    # By the functions of `str` and `type`: those of a class of the program may raise.
    key = str.__getitem__(code, slice(_MAX_CHARS)) if is_a(code, str) else f"of type {_class_name(type(code))}"
    if key in RESULTS:
        return key
    if key not in _told and len(_told) < _MAX_TOLD:
        _told.add(key)
        fields = {"code": key, "result": _INSTEAD, "known": sorted(RESULTS)}
        log.warning("unknown code of a failed trace", extra=fields, stack_info=True, stacklevel=3)
    return _INSTEAD
