"""Documents for an assistant: JSON of a bounded length, whatever is in the records.

An assistant reads all that it is given, and pays for it. A long document is shortened evenly, the deepest parts and
longest texts first, and says so where it was.
"""

from __future__ import annotations

from typing import Any, Final

from hearthnet.cli.main import as_json_text, printable

__all__ = ["MAX_BYTES", "as_text"]

MAX_BYTES: Final = 64_000
# Items of a list or map, and characters of a text, at most: as many as fit.
_STEPS: Final = ((1_000, 8_000), (200, 2_000), (100, 500), (40, 200), (15, 80), (5, 40), (2, 20))
_MAX_DEPTH: Final = 40


def as_text(document: dict[str, Any]) -> str:
    """Returns a document as JSON, whose control characters are escaped; shortened if need be, which it says then."""
    text = _encoded(document)
    for items, characters in _STEPS:
        if len(text.encode()) <= MAX_BYTES:
            break
        text = _encoded({**_cut(document, items, characters, 0), "shortened": "ask for less to see all of it"})
    return text


def _encoded(value: Any) -> str:
    # JSON need not escape characters that reorder text; escaped, it is the same JSON.
    return printable(as_json_text(value))


def _cut(value: Any, items: int, characters: int, depth: int) -> Any:
    """Returns a value with few items and short texts."""
    if isinstance(value, str):
        return value if len(value) <= characters else f"{value[:characters]}… {len(value) - characters} characters more"
    if not isinstance(value, dict | list):
        return value
    if depth == _MAX_DEPTH:
        return f"… {len(value)} more"
    more = len(value) - items
    if isinstance(value, dict):
        kept = {
            _cut(key, items, characters, depth): _cut(one, items, characters, depth + 1)
            for key, one in list(value.items())[:items]
        }
        return kept if more <= 0 else {**kept, "…": f"{more} more"}
    made = [_cut(one, items, characters, depth + 1) for one in value[:items]]
    return made if more <= 0 else [*made, f"… {more} more"]
