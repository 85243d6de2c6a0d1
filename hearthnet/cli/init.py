"""`hearthnet init`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from hearthnet.cli.main import config_option, json_option, print_json, printable

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.node import Initialised

_PROFILES: Final = ("anchor", "hearth", "spark")


@click.command("init")
@click.option("--name", help="The community's name. Default: ask, or 'home'.")
@click.option(
    "--profile",
    type=click.Choice(_PROFILES),
    default="hearth",
    show_default=True,
    help="Size of this machine: anchor (always on), hearth (laptop), spark (Raspberry Pi).",
)
@click.option("--non-interactive", is_flag=True, help="Never ask.")
@config_option
@json_option
@click.pass_context
def command(
    context: click.Context, config: Config, name: str | None, profile: str, non_interactive: bool, as_json: bool
) -> None:
    """Create this node's key, configuration and community.

    Whatever exists already is kept: then --name and --profile are ignored, which is said.

    \b
    Example: hearthnet init --name "Maple Street"
             hearthnet init --profile spark --non-interactive
    """
    from hearthnet.config_file import default_path
    from hearthnet.identity.keys import short_id
    from hearthnet.node import initialise

    is_configured = os.path.lexists(default_path())
    may_ask = name is None and not (is_configured or non_interactive or as_json) and sys.stdin.isatty()
    wanted = click.prompt("Name of the community", default="home") if may_ask else name
    made = initialise(config, wanted or "home")
    if wanted is not None and wanted != made.manifest.name:
        _print_ignored(f"--name {wanted!r}", f"this node's community is {made.manifest.name!r}")
    if not is_configured:
        _save(made, profile)
    elif context.get_parameter_source("profile") is ParameterSource.COMMANDLINE:
        _print_ignored(f"--profile {profile}", f"{default_path()} exists: {_by_hand(profile)}")
    if as_json:
        print_json({
            "node_id": made.node_id,
            "community_id": made.manifest.community_id,
            "name": made.manifest.name,
            "config": str(default_path()),
            "is_new": made.is_new,
        })  # fmt: skip
        return
    click.echo(f"{'created' if made.is_new else 'found'} community {made.manifest.name!r}")
    click.echo(f"node    {short_id(made.node_id)}")
    click.echo(f"config  {default_path()}")
    click.echo("next    hearthnet run")


def _print_ignored(option: str, reason: str) -> None:
    click.echo(f"note: {printable(option)} is ignored: {printable(reason)}", err=True)


def _by_hand(profile: str) -> str:
    """Returns how to get a profile's settings into a file that is there."""
    from hearthnet.config_sections import PROFILES

    wanted = [
        f"[{name}] {', '.join(f'{key} = {str(value).lower()}' for key, value in values.items())}"
        for name, values in PROFILES[profile].items()
    ]
    return f"set {'; '.join(wanted)} there" if wanted else "this profile has the defaults"


def _save(made: Initialised, profile: str) -> None:
    """Writes config.toml without paths, which default to this system's standard ones."""
    from hearthnet.config import default_config, save
    from hearthnet.config_sections import PROFILES

    fresh = default_config()  # without what the environment of this moment sets
    changes = {**PROFILES[profile], "community": {"community_id": made.manifest.community_id}}
    save(
        fresh.model_copy(
            update={name: getattr(fresh, name).model_copy(update=values) for name, values in changes.items()}
        )
    )
