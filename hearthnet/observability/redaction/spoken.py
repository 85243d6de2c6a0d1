"""Secrets behind a name without a sign in between: `x_token VALUE`, `api key is VALUE`.

Such a text is prose more often than not, so the value must look random; behind the name of a variable it may be short.
Digits alone are a count of tokens, or the key of a row, unless the name is one of a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hearthnet.observability.redaction.names import PLAIN, SECRET, could_be_secret, is_made, looks_random, words_of
from hearthnet.observability.redaction.values import ALONE, with_owner

if TYPE_CHECKING:
    from hearthnet.observability.redaction.values import Span

__all__ = ["spoken_at"]

_MAX_NAME_CHARS: Final = 80
_MAX_VALUE_CHARS: Final = 256
_NAME: Final = re.compile(r"(?<![\w.-])([\w.-]++)(?:[ \t]+is)?[ \t]+[\"'`]?$")
_BEFORE_VALUE: Final = frozenset(" \t\n\r\f\v\"'`n")  # and `n` of a line break that is written as `\\n`
_NETRC: Final = re.compile(r"login\s+\S{1,64}?(?:\s|\\n)+password(?:\s|\\n)+[\"'`]?$")
# Of routers, and of two commands; a digit before the password tells its encoding.
_SET: Final = re.compile(r"\b(?:enable|(?:username|neighbor|mysqladmin|nmcli)\s[^\n]{1,64}?)\s+password\s+[\"'`]?$")
_SET_VALUE: Final = re.compile(r"(?:\d\s+)?(?=[a-z]*[^a-z\s.,:;!?)\"'`])([^\s\"'`\\]{3,128})")
_ENTRY: Final = re.compile(r"[^\s\"'`\\]+")
_PASSWORD: Final = re.compile(r"pass|pwd|secret", re.IGNORECASE)
_DIGIT: Final = re.compile(r"\d")
_MIN_DIGITS: Final = 12  # of a value that is neither a password nor a count
_RUN: Final = re.compile(r"[^\s\"'`]*[^\s\"'`.,;:)]")
_NO_SYMBOL: Final = re.compile(r"[-(\[{<:$%@\\]|[\w./:@,+'=~-]*$")  # of prose and code
_VALUE: Final = re.compile(r"\.?[\w+/=~%-]+(?:[.:]+[\w+/=~%-]+)*")


def spoken_at(text: str, start: int, kind_of: Callable[[str], int]) -> Span | None:
    """Returns the span of the value that begins here, behind the name of a secret; None if it is a word.

    Args:
        text: the whole.
        start: of the value.
        kind_of: judges a name.
    """
    head = text[max(0, start - _MAX_NAME_CHARS) : start]
    if head[-1:] not in _BEFORE_VALUE:
        return None
    for form, entry in ((_NETRC, _ENTRY), (_SET, _SET_VALUE)):
        if form.search(head) is not None:
            found = entry.match(text, start)
            return None if found is None else found.span(found.lastindex or 0)
    limit = start + _MAX_VALUE_CHARS  # of a long one the beginning decides, or the time would not be linear
    value, run = _VALUE.match(text, start, limit), _RUN.match(text, start, limit)
    name, kind = _name_in(head, kind_of)
    if not kind or run is None:
        return None
    is_variable = len(words_of(name)) > 1
    if is_variable and (is_made(run[0]) or (_NO_SYMBOL.match(run[0]) is None and could_be_secret(run[0]))):
        return _whole(text, run)
    if value is None:
        return None
    if not is_variable:
        return _whole(text, value) if looks_random(value[0]) else None
    return _whole(text, value) if could_be_secret(value[0]) or _is_number(name, kind, value[0]) else None


def _name_in(head: str, kind_of: Callable[[str], int]) -> tuple[str, int]:
    """Returns the name before the value, and its kind; `PLAIN` where there is none."""
    before = _NAME.search(head)
    if before is None:
        return "", PLAIN
    name = before[1]
    return name, kind_of(with_owner(head[: before.end(1)], name) if name in ALONE else name)


def _whole(text: str, match: re.Match[str]) -> Span:
    """Returns the span of a value to its end, of which this is the beginning."""
    start, end = match.span()
    return (match.re.match(text, start) or match).span() if end - start == _MAX_VALUE_CHARS else (start, end)


def _is_number(name: str, kind: int, value: str) -> bool:
    """Returns whether a value with a digit is a secret: of a password any, else one of many digits."""
    if kind != SECRET or _DIGIT.search(value) is None:
        return False
    return _PASSWORD.search(name) is not None or (value.isdigit() and len(value) >= _MIN_DIGITS)
