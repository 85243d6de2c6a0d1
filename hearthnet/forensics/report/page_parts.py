"""SVG charts of the page: timeline, calls per minute, vitals, waterfalls. No scripts.

Every text is escaped here; numbers are formatted, never copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from typing import Any, Final

from hearthnet.plural import counted

__all__ = ["minutes_chart", "stamp_ms", "timeline_chart", "vitals_charts", "waterfall"]

Item = dict[str, Any]

_WIDTH: Final = 1_000
_LANES: Final = 14
_LANE: Final = 12
_OK: Final = ("ok", "cancelled")
_MAX_DRAWN: Final = 600
_MAX_SPANS: Final = 64


def stamp_ms(ts: str | None) -> float | None:
    """Returns an ISO 8601 time as milliseconds since 1970."""
    if not ts:
        return None
    try:
        return datetime.fromisoformat(ts).timestamp() * 1e3
    except (ValueError, OverflowError):
        return None


def text(value: object) -> str:
    """Returns a value escaped for an element or a double-quoted attribute, without characters that reorder text."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(value))
    return escape(shown, quote=True)


def timeline_chart(entries: list[Item], in_flight: list[Item]) -> str:
    """Returns traces as bars, log records as ticks below, traces in flight as open bars; empty without entries."""
    moments = [(item, at) for item in entries if (at := stamp_ms(item["ts"])) is not None][-_MAX_DRAWN:]
    flying = [(item, at) for item in in_flight if (at := stamp_ms(item["started"])) is not None]
    if not moments:
        return ""
    ends = [at + (item["duration_ms"] or 0.0) for item, at in moments]
    first = min(at for _, at in moments)
    last = max(ends)
    # A trace in flight that began earlier is drawn from the left edge.
    scale = _WIDTH / max(1.0, last - first)
    bars, lanes = _bars(moments, first, scale)
    below = (lanes + 2) * _LANE + 2
    shapes = [*bars, *_open_bars(flying, first, scale), *_ticks(moments, first, scale, below)]
    # Outside the drawing, which is stretched to the page width.
    axis = f"<span>{text(moments[0][0]['ts'])}</span><span>{text(moments[-1][0]['ts'])}</span>"
    drawn = _svg(below + _LANE, "what happened, over time", "".join(shapes), 1.3)
    return f'{drawn}<div class="axis soft">{axis}</div>'


def _bars(moments: list[tuple[Item, float]], first: float, scale: float) -> tuple[list[str], int]:
    """Returns one bar per trace, in lanes so that none hides another, and the number of lanes used."""
    free_from = [0.0] * (_LANES - 2)
    shapes, used = [], 0
    for item, at in moments:
        if item["kind"] != "trace":
            continue
        left = (at - first) * scale
        width = max(2.0, (item["duration_ms"] or 0.0) * scale)
        lane = min(range(len(free_from)), key=lambda number: (free_from[number] > left, number))
        free_from[lane] = left + width + 1
        used = max(used, lane + 1)
        kind = "ok" if item["status"] in _OK else "bad"
        title = f"{item['name']} {item['status']} {item['duration_ms'] or 0:,.1f} ms"
        shapes.append(_rect(left, (lane + 2) * _LANE, width, kind, title))
    return shapes, used


def _open_bars(flying: Iterable[tuple[Item, float]], first: float, scale: float) -> Iterator[str]:
    for number, (item, at) in enumerate(flying):
        left = max(0.0, (at - first) * scale)
        title = f"in flight: {item['capability']} {item['trace_id']}, in {item['span'] or 'no span'}"
        yield _rect(left, (number % 2) * _LANE, max(4.0, _WIDTH - left), "open", title)


def _ticks(moments: list[tuple[Item, float]], first: float, scale: float, y: float) -> Iterator[str]:
    for item, at in moments:
        if item["kind"] in ("log", "gap"):
            bad = item["kind"] == "gap" or item["status"] in ("error", "critical")
            kind = "bad" if bad else "warn" if item["status"] == "warning" else "log"
            yield _rect((at - first) * scale, y, 2.0, kind, f"{item['status']} {item['name']}: {item['text']}")


def _rect(x: float, y: float, width: float, kind: str, title: str) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_LANE - 2}"'
    return f'<rect class="{kind}" {box}><title>{text(title)}</title></rect>'


def _svg(height: float, label: str, inside: str, zoom: float = 1.0) -> str:
    """Returns a drawing as wide as its container and `height` times `zoom` pixels high."""
    view = f'viewBox="0 0 {_WIDTH} {height:.0f}" preserveAspectRatio="none" style="height:{height * zoom:.0f}px"'
    return f'<svg {view} role="img" aria-label="{text(label)}">{inside}</svg>'


def minutes_chart(minutes: list[Item]) -> str:
    """Returns calls per minute as bars, the failed part in red; empty if there were none."""
    most = max((minute["traces"] for minute in minutes), default=0)
    if not most:
        return ""
    step = _WIDTH / len(minutes)
    shapes = []
    for number, minute in enumerate(minutes):
        title = f"{minute['start']}: {counted(minute['traces'], 'call')}, {minute['failed']:,} failed"
        for kind, count in (("ok", minute["traces"]), ("bad", minute["failed"])):
            tall = 80 * count / most
            box = f'x="{number * step:.1f}" y="{80 - tall:.1f}" width="{step * 0.8:.1f}" height="{tall:.1f}"'
            shapes.append(f'<rect class="{kind}" {box}><title>{text(title)}</title></rect>')
    return _svg(82, "calls per minute", "".join(shapes))


def vitals_charts(vitals: list[Item]) -> str:
    """Returns a small line chart for each measure, with its first and last value."""
    charts = []
    for name, label, unit in _MEASURES:
        known = [
            (at, sample[name])
            for sample in vitals
            if sample[name] is not None and (at := stamp_ms(sample["ts"])) is not None
        ]
        if len(known) > 1:
            charts.append(_line(label, unit, known))
    return "".join(charts)


_MEASURES: Final = (
    ("rss_bytes", "memory", "MB"),
    ("memory_left_bytes", "memory left", "MB"),
    ("disk_free_bytes", "disk free", "MB"),
    ("open_files", "open files", ""),
    ("load", "load", ""),
    ("loop_lag_s", "loop lag", "s"),
)


def _line(label: str, unit: str, known: list[tuple[float, float]]) -> str:
    (first, _), (last, _) = known[0], known[-1]
    top = max(value for _, value in known) or 1
    points = " ".join(
        f"{(at - first) / max(1.0, last - first) * _WIDTH:.0f},{60 - 56 * value / top:.0f}" for at, value in known
    )
    change = f"{_number(known[0][1], unit)} → {_number(known[-1][1], unit)}"
    drawn = _svg(62, label, f'<polyline points="{points}"/>')
    return f"<figure><figcaption>{text(label)} <b>{text(change)}</b></figcaption>{drawn}</figure>"


def _number(value: float, unit: str) -> str:
    if unit == "MB":
        return f"{value / 1e6:,.0f} MB"
    return f"{value:,.2f} {unit}".strip()


def waterfall(trace: Item) -> str:
    """Returns a trace's spans as bars over its time, indented by depth."""
    whole = max(trace["duration_ms"] or 0.0, *(_end_ms(span) for span in trace["spans"]), 0.001)
    depths = _depths(trace["spans"])
    rows = []
    for span in _longest(trace["spans"]):
        left, width = _ms(span, "offset_ms") / whole * 100, _ms(span, "duration_ms") / whole * 100
        kind = {"ok": "ok", "open": "open"}.get(str(span.get("status")), "bad")
        bar = f'<rect class="{kind}" x="{left:.2f}%" y="1" width="{max(width, 0.4):.2f}%" height="10"/>'
        name = (
            f'<span style="padding-left:{min(depths.get(str(span.get("id")), 0), 8)}em">{text(span.get("name"))}</span>'
        )
        lasted = f"{_ms(span, 'duration_ms'):,.2f} ms"
        rows.append(f'<div class="row">{name}<svg class="bar">{bar}</svg><span class="num">{lasted}</span></div>')
    return "".join(rows)


def _longest(spans: list[Item]) -> list[Item]:
    """Returns the spans to draw, in their order: those that are not ok, and the longest of the others."""
    by_worth = sorted(spans, key=lambda span: (span.get("status") == "ok", -_ms(span, "duration_ms")))
    kept = set(map(id, by_worth[:_MAX_SPANS]))
    return [span for span in spans if id(span) in kept]


def _depths(spans: list[Item]) -> dict[str, int]:
    """Returns the depth of each span. Parents come before their children; a cycle is cut."""
    depths: dict[str, int] = {}
    for span in spans:
        depths[str(span.get("id"))] = depths.get(str(span.get("parent")), -1) + 1
    return depths


def _end_ms(span: Item) -> float:
    return _ms(span, "offset_ms") + _ms(span, "duration_ms")


def _ms(span: Item, name: str) -> float:
    value = span.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
