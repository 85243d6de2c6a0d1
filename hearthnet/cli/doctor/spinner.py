"""What a person sees while the doctor works: a spinner."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager

from hearthnet.cli.doctor.text import has_unicode

__all__ = ["waiting"]


@contextmanager
def waiting(known: Sized) -> Iterator[None]:
    """Shows the spinner on stderr, and leaves nothing of it; only where stderr is a terminal that can do it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    told = f"running {len(known)} check{'' if len(known) == 1 else 's'}"
    with Console(stderr=True, highlight=False).status(told, spinner="dots" if has_unicode() else "line"):
        yield
