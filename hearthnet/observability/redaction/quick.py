"""The quick check of longer texts for names: at a fraction of the cost, it tells most of those without a secret.

In a longer text an expression of the words of secrets' names stops too often. There each name before a separator is
taken instead, and in nearly all texts each is one that was found plain before. In the reversed text the name is behind
its separator, so that one expression finds all of them; it begins with the separator, a literal character, and passes
the rest of the text at three instructions a character.

It is never stricter than the search, `values.named`: what it is not sure of, that search decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hearthnet.observability.redaction.names import LISTED
from hearthnet.observability.redaction.values import ELEMENTS, ESCAPES, IN_URL, KEYED, PAIRED, UNCERTAIN

__all__ = ["MAX_PLAIN", "Look"]

MAX_PLAIN: Final = 2_048  # names that are remembered
# More than this, or a longer name, is for the search: it takes the last 64 characters before a separator.
_MAX_BETWEEN_CHARS: Final = 20
_MAX_NAME_CHARS: Final = 40
_BETWEEN: Final = " \t\"'\\]:=!?+|"
_NAMES: Final = tuple(
    (
        separator,
        re.compile(
            rf"{separator}[{re.escape(_BETWEEN)}.]{{0,{_MAX_BETWEEN_CHARS}}}+"
            r"(?:[0-9.-]++(?![A-Za-z_\\])"  # a number is no name
            rf"|([0-9A-Za-z_.-]{{1,{_MAX_NAME_CHARS}}}+\\?|[{re.escape(_BETWEEN)}]))"
        ).findall,
    )
    for separator in ":="
)
_CALL, _LIST = (re.compile(rf"\{bracket}{LISTED}").search for bracket in "([")


class Look:
    """What a longer text may have in it, by the names that are secret at present: `kind_of` judges them."""

    def __init__(self, kind_of: Callable[[str], int]) -> None:
        self._plain = {""}  # names that are plain in any text, reversed
        self._kind_of = kind_of

    def parts_of(self, text: str) -> int:
        """Returns which parts of the search of `values.named` may find anything in the text, as a sum."""
        parts = self._has_name(text)
        if "<" in text and "</" in text:
            parts |= ELEMENTS
        if ('"' in text or "'" in text) and (_CALL(text) is not None or _LIST(text) is not None):
            parts |= PAIRED
        if "@" in text and ("://" in text or "oracle:" in text):
            parts |= IN_URL
        return parts

    def _has_name(self, text: str) -> int:
        for separator, names in _NAMES:
            if separator in text:
                found = names(text[::-1])
                if not self._plain.issuperset(found) and not all(map(self._is_plain, found)):
                    return KEYED
        return 0

    def _is_plain(self, backwards: str) -> bool:
        """Returns whether a name is plain in any text, by itself; remembers it."""
        if backwards in self._plain:
            return True
        name = backwards[::-1]
        if len(name) >= _MAX_NAME_CHARS or name in _BETWEEN:
            return False
        # Behind an escaped line break, perhaps.
        names = (name,) if name[0] != "\\" else (name[1:], name[2:]) if name[1] in ESCAPES else (name[1:],)
        if any(one in UNCERTAIN or self._kind_of(one) for one in names):
            return False
        if len(self._plain) >= MAX_PLAIN:
            self._plain = {""}
        self._plain.add(backwards)
        return True
