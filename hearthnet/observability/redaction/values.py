"""Values of secret names inside a text: `password=…`, `"token": "…"`, `Cookie: …`, `<password>…</password>`.

The search goes from separator to separator, and takes the value behind each secret name. The name may be a value itself
(`"name": "x_token", "value": "…"`), or be declared with a type (`var token string = "…"`). A text may be prose:
"unexpected token: expected a comma", `auth.py:12` and the source lines of a traceback (`connect(password=password)`)
hold no secret, and stay.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hearthnet.constants import REDACTED
from hearthnet.observability.redaction.names import (
    LIKELY,
    OPEN,
    PLAIN,
    SECRET,
    VARIABLE,
    could_be_secret,
    is_made,
    is_meant,
    last_word_is_secret,
    makes_words,
)

__all__ = [
    "ALL_PARTS",
    "ALONE",
    "ELEMENTS",
    "ESCAPES",
    "IN_URL",
    "KEYED",
    "PAIRED",
    "UNCERTAIN",
    "Key",
    "Span",
    "is_basic",
    "named",
    "value_of",
    "with_owner",
]

Span = tuple[int, int]
# Parts of the search; a quick check tells which of them a text needs.
KEYED: Final = 1
PAIRED: Final = 2
ELEMENTS: Final = 4
IN_URL: Final = 8
ALL_PARTS: Final = 15

_NAME_CHARS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
# Allowed between a name and its separator: quotes, escaped or not, a closing bracket, the rest of `:=`, `?=` or `==`.
_BETWEEN: Final = {"=": " \t\"'\\]:=!?.+|", ":": " \t\"'\\]"}
_NO_VALUE: Final = {"=": ("", "\n", "\r", "="), ":": ("", "\n", "\r", ":", "=")}
_MAX_NAME_CHARS: Final = 64  # bounds the search at each separator
_MAX_LINE_CHARS: Final = 400  # how far back the start of a source line is searched
_MAX_FRAME_CHARS: Final = 1_000  # between a frame's `File "…"` line and the end of its source
_MAX_NESTED_CHARS: Final = 4_096  # of a value in brackets
_MIN_QUOTED: Final = 8  # of a secret behind a word and a colon
_MIN_LETTERS: Final = 16  # of a secret in letters alone that could be a word
_MAX_OPEN_CHARS: Final = 512  # of a value that is a secret only if it looks random

_SPACES: Final = re.compile(r"[ \t]*+")
_OPENER: Final = re.compile(r"[bBrRuUfF]{0,2}(\\{0,7}[\"'`])")
# Nothing follows these repetitions, so they never go back; possessive ones over alternatives are wrong before 3.11.5.
# A quote with a word behind it begins a quotation inside the value, or is an apostrophe.
_QUOTED: Final = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\.|{quote}(?=\w))*") for quote in "\"'`"}
# Or a quoted text, in which they are none: JSON, JSON within a string, or as `repr` has it.
_BRACKET: Final = re.compile(r"[\[\]{}]|\\+\"[^\"\\]*+\\+\"|\"(?:[^\"\\]|\\.)*+\"|(?<=[\[{,:( ])'(?:[^'\\]|\\.)*+'")
# Ends of a bare value: white space always; punctuation where a sentence, a list or the next `name=` goes on behind it.
_RUN: Final = re.compile(
    r"(?:[^\s&\"'<>,;)\]}\\]|[&\"'<>,;)\]}](?![\s,;:)\]}>&\"'.]|$|[\w.\-]{1,64}=)|\\{1,8}+(?![nrt\"']))*"
)
# The same, of a value that a program made: no quote, comma or bracket within it is an end, only where one would be.
_UNBROKEN: Final = re.compile(
    r"(?:[^\s&\"',;\\]|[&,;](?![\w.\-]{1,64}=)|\\{0,7}+[\"'](?![\s,:)\]}/>]|$)|\\{1,8}+(?![nrt\"']))*"
)
_LINE: Final = re.compile(r"(?:[^\n\r\"'\\]|\\(?![nrt\"'\\])|[\"'](?!\s*[,;:)\]}]|\s*$))*")
_SCHEME: Final = re.compile(
    r"(?:bearer|basic|token|ssws|apikey|api-key|negotiate|digest|hmac|signature|aws4[\w-]*)[ \t]++", re.IGNORECASE
)
_LONG_SCHEMES: Final = ("digest", "hmac", "signature", "aws4")  # with parameters, to the end of the line
# Words and placeholders in the position of a secret.
_HARMLESS: Final = re.compile(
    r"(?:none|null|nil|true|false|yes|no|ok|undefined|missing|unset|set|empty|required|invalid|expired|enabled|disabled"
    r"|\*+|x{3,}|<[^<>]*>?|[A-Z]\w*\{[0-9a-f]+|[\w.$]+@[0-9a-f]{4,16}|&?str(?:ing)?|\$\{?\w+\}?|%(?:\(\w+\))?[sdr]|\{[\w.!:]*\}?|\[\]?|\.{2,}|…|-+)[.,;:!?)]*",
    re.IGNORECASE,
)
_PLACEHOLDERS: Final = ("$", "<", "{")  # what begins with these is a password if it could be one
_PROSE: Final = frozenset({
    "a", "an", "and", "at", "authentication", "but", "cannot", "contains", "did", "does", "expected", "failed",
    "flag", "for", "from", "had", "has", "in", "incorrect", "invalid", "is", "it", "may", "mismatch", "missing",
    "must", "needs", "no", "not", "only", "option", "or", "please", "rejected", "required", "should", "string",
    "the", "to", "too", "unknown", "was", "wrong",
})  # fmt: skip
_ITEM: Final = re.compile(r"[^\s,;|&<>\"'`\\]{12,}")  # where a list or an escaped quote goes on behind it
_NEXT_WORD: Final = re.compile(r"[ \t]+\w")
_STRONG: Final = re.compile(r"passw|passphrase|passcode|pwd|secret|mnemonic", re.IGNORECASE)
_DIGITS_ARE_SECRET: Final = re.compile(r"pin|otp|passcode|passw|pwd|secret", re.IGNORECASE)
_PHRASE: Final = re.compile(r"(?:passphrase|mnemonic)$", re.IGNORECASE)
_HEADER: Final = re.compile(r"X-", re.IGNORECASE)  # its value is no prose
_COOKIE: Final = re.compile(r"cookies?$", re.IGNORECASE)
_NO_NAME: Final = re.compile(
    r"(?:(?:Error|Exception|Warning|Failure)|\.(?:py|pyc|pyi|js|ts|rs|go|c|h|md|toml|json|txt|log|sql|sh))$"
)
_CLASS: Final = re.compile(r"(?:[A-Z][a-z]+){2,}")  # of a state or an error: `AuthFail:3`
# Name and value of stored headers, arguments of a call: `(b'cookie', b'…')`, `("API_TOKEN", "…")`, `["cookie", "…"]`.
_PAIRS: Final = tuple(  # two: one that begins with a set of characters is slow
    re.compile(rf"\{bracket}b?(\\{{0,7}}[\"'])([\w.\-]{{2,64}})\1,\s{{0,40}}(?=b?\\{{0,7}}[\"'])") for bracket in "(["
)
_CLOSES: Final = re.compile(r"\\{0,7}[\"']\s{0,40}\]")
_ELEMENT: Final = re.compile(r"<([\w:.\-]{2,64})(?:\s[^<>]*+)?>(?:<!\[CDATA\[)?\s*+([^<>]*+)>?</")
_NAME_ELEMENT: Final = re.compile(
    r"<(?:name|key)>\s{0,40}([\w.\-]{2,64})\s{0,40}</(?:name|key)>\s{0,40}$", re.IGNORECASE
)
# What precedes `value` where the name is a value itself: JSON, YAML, attributes.
_VALUE_NAMES: Final = frozenset({"value", "Value", "VALUE", "val"})
_NAME_BEFORE: Final = re.compile(
    r"(?:name|key|field|header|variable)[\\\"']{0,8}[ \t]{0,8}[:=][ \t]{0,8}[\\\"']{0,8}([\w.\-]{2,64})"
    r"[\\\"']{0,8}[,;\s]{0,40}(?:[\\\"']{0,8}\w{1,20}[\\\"']{0,8}\s?[:=]\s?[\\\"']{0,8}[\w./-]{0,40}[\\\"']{0,8}"
    r"[,;\s]{1,40}){0,2}[\\\"']{0,8}$",
    re.IGNORECASE,
)
_MAX_BEFORE_CHARS: Final = 240
_TYPES: Final = frozenset({"str", "string", "String", "text", "varchar", "NSString", "bytes", "byte", "any", "char"})
_BORROWING: Final = _VALUE_NAMES | _TYPES
ALONE: Final = frozenset({"key", "Key", "KEY"})  # names that are plain, unless the word before says whose
_NO_OWNERS: Final = frozenset({
    "a", "an", "and", "any", "as", "at", "bad", "by", "cannot", "duplicate", "each", "every", "for", "from", "has",
    "in", "invalid", "is", "its", "no", "not", "of", "on", "one", "or", "same", "some", "that", "the", "their", "this",
    "to", "under", "unknown", "with", "wrong",
})  # fmt: skip
ESCAPES: Final = ("n", "r", "t")
UNCERTAIN: Final = _BORROWING | ALONE
_NUMBER: Final = 5  # a kind of name: secret if the value could be one, or is a number
_OF_OWNED: Final = {
    PLAIN: PLAIN,
    OPEN: LIKELY,
    LIKELY: LIKELY,
    VARIABLE: LIKELY,
    SECRET: _NUMBER,
}  # `stripe key: …`, `api key: …`
_VERB: Final = re.compile(r"(?!(?:pre)?shared|signing)\w*(?:ed|ing)")
_OWNER: Final = re.compile(r"([\w.-]{2,63})[ \t]{1,4}$")
# User and password before a host. The password may hold an `@`: the last one counts.
_USERINFO: Final = re.compile(
    r"://(?:([^\s/?#\"'<>@:]*+):(?!\d{1,5}[?#])([^\s/\"'<>]*)|(?=[^\s/@]{0,64}\d)([\w.~%+-]{20,}))@"
)
_ORACLE: Final = re.compile(r"oracle:(?:thin|oci8?):[\w$#]{1,64}/([^\s@/\"']{1,128})@")
_TOKEN_AS_USER: Final = re.compile(r"(?=\D*\d)[\w.~%+-]{20,}")  # before `:x-oauth-basic`, say
_PORT: Final = re.compile(r"\d{1,5}(?!\w)")


class Key(NamedTuple):
    """A secret's name before a separator."""

    name: str
    before: str  # the character before it
    is_quoted: bool
    separator: str
    at: int  # the offset of the separator
    limit: int = sys.maxsize  # where to stop: of a value that may be none, covered text is searched again


def named(text: str, kind_of: Callable[[str], int], parts: int) -> Iterator[Span]:
    """Yields the spans of values of secret names, in pairs and elements too, and of passwords in URLs.

    Args:
        text: the whole.
        kind_of: judges a name.
        parts: of this search, as a sum: `KEYED`, `PAIRED`, `ELEMENTS`, `IN_URL`.
    """
    if parts & KEYED:
        yield from _keyed(text, kind_of)
    if parts & ELEMENTS and "</" in text:
        yield from _elements(text, kind_of)
    if parts & PAIRED and ('"' in text or "'" in text):
        yield from _paired(text, kind_of)
    if parts & IN_URL and "@" in text:
        yield from _in_urls(text)


def _in_urls(text: str) -> Iterator[Span]:
    yield from (match.span(1) for match in _ORACLE.finditer(text))
    for match in _USERINFO.finditer(text):
        yield match.span(3 if match[3] else 2)
        if match[1] and (match[2] == "x-oauth-basic" or _TOKEN_AS_USER.fullmatch(match[1]) is not None):
            yield match.span(1)


def _paired(text: str, kind_of: Callable[[str], int]) -> Iterator[Span]:
    for pair in _PAIRS:
        covered = 0
        for match in pair.finditer(text):
            kind = kind_of(match[2]) if match.start() >= covered else PLAIN
            key = Key(match[2], "(", True, ":", match.end())
            span = value_of(text, key, match.end()) if kind else None
            if span is None:
                continue
            covered = span[1]  # covered text is not searched again: the time stays linear
            is_pair = match[0].startswith("(") or _CLOSES.match(text, covered) is not None  # a list of two
            if is_pair and is_meant(kind, text[slice(*span)]):
                yield span


def _keyed(text: str, kind_of: Callable[[str], int]) -> Iterator[Span]:
    has_escapes = "\\" in text
    for separator, between in _BETWEEN.items():
        at = text.find(separator)
        while at >= 0:
            end = at + 1
            head = text[at - _MAX_NAME_CHARS if at > _MAX_NAME_CHARS else 0 : at]
            bare = head.rstrip(between)
            name = bare[len(bare.rstrip(_NAME_CHARS)) :]
            if has_escapes and name[:1] in ESCAPES and bare[: -len(name)].endswith("\\") and kind_of(name[1:]):
                name = name[1:]  # behind an escaped line break
            # Nearly all names end here.
            if name and (kind := kind_of(name) or (name in UNCERTAIN and _kind_beside(text, at, bare, name, kind_of))):
                is_value = text[end : end + 1] not in _NO_VALUE[separator]
                span = _value_if_meant(text, _key(head, bare, name, separator, at), kind) if is_value else None
                if span is not None:
                    yield span
                    end = span[1]  # covered text is not searched again: the time stays linear
            at = text.find(separator, end)


def _kind_beside(text: str, at: int, bare: str, name: str, kind_of: Callable[[str], int]) -> int:
    """Returns what a name says that is plain by itself, by the words before it; `at` is its separator's offset."""
    if name in _BORROWING:
        before = text[max(0, at - _MAX_BEFORE_CHARS) : at].rstrip(_BETWEEN[text[at]])
        return kind_of(_borrowed(before, name))
    return _OF_OWNED[kind_of(with_owner(bare, name))]


def _value_if_meant(text: str, key: Key, kind: int) -> Span | None:
    """Returns the span of the value of a name that is not plain, if it is a secret."""
    if kind == SECRET:
        return _value(text, key)
    span = _value(text, key._replace(limit=key.at + _MAX_OPEN_CHARS))
    if span is None:
        return None
    first = _ITEM.match(text, *span)
    value = text[slice(*span)] if first is None else first[0]
    is_secret = is_meant(kind, value) or (kind == _NUMBER and (value.isdigit() or could_be_secret(value)))
    return _value(text, key) if is_secret else None


def _borrowed(before: str, name: str) -> str:
    """Returns the name beside a `value`, or the one that is declared with a type; "" if there is none."""
    before = before[: len(before) - len(name)]
    if name in _VALUE_NAMES:
        match = _NAME_BEFORE.search(before)
        return match[1] if match is not None else ""
    before = before.rstrip(" \t:&*?[]")
    return before[len(before.rstrip(_NAME_CHARS)) :]


def with_owner(before: str, name: str) -> str:
    """Returns a name that is a word by itself with the word before it: `stripe key`."""
    owner = _OWNER.search(before, 0, len(before) - len(name))
    is_none = owner is None or owner[1].lower() in _NO_OWNERS or _VERB.fullmatch(owner[1]) is not None
    return name if owner is None or is_none else owner[0] + name


def _elements(text: str, kind_of: Callable[[str], int]) -> Iterator[Span]:
    for match in _ELEMENT.finditer(text):
        name = match[1]
        if name in _VALUE_NAMES:
            before = _NAME_ELEMENT.search(text[max(0, match.start() - _MAX_BEFORE_CHARS) : match.start()])
            name = before[1] if before is not None else ""
        content, kind = match[2].rstrip().removesuffix("]]"), kind_of(name)
        if kind and not _is_harmless(content):
            span = _unless_redacted(text, match.start(2), match.start(2) + len(content))
            if span is not None and is_meant(kind, text[slice(*span)]):
                yield span


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


def _key(head: str, bare: str, name: str, separator: str, at: int) -> Key:
    before = bare[: len(bare) - len(name)][-1:]
    return Key(name, before, head[len(bare) : len(bare) + 1] in ("'", '"', "\\"), separator, at)


def _value(text: str, key: Key) -> Span | None:
    start = key.at + 1 + text.startswith("=>", key.at)
    after = _SPACES.match(text, start)
    start = after.end() if after is not None else start
    if text.startswith(REDACTED, start) or (key.separator == ":" and not _is_name(text, key, start)):
        return None
    return value_of(text, key, start)


def value_of(text: str, key: Key, start: int) -> Span | None:
    """Returns the span of the secret that begins here, in its quotes or scheme; None if it is a word."""
    opener = _OPENER.match(text, start)
    if opener is not None:
        return _quoted(text, key, opener.end(), opener[1])
    if text[start : start + 1] in ("[", "{") and text[start + 1 : start + 2] not in ("", "]", "}"):
        return start, _end_of_made(text, start, _closing_bracket(text, start, key.limit))
    return _bare(text, key, start)


def _is_name(text: str, key: Key, start: int) -> bool:
    """Returns whether the text before a colon names a value, and is no path, host, scheme or error type."""
    if key.before in ("/", "\\") or _NO_NAME.search(key.name) is not None or text.startswith("//", start):
        return False
    if not key.is_quoted and start == key.at + 1 and _CLASS.fullmatch(key.name) and not last_word_is_secret(key.name):
        return False
    return not ("." in key.name and start == key.at + 1 and _PORT.match(text, start) is not None)


def _quoted(text: str, key: Key, start: int, closer: str) -> Span | None:
    if closer in _QUOTED:
        match = _QUOTED[closer].match(text, start, key.limit)
        end = match.end() if match is not None else start
    else:  # quotes inside a quoted text: they end with the same number of backslashes
        end = text.find(closer, start, key.limit)
        while end > start and text[end - 1] == "\\":
            end = text.find(closer, end + 1, key.limit)
        end = min(len(text), key.limit) if end < 0 else end
    content = text[start:end]
    if key.separator == ":" and not key.is_quoted and _is_word(key.name, content) and not _STRONG.search(key.name):
        return None  # "unexpected token: '}'"
    if _is_harmless(content):
        return None
    return _unless_redacted(text, _skip_scheme(text, start)[0], end)


def _is_harmless(value: str) -> bool:
    """Returns whether a value is a word or a placeholder; a variable's name that could be none is a password."""
    return _HARMLESS.fullmatch(value) is not None and not (
        value[:1] in _PLACEHOLDERS and could_be_secret(value[1:].rstrip(">}"))
    )


def _is_word(name: str, content: str) -> bool:
    if len(content) < _MIN_QUOTED or not content.isalpha():
        return len(content) < _MIN_QUOTED
    if "_" in name:
        return len(content) < _MIN_LETTERS and makes_words(content)
    return not could_be_secret(content)


def _closing_bracket(text: str, start: int, limit: int) -> int:
    depth = 0
    limit = min(len(text), start + _MAX_NESTED_CHARS, limit)
    for match in _BRACKET.finditer(text, start, limit):
        if len(match[0]) == 1:
            depth += 1 if match[0] in "[{" else -1
        if depth == 0:
            return match.end()
    return limit


def _bare(text: str, key: Key, start: int) -> Span | None:
    begin, is_long = _skip_scheme(text, start)
    match = _RUN.match(text, begin, key.limit)
    end = match.end() if match is not None else begin
    end = _end_of_made(text, begin, end)
    value = text[begin:end]
    if not value or _is_harmless(value):
        return None
    if begin == start and _is_no_secret(text, key, value, start, end):  # behind a scheme there is nothing else
        return None
    if is_long:
        newline = text.find("\n", begin)
        return _unless_redacted(text, begin, newline if newline >= 0 else len(text))
    if key.separator == "=" and key.before in ("'", '"'):
        end = max(end, _end_of_item(text, end, key.before))
    is_line = (_COOKIE.search(key.name) is not None and "=" in value) or _PHRASE.search(key.name) is not None
    if is_line:
        line = _LINE.match(text, begin)
        end = max(end, line.end()) if line is not None else end
    return _unless_redacted(text, begin, end)


def _end_of_item(text: str, end: int, quote: str) -> int:
    """Returns the end of a quoted `'NAME=two words'`; `end` or less where other names follow in the quotes."""
    closing = text.find(quote, end, end + _MAX_LINE_CHARS)
    rest = text[end:closing]
    return end if "=" in rest or "\n" in rest else closing


def _end_of_made(text: str, start: int, end: int) -> int:
    """Returns the end of a variable's value of letters and signs at random, which quotes and commas are among."""
    limit = start + _MAX_OPEN_CHARS
    match = _UNBROKEN.match(text, start, limit)
    if match is None or not is_made(match[0]):
        return end
    if match.end() == limit:  # to its end: no tail is left
        match = _UNBROKEN.match(text, start) or match
    return max(end, match.end())


def _is_no_secret(text: str, key: Key, value: str, start: int, end: int) -> bool:
    if value.isdigit() and (len(value) < 4 or _DIGITS_ARE_SECRET.search(key.name) is None) and len(value) < 8:
        return True  # "token: 128"
    if key.name.lower().endswith("auth") and value.isalpha() and value.isupper():
        return True  # a mode: "auth:SIMPLE"
    if not value.isdigit() and _is_source_line(text, key.at):
        return True  # an expression; a literal would be quoted
    if _HEADER.match(key.name) is not None:
        return value.rstrip(".,;:!?…").lower() in _PROSE
    is_spaced = key.separator == ":" and start > key.at + 1 - (key.before == "-")
    return is_spaced and not key.is_quoted and _is_prose(text, key, value, end)


def _is_prose(text: str, key: Key, value: str, end: int) -> bool:
    """Returns whether a sentence continues behind the colon."""
    if "=" in value and _COOKIE.search(key.name) is not None:
        return False
    word = value.rstrip(".,;:!?…")
    goes_on = _NEXT_WORD.match(text, end) is not None
    if _STRONG.search(key.name) is not None:
        return goes_on and word.lower() in _PROSE
    is_short = len(word) < 6 and not (word.isdigit() and _DIGITS_ARE_SECRET.search(key.name) is not None)
    return is_short or (word.isalpha() and (goes_on or len(word) < _MIN_LETTERS) and not could_be_secret(word))


def _is_source_line(text: str, at: int) -> bool:
    """Returns whether this is in a source line of a traceback."""
    begin = text.rfind("\n", max(0, at - _MAX_LINE_CHARS), at) + 1
    frame = text.rfind('File "', max(0, begin - _MAX_FRAME_CHARS), begin)
    if frame < 0:
        return False
    line = text[begin:at]
    # Deeper than its frame: the text of an error in an exception group is indented as well, behind bars.
    return len(line) - len(line.lstrip(" |")) > frame - (text.rfind("\n", 0, frame) + 1)


def _unless_redacted(text: str, start: int, end: int) -> Span | None:
    return None if start >= end or text.startswith(REDACTED, start) else (start, end)
