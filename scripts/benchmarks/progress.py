"""What the parts of a benchmark share: telling how far they are, and a folder that is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

__all__ = ["scratch", "tell"]


def tell(message: str) -> None:
    """Says on standard error what is being measured."""
    click.echo(f"... {message}", err=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Gives a folder for databases and removes it; it lies where TMPDIR says."""
    with TemporaryDirectory(prefix="hearthnet-bench-") as folder:
        yield Path(folder)
