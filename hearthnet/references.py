"""References to one of several things that have an id: its id, the beginning of it, or its place from the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["chosen", "place"]

_PLACE: Final = re.compile(r"-[1-9]\d{0,5}")
_MAX_LISTED: Final = 5


def place(reference: str) -> int | None:
    """Returns 1 for `last` and `-1`, 2 for `-2` and so on; None if the reference is no place."""
    if reference.lower() == "last":
        return 1
    return -int(reference) if _PLACE.fullmatch(reference) else None


def chosen(reference: str, ids: Iterable[str], noun: str) -> str:
    """Returns the id that is meant.

    Args:
        reference: an id or its beginning, in either case, or a place.
        ids: newest first; repeated ones count once.
        noun: the kind of thing, for the message.

    Raises:
        ValueError: raised when no id is meant, or several are.
    """
    known = list(dict.fromkeys(ids))
    number = place(reference)
    if number is None:
        found = [one for one in known if one.startswith(reference.upper())]
        if len(found) == 1 or reference.upper() in found:
            return found[0] if len(found) == 1 else reference.upper()
        problem = f"{'more than one' if found else 'no'} {noun} id begins with {reference!r}"
    elif number <= len(known):
        return known[number - 1]
    else:
        found, problem = [], f"there is no {noun} {reference}, only {len(known):,}"
    listed = ", ".join((found or known)[:_MAX_LISTED]) or "none"
    raise ValueError(f"{problem}; known are {listed}")
