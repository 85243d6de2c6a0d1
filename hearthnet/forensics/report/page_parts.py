"""The script, the style and the data of the page. The scripts of `draw/` also draw the node's own page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from typing import Any, Final

from hearthnet.files import packaged

__all__ = ["data_of", "script", "style", "text", "waterfalls_of"]

Item = dict[str, Any]

_HERE: Final = "forensics/report"
_MODULES: Final = (
    "draw/format.js",
    "draw/svg.js",
    "draw/charts.js",
    "draw/timeline.js",
    "draw/waterfall.js",
    "page.js",
)
# Each imports only from those before it, so that joined they are one module.
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "[^"]*";\n', re.MULTILINE)
_OK: Final = ("ok", "cancelled")
_MAX_ENTRIES: Final = 2_000
_MAX_WATERFALLS: Final = 20
_MAX_SPANS: Final = 1_000  # of one trace, as many as its writer keeps; parents come before their children
_MAX_TEXT: Final = 300


def script() -> str:
    """Returns the page's only script, a module without imports."""
    return "".join(_IMPORT.sub("", packaged(f"{_HERE}/{name}")) for name in _MODULES)


def style() -> str:
    """Returns the page's style sheet."""
    return "".join(packaged(f"{_HERE}/{name}") for name in ("draw/draw.css", "page.css"))


def text(value: object) -> str:
    """Returns a value escaped for an element or a double-quoted attribute, without characters that reorder text."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(value))
    return escape(shown, quote=True)


def data_of(found: Item) -> str:
    """Returns what the script draws, as JSON that no parser of HTML mistakes for markup."""
    is_alive = found["run"] is not None and found["run"]["is_alive"]
    drawn = {
        "entries": list(_entries(found)),
        "in_flight": [
            {**trace, "started_us": _us(trace["started"]), "is_alive": is_alive} for trace in found["in_flight"]
        ],
        "runs": [_run(run) for run in found["runs"][:100]],
        "minutes": [
            {"ts_us": _us(minute["start"]), "count": minute["traces"], "failed": minute["failed"]}
            for minute in found["minutes"] if _us(minute["start"]) is not None
        ],
        "vitals": [{**sample, "ts_us": _us(sample["ts"])} for sample in found["vitals"] if sample["ts"]],
        "waterfalls": [_waterfall(trace, found["timeline"]) for trace in waterfalls_of(found)],
    }  # fmt: skip
    return json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def waterfalls_of(found: Item) -> list[Item]:
    """Returns the slowest traces, slowest first, then those that failed, newest first; only those with spans."""
    entries = reversed(found["timeline"])
    failed = (entry for entry in entries if entry["kind"] == "trace" and entry["status"] not in _OK)
    each = {(trace["run_id"], trace["ts"], trace["trace_id"]): trace for trace in (*found["slowest"], *failed)}
    return [trace for trace in each.values() if trace["spans"]][:_MAX_WATERFALLS]


def _run(run: Item) -> Item:
    kept = {name: run[name] for name in ("program", "role", "version", "is_alive")}
    return {**kept, **{f"{name}_us": _us(run[name]) for name in ("started", "ended", "last_seen")}}


def _entries(found: Item) -> Iterator[Item]:
    """Yields what has a time, without the traces in flight: they are drawn as such."""
    flying = {(trace["run_id"], trace["trace_id"]) for trace in found["in_flight"]}
    for entry in found["timeline"][-_MAX_ENTRIES:]:
        us = _us(entry["ts"])
        if us is None or (entry["kind"] == "trace" and (entry["run_id"], entry["trace_id"]) in flying):
            continue
        kept = {name: entry[name] for name in ("kind", "status", "name", "duration_ms")}
        yield {**kept, "ts_us": us, "text": entry["text"][:_MAX_TEXT]}


def _waterfall(trace: Item, entries: Iterable[Item]) -> Item:
    dropped = trace["extras"].get("truncated")
    return {
        "trace": {
            "trace_id": trace["trace_id"],
            "capability": trace["name"],
            "result": trace["status"],
            "started_us": _us(trace["ts"]),
            "duration_ms": trace["duration_ms"],
            "spans": trace["spans"][:_MAX_SPANS],
            "truncated_spans": (dropped if isinstance(dropped, int) else 0) + max(0, len(trace["spans"]) - _MAX_SPANS),
        },
        "logs": list(_logs(trace, entries)),
    }


def _logs(trace: Item, entries: Iterable[Item]) -> Iterator[Item]:
    if trace["trace_id"] is None:
        return
    for number, entry in enumerate(entries):
        if entry["kind"] == "log" and entry["trace_id"] == trace["trace_id"] and entry["run_id"] == trace["run_id"]:
            shown = {"level": entry["status"], "logger": entry["name"], "msg": entry["text"][:_MAX_TEXT]}
            yield {"seq": number, "ts_us": _us(entry["ts"]), "span_id": None, **shown}


def _us(ts: str | None) -> int | None:
    """Returns an ISO 8601 time as UTC microseconds."""
    if not ts:
        return None
    try:
        return round(datetime.fromisoformat(ts).timestamp() * 1e6)
    except (ValueError, OverflowError):
        return None
