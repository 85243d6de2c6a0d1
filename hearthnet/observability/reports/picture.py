"""A trace as a picture, for notebooks: its spans as bars over its time, in SVG without scripts.

It is part of the notebook's file, where pages and previews that run no scripts show it too.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final, Protocol

from hearthnet.display import counted, span_tree

__all__ = ["picture"]

_ROW_PX: Final = 20
_BAR_PX: Final = 12
_NAMES_PX: Final = 240
_BARS_PX: Final = 420
_TIMES_PX: Final = 90
_INDENT_PX: Final = 12
_MAX_NAME_CHARS: Final = 34
_FINE: Final = ("ok", "cancelled")
_GOOD, _BAD = "#2b8a4b", "#c0392b"  # both legible on white and on black
_FONT: Final = "font:12px system-ui,sans-serif;fill:currentColor"


class Shown(Protocol):
    """A trace as its picture knows it."""

    def as_dict(self) -> dict[str, Any]:
        """Returns its columns, spans unfolded."""


def picture(trace: Shown) -> str:
    """Returns a trace as HTML: its name, result and duration, and its spans as SVG. All text in it is escaped."""
    found = trace.as_dict()
    result, duration_ms = found["result"] or "running", found["duration_ms"]
    lasted = "" if duration_ms is None else f" · {duration_ms:,.1f} ms"
    error = "" if found["error"] is None else f"<br>{_text(found['error'])}"
    colour = _GOOD if result in (*_FINE, "running") else _BAD
    head = (
        f"<b>{_text(found['capability'])}</b> <span style='color:{colour}'>{_text(result)}</span>{lasted}"
        f" <code>{_text(found['trace_id'])}</code>{error}"
    )
    return f"<div>{head}{_bars(span_tree(found['spans']), duration_ms or 0.0)}</div>"


def _bars(spans: list[tuple[int, dict[str, Any]]], duration_ms: float) -> str:
    ends = [item["offset_ms"] + item["duration_ms"] for _, item in spans]
    scale = _BARS_PX / max(duration_ms, *ends, 0.001)
    rows = "".join(_row(at, depth, item, scale) for at, (depth, item) in enumerate(spans))
    width, height = _NAMES_PX + _BARS_PX + _TIMES_PX, _ROW_PX * len(spans)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label='{counted(len(spans), 'span')}' width='{width}'"
        f" height='{height}' viewBox='0 0 {width} {height}' style='display:block;max-width:100%'>{rows}</svg>"
    )


def _row(at: int, depth: int, item: dict[str, Any], scale: float) -> str:
    start, length = _NAMES_PX + item["offset_ms"] * scale, max(1.0, item["duration_ms"] * scale)
    baseline = at * _ROW_PX + _BAR_PX + 1
    colour = _GOOD if item["status"] in _FINE else _BAD
    fields = "".join(f"\n{name} = {value}" for name, value in item["extras"].items())
    title = _text(f"{item['name']}: {item['status']}, {item['duration_ms']:,.3f} ms{fields}")
    return (
        f"<g><title>{title}</title><text x='{depth * _INDENT_PX}' y='{baseline}' style='{_FONT}'>"
        f"{_text(item['name'][:_MAX_NAME_CHARS])}</text><rect x='{start:.1f}' y='{at * _ROW_PX + 2}'"
        f" width='{length:.1f}' height='{_BAR_PX}' fill='{colour}'/><text x='{_NAMES_PX + _BARS_PX + 6}'"
        f" y='{baseline}' style='{_FONT}'>{item['duration_ms']:,.1f} ms</text></g>"
    )


def _text(text: object) -> str:
    """Returns text escaped for HTML; control characters, which no browser should act on, as escapes."""
    shown = "".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in str(text))
    return escape(shown)
