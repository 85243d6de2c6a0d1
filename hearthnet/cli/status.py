"""`hearthnet status`."""

from __future__ import annotations

from typing import Any

import click

from hearthnet import __version__
from hearthnet.cli.client import NodeClient
from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import print_json, printable
from hearthnet.config import Config
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.identity.manifest import community_dir, read_manifest
from hearthnet.node import disk_use


@click.command("status")
@config_option
@json_option
def command(config: Config, as_json: bool) -> None:
    """Show the node at a glance; from disk when it is not running.

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


def _from_disk(config: Config) -> dict[str, Any]:
    assert config.identity.keys_dir is not None
    assert config.community.state_dir is not None
    keys = KeyPair.load(config.identity.keys_dir)
    directory = community_dir(config.community.state_dir, config.community.community_id or keys.node_id)
    manifest = read_manifest(directory)
    with EventLog(directory / EVENTS_FILE) as events:
        size, head = events.size(manifest.community_id), events.head(manifest.community_id)
    return {
        "node_id": keys.node_id,
        "short_id": short_id(keys.node_id),
        "version": __version__,
        "community_id": manifest.community_id,
        "community": manifest.name,
        "port": config.transport.port,
        "event_log_size": size,
        "event_log_head": head,
        "disk": disk_use(config),
    }


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    disk = status["disk"]
    lines = [
        ("node", f"{status['short_id']}  ({'running' if status['running'] else 'not running'})"),
        ("community", status["community"]),
        ("event log", f"{status['event_log_size']} event(s), head {status['event_log_head']}"),
        ("telemetry", f"{disk['telemetry_bytes'] / 1e6:.1f} MB"),
        ("logs", f"{disk['log_bytes'] / 1e6:.1f} MB"),
    ]
    if status["running"]:
        capabilities = [f"{item['capability']}@{item['version']}" for item in status["capabilities"]]
        lines += [
            ("port", str(status["port"])),
            ("up", f"{status['uptime_s']:.0f} s, process {status['pid']}"),
            ("in flight", f"{status['calls_in_flight']} call(s)"),
            ("store", status["telemetry"]["store"]),
            ("capabilities", ", ".join(capabilities) or "none"),
        ]
    return lines
