"""Values of secret names inside a text: `password=…`, `"token": "…"`, `Cookie: …`, `--password …`.

The search goes from separator to separator, and takes the value behind each secret name. A text may be prose:
"unexpected token: expected a comma", `auth.py:12` and the source lines of a traceback (`connect(password=password)`)
hold no secret, and stay.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hearthnet.constants import REDACTED

__all__ = ["Span", "is_basic", "named", "option_value"]

Span = tuple[int, int]

_NAME_CHARS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
# Allowed between a name and its separator: quotes, escaped or not, a closing bracket, the rest of `:=` or `==`.
_BETWEEN: Final = {"=": " \t\"'\\]:=!", ":": " \t\"'\\]"}
_NO_VALUE: Final = frozenset({"", "\n", "\r", ":", "="})
_MAX_NAME_CHARS: Final = 64  # bounds the search at each separator
_MAX_LINE_CHARS: Final = 400  # how far back the start of a source line is searched
_MAX_FRAME_CHARS: Final = 1_000  # between a frame's `File "…"` line and the end of its source
_MAX_NESTED_CHARS: Final = 4_096  # of a value in brackets

_SPACES: Final = re.compile(r"[ \t]*+")
_OPENER: Final = re.compile(r"[bBrRuUfF]{0,2}(\\{0,7}[\"'`])")
# Nothing follows these repetitions, so they never go back; possessive ones over alternatives are wrong before 3.11.5.
_QUOTED: Final = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\.)*") for quote in "\"'`"}
_BRACKET: Final = re.compile(r"[\[\]{}]")
# Ends of a bare value: white space always; punctuation where a sentence, a list or the next `name=` goes on behind it.
_RUN: Final = re.compile(
    r"(?:[^\s&\"'<>,;)\]}\\]|[&\"'<>,;)\]}](?![\s,;:)\]}>&\"'.]|$|[\w.\-]{1,64}=)|\\(?![nrt\"'\\]))*"
)
_LINE: Final = re.compile(r"(?:[^\n\r\"'\\]|\\(?![nrt\"'\\])|[\"'](?!\s*[,;:)\]}]|\s*$))*")
_SCHEME: Final = re.compile(
    r"(?:bearer|basic|token|apikey|api-key|negotiate|digest|hmac|signature|aws4[\w-]*)[ \t]++", re.IGNORECASE
)
_LONG_SCHEMES: Final = ("digest", "hmac", "signature", "aws4")  # with parameters, to the end of the line
# Words and placeholders in the position of a secret.
_HARMLESS: Final = re.compile(
    r"(?:none|null|nil|true|false|yes|no|ok|undefined|missing|unset|set|empty|required|invalid|expired|enabled|disabled"
    r"|\*+|x{3,}|<[^<>]*>?|\$\{?\w+\}?|%(?:\(\w+\))?[sdr]|\{[\w.!:]*\}?|\[\]?|\.{2,}|…|-+)[.,;:!?)]*",
    re.IGNORECASE,
)
_PROSE: Final = frozenset({
    "a", "an", "and", "at", "authentication", "but", "cannot", "contains", "did", "does", "expected", "failed", "for",
    "from", "had", "has", "in", "incorrect", "invalid", "is", "it", "may", "mismatch", "missing", "must", "needs", "no",
    "not", "only", "or", "please", "required", "rejected", "should", "string", "the", "to", "too", "unknown", "was",
    "wrong",
})  # fmt: skip
_NEXT_WORD: Final = re.compile(r"[ \t]+\w")
_STRONG: Final = re.compile(r"passw|passphrase|passcode|pwd|secret|mnemonic", re.IGNORECASE)
_DIGITS_ARE_SECRET: Final = re.compile(r"pin|otp|passcode|passw|pwd|secret", re.IGNORECASE)
_PHRASE: Final = re.compile(r"(?:passphrase|mnemonic)$", re.IGNORECASE)
_COOKIE: Final = re.compile(r"cookies?$", re.IGNORECASE)
_NO_NAME: Final = re.compile(
    r"(?:(?:Error|Exception|Warning|Failure)|\.(?:py|pyc|pyi|js|ts|rs|go|c|h|md|toml|json|txt|log|sql|sh))$"
)
# Name and value of stored headers: `(b'cookie', b'…')`.
_PAIR: Final = re.compile(r"\(b?([\"'])([\w.\-]{2,64})\1, ?(?=b?[\"'])")
# User and password before a host. The password may hold an `@`: the last one counts.
_USERINFO: Final = re.compile(r"://(?:[^\s/?#\"'<>@:]*+:([^\s/?#\"'<>]*)|(?=[^\s/@]{0,64}\d)([\w.~%+-]{20,}))@")
_PORT: Final = re.compile(r"\d{1,5}(?!\w)")


class _Key(NamedTuple):
    """A secret's name before a separator."""

    name: str
    before: str  # the character before it
    is_quoted: bool
    separator: str
    at: int  # the offset of the separator


def named(text: str, is_secret: Callable[[str], bool]) -> Iterator[Span]:
    """Yields the spans of values of secret names, in pairs too, and of passwords in URLs."""
    yield from _keyed(text, is_secret)
    for match in _PAIR.finditer(text):
        if is_secret(match[2]) and (span := _value(text, _Key(match[2], "(", True, ":", match.end() - 1))) is not None:
            yield span
    if "@" in text:
        for match in _USERINFO.finditer(text):
            yield match.span(match.lastindex or 0)


def _keyed(text: str, is_secret: Callable[[str], bool]) -> Iterator[Span]:
    for separator in "=:":
        between = _BETWEEN[separator]
        at = text.find(separator)
        while at >= 0:
            end = at + 1
            if text[end : end + 1] not in _NO_VALUE:
                head = text[at - _MAX_NAME_CHARS if at > _MAX_NAME_CHARS else 0 : at]
                bare = head.rstrip(between)
                name = bare[len(bare.rstrip(_NAME_CHARS)) :]
                if (
                    name
                    and is_secret(name)
                    and (span := _value(text, _key(head, bare, name, separator, at))) is not None
                ):
                    yield span
                    end = max(end, span[1])  # covered text is not searched again: the time stays linear
            at = text.find(separator, end)


def option_value(text: str, name: str, end: int) -> Span | None:
    """Returns the span of the value in a command line's `--name value`; `end` is the end of the name."""
    return _value(text, _Key(name, "-", False, ":", end)) if text[end : end + 1] in " \t" else None


def is_basic(credentials: str) -> bool:
    """Returns whether base64 text is `user:password`, not merely a word behind the word "basic"."""
    padded = credentials.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
    except ValueError:  # no base64, or no text in it
        return False
    return ":" in decoded and decoded.isprintable()


def _skip_scheme(text: str, start: int) -> tuple[int, bool]:
    """Returns the start of the credentials behind `Bearer ` and the like, and whether they fill the line."""
    match = _SCHEME.match(text, start)
    return (start, False) if match is None else (match.end(), match[0].lower().startswith(_LONG_SCHEMES))


def _key(head: str, bare: str, name: str, separator: str, at: int) -> _Key:
    before = bare[: len(bare) - len(name)][-1:]
    return _Key(name, before, head[len(bare) : len(bare) + 1] in ("'", '"', "\\"), separator, at)


def _value(text: str, key: _Key) -> Span | None:
    start = key.at + 1 + text.startswith("=>", key.at)
    after = _SPACES.match(text, start)
    start = after.end() if after is not None else start
    if text.startswith(REDACTED, start) or (key.separator == ":" and not _is_name(text, key, start)):
        return None
    opener = _OPENER.match(text, start)
    if opener is not None:
        return _quoted(text, key, opener.end(), opener[1])
    if text[start : start + 1] in ("[", "{") and text[start + 1 : start + 2] not in ("", "]", "}"):
        return start, _closing_bracket(text, start)
    return _bare(text, key, start)


def _is_name(text: str, key: _Key, start: int) -> bool:
    """Returns whether the text before a colon names a value, and is no path, host, scheme or error type."""
    if key.before in ("/", "\\") or _NO_NAME.search(key.name) is not None or text.startswith("//", start):
        return False
    return not ("." in key.name and start == key.at + 1 and _PORT.match(text, start) is not None)


def _quoted(text: str, key: _Key, start: int, closer: str) -> Span | None:
    if len(closer) == 1:
        match = _QUOTED[closer].match(text, start)
        end = match.end() if match is not None else start
    else:  # quotes inside a quoted text: they end with the same number of backslashes
        end = text.find(closer, start)
        end = len(text) if end < 0 else end
    content = text[start:end]
    is_word = len(content) < 8 or content.isalpha()
    if key.separator == ":" and not key.is_quoted and is_word and _STRONG.search(key.name) is None:
        return None  # "unexpected token: '}'"
    if _HARMLESS.fullmatch(content) is not None:
        return None
    return _unless_redacted(text, _skip_scheme(text, start)[0], end)


def _closing_bracket(text: str, start: int) -> int:
    depth = 0
    limit = min(len(text), start + _MAX_NESTED_CHARS)
    for match in _BRACKET.finditer(text, start, limit):
        depth += 1 if match[0] in "[{" else -1
        if depth == 0:
            return match.end()
    return limit


def _bare(text: str, key: _Key, start: int) -> Span | None:
    begin, is_long = _skip_scheme(text, start)
    match = _RUN.match(text, begin)
    end = match.end() if match is not None else begin
    value = text[begin:end]
    if not value or _HARMLESS.fullmatch(value) is not None:
        return None
    if begin == start and _is_no_secret(text, key, value, start, end):  # behind a scheme there is nothing else
        return None
    if is_long:
        newline = text.find("\n", begin)
        return _unless_redacted(text, begin, newline if newline >= 0 else len(text))
    is_line = (_COOKIE.search(key.name) is not None and "=" in value) or _PHRASE.search(key.name) is not None
    if is_line:
        line = _LINE.match(text, begin)
        end = max(end, line.end()) if line is not None else end
    return _unless_redacted(text, begin, end)


def _is_no_secret(text: str, key: _Key, value: str, start: int, end: int) -> bool:
    if value.isdigit() and (len(value) < 4 or _DIGITS_ARE_SECRET.search(key.name) is None) and len(value) < 8:
        return True  # "token: 128"
    if not value.isdigit() and _is_source_line(text, key.at):
        return True  # an expression; a literal would be quoted
    is_spaced = key.separator == ":" and start > key.at + 1 - (key.before == "-")
    return is_spaced and not key.is_quoted and _is_prose(text, key, value, end)


def _is_prose(text: str, key: _Key, value: str, end: int) -> bool:
    """Returns whether a sentence continues behind the colon."""
    word = value.rstrip(".,;:!?…")
    goes_on = _NEXT_WORD.match(text, end) is not None
    if _STRONG.search(key.name) is not None:
        return goes_on and word.lower() in _PROSE
    is_short = len(word) < 6 and not (word.isdigit() and _DIGITS_ARE_SECRET.search(key.name) is not None)
    return is_short or (word.isalpha() and (goes_on or len(word) < 16))


def _is_source_line(text: str, at: int) -> bool:
    """Returns whether this is in a source line of a traceback."""
    begin = text.rfind("\n", max(0, at - _MAX_LINE_CHARS), at) + 1
    frame = text.rfind('File "', max(0, begin - _MAX_FRAME_CHARS), begin)
    if begin == 0 or frame < 0:
        return False
    line = text[begin:at]
    # Deeper than its frame: the text of an error in an exception group is indented as well, behind bars.
    return len(line) - len(line.lstrip(" |")) > frame - (text.rfind("\n", 0, frame) + 1)


def _unless_redacted(text: str, start: int, end: int) -> Span | None:
    return None if start >= end or text.startswith(REDACTED, start) else (start, end)
