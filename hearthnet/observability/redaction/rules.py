"""Rules of redaction: by the name of a key, by known values, and by shape.

`is_secret` checks names; the result is cached, so a key costs the caller one dictionary lookup.

`scrub` replaces secrets inside a text and keeps what helps to diagnose: `Bearer [redacted]`, `?api_key=[redacted]&x=1`,
`redis://user:[redacted]@host`. It runs on every recorded text, so a text without secrets is recognised in a fraction of
a microsecond, and cached. Measured in December 2026 on a small virtual machine, Python 3.11: 0.1 us for a text that is
remembered; 0.6 us for a new one of 16 characters; 4 us for a line of 140; 13 us for 2 KiB of Markdown; 80 us for a
traceback of 6 KiB.

A look that is quicker than the search never sees less: a name is secret only if it has one of the words that
`needs_scrub` looks for in the text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from hearthnet.constants import MIN_SECRET_CHARS, REDACTED
from hearthnet.observability.redaction.directives import (
    FIRST_LETTERS,
    FIRST_WORDS,
    MAX_CHARS,
    MIN_CHARS,
    directed,
    in_arguments,
)
from hearthnet.observability.redaction.names import PLAIN, SECRET, is_meant, judge, looks_random, quick_look, words_of
from hearthnet.observability.redaction.told import MAX_TOLD, PATH, is_distinct, known, known_here, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from hearthnet.observability.redaction.shapes import Shapes
    from hearthnet.observability.redaction.values import Span

__all__ = [
    "REDACTED",
    "Rules",
    "active",
    "check_pattern",
    "configure",
    "forget_secrets",
    "is_secret",
    "is_told",
    "is_worth_registering",
    "kind_of",
    "looks_random",
    "needs_scrub",
    "on_change",
    "prepare",
    "register_secrets",
    "scrub",
    "spellings",
    "tell",
]

_MAX_REMEMBERED: Final = 4_096  # far more names than a program has; hostile ones must not grow it for ever
_MAX_REMEMBERED_CHARS: Final = 128  # longer texts are rarely the same twice
_SHORT_CHARS: Final = MAX_CHARS  # up to here searching for words first is faster
_MIN_LONG_CHARS: Final = 26  # of a token with a dot in it, and of one without a rare letter
_MAX_ROUNDS: Final = 4
_MAX_SECRETS: Final = 256  # values; a node has a handful, and each has some fifteen spellings

_remembering: list[Callable[[], None]] = []


class Rules:
    """The secrets at present, and the verdicts so far.

    Attributes:
        names: added by `configure`, as `_word_word_`.
        patterns: added by `configure`.
        secrets: registered values.
        shapes: the expressions made of the secrets; None until they are needed.
        search, search_dotted: find anything in a text that may be secret by its shape or value.
        words: the longest word of each of these names.
        look: tells which parts of `values.named` may find anything in a longer text.
        search_words: finds, in a short text in lower case, what that search may find anything in.
        verdicts: what names say of their values.
        clean: texts that hold nothing secret.
        lock: over `secrets`, `shapes`, `words`, `look` and `search_words`. Re-entrant: compiling takes milliseconds,
            and a signal handler or a finalizer may log in the meantime.
    """

    __slots__ = (
        "clean",
        "lock",
        "look",
        "names",
        "patterns",
        "search",
        "search_dotted",
        "search_words",
        "secrets",
        "shapes",
        "verdicts",
        "words",
    )

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.patterns: tuple[re.Pattern[str], ...] = ()
        self.secrets: set[str | bytes] = set()
        self.verdicts: dict[str, int] = {}
        self.clean: dict[str, None] = {}
        self.lock = threading.RLock()
        self.words: tuple[str, ...] = ()
        self.look: Callable[[str], int] = _look_first
        self.search_words: Callable[[str], object] = _search_words_first
        self.forget_shapes()

    def forget_shapes(self) -> None:
        """Compiles the expressions anew when a text is next searched: every program that logs a line imports this."""
        self.shapes: Shapes | None = None
        self.search: Callable[[str], object] = _search_first
        self.search_dotted: Callable[[str], object] = _search_first_dotted

    def compiled(self) -> Shapes:
        """Returns the expressions, compiled on first use: 15 ms, and 12 ms again for other values."""
        with self.lock:
            if self.shapes is None:
                self.shapes = compile_shapes({spelling for value in self.secrets for spelling in spellings(value)})
                self.search, self.search_dotted = self.shapes.all.search, self.shapes.dotted.search
            return self.shapes


def _look_first(text: str) -> int:
    from hearthnet.observability.redaction.quick import Look

    with active.lock:
        active.look = Look(kind_of).parts_of
        return active.look(text)


def _search_words_first(text: str) -> object:
    with active.lock:  # over both: `configure` may have other words
        active.search_words = quick_look(active.words).search
        return active.search_words(text)


def _search_first(text: str) -> object:
    return active.compiled().all.search(text)


def _search_first_dotted(text: str) -> object:
    return active.compiled().dotted.search(text)


active: Final = Rules()


def prepare() -> None:
    """Compiles and imports what finds secrets, 40 ms: where logging is configured, so that no record waits for it."""
    from hearthnet.observability.redaction import (  # noqa: F401  # for what follows
        arguments,
        options,
        spoken,
        values,
        vendors,
    )

    active.compiled()
    active.look("")
    active.search_words("")


def is_secret(name: str) -> bool:
    """Returns whether a value under this key must not be recorded, whatever it is."""
    return kind_of(name) == SECRET


def is_told(name: str, value: object) -> bool:
    """Returns whether this value under this key must not be recorded."""
    kind = kind_of(name)
    return kind == SECRET or (kind != PLAIN and isinstance(value, str | bytes) and is_meant(kind, value))


def kind_of(name: str) -> int:
    """Returns what a name says of its value: `PLAIN`, `SECRET`, `OPEN` or `LIKELY`."""
    verdict = active.verdicts.get(name)
    if verdict is None:
        if len(active.verdicts) >= _MAX_REMEMBERED:
            active.verdicts.clear()
        verdict = active.verdicts[name] = judge(name, active.words, active.names)
    return verdict


def configure(keys: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
    """Adds names and expressions to redact; replaces those of an earlier call.

    Args:
        keys: names; each is secret by itself and within longer ones, however they are spelled.
        patterns: regular expressions. Where one has a group, the group is replaced, else all that it matches.

    Raises:
        re.error: raised for a pattern that is no regular expression.
    """
    words = [words_of(key) for key in keys]
    active.patterns = tuple(re.compile(pattern) for pattern in patterns)
    active.names = tuple(f"_{'_'.join(parts)}_" for parts in words if parts)
    with active.lock:
        active.words = tuple(max(parts, key=len) for parts in words if parts)
        active.look, active.search_words = _look_first, _search_words_first
    active.verdicts = {}
    _forget_texts()


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
        _forget_texts()
        return len(active.secrets)


def forget_secrets() -> None:
    """Forgets every registered value."""
    with active.lock:
        active.secrets.clear()
    register_secrets(())


def _forget_texts() -> None:
    # New, not cleared: a thread that is applying the old rules now stores its result in the old one.
    active.clean = {}
    for forget in _remembering:
        forget()


def on_change(forget: Callable[[], None]) -> None:
    """Calls `forget` when other names or values become secret: for modules that cache harmless texts."""
    _remembering.append(forget)


def needs_scrub(text: str) -> bool:
    """Returns whether `scrub` must check the text closely; if not, it would return the text unchanged."""
    if known and any(value in text for value in known_here()):
        return True
    rules = active
    remembered = rules.clean
    length = len(text)
    if length < MIN_SECRET_CHARS or text in remembered:
        return False
    if (
        rules.search(text) is not None
        or (length >= _MIN_LONG_CHARS and "." in text and rules.search_dotted(text) is not None)
        or (
            _is_named(text, length)
            # A separator of each thing that `values.named` finds.
            if ":" in text or "=" in text or '"' in text or "'" in text or "<" in text
            else length >= MIN_CHARS
            and (
                (text[0] in FIRST_LETTERS and text.startswith(FIRST_WORDS))
                or (length >= _MIN_LONG_CHARS and "dapi" in text)
            )
            and directed(text)
        )
        or (rules.patterns and any(pattern.search(text) for pattern in rules.patterns))
    ):
        return True
    if length <= _MAX_REMEMBERED_CHARS:  # as `_remember` does, without the cost of a call
        if len(remembered) >= _MAX_REMEMBERED:
            remembered.clear()
        remembered[text] = None
    return False


def _is_named(text: str, length: int) -> bool:
    if length > _SHORT_CHARS:
        parts = active.look(text)
        return parts != 0 and any(_named_spans(text, parts))
    is_seen = (
        active.search_words(text.lower()) is not None
        or ("@" in text and ("://" in text or "oracle:" in text))
        or (
            length >= MIN_CHARS
            and (
                (text[0] in FIRST_LETTERS and text.startswith(FIRST_WORDS))
                or ":5432:" in text
                or ("*" in text and ":*:" in text)  # one character is found in a third of the time
            )
        )
    )
    return is_seen and (any(_named_spans(text)) or directed(text) != [])


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
        if spans:
            spans = _again(cleaned, spans)
        else:
            if len(cleaned) <= _MAX_REMEMBERED_CHARS:
                _remember(remembered, cleaned)
            return cleaned
        cleaned = _replace(cleaned, spans)
    return REDACTED if _spans(cleaned) else cleaned


def _remember(remembered: dict[str, None], text: str) -> None:
    if len(remembered) >= _MAX_REMEMBERED:
        remembered.clear()
    remembered[text] = None


def _spans(text: str) -> list[Span]:
    """Returns the spans of secrets, in order; they may overlap."""
    found = [*_shaped_spans(text), *_named_spans(text), *directed(text)]
    for value in known_here() if known else ():
        found += _places(text, value)
    for pattern in active.patterns:
        found += (match.span(1 if pattern.groups else 0) for match in pattern.finditer(text))
    return sorted(span for span in found if 0 <= span[0] < span[1] and text[span[0] : span[1]] != REDACTED)


def _again(text: str, spans: list[Span]) -> list[Span]:
    """Returns the spans, and those of the same values elsewhere in the text: once told, a secret is known."""
    values = [value for value in dict.fromkeys(text[start:end] for start, end in spans) if is_distinct(value)]
    tell(*values)
    found = set(spans)
    for value in values[:MAX_TOLD]:
        found.update(_places(text, value))
    return sorted(found)


def _places(text: str, value: str) -> Iterator[Span]:
    at = text.find(value)
    while at >= 0:
        yield at, at + len(value)
        at = text.find(value, at + len(value))


def _shaped_spans(text: str) -> Iterator[Span]:
    shapes = active.compiled()
    for match in shapes.registered.finditer(text) if shapes.registered is not None else ():
        yield match.start() - int((match.lastgroup or "").rpartition("_")[2]), match.end()  # its look-behind
    for expression in (shapes.known, shapes.dotted) if len(text) >= _MIN_LONG_CHARS else (shapes.known,):
        covered = 0  # within a secret nothing is checked again: the time stays linear
        for match in expression.finditer(text):
            if match.end() > covered and (span := _secret_of(text, match)) is not None:
                covered = span[1]
                yield span


def _secret_of(text: str, match: re.Match[str]) -> Span | None:
    from hearthnet.observability.redaction.options import flag_value, option_value, piped_at
    from hearthnet.observability.redaction.spoken import spoken_at
    from hearthnet.observability.redaction.values import is_basic
    from hearthnet.observability.redaction.vendors import marked_at, token_at

    group = match.lastgroup
    if match.lastindex is None:
        end = match.end()
        token = token_at(text, end) or token_at(text, end - 1) or marked_at(text, end)
        return token or piped_at(text, end) or spoken_at(text, end, kind_of)
    if group is None:
        return match.span(match.lastindex)
    if group == "basic":
        return match.span("basic") if is_basic(match["basic"]) else None
    start = match.start(group) - 1  # a first letter was matched before the group
    name = text[start : match.end()]
    kind = kind_of(name) if group == "option" else PLAIN
    flag = flag_value(text, start) if kind == PLAIN or not text.startswith("-", start - 2) else None
    if kind == PLAIN or flag is not None:  # a value glued to its flag may look like an option
        return flag
    span = option_value(text, name, match.end())
    return span if span is None or is_meant(kind, text[slice(*span)]) else None


def _named_spans(text: str, parts: int | None = None) -> Iterator[Span]:
    from hearthnet.observability.redaction import (
        values as redaction_values,  # a dozen expressions, for the few texts that need them
    )

    parts = redaction_values.ALL_PARTS if parts is None else parts
    yield from redaction_values.named(text, kind_of, parts)
    if parts & redaction_values.PAIRED and ('"' in text or "'" in text):
        from hearthnet.observability.redaction.arguments import listed

        yield from listed(text, spans_of_line, active.search_words)


def spans_of_line(line: str) -> list[Span]:
    """Returns the spans of secrets in the line of a command; most lines have none."""
    return [*(_spans(line) if needs_scrub(line) else ()), *in_arguments(line)]


def without_arguments(items: Sequence[object]) -> list[object]:
    """Returns the items of a list without the secrets that they show as the line of a command."""
    from hearthnet.observability.redaction.arguments import without_secrets

    return without_secrets(items, spans_of_line)


def _replace(text: str, spans: list[Span]) -> str:
    parts: list[str] = []
    copied = 0
    for start, end in spans:
        if start >= copied:
            parts += (text[copied:start], REDACTED)
        copied = max(copied, end)
    parts.append(text[copied:])
    return "".join(parts)


_MAX_VALUE_CHARS: Final = 16_384  # a large private key in PEM; longer values are files, not secrets

_MAX_PATTERN_CHARS: Final = 512
# As text, here and below: compiled on first use, not by every program that logs a line.
_NO_SYNTAX: Final = r"(?s:\\.|\[\^?\]?[^\]]*\])"
_REPEAT: Final = r"(?:[*+]|\{\d*,\d*\})"
_POSSESSIVE: Final = r"(?:[*+?]|\{[\d,]*\})\+"
_GROUP: Final = rf"\(([^()]*)\)({_REPEAT})?"

_HOST_OR_NUMBER: Final = r"[\d.,:_+-]+|(?:https?://)?[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::\d{1,5})?/?"
_COMMON: Final = frozenset({
    "changeme", "development", "disabled", "enabled", "localhost", "password", "production", "required", "undefined",
    "redacted", "[redacted]",
})  # fmt: skip


def is_worth_registering(value: str) -> bool:
    """Returns whether a value can be searched for: long enough, and not common in records."""
    if not MIN_SECRET_CHARS <= len(value) <= _MAX_VALUE_CHARS or REDACTED in value or value in REDACTED:
        return False
    if value.lower() in _COMMON or len(set(value)) < 4 or (value.isalpha() and value.islower() and len(value) < 12):
        return False
    if re.fullmatch(_HOST_OR_NUMBER, value) is not None and (len(value) < 16 or "." in value or value.isdigit()):
        return False
    return re.fullmatch(PATH, value) is None


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


# Rarest in logs first: the order of choice for pivots of registered values.
_RARITY: Final = {
    char: place
    for place, char in enumerate(
        "\\%+QZXYJVWqK#$^~`|!&*GUzHjBFLORMPDNkECwISATvx;?(){}[]<>yb9g8h7f6p5u4m3d2c0/l1rnsoiate"
    )
}
_ORDINARY: Final = len(_RARITY)  # for unlisted characters: `-`, `_`, `.`, `=`, `:`, space
_FIRST: Final = "-_JKSIBb"  # pivots of the branches above, used again


def compile_shapes(registered: Collection[str]) -> Shapes:
    """Returns the expression for the known shapes and these spellings; a match's last group is the secret."""
    from hearthnet.observability.redaction import shapes  # a table of some two hundred rows

    wanted = sorted(registered, key=len, reverse=True)  # the longest first: one may begin with another
    pivots = _choose_pivots(wanted)
    branches: list[str] = []
    for spelling in wanted:
        at = min((spelling.index(pivot) for pivot in pivots if pivot in spelling), default=0)
        head, pivot, tail = spelling[:at], spelling[at], spelling[at + 1 :]
        behind = f"(?<={re.escape(head + pivot)})" if head else ""
        branches.append(f"{re.escape(pivot)}{behind}(?P<value_{len(branches)}_{at}>{re.escape(tail)})")
    return shapes.Shapes(
        all=re.compile("|".join((*branches, *shapes.BRANCHES))),
        dotted=re.compile(shapes.DOTTED),
        known=re.compile("|".join(shapes.BRANCHES)),
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
    return {spelling for spelling in found if len(spelling) >= MIN_SECRET_CHARS}


def _base64_cores(raw: bytes, shift: int) -> set[str]:
    """Returns the characters of the base64 text that depend only on the secret."""
    import base64

    encoded = base64.b64encode(b"\0" * shift + raw).decode("ascii")
    bits = 8 * (shift + len(raw))
    core = encoded[-(-8 * shift // 6) : bits // 6]
    return {core, core.replace("+", "-").replace("/", "_")}
