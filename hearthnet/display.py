"""How things are shown: counts, sizes and numbers, and what the user's terminal can show."""

from __future__ import annotations

import os
import re
from math import isfinite
from typing import Any, Final, TextIO

__all__ = ["counted", "escaped", "has_colour", "has_unicode", "needs_quotes", "short_floats", "size", "span_tree"]

_UNITS: Final = ((10_000_000_000, 1e9, "GB"), (1_000_000, 1e6, "MB"), (1_000, 1e3, "kB"))
_DECIMALS: Final = 3
_SMALL: Final = 0.1  # smaller numbers have that many significant digits instead
_MAX_DEPTH: Final = 8  # of lists and dicts; deeper values are shown as they are
# Values that Python itself puts into LC_CTYPE in the C locale (PEP 538): they say nothing about the terminal.
_COERCED: Final = ("", "C.UTF-8", "C.utf8", "UTF-8")

# Besides control characters those that reorder or break lines.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NEEDS_QUOTES: Final = re.compile(r'[\s"=]|^$')


def escaped(text: object) -> str:
    """Returns text with its control characters escaped as in JSON: the terminal obeys none of them."""
    return _CONTROL.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def needs_quotes(value: str) -> bool:
    """Returns whether a field's value is shown as a JSON string, so that it is seen where it ends."""
    return _NEEDS_QUOTES.search(value) is not None


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Returns a count with its noun: `1 call`, `2 calls`; `plural` is for nouns that do not just take an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def size(count: float) -> str:
    """Returns a number of bytes with one unit: `312 B`, `24.6 kB`, `1,234.5 MB`, `78.6 GB`."""
    for least, unit, name in _UNITS:
        if count >= least:
            return f"{count / unit:,.1f} {name}"
    return f"{count:.0f} B"


def short_floats(value: object, depth: int = 0) -> object:
    """Returns a value with its numbers as people read them: at most three decimals, small ones three digits."""
    if isinstance(value, float) and isfinite(value):
        return round(value, _DECIMALS) if abs(value) >= _SMALL else float(f"{value:.{_DECIMALS}g}")
    if depth < _MAX_DEPTH and isinstance(value, dict):
        return {key: short_floats(item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list):
        return [short_floats(item, depth + 1) for item in value]
    return value


def has_colour(out: TextIO, *, is_capable: bool = False) -> bool:
    """Returns True if `out` is a terminal that shows colours, or the user has asked for them with FORCE_COLOR.

    `is_capable` says that it shows them though it is no terminal.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return is_capable or bool(os.environ.get("FORCE_COLOR")) or (out.isatty() and os.environ.get("TERM") != "dumb")


def has_unicode(out: TextIO) -> bool:
    """Returns True if `out` can show more than ASCII, by the user's locale, as other programs do."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE", "")
    if locale in _COERCED:
        locale = os.environ.get("LC_ALL") or os.environ.get("LANG", "")
    return "utf" in locale.lower() and "utf" in (getattr(out, "encoding", None) or "").lower()


def span_tree(spans: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Returns stored spans with their depth, by start time, each after its parent."""
    depths: dict[str | None, int] = {None: -1}
    for item in spans:
        depths[item["id"]] = depths.get(item["parent"], -1) + 1
    children: dict[str | None, list[dict[str, Any]]] = {}
    for item in spans:
        children.setdefault(item["parent"] if item["parent"] in depths else None, []).append(item)
    ordered: list[tuple[int, dict[str, Any]]] = []
    pending = list(reversed(children.pop(None, [])))
    while pending:
        item = pending.pop()
        ordered.append((depths[item["id"]], item))
        pending.extend(reversed(children.pop(item["id"], [])))
    return ordered
