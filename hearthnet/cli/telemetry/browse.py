"""`hearthnet telemetry browse`: opens the store in Datasette."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from hearthnet.cli.main import config_option
from hearthnet.constants import DATABASE

if TYPE_CHECKING:
    from hearthnet.config import Config

__all__ = ["browse_command"]

_PATIENCE_S: Final = 5.0


@click.command("browse")
@click.option("--open", "is_opened", is_flag=True, help="Open the link in this machine's browser.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port to serve on; 0: a free one.")
@click.option(
    "--db",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Serve this file, a snapshot say.",
)
@config_option
def browse_command(config: Config, is_opened: bool, port: int, db: Path | None) -> NoReturn:
    """Browse telemetry.db in Datasette until Ctrl-C, with the queries of docs/queries.md.

    The node may be running: the file is read live, read-only, and the node is not blocked. Only this machine can use
    it, and only a browser that opened the printed link, which works once. Datasette is another program:
    pip install 'hearthnet[browse]', or install it by itself.

    \b
    Example: hearthnet telemetry browse --open
             hearthnet telemetry browse --db copy.db --port 8001
    """
    from hearthnet.observability.store.query.statement import ask
    from hearthnet.tools import datasette

    assert config.observability.data_dir is not None
    store = (db or config.observability.data_dir / DATABASE).absolute()
    ask(store, "PRAGMA schema_version", _PATIENCE_S)  # its error has a hint, which Datasette's has not
    program = datasette.find_program()
    fd = _readable(datasette.metadata(store.stem))
    command = datasette.arguments(program, store, fd, port or datasette.free_port(), is_opened=is_opened)
    os.execv(program, command)  # noqa: S606  # signals and the exit code are Datasette's from here on


def _readable(document: object) -> int:
    """Returns a descriptor, for a program that follows this one, from which a document can be read as JSON."""
    from tempfile import TemporaryFile

    import orjson

    with TemporaryFile() as file:
        file.write(orjson.dumps(document))
        file.seek(0)
        fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)
    return fd
