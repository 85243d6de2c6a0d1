"""Log records of OTLP back to records, and gaps: `export/mapping.py` the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from hearthnet.constants import LEVELS, MAX_LOG_ROW_BYTES
from hearthnet.observability.otel.export.exceptions import type_in
from hearthnet.observability.otel.export.mapping import Gap
from hearthnet.observability.otel.imports import parts
from hearthnet.observability.records.record import clean_text, encode, fit
from hearthnet.observability.records.stored import LogRecord

__all__ = ["read"]

_LOST: Final = "hearthnet.lost"
_KINDS: Final = ("trace", "log")
_STEPS: Final = 4  # severities of one level
_LOWEST: Final = 9  # severity of `info`
_LOGGER_BYTES: Final = 256
_REASON_CHARS: Final = 64
_NOTABLE: Final = ("warning", "error", "critical")
_MAX_INTEGER: Final = 2**63


def read(run_id: str, scope: str, found: Mapping[str, Any]) -> LogRecord | Gap:
    """Returns a log record, with the number 0 where it has none, or the gap that it tells of.

    Raises:
        ValueError: raised when it is none.
    """
    ts_us = parts.time_ns(found, "timeUnixNano", "observedTimeUnixNano") // 1_000
    fields = parts.attributes(found)
    if parts.text(found, "eventName") == _LOST and (gap := _gap(run_id, ts_us, fields)) is not None:
        return gap
    level = _level(found)
    msg = clean_text(_message(parts.value_of(found.get("body"))))
    exc = fields.pop("exception.stacktrace", None)
    if isinstance(exc, str) and fields.get("exception.type") == type_in(exc):
        fields.pop("exception.type", None)
    number, repeats = _number(run_id, fields), fields.pop("hearthnet.repeats", 0)
    is_count = type(repeats) is int and 0 <= repeats < _MAX_INTEGER
    if dropped := parts.integer(found, "droppedAttributesCount"):
        fields["truncated_keys"] = dropped
    room = MAX_LOG_ROW_BYTES - len(msg.encode())
    exc = exc if isinstance(exc, str) else None
    extras = fit(encode(fields), room - min(len(exc or ""), room // 2))
    trace_id = parts.trace_id(found)
    return LogRecord(
        0, run_id, number, ts_us, level, clean_text(scope, _LOGGER_BYTES), msg, trace_id,
        parts.span_id(found) if trace_id else None, int(level in _NOTABLE), repeats if is_count else 0,
        extras, clean_text(exc, room - len(extras)) if exc is not None else None,
    )  # fmt: skip


def _level(found: Mapping[str, Any]) -> str:
    named = parts.text(found, "severityText").lower()
    if named in LEVELS:
        return named
    severity = parts.integer(found, "severityNumber") or _LOWEST
    levels = ("debug", "debug", "info", "warning", "error", "critical")  # the first are traces
    return levels[min((severity - 1) // _STEPS, len(levels) - 1)]


def _message(body: object) -> str:
    if isinstance(body, str):
        return body
    return "" if body is None else orjson.dumps(body).decode()


def _number(run_id: str, fields: dict[str, Any]) -> int:
    """Returns the number in the record's own identity, which is taken out of the fields if it is of this project."""
    uid = fields.get("log.record.uid")
    before, _, number = uid.rpartition("-") if isinstance(uid, str) else ("", "", "")
    if before != run_id or not (number.isascii() and number.isdigit()) or int(number[:20]) >= _MAX_INTEGER:
        return 0
    del fields["log.record.uid"]
    return int(number)


def _gap(run_id: str, ts_us: int, fields: Mapping[str, Any]) -> Gap | None:
    kind, reason, lost = (fields.get(f"{_LOST}.{name}") for name in ("kind", "reason", "count"))
    if kind not in _KINDS or not isinstance(reason, str) or type(lost) is not int or not 0 <= lost < _MAX_INTEGER:
        return None
    return Gap(run_id, 0, ts_us, kind, clean_text(reason, _REASON_CHARS), lost)
