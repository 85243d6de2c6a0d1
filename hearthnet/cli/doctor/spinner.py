"""A spinner shown while the checks run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager

from hearthnet.cli.doctor.text import has_unicode
from hearthnet.plural import counted

__all__ = ["waiting"]


@contextmanager
def waiting(known: Sized) -> Iterator[None]:
    """Shows a spinner on stderr while the context is open, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    text = f"running {counted(len(known), 'check')}"
    with Console(stderr=True, highlight=False).status(text, spinner="dots" if has_unicode() else "line"):
        yield
