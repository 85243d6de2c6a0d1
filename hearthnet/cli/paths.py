"""`hearthnet paths`."""

from __future__ import annotations

import click

from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import print_json
from hearthnet.config import Config, default_path
from hearthnet.observability.telemetry import DATABASE

_NAMES = ("config", "keys", "communities", "blobs", "data", "telemetry", "logs")


@click.command("paths")
@click.argument("name", required=False, type=click.Choice(_NAMES))
@config_option
@json_option
def command(config: Config, name: str | None, as_json: bool) -> None:
    """Show where this node's files lie; with NAME, that one path alone.

    \b
    Example: hearthnet paths
             sqlite3 "$(hearthnet paths telemetry)" "SELECT * FROM recent LIMIT 5"
    """
    observability = config.observability
    assert observability.data_dir is not None
    places = {
        "config": default_path(),
        "keys": config.identity.keys_dir,
        "communities": config.community.state_dir,
        "blobs": config.file.blobs_dir,
        "data": observability.data_dir,
        "telemetry": observability.data_dir / DATABASE,
        "logs": observability.log_dir,
    }
    if name is not None:
        click.echo(places[name])
    elif as_json:
        print_json({key: str(path) for key, path in places.items()})
    else:
        for key, path in places.items():
            click.echo(f"{key:<12} {path}")
