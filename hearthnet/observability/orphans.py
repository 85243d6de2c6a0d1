"""The names of the spans that found no trace lately, so that the doctor can say whose context was lost."""

from __future__ import annotations

from collections import deque
from typing import Final

from hearthnet.observability.record import clean_text

__all__ = ["forget", "note", "recent_names"]

_KEPT: Final = 32  # a place that loses its context does so again and again; a few distinct names are enough
_MAX_NAME_CHARS: Final = 128

_names: deque[str] = deque(maxlen=_KEPT)


def note(name: str) -> None:
    """Takes the name of a span that is opened outside any trace. Waits for nothing, costs some 20 ns."""
    _names.append(name)


def recent_names() -> list[str]:
    """Returns the names of the last orphans, newest first, each once."""
    return list(dict.fromkeys(clean_text(name, _MAX_NAME_CHARS) for name in reversed(_names.copy())))


def forget() -> None:
    """Forgets every name."""
    _names.clear()
