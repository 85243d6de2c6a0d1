"""`hearthnet version`."""

from __future__ import annotations

import click

from hearthnet import __version__
from hearthnet.cli.main import json_option, print_json


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the version.

    \b
    Example: hearthnet version
             hearthnet version --json
    """
    if as_json:
        print_json({"version": __version__})
        return
    click.echo(f"hearthnet {__version__}")
