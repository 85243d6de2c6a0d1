"""`hearthnet telemetry browse`: opens the store in Datasette."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from hearthnet.cli.main import config_option
from hearthnet.constants import DATABASE

if TYPE_CHECKING:
    from hearthnet.config import Config

__all__ = ["browse_command"]

_PATIENCE_S: Final = 5.0
_START_S: Final = 60.0  # of Datasette on a slow card
_POLL_S: Final = 0.1
_LINK: Final = re.compile(r"http://\S+[?&]token=\S+")


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
    port = port or datasette.free_port()
    command = datasette.arguments(program, store, fd, port)
    if is_opened:
        folder = config.observability.data_dir
        _open_what_is_printed(port, folder if folder.is_dir() else None)
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


def _open_what_is_printed(port: int, folder: Path | None) -> None:
    """Starts a process that prints what this one will print, and opens the link in it.

    Datasette would open it itself, with the token among the arguments of the browser.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(reader)
        os.dup2(writer, sys.stdout.fileno())
        os.close(writer)
        return
    try:
        os.close(writer)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with Datasette
        _relay(reader, port, folder)
    finally:
        os._exit(0)


def _relay(reader: int, port: int, folder: Path | None) -> None:
    """Prints lines until there are no more, and opens the first link."""
    is_opened = False
    with os.fdopen(reader, errors="replace") as lines:
        for line in lines:
            with suppress(OSError):  # its reader has gone: the browser is opened all the same
                sys.stdout.write(line)
                sys.stdout.flush()
            if not is_opened and (link := _LINK.search(line)):
                is_opened = True
                _open(link[0], port, folder)


def _open(link: str, port: int, folder: Path | None) -> None:
    from hearthnet.transport.page.opening import open_link

    ends_at = time.monotonic() + _START_S
    while not _is_served(port) and time.monotonic() < ends_at:
        time.sleep(_POLL_S)
    try:
        if not open_link(link, folder):
            click.echo("no browser could be opened", err=True)
    except OSError as error:
        click.echo(f"no browser could be opened: {error}", err=True)


def _is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
