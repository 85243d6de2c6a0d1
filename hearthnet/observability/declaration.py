"""What a program declares a metric to be, and the names, texts and buckets that the page can have of it.

A name with other characters than the page can have gets an underscore for each, as `prometheus_client` shows it. What
cannot be on the page even so has a `problem`.
"""

from __future__ import annotations

from math import inf, isnan

from hearthnet.observability.records.record import clean_text, error_text, is_a, safe_text
from hearthnet.observability.redaction.expressions import Expression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["MAX_LABEL_BYTES", "Declaration", "declare", "label_value", "printable"]

MAX_LABEL_BYTES: Final = 64
_MAX_NAME_CHARS: Final = 200
_MAX_DOC_BYTES: Final = 1_024
# Seconds, from a cache hit to a slow request: those of `prometheus_client`.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# Line and paragraph separators, and control characters but the line feed, which the format escapes: some scrapers
# split the page at them.
_UNSAFE: Final = Expression("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_NO_NAME_CHARS: Final = Expression(r"[^a-zA-Z0-9_:]|\A[0-9]")
_NO_LABEL_CHARS: Final = Expression(r"[^a-zA-Z0-9_]|\A[0-9]")


class Declaration:
    """What a program declared, as the page can have it.

    Attributes:
        kind: `counter`, `gauge` or `histogram`.
        name: as on the page.
        labels: their names on the page.
        buckets: of a histogram, its upper bounds, rising, without infinity.
        text: one sentence for the page, as the program wrote it.
        spelled: the names of the labels as the program spells them.
        problem: why it cannot be on the page; empty: it can.
    """

    __slots__ = ("buckets", "kind", "labels", "name", "problem", "spelled", "text")

    def __init__(
        self,
        kind: str,
        name: str,
        labels: tuple[str, ...] = (),
        buckets: tuple[float, ...] = (),
        text: str = "",
        spelled: tuple[str, ...] = (),
        problem: str = "",
    ) -> None:
        self.kind = kind
        self.name = name
        self.labels = labels
        self.buckets = buckets
        self.text = text
        self.spelled = spelled
        self.problem = problem

    @property
    def doc(self) -> str:
        """The sentence as the page can have it: cleaned when a page is made, since modules declare at import."""
        return printable(clean_text(self.text, _MAX_DOC_BYTES))

    @property
    def key(self) -> str:
        """The name without a counter's ending: with and without it, it is one metric."""
        return self.name.removesuffix("_total")

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells it from other declarations: all but the sentence and the program's spelling of labels."""
        return self.kind, self.name, self.labels, self.buckets, self.problem

    def is_same(self, other: Declaration) -> bool:
        """Returns whether both declare one metric, with or without a counter's ending."""
        return (self.kind, self.key, self.labels, self.buckets) == (other.kind, other.key, other.labels, other.buckets)

    def refused(self, problem: str) -> Declaration:
        """Returns the same with a problem."""
        return Declaration(self.kind, self.name, self.labels, self.buckets, self.text, self.spelled, problem)


def declare(kind: str, name: object, doc: object, labels: object, buckets: object) -> Declaration:
    """Returns the declaration with names that the page can have. Never raises: see `Declaration.problem`."""
    text = "" if doc is None else safe_text(doc, 2 * _MAX_DOC_BYTES)
    try:
        shown = _shown_name(name)
        spelled = _names(labels)
        safe = tuple(label if _is_plain(label) else _NO_LABEL_CHARS.sub("_", label) for label in spelled)
        problem = _problem(kind, safe)
        bounds = _bounds(buckets) if kind == "histogram" else ()
    except Exception as error:  # whatever a program passes instead of names and numbers  # noqa: BLE001
        return Declaration(kind, safe_text(name, MAX_LABEL_BYTES), text=text, problem=error_text(error))
    return Declaration(kind, shown, safe, bounds, text, spelled, problem)


def _shown_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
        raise TypeError("the name is no text, empty or too long")
    return name if _is_plain(name) else _NO_NAME_CHARS.sub("_", name)


def _is_plain(name: str) -> bool:
    """Returns whether a name needs no expression, which would be compiled at import: it is one in Python as well."""
    return name.isascii() and name.isidentifier()


def _names(labels: object) -> tuple[str, ...]:
    """Returns the names of labels: one text is one name, None none at all."""
    if labels is None:
        return ()
    names = (labels,) if isinstance(labels, str) else tuple(labels)  # type: ignore[arg-type]  # or it raises
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError("a label's name is no text, or empty")
    return names


def _problem(kind: str, labels: tuple[str, ...]) -> str:
    if len(set(labels)) < len(labels):
        return f"two labels have one name: {', '.join(labels)}"
    reserved = [name for name in labels if name.startswith("__") or (kind == "histogram" and name == "le")]
    return f"reserved label name: {reserved[0]}" if reserved else ""


def _bounds(buckets: object) -> tuple[float, ...]:
    given = _BUCKETS if buckets is None else tuple(map(float, buckets))  # type: ignore[call-overload]  # or it raises
    if any(map(isnan, given)):
        raise ValueError("a bucket's bound is no number")
    return tuple(sorted({bound for bound in given if bound != inf})) or _BUCKETS


def printable(text: str) -> str:
    """Returns text with a question mark for each character that some scrapers split the page at."""
    return _UNSAFE.sub("?", text)


def label_value(value: object) -> str:
    """Returns a label's value as safe text: of bytes what they spell, of anything else `str()`. Never raises."""
    if is_a(value, bytes) or is_a(value, bytearray):
        value = value[: 2 * MAX_LABEL_BYTES].decode("utf-8", "backslashreplace")
    elif is_a(value, str):
        value = str.__str__(value)  # a subclass, an enumeration's member say, is found by its text, so it is its text
    return printable(clean_text(value, MAX_LABEL_BYTES))
