"""Records of the standard library: what they say at last, and how ours are cleaned before any handler gets them.

Filters, factories, formatters and queues may change a record between the call and the handler: what it has then counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns

from hearthnet.constants import DONE, TRACE_LOGGER
from hearthnet.observability.logs.messages import (
    Entry,
    Place,
    exc_info_of,
    find,
    new_entry,
    place,
    repeats_in,
    text_of,
)
from hearthnet.observability.logs.tracebacks import Error, error_text
from hearthnet.observability.records.record import bounded, clean_text, is_plain
from hearthnet.observability.redaction.rules import REDACTED, scrub

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Final

__all__ = [
    "add_fields",
    "created_ns",
    "done_text",
    "entry_of",
    "fields_of",
    "place_of",
    "redact",
    "said",
    "without_secrets",
]

_FIRST_S: Final = -62_135_596_800  # years 1 and 10000, between which a day has a name
_END_S: Final = 253_402_300_800
_TRACEBACK: Final = "\nTraceback (most recent call last):\n"


def done_text(fields: Mapping[str, Any]) -> str:
    """Returns a trace that has ended as text, for other handlers: their formatters show the message alone."""
    from hearthnet.display import short_floats  # late: only a program with handlers of its own needs it

    error = f": {fields['error']}" if "error" in fields else ""
    return f"{fields['capability']} {fields['result']} in {short_floats(fields['ms'])} ms{error}"


def redact(record: logging.LogRecord, extra: object = None) -> object:
    """Replaces the secrets in message, traceback and stack; returns the fields without theirs.

    Other handlers, and the standard library's last resort, print them as they are. Arguments that do not fit become a
    part of the message, so that no handler complains.
    """
    text = text_of(record.msg, record.args)
    clean = scrub(text)
    if clean != text or (record.args and not _fits(record)):
        record.msg, record.args = clean, ()
    if record.stack_info:
        record.stack_info = scrub(record.stack_info)
    exc_info = exc_info_of(record.exc_info)
    if exc_info is not None:
        shown = error_text(exc_info)
        clean = scrub(shown)
        if "hearthnet_shown" in type(record).__dict__:  # a slot: our handler need not format it again
            record.hearthnet_shown = (id(exc_info[1]), clean)
        if clean is not shown:
            record.exc_text = clean
    return without_secrets(extra)


def _fits(record: logging.LogRecord) -> bool:
    try:
        record.getMessage()
    except Exception:  # whatever the arguments raise  # noqa: BLE001
        return False
    return True


def without_secrets(extra: object) -> object:
    """Returns fields whose secrets are replaced; values without secrets are the very same."""
    if is_plain(extra):
        return extra
    if not isinstance(extra, Mapping):
        return _without_secrets("extra", extra)
    return {key: _without_secrets(clean_text(key), value) for key, value in extra.items()}


def _without_secrets(name: str, value: object) -> object:
    try:
        redacted = bounded(value, name=name)
    except Exception as error:  # a mapping that raises while it is read  # noqa: BLE001
        return f"[{type(value).__name__}: {type(error).__name__}]"
    return redacted if REDACTED in str(redacted) else value


def add_fields(record: logging.LogRecord, extra: object, reserved: frozenset[str]) -> None:
    """Makes fields attributes of a record, but for those whose names are its own."""
    record.hearthnet_extras = extra
    if isinstance(extra, Mapping):
        record.__dict__.update((key, value) for key, value in extra.items() if not _clashes(key, reserved))


def fields_of(record: logging.LogRecord, reserved: frozenset[str]) -> dict[Any, Any] | None:
    """Returns the fields of a record: what it has at last, whatever filters and factories did to it."""
    fields: dict[Any, Any] = {key: value for key, value in record.__dict__.items() if key not in reserved}
    if (context := getattr(record, "hearthnet_fields", None)) is not None:
        fields = {**context.values, **fields}
    passed = getattr(record, "hearthnet_extras", None)
    if isinstance(passed, Mapping):
        fields.update((key, value) for key, value in passed.items() if _clashes(key, reserved))
    elif passed is not None:
        fields["extra"] = passed
    return fields or None


def _clashes(key: object, reserved: frozenset[str]) -> bool:
    return type(key) is not str or key in reserved


def created_ns(record: logging.LogRecord) -> int:
    """Returns the time of a record, or now if it cannot be one."""
    try:
        return int(record.created * 1e6) * 1_000 if _FIRST_S <= record.created < _END_S else time_ns()
    except TypeError:  # no number: set by other code
        return time_ns()


def place_of(record: logging.LogRecord) -> Place:
    """Returns the trace and span in which a record was made; the current ones if a foreign factory made it."""
    found: Place = getattr(record, "hearthnet_place", None) or place()
    return found


def said(record: logging.LogRecord) -> tuple[str, Error | None]:
    """Returns the message, and the exception with the texts of traceback and stack."""
    if record.name == TRACE_LOGGER:
        return DONE, None  # the text is for other handlers
    text = text_of(record.msg, record.args)
    exc_info, exc_text = exc_info_of(record.exc_info), record.exc_text
    if exc_info is None and not exc_text and _TRACEBACK in text:
        # A queue's handler formats all of a record into its message, so that it can be pickled.
        text, _, rest = text.partition(_TRACEBACK)
        exc_text = _TRACEBACK[1:] + rest
    if exc_info is None and not exc_text and not record.stack_info:
        return text, None
    whose, shown = getattr(record, "hearthnet_shown", (0, None))
    is_known = exc_info is not None and whose == id(exc_info[1])
    return text, Error(exc_info, exc_text or None, record.stack_info, shown if is_known else None)


def entry_of(record: logging.LogRecord, reserved: frozenset[str]) -> Entry:
    """Returns a record encoded."""
    text, error = said(record)
    fields = fields_of(record, reserved)
    message = find(record.name, record.levelno, text)
    return new_entry(message, fields, error, created_ns(record), place_of(record), repeats_in(fields or {}))
