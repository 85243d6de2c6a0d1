"""The implementation of `hearthnet run`: serves the node and prints a summary at the start."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import closing

import click

from hearthnet.cli.main import hanging
from hearthnet.cli.output import serve_without_terminal
from hearthnet.config import Config
from hearthnet.display import counted
from hearthnet.files import foreign
from hearthnet.identity.keys import short_id
from hearthnet.node import Node, open_node
from hearthnet.observability.logs.journal import journal_of_stderr
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.lock import LOCK_FILE
from hearthnet.observability.store.recovery.recover import Recovery
from hearthnet.observability.telemetry import DATABASE
from hearthnet.service.notify import Notifier
from hearthnet.transport.app import ROUTERS
from hearthnet.transport.auth.exposure import reachable, summary
from hearthnet.transport.server import bind
from hearthnet.transport.tls import Certificate, ServingPair, now_utc

__all__ = ["serve"]


def serve(config: Config) -> None:
    """Runs the node until SIGINT or SIGTERM; as a service of systemd, tells it so and logs to its journal too.

    Raises:
        HearthNetError: raised when the node cannot start.
    """
    serve_without_terminal()
    notifier = Notifier.of_environment()
    runtime.journal = journal_of_stderr()
    asyncio.run(_serve(config, notifier))


async def _serve(config: Config, notifier: Notifier) -> None:
    # Bind first, so that a port in use is reported before anything is opened; `serve` starts to listen later.
    with closing(bind(config.transport)) as listening:
        pair = ServingPair.of(config.transport)  # likewise for an unusable certificate
        async with open_node(config) as node:
            stop = asyncio.Event()

            def end() -> None:
                notifier.stopping("ending the calls that are running")
                stop.set()

            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, end)
            _print_summary(node)
            _print_reach(config, None if pair is None else pair.certificate)
            click.echo("stop       Ctrl-C")
            # All objects so far stay: excluding them makes full collections, which stop the loop, shorter.
            gc.collect()
            gc.freeze()
            await node.serve(listening, stop, lambda: notifier.ready(_status(node)))
        await notifier.close()
    click.echo("stopped")


def _status(node: Node) -> str:
    """Returns what `systemctl status` shows of the node."""
    about = f"serving on port {node.config.transport.port}"
    return f"{about}; telemetry in memory only: {scrub(node.telemetry.error)}" if node.telemetry.error else about


def _print_summary(node: Node) -> None:
    config = node.config
    assert config.observability.data_dir is not None
    click.echo(f"node {short_id(node.bus.node_id)} of {node.manifest.name!r}, port {config.transport.port}")
    if node.telemetry.error:
        click.secho(f"telemetry in memory only: {node.telemetry.error}", fg="yellow", err=True)
        places = (config.observability.data_dir / name for name in (LOCK_FILE, DATABASE))
        if (found := next(filter(None, map(foreign, places)), None)) is not None:
            click.echo(f"hint: {found.hint}", err=True)
    else:
        click.echo(f"telemetry  {config.observability.data_dir / DATABASE}")
        _print_recovery(node.telemetry.recovered)
    click.echo(f"log        {config.observability.log_dir}")
    click.echo("look       hearthnet trace recent · hearthnet log --follow · hearthnet doctor")


def _print_reach(config: Config, certificate: Certificate | None) -> None:
    click.echo(hanging("reach      ", summary(reachable(ROUTERS, config), config.transport, certificate)))
    if certificate is not None and (trouble := certificate.trouble(now_utc())) is not None:
        # No reason not to start: the node's own tools work, and a renewed one is loaded without a restart.
        click.secho(f"{trouble}: replace it, a new one is loaded automatically", fg="yellow", err=True)


def _print_recovery(found: Recovery) -> None:
    if not found.runs:
        return
    records = f"{counted(found.traces, 'trace')} and {counted(found.logs, 'log record')}"
    if found.unclean:
        why = f"{counted(found.unclean, 'run')} did not stop cleanly: recovered {records} from the black box"
    else:
        why = f"recovered {records} that earlier runs, which stopped cleanly, could not commit"
    click.secho(why, fg="yellow" if found.unclean else None, err=True)
    if found.interrupted:
        hint = "hearthnet trace recent --result interrupted"
        click.secho(f"{counted(found.interrupted, 'call')} interrupted: {hint}", fg="yellow", err=True)
