"""What `hearthnet run` does: serves the node, and says at the start where to look."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import closing

import click

from hearthnet.config import Config
from hearthnet.identity.keys import short_id
from hearthnet.node import Node, open_node
from hearthnet.observability.store.recovery.recover import Recovery
from hearthnet.observability.telemetry import DATABASE
from hearthnet.transport.app import ROUTERS
from hearthnet.transport.auth.exposure import reachable, summary
from hearthnet.transport.server import bind
from hearthnet.transport.tls import Certificate, ServingPair, now_utc

__all__ = ["serve"]


def serve(config: Config) -> None:
    """Runs the node until SIGINT or SIGTERM.

    Raises:
        HearthNetError: raised when it cannot start.
    """
    asyncio.run(_serve(config))


async def _serve(config: Config) -> None:
    # Bound first: a taken port is told before anything is opened. It answers only once `serve` listens.
    with closing(bind(config.transport)) as listening:
        pair = ServingPair.of(config.transport)  # so is a certificate that cannot be served
        async with open_node(config) as node:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            _announce(node)
            _announce_reach(config, None if pair is None else pair.certificate)
            click.echo("stop       Ctrl-C")
            # What is here now stays: a full collection need not visit it, and stops the loop for less long.
            gc.collect()
            gc.freeze()
            await node.serve(listening, stop)
    click.echo("stopped")


def _announce(node: Node) -> None:
    config = node.config
    assert config.observability.data_dir is not None
    click.echo(f"node {short_id(node.bus.node_id)} of {node.manifest.name!r}, port {config.transport.port}")
    if node.telemetry.error:
        click.secho(f"telemetry in memory only: {node.telemetry.error}", fg="yellow", err=True)
    else:
        click.echo(f"telemetry  {config.observability.data_dir / DATABASE}")
        _announce_recovery(node.telemetry.recovered)
    click.echo(f"log        {config.observability.log_dir}")
    click.echo("look       hearthnet trace recent · hearthnet log --follow · hearthnet doctor")


def _announce_reach(config: Config, certificate: Certificate | None) -> None:
    click.echo(f"reach      {summary(reachable(ROUTERS, config), config.transport, certificate)}")
    if certificate is not None and (trouble := certificate.trouble(now_utc())) is not None:
        # No reason to stay down: the node's own tools work, and a renewed one is taken up without a restart.
        click.secho(f"{trouble}: replace it, it is taken up by itself", fg="yellow", err=True)


def _announce_recovery(found: Recovery) -> None:
    if not found.runs:
        return
    taken = f"{found.traces} trace(s) and {found.logs} log record(s) were taken in from its black box"
    click.secho(f"the last run did not stop cleanly: {taken}", fg="yellow", err=True)
    if found.interrupted:
        hint = "hearthnet trace recent --result interrupted"
        click.secho(f"{found.interrupted} call(s) were cut short: {hint}", fg="yellow", err=True)
