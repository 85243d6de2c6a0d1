"""Keeps of an error what a program said and leaves out what it said it about: that may be anybody's words.

What a program says stands in it: a piece of a text is kept as far as it stands, word for word, in our own source or in
what the system, SQLite and HTTP say of failures. So the text of a prompt that somebody put into an error goes, quoted
or not, and the error can still be recognised.
"""

from __future__ import annotations

import errno
import os
import re
from functools import cache
from pathlib import Path
from typing import Final

import hearthnet
from hearthnet.forensics.groups import plain
from hearthnet.observability.results import RESULTS

__all__ = ["without_words_of_others"]

_LEFT_OUT: Final = "…"
_MAX_CHARACTERS: Final = 2_000  # an error that is longer is mostly somebody's words
_LEAST_WORDS: Final = 2  # one alone may be anybody's
# A quotation without an end, or too long for one, begins a piece of unknown length.
_QUOTED: Final = re.compile(r"(?s)(?<!\w)(?:'.*'|\".*\"|'.*|\".*)")
_PIECES: Final = re.compile(r"((?:(?<!\w)\?|[:;,()\[\]…\n])+)")
# What names a kind of error: `sqlite3.OperationalError`, `internal_error`.
_CLASS: Final = re.compile(r"(?:[A-Za-z_?]+\.)*[A-Za-z]*(?:Error|Exception|Timeout|Warning|Group)|Errno")
_SAID_ELSEWHERE: Final = (
    "database is locked", "database disk image is malformed", "disk I/O error", "database or disk is full",
    "attempt to write a readonly database", "unable to open database file", "file is not a database", "no such table",
    "no such column", "All connection attempts failed", "Name or service not known", "Server disconnected",
    "Temporary failure in name resolution", "Connection refused", "timed out", "no running event loop",
    "Event loop is closed", "object has no attribute", "list index out of range", "division by zero",
    "takes positional arguments but", "missing required positional argument", "Expecting value", "invalid literal for",
    "maximum recursion depth exceeded", "codec can't decode byte", "certificate verify failed",
    "got an unexpected keyword argument",
)  # fmt: skip


def without_words_of_others(text: str) -> str:
    """Returns an error as far as a program of ours, or the system, says it; `?` and `…` stand for the rest."""
    pieces = _PIECES.split(plain(_QUOTED.sub("?", text[:_MAX_CHARACTERS])))
    return re.sub(r"…[?…\s]*", _LEFT_OUT, "".join(_kept(piece) for piece in pieces)).strip()


def _kept(piece: str) -> str:
    """Returns the words of a piece up to the first that no program says behind those before it."""
    if _PIECES.fullmatch(piece) or not piece.strip():
        return piece
    words = piece.split()
    if len(words) == 1 and (_CLASS.fullmatch(words[0]) or words[0] in RESULTS):
        return piece
    # What stands also stands without its last word, so the first that does not ends it.
    known = 0
    for count in range(_LEAST_WORDS, len(words) + 1):
        if not _stands(" ".join(words[:count])):
            break
        known = count
    if known == len(words):
        return piece
    return f"{piece[: len(piece) - len(piece.lstrip())]}{' '.join(words[:known])}{_LEFT_OUT}"


def _stands(words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", _said()) is not None


@cache
def _said() -> str:
    """Returns all that a program may say, on one line."""
    sources = sorted(Path(hearthnet.__file__).parent.rglob("*.py"))
    lines = [line for path in sources for line in path.read_text("utf-8").splitlines() if '"' in line]
    return " ".join((*lines, *_SAID_ELSEWHERE, *map(os.strerror, errno.errorcode)))
