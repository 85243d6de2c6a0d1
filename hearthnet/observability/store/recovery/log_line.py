"""Converts lines of the JSON log back to records, within the bounds of a row, whatever a line contains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from hearthnet.constants import DONE, LEVELS, MAX_CAPABILITY_CHARS, MAX_LOG_ROW_BYTES, TRACE_LOGGER
from hearthnet.observability.records.ids import is_trace_id
from hearthnet.observability.records.record import encode, fit, safe_text
from hearthnet.observability.records.results import is_failure
from hearthnet.observability.records.stored import LogRecord, TraceRecord

__all__ = ["Reading", "line_of", "record_of", "time_of"]

_OWN_KEYS: Final = ("ts", "level", "logger", "msg", "trace_id", "span_id", "exc")
_NOTABLE_LEVELS: Final = frozenset(LEVELS[LEVELS.index("warning") :])
_TEXT_BYTES: Final = 1_024
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_MAX_DIGITS: Final = 20  # of 64 bits, with the sign
_LONG_INTEGER: Final = re.compile(rb"[:\[,]\s*-?\d{19}")
_MAX_MS: Final = 1e12  # thirty years; longer durations are invalid


def _nothing_known(_: TraceRecord | LogRecord) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings for reading lines.

    Attributes:
        slow_ms: the duration from which a trace is notable.
        is_known: returns True for a record that is recovered from another source, and is skipped here.
    """

    slow_ms: float
    is_known: Callable[[TraceRecord | LogRecord], bool] = _nothing_known


def line_of(raw: bytes) -> dict[str, Any] | None:
    """Returns the JSON object of a line, or None if there is none."""
    try:
        line = orjson.loads(raw)
        if _LONG_INTEGER.search(raw) is not None:  # orjson makes a float of it, which loses digits
            line = json.loads(raw, parse_int=_integer)
    except (orjson.JSONDecodeError, RecursionError):  # torn by a full disk or a power cut, or another program's
        return None
    return line if isinstance(line, dict) else None


def _integer(digits: str) -> int | str:
    """Returns the integer, or its digits if it has more than 64 bits."""
    if len(digits) > _MAX_DIGITS:
        return digits
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else digits


def time_of(line: dict[str, Any]) -> int | None:
    """Returns the time of a line in UTC microseconds, or None if it has none."""
    try:
        moment = datetime.fromisoformat(line["ts"])
        # Times without a zone are not ours, which end in Z.
        return None if moment.tzinfo is None else round(moment.timestamp() * 1_000) * 1_000
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def record_of(raw: bytes, number: int, run_id: str, reading: Reading) -> TraceRecord | LogRecord | None:
    """Returns the record of a line, or None if this program did not write it. Never raises for its content."""
    line = line_of(raw)
    if line is None or line.get("level") not in LEVELS or not _are_texts(line, "logger", "msg"):
        return None
    ts_us = time_of(line)
    if ts_us is None:
        return None
    if line["logger"] == TRACE_LOGGER and line["msg"] == DONE:
        return _trace(line, ts_us, number, run_id, reading.slow_ms)
    return _log(line, ts_us, number, run_id)


def _are_texts(line: dict[str, Any], *names: str) -> bool:
    return all(isinstance(line.get(name), str) for name in names)


def _trace(line: dict[str, Any], ended_us: int, number: int, run_id: str, slow_ms: float) -> TraceRecord | None:
    duration_ms, error = line.get("ms"), line.get("error")
    if not _are_texts(line, "capability", "result") or not is_trace_id(line.get("trace_id")):
        return None
    if isinstance(duration_ms, bool) or not isinstance(duration_ms, int | float) or not 0 <= duration_ms < _MAX_MS:
        return None
    result = safe_text(line["result"], MAX_CAPABILITY_CHARS)
    is_notable = duration_ms >= slow_ms or is_failure(result)
    return TraceRecord(
        seq=0,
        run_id=run_id,
        number=number,
        trace_id=line["trace_id"],
        parent_id=None,
        capability=safe_text(line["capability"], MAX_CAPABILITY_CHARS),
        version=None,
        started_us=ended_us - int(duration_ms * 1_000),
        started_mono_ns=0,
        duration_ms=float(duration_ms),
        result=result,
        error=None if error is None else safe_text(error),
        notable=int(is_notable),
        spans=b"[]",
        extras=b"{}",
    )


def _log(line: dict[str, Any], ts_us: int, number: int, run_id: str) -> LogRecord:
    trace_id, span_id, exc = line.get("trace_id"), line.get("span_id"), line.get("exc")
    extras = encode({key: value for key, value in line.items() if key not in _OWN_KEYS})
    if exc is not None or len(line["msg"]) > _TEXT_BYTES:
        extras = fit(extras, _TEXT_BYTES)
    return LogRecord(
        seq=0,
        run_id=run_id,
        number=number,
        ts_us=ts_us,
        level=line["level"],
        logger=safe_text(line["logger"], 128),
        msg=safe_text(line["msg"], _TEXT_BYTES),
        trace_id=trace_id if is_trace_id(trace_id) else None,
        span_id=span_id if isinstance(span_id, str) and _SPAN_ID.fullmatch(span_id) else None,
        notable=int(line["level"] in _NOTABLE_LEVELS),
        repeats=0,
        extras=fit(extras, MAX_LOG_ROW_BYTES - 2 * _TEXT_BYTES),
        exc=None if exc is None else _tail(safe_text(exc, 16 * _TEXT_BYTES)),
    )


def _tail(text: str) -> str:
    """Returns the end of a traceback, which has the error."""
    raw = text.encode()
    return text if len(raw) <= _TEXT_BYTES else "[cut]…" + raw[8 - _TEXT_BYTES :].decode("utf-8", "ignore")
