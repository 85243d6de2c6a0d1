"""`hearthnet run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hearthnet.cli.main import config_option

if TYPE_CHECKING:
    from hearthnet.config import Config


@click.command("run")
@config_option
@click.option("--debug", is_flag=True, help="Log at level debug.")
def command(config: Config, debug: bool) -> None:
    """Start the node; it records until SIGINT or SIGTERM, then stops cleanly.

    \b
    Example: hearthnet run
             hearthnet run --config ./test.toml --debug
    """
    from hearthnet.cli.serving import serve

    if debug:
        verbose = config.observability.model_copy(update={"log_level": "debug"})
        config = config.model_copy(update={"observability": verbose})
    serve(config)
