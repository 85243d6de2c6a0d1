"""Converts store rows, box frames and log lines into timeline entries, and groups errors.

Any of them may come from another version or be hostile: a value of the wrong type becomes an empty one, never an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from hearthnet import moments
from hearthnet.constants import DONE, TRACE_LOGGER
from hearthnet.forensics.box import Frame, fields
from hearthnet.forensics.model import Entry, ErrorGroup, Minute, Vitals

__all__ = [
    "error_groups",
    "fingerprint",
    "from_gap",
    "from_line",
    "from_log",
    "from_trace",
    "integer",
    "loaded",
    "minutes_before",
    "plain",
    "rows_of_frames",
    "text",
    "vitals_of",
]

MAX_TEXT_CHARS: Final = 4_000
_RING: Final = 10_000  # rows that the store keeps per ring
_MAX_VITALS: Final = 500
_OWN_KEYS: Final = frozenset({"ts", "level", "logger", "msg", "trace_id", "span_id", "exc", "repeats"})
_DONE: Final = (TRACE_LOGGER, DONE)  # the line written when a trace ends; the store has no log row for it
_MAX_MS: Final = 1e12  # thirty years: a longer duration is invalid

Row = dict[str, Any]


def from_trace(row: Row, source: str = "database") -> Entry:
    """Returns a trace's row as an entry."""
    return Entry(
        integer(row["started_us"]), "trace", text(row["result"]) or "unknown", text(row["capability"]),
        text(row["error"]), text(row["run_id"]) or None, integer(row["seq"]) or None, text(row["trace_id"]) or None,
        _duration_ms(row["duration_ms"]), source, _object(row["extras"]), None, tuple(_spans(row["spans"])),
        _number_of(row),
    )  # fmt: skip


def from_log(row: Row, source: str = "database") -> Entry:
    """Returns a log record's row as an entry."""
    extras = _object(row["extras"])
    if integer(row["repeats"]):
        extras = {**extras, "repeats": integer(row["repeats"])}
    return Entry(
        integer(row["ts_us"]), "log", text(row["level"]), text(row["logger"]), text(row["msg"]),
        text(row["run_id"]) or None, integer(row["seq"]) or None, text(row["trace_id"]) or None, None, source, extras,
        _end_of(row["exc"]) or None, (), _number_of(row),
    )  # fmt: skip


def _number_of(row: Row) -> int | None:
    """Returns the number that a record got at birth; a database without that column used it as `seq`."""
    return integer(row["number"]) or integer(row["seq"]) or None


def from_gap(row: Row) -> Entry:
    """Returns a gap's row as an entry."""
    dropped = f"{integer(row['count']):,} dropped"
    return Entry(
        integer(row["ts_us"]), "gap", text(row["reason"]), text(row["kind"]), dropped,
        text(row.get("run_id")) or None, integer(row["seq"]),
    )  # fmt: skip


def from_line(line: Row) -> Entry | None:
    """Returns a line of the JSON log as an entry; None if it has no time."""
    try:
        moment = datetime.fromisoformat(text(line.get("ts")))
        ts_us = int(moment.timestamp() * 1_000 + 0.5) * 1_000  # lines have milliseconds
    except (ValueError, OverflowError):
        return None
    if (line.get("logger"), line.get("msg")) == _DONE:
        return _from_done(line, ts_us)
    extras = {key: value for key, value in line.items() if key not in _OWN_KEYS}
    if integer(line.get("repeats")):
        extras["repeats"] = integer(line["repeats"])
    return Entry(
        ts_us, "log", text(line.get("level")), text(line.get("logger")), text(line.get("msg")), None, None,
        text(line.get("trace_id")) or None, None, "log", extras, _end_of(line.get("exc")) or None,
    )  # fmt: skip


def _from_done(line: Row, ended_us: int) -> Entry | None:
    duration_ms = _duration_ms(line.get("ms"))
    if duration_ms is None:
        return None
    return Entry(
        ended_us - int(duration_ms * 1_000), "trace", text(line.get("result")) or "unknown",
        text(line.get("capability")), text(line.get("error")), None, None, text(line.get("trace_id")) or None,
        duration_ms, "log",
    )  # fmt: skip


def rows_of_frames(frames: list[Frame], table: str, run_id: str) -> list[Row]:
    """Returns the payloads of a black box as rows of their table, with the run and no `seq`."""
    rows = []
    # No more than the store's ring would keep: older frames are in the box only until they are overwritten.
    for frame in frames[-_RING:]:
        row = fields(frame, table)
        if row is not None and integer(row["number"]):  # a record is known by its run and number
            rows.append({**row, "run_id": run_id, "seq": None})
    return rows


def vitals_of(value: object) -> tuple[Vitals, ...]:
    """Returns the samples in the column `runs.vitals`, a JSON array, oldest first."""
    samples = loaded(value)
    if not isinstance(samples, list):
        return ()
    return tuple(_sample(item) for item in samples[-_MAX_VITALS:] if isinstance(item, dict))


def _sample(item: Row) -> Vitals:
    def whole(name: str) -> int | None:
        return integer(item[name]) if isinstance(item.get(name), int) else None

    return Vitals(
        integer(item.get("ts_us")), whole("rss_bytes"), whole("memory_left_bytes"), whole("open_files"),
        whole("disk_free_bytes"), number(item.get("load")), number(item.get("loop_lag_s")), whole("group_oom_kills"),
        whole("group_processes"),
    )  # fmt: skip


def text(value: object) -> str:
    """Returns a bounded text without lone surrogates; empty if the value is not a string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value[:MAX_TEXT_CHARS]
    return value[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode("utf-8")


def _end_of(value: object) -> str:
    """Returns the end of a traceback, where the error is."""
    return text(value[-MAX_TEXT_CHARS:]) if isinstance(value, str) else ""


def integer(value: object) -> int:
    """Returns an integer of 64 bits; 0 if the value is not one."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return 0
    return value


def number(value: object) -> float | None:
    """Returns a finite number; None if the value is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _duration_ms(value: object) -> float | None:
    found = number(value)
    return found if found is not None and 0 <= found < _MAX_MS else None


def _object(value: object) -> Row:
    found = loaded(value)
    return found if isinstance(found, dict) else {}


def _spans(value: object) -> list[Row]:
    found = loaded(value)
    return [span for span in found if isinstance(span, dict)] if isinstance(found, list) else []


def loaded(value: object) -> object:
    """Returns the value of JSON text; a box already holds the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


_FINE: Final = ("ok", "cancelled", "interrupted")
_ERRORS: Final = ("error", "critical")
_MINUTES: Final = 15
_MINUTE_US: Final = 60_000_000
# Parts in which equal errors differ: quoted words, paths, addresses, ids, numbers. Longest first.
# Not the status of a response: a 500 and a 503 are two errors.
_VARIES: Final = re.compile(
    r"'[^']{0,200}'|\"[^\"]{0,200}\"|(?:/[\w.@~+-]+){2,}|\b[0-9A-HJKMNP-TV-Z]{26}\b|0x[0-9a-fA-F]+"
    r"|\b[0-9a-fA-F]{8,}\b|(?<!HTTP )(?<!HTTP \d)(?<!HTTP \d\d)\d+(?:\.\d+)*"
)


def fingerprint(kind: str, name: str, text: str) -> str:
    """Returns twelve digits that are equal for errors that differ only in numbers, ids, paths and quoted words."""
    same = f"{kind}\n{name}\n{plain(text)}"
    return hashlib.sha1(same.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:12]


def plain(text: str) -> str:
    """Returns an error text with each variable part replaced by `?`."""
    return _VARIES.sub("?", text)


def error_groups(entries: Iterable[Entry]) -> list[ErrorGroup]:
    """Returns failed traces and error records in groups, most frequent first."""
    groups: dict[str, ErrorGroup] = {}
    for entry in entries:
        if not _is_error(entry):
            continue
        error = _error_text(entry)
        key = fingerprint(entry.kind, entry.name, error)
        before = groups.get(key)
        count = 1 + integer(entry.extras.get("repeats"))
        groups[key] = ErrorGroup(
            key, entry.kind, entry.name, error, count + (before.count if before else 0),
            min(entry.ts_us, before.first_us) if before else entry.ts_us,
            max(entry.ts_us, before.last_us) if before else entry.ts_us,
            entry.trace_id or (before.trace_id if before else None),
        )  # fmt: skip
    return sorted(groups.values(), key=lambda group: (-group.count, -group.last_us))


def _is_error(entry: Entry) -> bool:
    return entry.status not in _FINE if entry.kind == "trace" else entry.status in _ERRORS


def _error_text(entry: Entry) -> str:
    """Returns a trace's result and error, or a record's message and the last line of its traceback."""
    if entry.kind == "trace":
        return f"{entry.status}: {entry.text}" if entry.text else entry.status
    lines = (entry.exc or "").strip().splitlines()
    return f"{entry.text}: {lines[-1]}" if lines else entry.text


def minutes_before(end_us: int, traces: Iterable[Entry]) -> list[Minute]:
    """Returns the last minutes before `end_us`, oldest first, including empty ones."""
    first = end_us // _MINUTE_US - _MINUTES + 1
    counts = {first + number: [0, 0] for number in range(_MINUTES)}
    for trace in traces:
        minute = counts.get(moments.ended_us(trace.ts_us, trace.duration_ms or 0.0) // _MINUTE_US)
        if minute is not None:
            minute[0] += 1
            minute[1] += trace.status not in _FINE
    return [Minute(number * _MINUTE_US, *minute) for number, minute in counts.items()]
