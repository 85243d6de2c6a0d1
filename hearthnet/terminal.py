"""What the user's terminal can show."""

from __future__ import annotations

import os
from typing import Final, TextIO

__all__ = ["has_colour", "has_unicode"]

# Values that Python itself puts into LC_CTYPE in the C locale (PEP 538): they say nothing about the terminal.
_COERCED: Final = ("", "C.UTF-8", "C.utf8", "UTF-8")


def has_colour(out: TextIO) -> bool:
    """Returns True if `out` is a terminal that shows colours."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_unicode(out: TextIO) -> bool:
    """Returns True if `out` can show more than ASCII, by the user's locale, as other programs do."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE", "")
    if locale in _COERCED:
        locale = os.environ.get("LC_ALL") or os.environ.get("LANG", "")
    return "utf" in locale.lower() and "utf" in (getattr(out, "encoding", None) or "").lower()
