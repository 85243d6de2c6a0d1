"""Regular expressions that are compiled when they are first used: importing what may need one costs no program that.

WORD: Final = Expression(r"[a-z]+")
WORD.findall(name)
"""

from __future__ import annotations

import re
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["BEGINS", "NEXT_ITEM", "Expression"]

# At the beginning of a word, or behind an escaped line break.
BEGINS: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
# Between an option and its value: white space, or the end of a list's item and the beginning of the next.
NEXT_ITEM: Final = r"(?:[ \t]+|[\"'\\]{1,8},\s{0,40}|[\"'\\]{0,8}[ \t]{0,8}\r?\n[ \t]{0,40}-[ \t]+)"

_METHODS: Final = ("findall", "fullmatch", "match", "search", "split", "sub")


class Expression:
    """An expression with methods of a `re.Pattern`; they are that one's from the first call on.

    A text that is no regular expression raises `re.error` at that call.

    Args:
        text: of the expression.
    """

    __slots__ = ("text", *_METHODS)

    text: str
    findall: Callable[[str], list[Any]]
    fullmatch: Callable[[str], re.Match[str] | None]
    match: Callable[[str], re.Match[str] | None]
    search: Callable[[str], re.Match[str] | None]
    split: Callable[[str], list[Any]]
    sub: Callable[[str, str], str]

    def __init__(self, text: str) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        compiled = re.compile(self.text)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)
