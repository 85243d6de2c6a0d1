"""`hearthnet paths`."""

from __future__ import annotations

import click

from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import print_json
from hearthnet.config import Config, default_path
from hearthnet.observability.telemetry import DATABASE


@click.command("paths")
@config_option
@json_option
def command(config: Config, as_json: bool) -> None:
    """Show where this node's files lie.

    \b
    Example: hearthnet paths
             sqlite3 "$(hearthnet paths --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["telemetry"])')"
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
    if as_json:
        print_json({name: str(path) for name, path in places.items()})
        return
    for name, path in places.items():
        click.echo(f"{name:<12} {path}")
