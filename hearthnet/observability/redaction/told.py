"""What one part of a record tells to be secret is secret in all of it.

`password=tiger1234` in a message names a value that may be in a field, a traceback or a span as well, where nothing
tells that it is one. So what names tell is collected while a record is made; if there is anything, the record is made
again, with these values known, from the texts as they were passed: replaced after it was encoded, or cut, a value may
be half of an escape, or half a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from threading import get_ident

from hearthnet.constants import MIN_SECRET_CHARS, REDACTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeVar

    Made = TypeVar("Made")

__all__ = [
    "MAX_TOLD",
    "PATH",
    "Known",
    "Told",
    "calls",
    "is_distinct",
    "known",
    "known_here",
    "tell",
    "told_throughout",
]

MAX_TOLD: Final = 64  # values noted for one record
_MAX_CHARS: Final = 512
_MIN_DISTINCT_CHARS: Final = 4
PATH: Final = r"(?:~|\.{1,2}|[A-Za-z]:\\)?(?:[/\\][\w.@+ -]*)+(?::(?:[/\\][\w.@+ -]*)+)*"

known: Final[dict[int, tuple[str, ...]]] = {}  # by thread, while it makes a record again
_telling: Final[dict[int, list[str]]] = {}  # by thread, while it makes a record
calls: Final = [0]  # of `tell`, by any thread: records are made without all this, unless that changes meanwhile


def is_distinct(value: str) -> bool:
    """Returns whether the same characters elsewhere are the same secret, not a word, a number or a path."""
    return (
        MIN_SECRET_CHARS <= len(value) <= _MAX_CHARS
        and any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
        and len(set(value)) >= _MIN_DISTINCT_CHARS
        and REDACTED not in value
        and re.fullmatch(PATH, value) is None
    )


def tell(*values: str) -> None:
    """Notes secrets that a name has told, for the record that this thread makes; of `Bearer x`, x as well."""
    calls[0] += 1
    told = _telling.get(get_ident())
    if told is None:
        return
    for value in values:
        for part in (value, value.rpartition(" ")[2]):
            if len(told) < MAX_TOLD and part not in told and is_distinct(part):
                told.append(part)


def known_here() -> tuple[str, ...]:
    """Returns the secrets that are known to this thread."""
    return known.get(get_ident(), ())


class Told:
    """Collects, within `with`, the secrets that names tell while this thread makes a record or a part of one.

    A record that is made meanwhile, by a signal handler or a value's own code, has a collection of its own.
    """

    def __init__(self) -> None:
        self._values: list[str] = []
        self._outer: list[str] | None = None

    def __enter__(self) -> list[str]:
        self._outer = _telling.get(get_ident())
        _telling[get_ident()] = self._values
        return self._values

    def __exit__(self, *_: object) -> None:
        if self._outer is None:
            _telling.pop(get_ident(), None)
        else:
            _telling[get_ident()] = self._outer


class Known:
    """Makes secrets known to this thread within `with`: `scrub` replaces them wherever they are."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = tuple(values)
        self._outer: tuple[str, ...] = ()

    def __enter__(self) -> None:
        self._outer = known_here()
        known[get_ident()] = self._outer + self._values

    def __exit__(self, *_: object) -> None:
        if self._outer:
            known[get_ident()] = self._outer
        else:
            known.pop(get_ident(), None)


def told_throughout(make: Callable[[], Made], told: Sequence[str] = ()) -> tuple[Made, tuple[str, ...]]:
    """Makes a record; where a name in it tells a secret, again, with this secret known.

    Args:
        make: encodes the record by means of `scrub`.
        told: secrets that are known from the start.

    Returns:
        What was made last, and all secrets that were known.
    """
    with Known(told) if told else nullcontext(), Told() as more:
        made = make()
    if not more:
        return made, tuple(told)
    everything = (*told, *more)
    with Known(everything):
        return make(), everything
