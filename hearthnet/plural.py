"""Counts and sizes in words."""

from __future__ import annotations

from typing import Final

__all__ = ["counted", "size"]

_UNITS: Final = ((10_000_000_000, 1e9, "GB"), (1_000_000, 1e6, "MB"), (1_000, 1e3, "kB"))


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Returns a count with its noun: `1 call`, `2 calls`; `plural` is for nouns that do not just take an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def size(count: float) -> str:
    """Returns a number of bytes with one unit: `312 B`, `24.6 kB`, `1,234.5 MB`, `78.6 GB`."""
    for least, unit, name in _UNITS:
        if count >= least:
            return f"{count / unit:,.1f} {name}"
    return f"{count:.0f} B"
