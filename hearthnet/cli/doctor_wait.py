"""What a person sees while the doctor works: a spinner with the checks that still run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from hearthnet.cli.doctor_text import has_unicode

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["running", "waiting"]

_THREADS: Final = "doctor-"  # what the doctor calls the thread of each check


def running(known: list[str]) -> list[str]:
    """Returns those of the checks that run in this process now."""
    alive = {thread.name for thread in threading.enumerate()}
    return [name for name in known if f"{_THREADS}{name}" in alive]


class _Progress:
    """Text that rich asks for at each turn of the spinner."""

    def __init__(self, known: list[str]) -> None:
        self._known = known

    def __rich__(self) -> Text:
        from rich.text import Text

        left = running(self._known)
        told = f"{len(left)} to go: {', '.join(left)}" if left else "asking the node"
        return Text(told, no_wrap=True, overflow="ellipsis")


@contextmanager
def waiting(known: list[str]) -> Iterator[None]:
    """Shows the spinner on stderr, and leaves nothing of it; only where stderr is a terminal that can do it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_dumb_terminal:
        yield
        return
    with console.status(_Progress(known), spinner="dots" if has_unicode() else "line"):
        yield
