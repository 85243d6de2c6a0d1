"""The regular expression that finds secrets by shape, and registered ones by value.

Its first characters decide its speed. Each branch begins with a character that is rare in logs, the pivot, and looks
back for the characters before it: `J(?<=eyJ)…` instead of `eyJ…`. The engine then passes most of a text with one lookup
per character; branches that begin with letters of everyday words cost ten times as much.
For registered values the pivots are chosen so that few characters serve them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["REDACTED", "Shapes", "check_pattern", "compile_shapes", "is_worth_registering", "spellings"]

REDACTED: Final = "[redacted]"
MIN_VALUE_CHARS: Final = 8
_MAX_VALUE_CHARS: Final = 16_384  # a large private key in PEM; longer values are files, not secrets

# Common ones only; for others there is `observability.redact_patterns`. A token's prefix stays: it names the issuer.
_DASHED: Final = (
    r"(?<=(?<![A-Za-z0-9])sk-)|(?<=glpat-)|(?<=gldt-)|(?<=glrt-)|(?<=xox[abeprs]-)|(?<=xapp-)|(?<=pypi-)|(?<=nvapi-)"
)
_UNDERSCORED: Final = (
    r"(?<=gh[oprsu]_)|(?<=github_pat_)|(?<=(?<![A-Za-z0-9])hf_)|(?<=(?<![A-Za-z0-9])gsk_)|(?<=npm_)|(?<=whsec_)"
    r"|(?<=[sr]k_live_)|(?<=[sr]k_test_)|(?<=dckr_pat_)"
)
_PEM: Final = r"-(?:----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----([\s\S]*?)(?=-----END|\Z))"
_CREDENTIALS: Final = r"(?=[^\s]{0,256}?(?:\d|[a-z][A-Z])|[\w.~+/-]{20})([\w.~+/-]{5,}={0,2})(?!\w)"
_BRANCHES: Final = (
    _PEM,
    rf"-(?=[A-Za-z0-9_-]{{16}})(?=[A-Za-z_-]{{0,64}}+\d)(?:{_DASHED})([A-Za-z0-9_-]+)",
    r"-(?<=--)(?<![\w-]--)(?P<option>[A-Za-z][\w-]{1,63}+)(?=[ \t]+[^\s-])",
    r"-(?<=AGE-SECRET-KEY-)(1[0-9A-Z]{16,})",
    rf"_(?=[A-Za-z0-9]{{16}})(?:{_UNDERSCORED})([A-Za-z0-9_]+)",
    r"J(?<=(?<![A-Za-z0-9])eyJ)([\w-]{5,}(?:\.[\w-]+)+)",
    r"K(?<=(?<![A-Za-z0-9])AK)IA([0-9A-Z]{12,})",
    r"S(?<=(?<![A-Za-z0-9])AS)IA([0-9A-Z]{12,})(?![a-z])",
    r"I(?<=(?<![A-Za-z0-9])AI)za([\w-]{30,})",
    rf"B(?:earer|EARER)[ \t]+{_CREDENTIALS}",
    r"B(?:asic|ASIC)[ \t]+(?=(?P<basic>[A-Za-z0-9+/_-]{6,}={0,2})(?!\w))",  # lookahead only: it may be a word
    rf"bearer(?<!\wbearer)[ \t]+{_CREDENTIALS}",
)
_FIRST: Final = "-_JKSIBb"  # the pivots of the branches above, used again

# Rarest in logs first: the order of choice for pivots.
_RARITY: Final = {
    char: place
    for place, char in enumerate(
        "\\%+QZXYJVWqK#$^~`|!&*GUzHjBFLORMPDNkECwISATvx;?(){}[]<>yb9g8h7f6p5u4m3d2c0/l1rnsoiate"
    )
}
_ORDINARY: Final = len(_RARITY)  # for unlisted characters: `-`, `_`, `.`, `=`, `:`, space

_MAX_PATTERN_CHARS: Final = 512
# As text, here and below: compiled on first use, not by every program that logs a line.
_NO_SYNTAX: Final = r"(?s:\\.|\[\^?\]?[^\]]*\])"
_REPEAT: Final = r"(?:[*+]|\{\d*,\d*\})"
_POSSESSIVE: Final = r"(?:[*+?]|\{[\d,]*\})\+"
_GROUP: Final = rf"\(([^()]*)\)({_REPEAT})?"

_PATH: Final = r"(?:~|\.{1,2}|[A-Za-z]:\\)?(?:[/\\][\w.@+ -]*)+(?::(?:[/\\][\w.@+ -]*)+)*"
_HOST_OR_NUMBER: Final = r"[\d.,:_+-]+|(?:https?://)?[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::\d{1,5})?/?"
_COMMON: Final = frozenset({
    "changeme", "development", "disabled", "enabled", "localhost", "password", "production", "required", "undefined",
    "redacted", "[redacted]",
})  # fmt: skip


def is_worth_registering(value: str) -> bool:
    """Returns whether a value can be searched for: long enough, and not common in records."""
    if not MIN_VALUE_CHARS <= len(value) <= _MAX_VALUE_CHARS or REDACTED in value or value in REDACTED:
        return False
    if value.lower() in _COMMON or len(set(value)) < 4 or (value.isalpha() and value.islower() and len(value) < 12):
        return False
    if re.fullmatch(_HOST_OR_NUMBER, value) is not None and (len(value) < 16 or "." in value or value.isdigit()):
        return False
    return re.fullmatch(_PATH, value) is None


def check_pattern(pattern: str) -> str:
    """Returns an operator's expression if it can be run over every recorded text.

    Raises:
        ValueError: raised for an expression that is too long or invalid, matches the empty text, or repeats a repeat,
            which may take for ever on some texts.
    """
    if len(pattern) > _MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern has {_MAX_PATTERN_CHARS} characters at most")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    if compiled.search("") is not None:
        raise ValueError("it matches the empty text, so it would match everywhere")
    if _repeats_a_repeat(pattern):
        raise ValueError("a repeat inside a repeat may take for ever; make the inner one possessive, as in (a++b)+")
    return pattern


def _repeats_a_repeat(pattern: str) -> bool:
    """Returns whether a group that can be repeated has a repeat in it, at whatever depth."""
    plain = re.sub(_POSSESSIVE, "x", re.sub(_NO_SYNTAX, "x", pattern))
    while (group := re.search(_GROUP, plain)) is not None:  # from the innermost out
        has_repeat = re.search(_REPEAT, group[1]) is not None
        if has_repeat and group[2]:
            return True
        plain = f"{plain[: group.start()]}{'x+' if has_repeat or group[2] else 'x'}{plain[group.end() :]}"
    return False


def spellings(value: str | bytes) -> set[str]:
    """Returns the spellings of a secret in texts: plain, quoted for URLs, in JSON, base64, hexadecimal."""
    # Imported only by programs that have secrets.
    import json
    from urllib.parse import quote, quote_plus

    found: set[str] = set()
    if isinstance(value, bytes):
        raw = value
        found |= {raw.hex(), raw.hex().upper(), raw.hex(":"), repr(raw)[2:-1], json.dumps(list(raw))[1:-1]}
    else:
        raw = value.encode("utf-8", "surrogatepass")
        found |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
        found |= {quote(raw, safe=""), quote(raw), quote_plus(raw), quote(raw, safe="").lower()}
    for shift in range(3):  # it may be anywhere in the encoded text, as in `user:password`
        found |= _base64_cores(raw, shift)
    return {spelling for spelling in found if len(spelling) >= MIN_VALUE_CHARS}


def _base64_cores(raw: bytes, shift: int) -> set[str]:
    """Returns the characters of the base64 text that depend only on the secret."""
    import base64

    encoded = base64.b64encode(b"\0" * shift + raw).decode("ascii")
    bits = 8 * (shift + len(raw))
    core = encoded[-(-8 * shift // 6) : bits // 6]
    return {core, core.replace("+", "-").replace("/", "_")}


class Shapes(NamedTuple):
    """The expression as a whole, for searching, and its two parts: a match of one must not hide one of the other."""

    all: re.Pattern[str]
    known: re.Pattern[str]
    registered: re.Pattern[str] | None


def compile_shapes(registered: Iterable[str]) -> Shapes:
    """Returns the expression for the known shapes and these spellings; a match's last group is the secret."""
    wanted = sorted(set(registered), key=len, reverse=True)  # the longest first: one may begin with another
    pivots = _choose_pivots(wanted)
    branches: list[str] = []
    for spelling in wanted:
        at = min((spelling.index(pivot) for pivot in pivots if pivot in spelling), default=0)
        head, pivot, tail = spelling[:at], spelling[at], spelling[at + 1 :]
        behind = f"(?<={re.escape(head + pivot)})" if head else ""
        branches.append(f"{re.escape(pivot)}{behind}(?P<value_{len(branches)}_{at}>{re.escape(tail)})")
    return Shapes(
        all=re.compile("|".join((*branches, *_BRANCHES))),
        known=re.compile("|".join(_BRANCHES)),
        registered=re.compile("|".join(branches)) if branches else None,
    )


def _choose_pivots(wanted: list[str]) -> str:
    """Returns few and rare characters such that each spelling has one: greedily, the most useful first."""
    pivots = ""
    waiting = [spelling for spelling in wanted if not set(spelling) & set(_FIRST)]
    if len(waiting) < len(wanted):
        pivots = _FIRST
    while waiting:
        candidates = {char for spelling in waiting for char in spelling}
        best = max(candidates, key=lambda char: (sum(char in item for item in waiting), -_RARITY.get(char, _ORDINARY)))
        pivots += best
        waiting = [spelling for spelling in waiting if best not in spelling]
    return pivots
