"""Traces and log records as the page, its stream and the search show them: dicts with the names of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

__all__ = ["LOG", "SUMMARY", "bounded_summary", "decoded", "log_of", "summary_of"]

_PROGRAM: Final = "(SELECT program FROM runs WHERE runs.run_id = {0}.run_id)"
SUMMARY_NAMES: Final = (
    "seq", "run_id", "trace_id", "parent_id", "capability", "version", "started_us", "duration_ms", "result", "error",
    "notable", "span_count", "program", "extras",
)  # fmt: skip
LOG_NAMES: Final = (
    "seq", "run_id", "ts_us", "level", "logger", "msg", "trace_id", "span_id", "repeats", "extras", "exc", "program",
)  # fmt: skip
_COMPUTED: Final = {"span_count": "iif(json_valid(spans), json_array_length(spans), 0)"}
# The selected expressions, for `SELECT … FROM traces` and `FROM logs`.
SUMMARY: Final = ", ".join(
    _COMPUTED.get(name, _PROGRAM.format("traces") if name == "program" else name) for name in SUMMARY_NAMES
)
LOG: Final = ", ".join(_PROGRAM.format("logs") if name == "program" else name for name in LOG_NAMES)

_MAX_EXTRAS_CHARS: Final = 1_000  # of a row of a list; the opened trace has all


def summary_of(row: Sequence[Any]) -> dict[str, Any]:
    """Returns a trace of a list, from the values of `SUMMARY`."""
    found = dict(zip(SUMMARY_NAMES, row, strict=True))
    return bounded_summary({**found, "extras": decoded(found["extras"], {})})


def bounded_summary(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a trace with as much of its extras as a list shows; `…` counts the others."""
    left, kept = _MAX_EXTRAS_CHARS, {}
    for key, value in found["extras"].items():
        left -= len(key) + len(orjson.dumps(value))
        if left >= 0:
            kept[key] = value
    missing = len(found["extras"]) - len(kept)
    return {**found, "notable": bool(found["notable"]), "extras": {**kept, "…": missing} if missing else kept}


def log_of(row: Sequence[Any]) -> dict[str, Any]:
    """Returns a log record."""
    found = dict(zip(LOG_NAMES, row, strict=True))
    return {**found, "extras": decoded(found["extras"], {})}


def decoded(text: str | None, instead: Any) -> Any:
    """Returns a JSON value; `instead` of an invalid one, or one of another type: a damaged file may have anything."""
    try:
        value = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return instead
    return value if isinstance(value, type(instead)) else instead
