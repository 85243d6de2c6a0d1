"""`hearthnet version`."""

from __future__ import annotations

import click

from hearthnet import __version__


@click.command("version")
def command() -> None:
    """Print the version.

    Example: hearthnet version
    """
    click.echo(f"hearthnet {__version__}")
