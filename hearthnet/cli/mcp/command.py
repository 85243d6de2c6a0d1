"""`hearthnet mcp`: serves the records to an assistant over standard input and output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hearthnet.cli.main import config_option
from hearthnet.cli.options import folder_of_store
from hearthnet.errors import missing_extra

if TYPE_CHECKING:
    from hearthnet.config import Config


@click.command("mcp")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    callback=folder_of_store,
    help="Read this folder with a telemetry.db, and its logs; there is no doctor then.",
)
@config_option
def command(config: Config, data_dir: Path | None) -> None:
    """Serve the records to an assistant (MCP), read only.

    An assistant's program starts this command and speaks with it over standard input and output, until it closes them:
    name `hearthnet` as the command and `mcp` as its argument (docs/mcp.md). The assistant can search, read traces and
    log records, ask the doctor, have the last run's end diagnosed, and query by SQL. Nothing is changed. Only the
    doctor sends anything: it asks the backends of the settings and the node's port. It needs no running node.

    \b
    Example: hearthnet mcp
             hearthnet mcp --data /media/stick/hearthnet

    Needs `pip install 'hearthnet[mcp]'`.
    """
    try:
        from hearthnet.cli.mcp.server import serve
    except ModuleNotFoundError as error:
        raise missing_extra(error, "mcp") or error from error
    from hearthnet.cli.mcp.records import Records

    serve(Records.of(config) if data_dir is None else Records.in_folder(data_dir))
