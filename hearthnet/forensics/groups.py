"""Errors that are the same, and how many calls there were a minute."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from hearthnet.forensics.entries import integer
from hearthnet.forensics.model import Entry, ErrorGroup, Minute

__all__ = ["error_groups", "fingerprint", "minutes_before", "plain"]

_FINE: Final = ("ok", "cancelled", "interrupted")
_ERRORS: Final = ("error", "critical")
_MINUTES: Final = 15
_MINUTE_US: Final = 60_000_000
# What differs between two errors that are the same: what is quoted, paths, addresses, ids, numbers. Longest first.
_VARIES: Final = re.compile(
    r"'[^']{0,200}'|\"[^\"]{0,200}\"|(?:/[\w.@~+-]+){2,}|\b[0-9A-HJKMNP-TV-Z]{26}\b|0x[0-9a-fA-F]+"
    r"|\b[0-9a-fA-F]{8,}\b|\d+(?:\.\d+)*"
)


def fingerprint(kind: str, name: str, text: str) -> str:
    """Returns twelve digits that errors share which differ in numbers, ids, paths and quoted words alone."""
    same = f"{kind}\n{name}\n{plain(text)}"
    return hashlib.sha1(same.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:12]


def plain(text: str) -> str:
    """Returns an error without what differs from one to the next: each such piece is a `?`."""
    return _VARIES.sub("?", text)


def error_groups(entries: Iterable[Entry]) -> list[ErrorGroup]:
    """Returns the failed traces and the records of errors in groups, the most frequent first."""
    groups: dict[str, ErrorGroup] = {}
    for entry in entries:
        if not _is_error(entry):
            continue
        said = _said(entry)
        key = fingerprint(entry.kind, entry.name, said)
        before = groups.get(key)
        count = 1 + integer(entry.extras.get("repeats"))
        groups[key] = ErrorGroup(
            key, entry.kind, entry.name, said, count + (before.count if before else 0),
            min(entry.ts_us, before.first_us) if before else entry.ts_us,
            max(entry.ts_us, before.last_us) if before else entry.ts_us,
            entry.trace_id or (before.trace_id if before else None),
        )  # fmt: skip
    return sorted(groups.values(), key=lambda group: (-group.count, -group.last_us))


def _is_error(entry: Entry) -> bool:
    return entry.status not in _FINE if entry.kind == "trace" else entry.status in _ERRORS


def _said(entry: Entry) -> str:
    """Returns the error itself: of a trace its result as well, of a record the last line of its traceback as well."""
    if entry.kind == "trace":
        return f"{entry.status}: {entry.text}" if entry.text else entry.status
    lines = (entry.exc or "").strip().splitlines()
    return f"{entry.text}: {lines[-1]}" if lines else entry.text


def minutes_before(end_us: int, traces: Iterable[Entry]) -> list[Minute]:
    """Returns the last minutes before a moment, oldest first, those without a call too."""
    first = end_us // _MINUTE_US - _MINUTES + 1
    counts = {first + number: [0, 0] for number in range(_MINUTES)}
    for trace in traces:
        minute = counts.get((trace.ts_us + int((trace.duration_ms or 0.0) * 1_000)) // _MINUTE_US)
        if minute is not None:
            minute[0] += 1
            minute[1] += trace.status not in _FINE
    return [Minute(number * _MINUTE_US, *minute) for number, minute in counts.items()]
