"""`hearthnet paths`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from hearthnet.cli.main import json_option, print_json, where_option
from hearthnet.constants import DATABASE

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_NAMES = ("config", "keys", "communities", "blobs", "data", "telemetry", "logs")


@click.command("paths")
@click.argument("name", metavar="[NAME]", required=False, type=click.Choice(_NAMES))
@where_option
@json_option
def command(where: Locations, name: str | None, as_json: bool) -> None:
    """Show the paths of this node's files; with NAME, as in the first column, only that one.

    \b
    Example: hearthnet paths
             sqlite3 "$(hearthnet paths telemetry)" "SELECT * FROM recent LIMIT 5"
    """
    from hearthnet.config_file import default_path

    paths = {
        "config": default_path(),
        "keys": where.keys_dir,
        "communities": where.state_dir,
        "blobs": where.blobs_dir,
        "data": where.data_dir,
        "telemetry": where.data_dir / DATABASE,
        "logs": where.log_dir,
    }
    if name is not None:
        click.echo(os.fsencode(paths[name]))  # for a shell: exactly, also where it is not UTF-8
    elif as_json:
        print_json({key: str(path) for key, path in paths.items()})
    else:
        for key, path in paths.items():
            click.echo(f"{key:<12} {path}")
