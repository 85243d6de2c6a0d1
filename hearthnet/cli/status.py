"""`hearthnet status`."""

from __future__ import annotations

from typing import Any, Final

import click

from hearthnet import __version__
from hearthnet.cli.client import NodeClient
from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import console, print_json, printable, table
from hearthnet.config import Config
from hearthnet.errors import StoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.identity.manifest import community_dir, read_manifest
from hearthnet.node import disk_use
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.store.stats import capability_stats
from hearthnet.observability.telemetry import DATABASE

_QUANTILES: Final = ("p50_ms", "p90_ms", "p99_ms")


@click.command("status")
@config_option
@json_option
def command(config: Config, as_json: bool) -> None:
    """Show the node at a glance; from disk when it is not running.

    The table at the end is of all calls that the telemetry store holds.

    \b
    Example: hearthnet status
             hearthnet status --json
    """
    answer = NodeClient(config).ask("/status")
    status = {"running": True, **answer} if answer is not None else {"running": False, **_from_disk(config)}
    if as_json:
        print_json(status)
        return
    for name, value in _lines(status):
        click.echo(f"{name:<12} {printable(value)}")
    if status["ring"]:
        _print_ring(status["ring"])


def _from_disk(config: Config) -> dict[str, Any]:
    assert config.identity.keys_dir is not None
    assert config.community.state_dir is not None
    keys = KeyPair.load(config.identity.keys_dir)
    directory = community_dir(config.community.state_dir, config.community.community_id or keys.node_id)
    manifest = read_manifest(directory)
    with EventLog(directory / EVENTS_FILE) as events:
        size, head = events.size(manifest.community_id), events.head(manifest.community_id)
    ring, trouble = _ring(config)
    return {
        "node_id": keys.node_id,
        "short_id": short_id(keys.node_id),
        "version": __version__,
        "community_id": manifest.community_id,
        "community": manifest.name,
        "port": config.transport.port,
        "event_log_size": size,
        "event_log_head": head,
        "telemetry": {"store": trouble or "ok"},
        "disk": disk_use(config),
        "ring": ring,
    }


def _ring(config: Config) -> tuple[list[dict[str, Any]], str | None]:
    """Returns what the store has of each capability, and why it cannot be read; a node never run has nothing."""
    assert config.observability.data_dir is not None
    path = config.observability.data_dir / DATABASE
    if not path.exists():
        return [], None
    reader = Reader(path)
    try:
        return capability_stats(reader), None
    except StoreError as error:  # the rest of the node can be told all the same
        return [], error.message
    finally:
        reader.close()


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    disk = status["disk"]
    lines = [
        ("node", f"{status['short_id']}  ({'running' if status['running'] else 'not running'})"),
        ("community", status["community"]),
        ("event log", f"{status['event_log_size']} event(s), head {status['event_log_head']}"),
        ("telemetry", f"{disk['telemetry_bytes'] / 1e6:.1f} MB"),
        ("logs", f"{disk['log_bytes'] / 1e6:.1f} MB"),
        ("store", status["telemetry"]["store"]),
    ]
    if status["running"]:
        capabilities = [f"{item['capability']}@{item['version']}" for item in status["capabilities"]]
        lines += [
            ("port", str(status["port"])),
            ("up", f"{status['uptime_s']:.0f} s, process {status['pid']}"),
            ("in flight", f"{status['calls_in_flight']} call(s)"),
            ("capabilities", ", ".join(capabilities) or "none"),
        ]
    return lines


def _print_ring(ring: list[dict[str, Any]]) -> None:
    from rich.text import Text

    listing = table(
        "capability", "calls", "errors", "p50 ms", "p90 ms", "p99 ms",
        right=("calls", "errors", "p50 ms", "p90 ms", "p99 ms"),
    )  # fmt: skip
    for item in ring:
        listing.add_row(
            Text(printable(item["capability"])),
            str(item["count"]),
            Text(f"{item['error_rate']:.1%}", style="red" if item["errors"] else ""),
            *(f"{item[name]:.1f}" for name in _QUANTILES),
        )
    click.echo()
    console().print(listing)
