"""Rules of redaction: by the name of a key, by known values, and by shape.

`is_secret` checks names. They are split into words (`apiKey`, `API-KEY` and `api_key` are the same two), and the result
is cached, so a key costs the caller one dictionary lookup. Counts of tokens are no secrets: `tokens_in` and
`max_tokens` are everyday words of a node that serves language models.

`scrub` replaces secrets inside a text and keeps what helps to diagnose: `Bearer [redacted]`, `?api_key=[redacted]&x=1`,
`redis://user:[redacted]@host`. It runs on every recorded text, so a text without secrets is recognised in a fraction of
a microsecond, and cached. Measured in November 2026 on a small virtual machine, Python 3.11: 0.1 us
for a text that is remembered; 0.3 to 1 us for a new one of 15 to 50 characters, most where it has a colon; 19 us for
2 KiB of prose; 67 us for a traceback of 8 KiB.

One regular expression finds secrets by shape, and registered ones by value. Its first characters decide its speed. Each
branch begins with a character that is rare in logs, the pivot, and looks back for the characters before it:
`J(?<=eyJ)…` instead of `eyJ…`. The engine then passes most of a text with one lookup per character; branches that begin
with letters of everyday words cost ten times as much. For registered values the pivots are chosen so that few
characters serve them all.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from hearthnet.constants import REDACTED

if TYPE_CHECKING:
    from hearthnet.observability.redaction.values import Span

__all__ = [
    "REDACTED",
    "Rules",
    "active",
    "check_pattern",
    "configure",
    "forget_secrets",
    "is_secret",
    "is_worth_registering",
    "needs_scrub",
    "on_change",
    "register_secrets",
    "scrub",
    "spellings",
]

_SECRET_WORDS: Final = frozenset({
    "auth", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "jwt", "mnemonic", "otp",
    "pass", "passcode", "passphrase", "passwd", "password", "passwords", "pin", "privkey", "pwd", "secret", "secrets",
    "token",
})  # fmt: skip
_SECRET_PAIRS: Final = frozenset({
    (owner, key)
    for owner in ("access", "api", "auth", "encryption", "private", "root", "secret", "session", "signing", "ssh")
    for key in ("key", "keys")
} | {(owner, "tokens") for owner in ("access", "api", "auth", "bearer", "id", "refresh", "session")})  # fmt: skip
_SECRET_ENDINGS: Final = (
    "accesskey", "apikey", "apikeys", "authheader", "passwd", "password", "passwords", "privatekey", "privkey",
    "secret", "secretkey", "sessionid", "accesstoken", "apitoken", "authtoken", "idtoken", "refreshtoken",
    "sessiontoken",
)  # fmt: skip
# Names of measures of a language model's tokens, in full; any other name with `token` in it is secret.
_TOKEN_MEASURES: Final = re.compile(
    r"(?:max_|first_)?token_(?:budget|count|id|index|limit|ms|rate|total|type|usage)|(?:per|next|last|first)_token(?:_ms)?"
    r"|(?:ms|time|seconds)_(?:per|to_first)_token"
)

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MAX_REMEMBERED: Final = 4_096  # far more names than a program has; hostile ones must not grow it for ever
_MAX_REMEMBERED_CHARS: Final = 128  # longer texts are rarely the same twice
_SHORTEST: Final = 8  # shorter secrets cannot be distinguished from words, even with their name
_SHORT_CHARS: Final = 512  # up to here searching for words first is faster; beyond, going from separator to separator
_MAX_ROUNDS: Final = 4
_MAX_SECRETS: Final = 256  # values; a node has a handful, and each has some fifteen spellings

_remembering: list[Callable[[], None]] = []


class Rules:
    """The secrets at present, and the verdicts so far.

    Attributes:
        names: added by `configure`, as `_word_word_`.
        words: the longest word of each of these names.
        patterns: added by `configure`.
        secrets: registered values.
        shapes: the expressions made of the secrets; None until they are needed.
        search: finds anything secret in a text.
        verdicts: whether a name is secret.
        clean: texts that hold nothing secret.
        lock: over `secrets` and `shapes`. Re-entrant: compiling takes a millisecond, and a signal handler or a
            finalizer may log in the meantime.
    """

    __slots__ = ("clean", "lock", "names", "patterns", "search", "secrets", "shapes", "verdicts", "words")

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.words: tuple[str, ...] = ()
        self.patterns: tuple[re.Pattern[str], ...] = ()
        self.secrets: set[str | bytes] = set()
        self.verdicts: dict[str, bool] = {}
        self.clean: dict[str, None] = {}
        self.lock = threading.RLock()
        self.forget_shapes()

    def forget_shapes(self) -> None:
        """Compiles the expressions anew when a text is next searched: every program that logs a line imports this."""
        self.shapes: Shapes | None = None
        self.search: Callable[[str], object] = _search_first

    def compiled(self) -> Shapes:
        """Returns the expressions, compiled on first use. 1 ms."""
        with self.lock:
            if self.shapes is None:
                self.shapes = compile_shapes({spelling for value in self.secrets for spelling in spellings(value)})
                self.search = self.shapes.all.search
            return self.shapes


def _search_first(text: str) -> object:
    return active.compiled().all.search(text)


active: Final = Rules()


def is_secret(name: str) -> bool:
    """Returns whether a value under this key must not be recorded."""
    verdict = active.verdicts.get(name)
    if verdict is None:
        if len(active.verdicts) >= _MAX_REMEMBERED:
            active.verdicts.clear()
        verdict = active.verdicts[name] = _check_name(name)
    return verdict


def _check_name(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if "".join(words).endswith(_SECRET_ENDINGS) and words != ["session", "id"]:
        return True
    if not _SECRET_PAIRS.isdisjoint(pairwise(words)):
        return True
    if active.names and any(extra in f"_{'_'.join(words)}_" for extra in active.names):
        return True
    found = _SECRET_WORDS.intersection(words)
    if found == {"token"}:
        return _TOKEN_MEASURES.fullmatch("_".join(words)) is None
    return bool(found)


def configure(keys: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
    """Adds names and expressions to redact; replaces those of an earlier call.

    Args:
        keys: names; each is secret by itself and within longer ones, however they are spelled.
        patterns: regular expressions. Where one has a group, the group is replaced, else all that it matches.

    Raises:
        re.error: raised for a pattern that is no regular expression.
    """
    words = [[word.lower() for word in _WORD.findall(key)] for key in keys]
    active.patterns = tuple(re.compile(pattern) for pattern in patterns)
    active.names = tuple(f"_{'_'.join(parts)}_" for parts in words if parts)
    active.words = tuple(max(parts, key=len) for parts in words if parts)
    _forget_verdicts()


def register_secrets(values: Iterable[str | bytes]) -> int:
    """Makes these values secret wherever they occur, in all their spellings; returns how many are known then.

    Skips values shorter than 8 characters, paths, numbers, hosts and common words, which would be redacted in unrelated
    records. Bytes are those of a key.
    """
    wanted = [value for value in values if isinstance(value, bytes) or is_worth_registering(value)]
    with active.lock:
        new = [value for value in wanted if value not in active.secrets]
        active.secrets.update(new[: _MAX_SECRETS - len(active.secrets)])
        active.forget_shapes()
        _forget_verdicts()
        return len(active.secrets)


def forget_secrets() -> None:
    """Forgets every registered value."""
    with active.lock:
        active.secrets.clear()
    register_secrets(())


def _forget_verdicts() -> None:
    # New, not cleared: a thread that is applying the old rules now stores its result in the old ones.
    active.verdicts, active.clean = {}, {}
    for forget in _remembering:
        forget()


def on_change(forget: Callable[[], None]) -> None:
    """Calls `forget` when other names or values become secret: for modules that cache harmless texts."""
    _remembering.append(forget)


def needs_scrub(text: str) -> bool:
    """Returns whether `scrub` must check the text closely; if not, it would return the text unchanged."""
    if len(text) < _SHORTEST or text in active.clean:
        return False
    remembered = active.clean
    if active.search(text) is not None or (
        (":" in text or "=" in text or "('" in text or "(b" in text) and _has_telling_word(text)
    ):
        return True
    if active.patterns and any(pattern.search(text) for pattern in active.patterns):
        return True
    _remember(remembered, text)
    return False


def scrub(text: str) -> str:
    """Returns the text with the secrets in it replaced by `[redacted]`; the very same text where there are none.

    Never raises. The time is linear in the length: cut a text to a few times what will be kept of it, then scrub, then
    cut, so that no half of a secret is left at the edge.
    """
    if not needs_scrub(text):
        return text
    remembered = active.clean
    cleaned = text
    # Until nothing is found, so that scrubbing is idempotent even where a replacement makes a new match.
    for _ in range(_MAX_ROUNDS):
        spans = _spans(cleaned)
        if not spans:
            _remember(remembered, cleaned)
            return cleaned
        cleaned = _replace(cleaned, spans)
    return REDACTED if _spans(cleaned) else cleaned


def _remember(remembered: dict[str, None], text: str) -> None:
    if len(text) <= _MAX_REMEMBERED_CHARS:
        if len(remembered) >= _MAX_REMEMBERED:
            remembered.clear()
        remembered[text] = None


def _has_telling_word(text: str) -> bool:
    """Returns whether the text has a part of a secret's name before a separator, or of a URL with a user."""
    if len(text) > _SHORT_CHARS:
        return any(_named_spans(text))
    t = text.lower()
    return (
        "key" in t or "pass" in t or "token" in t or "secret" in t or "auth" in t or "cookie" in t or "cred" in t
        or "bearer" in t or "jwt" in t or "mnemonic" in t or "otp" in t or "pin" in t or "pwd" in t or "session" in t
        or "@" in t or (bool(active.words) and any(word in t for word in active.words))
    )  # fmt: skip


def _spans(text: str) -> list[Span]:
    """Returns the spans of secrets, in order; they may overlap."""
    found = [*_shaped_spans(text), *_named_spans(text)]
    for pattern in active.patterns:
        found += (match.span(1 if pattern.groups else 0) for match in pattern.finditer(text))
    return sorted(span for span in found if 0 <= span[0] < span[1] and text[span[0] : span[1]] != REDACTED)


def _shaped_spans(text: str) -> Iterator[Span]:
    from hearthnet.observability.redaction.values import is_basic, option_value

    shapes = active.compiled()
    for match in shapes.registered.finditer(text) if shapes.registered is not None else ():
        yield match.start() - int((match.lastgroup or "").rpartition("_")[2]), match.end()  # its look-behind
    for match in shapes.known.finditer(text):
        group = match.lastgroup
        if group is None:
            yield match.span(match.lastindex or 0)
        elif group == "basic":
            if is_basic(match["basic"]):
                yield match.span("basic")
        elif is_secret(match["option"]) and (span := option_value(text, match["option"], match.end())) is not None:
            yield span


def _named_spans(text: str) -> Iterator[Span]:
    from hearthnet.observability.redaction import (
        values as redaction_values,  # a dozen expressions, for the few texts that need them
    )

    return redaction_values.named(text, is_secret)


def _replace(text: str, spans: list[Span]) -> str:
    parts: list[str] = []
    copied = 0
    for start, end in spans:
        if start >= copied:
            parts += (text[copied:start], REDACTED)
        copied = max(copied, end)
    parts.append(text[copied:])
    return "".join(parts)


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
