r"""The query language: words, and terms such as `result:timeout`, with the place of each in the text.

    result:timeout,internal_error -model:tiny* duration:>=2s "no route" "odd name":"a \"b\""

All terms must hold. A quoted text is a JSON string, which may also have control characters as they are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

__all__ = ["Parsed", "Problem", "Term", "Value", "is_clean", "parse", "term"]

_MAX_CHARS: Final = 4_000
_MAX_VALUES: Final = 64  # SQLite's expressions may nest a thousand deep

_SPACE: Final = re.compile(r"\s*")
_WORD: Final = re.compile(r'[^\s"]+')
_VALUE: Final = re.compile(r'[^\s",]+')
# Not a URL, and not a time: a name begins with a letter.
_NAME: Final = re.compile(r"([^\W\d][\w.-]*):(?!//)")
_OPERATOR: Final = re.compile(r"[<>]=?")
_PLAIN: Final = re.compile(r"[\w.][\w.@/+-]*")  # needs no quotes, neither as a word nor as a value
_JOINING: Final = frozenset({"AND", "OR", "NOT", "&&", "||"})
_STRINGS: Final = json.JSONDecoder(strict=False)


class Value(NamedTuple):
    """What a term asks for.

    Attributes:
        text: without quotes, escapes and the final `*`.
        is_prefix: whether a text that begins so will do.
        start: of it in the query, in characters.
        end: of it.
    """

    text: str
    is_prefix: bool = False
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """One condition of a query.

    Attributes:
        text: as it was written.
        field: its name; None for a word.
        op: `:`, or a comparison: `>`, `>=`, `<`, `<=`.
        values: one of which must hold; a comparison and a word have one.
        negated: whether none of them may hold.
        start: of the term in the query, in characters.
        end: of it.
        is_attribute: whether the name is of an attribute, whatever the fields are: it was quoted.
    """

    text: str
    field: str | None
    op: str
    values: tuple[Value, ...]
    negated: bool
    start: int
    end: int
    is_attribute: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns it for JSON; `value` is a list if there are several."""
        texts = [value.text + "*" * value.is_prefix for value in self.values]
        return {
            "text": self.text,
            "field": self.field,
            "op": self.op,
            "value": texts[0] if len(texts) == 1 else texts,
            "negated": self.negated,
            "start": self.start,
            "end": self.end,
        }


class Problem(NamedTuple):
    """A part of a query that is not understood.

    Attributes:
        message: says why.
        hint: what to write instead, or None.
        start: of it in the query, in characters.
        end: of it.
    """

    message: str
    hint: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """The terms of a query, and the parts that are not understood."""

    terms: list[Term] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class _UnclearError(ValueError):
    """Raised within the parser, which goes on behind the term."""

    def __init__(self, message: str, hint: str | None, start: int, end: int) -> None:
        super().__init__(message)
        self.problem = Problem(message, hint, start, end)


def parse(text: str) -> Parsed:
    """Returns the terms of a query. Never raises for its text."""
    parsed = Parsed()
    if len(text) > _MAX_CHARS:
        parsed.problems.append(
            Problem(f"the query is longer than {_MAX_CHARS:,} characters", "search for a part", _MAX_CHARS, len(text))
        )
        return parsed
    scanner, left = _Scanner(text), _MAX_VALUES
    while scanner.has_more():
        start = scanner.at
        try:
            found = scanner.term()
        except _UnclearError as error:
            parsed.problems.append(error.problem)
            scanner.skip_word(start)
            continue
        left -= len(found.values)
        if left < 0:
            hint = "search for a part"
            parsed.problems.append(Problem(f"there are more than {_MAX_VALUES} values", hint, start, len(text)))
            break
        parsed.terms.append(found)
    return parsed


class _Scanner:
    """Reads a query from left to right.

    Attributes:
        at: the place, in characters.
    """

    def __init__(self, text: str) -> None:
        self.at = 0
        self._text = text

    def has_more(self) -> bool:
        """Moves to the next term, and returns whether there is one."""
        self._match(_SPACE)
        return self.at < len(self._text)

    def skip_word(self, start: int) -> None:
        """Moves to the next space behind a term that began at `start`."""
        self.at = max(self.at, start + 1)
        while not self._is_at_end():
            self.at += 1

    def term(self) -> Term:
        """Reads a term.

        Raises:
            _UnclearError: raised when it is none.
        """
        start = self.at
        negated = self._takes("-")
        if negated and self._is_at_end():
            raise _UnclearError("nothing follows the -", 'to search for it, quote it: "-"', start, self.at)
        name, op, values, is_attribute = self._named() or (None, ":", (self._one(_WORD),), False)
        if not self._is_at_end():
            hint = 'a quote within quotes is written \\"' if self._text[self.at] == '"' else None
            raise _UnclearError("a space is missing here", hint, self.at, self.at + 1)
        if name is None and not negated:
            self._refuse_joining(start)
        return Term(self._text[start : self.at], name, op, values, negated, start, self.at, is_attribute)

    def _named(self) -> tuple[str, str, tuple[Value, ...], bool] | None:
        """Reads `name:value`; reads nothing and returns None if there is no name."""
        start = self.at
        if match := self._match(_NAME):
            name, is_attribute = match[1], False
        elif self._text.startswith('"', start):
            name, is_attribute = self._string(), True
            if not self._takes(":"):
                self.at = start
                return None
        else:
            return None
        if operator := self._match(_OPERATOR):
            return name, operator[0], (self._value(start),), is_attribute
        values = [self._value(start)]
        while self._takes(","):
            values.append(self._value(start))
        return name, ":", tuple(values), is_attribute

    def _value(self, start: int) -> Value:
        if self._is_at_end() or self._text[self.at] == ",":
            what = self._text[start : self.at]
            raise _UnclearError(f"nothing follows {what}", f'an empty text is written "": {what}""', start, self.at)
        return self._one(_VALUE)

    def _one(self, bare: re.Pattern[str]) -> Value:
        start = self.at
        if self._text[start] == '"':
            return Value(self._string(), start=start, end=self.at)
        match = self._match(bare)
        text = match[0] if match else ""
        short = text.rstrip("*")
        if "*" in short:
            raise _UnclearError("a * is only possible at the end", f"quote it: {json.dumps(text)}", start, self.at)
        return Value(short, short != text, start, self.at)

    def _string(self) -> str:
        start = self.at
        try:
            text, self.at = _STRINGS.raw_decode(self._text, start)
        except json.JSONDecodeError as error:
            is_open = error.msg.startswith("Unterminated")
            self.at = len(self._text)
            if is_open:
                raise _UnclearError("the quote is not closed", 'add a " at the end', start, self.at) from None
            hint = "a \\ within quotes is written \\\\"
            raise _UnclearError("this escape is unknown", hint, error.pos, min(error.pos + 2, self.at)) from None
        return str(text)

    def _refuse_joining(self, start: int) -> None:
        if (word := self._text[start : self.at]) in _JOINING:
            hint = f'all terms must hold; one of several values: name:a,b; not: -name:a; the word: "{word}"'
            raise _UnclearError(f"{word} is no operator", hint, start, self.at)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self.at)
        if match:
            self.at = match.end()
        return match

    def _takes(self, character: str) -> bool:
        is_next = self._text.startswith(character, self.at)
        self.at += is_next
        return is_next

    def _is_at_end(self) -> bool:
        return self.at >= len(self._text) or self._text[self.at].isspace()


def term(name: str | None, value: str, *, negated: bool = False, is_attribute: bool = False) -> str:
    """Returns the text of a term, which `parse` reads as this name and this value, whatever is in them.

    Args:
        name: of a field; None for a word.
        value: of it.
        negated: whether to find the others.
        is_attribute: whether the name is of an attribute, which may be called like a field.
    """
    if name is None:
        head = ""
    elif is_attribute or not _NAME.fullmatch(f"{name}:"):
        head = f"{_quoted(name)}:"
    else:
        head = f"{name}:"
    is_plain = _PLAIN.fullmatch(value) and (name is not None or value not in _JOINING)
    return f"{'-' * negated}{head}{value if is_plain else _quoted(value)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def is_clean(text: str) -> bool:
    """Returns whether a text is Unicode, as all recorded ones are: a byte of the command line may be none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
