"""`hearthnet status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet import __version__
from hearthnet.cli.main import console, json_option, print_json, printable, table, where_option
from hearthnet.constants import DATABASE
from hearthnet.errors import StoreError
from hearthnet.plural import counted

if TYPE_CHECKING:
    from pathlib import Path

    from hearthnet.locations import Locations

_QUANTILES: Final = ("p50_ms", "p90_ms", "p99_ms")


@click.command("status")
@where_option
@json_option
def command(where: Locations, as_json: bool) -> None:
    """Show the node's status; from disk when it is not running.

    The table at the end covers the node's calls in the telemetry store.

    \b
    Example: hearthnet status
             hearthnet status --json
    """
    from hearthnet.cli.client import NodeClient

    live = NodeClient(where).ask("/status")
    status = {"running": True, **live} if live is not None else {"running": False, **_from_disk(where)}
    if as_json:
        print_json(status)
        return
    for name, value in _lines(status):
        click.echo(f"{name:<12} {printable(value)}")
    if status["ring"]:
        _print_ring(status["ring"])


def _from_disk(where: Locations) -> dict[str, Any]:
    from hearthnet.events.event_log import EVENTS_FILE, EventLog
    from hearthnet.identity.community import Community, community_dir, signed_community
    from hearthnet.identity.keys import KeyPair, short_id
    from hearthnet.locations import disk_use

    keys = KeyPair.load(where.keys_dir)
    directory = community_dir(where.state_dir, where.community_id or keys.node_id)
    community = signed_community(directory)
    if community is None:
        from hearthnet.identity.manifest import read_manifest  # late: it imports pydantic

        manifest = read_manifest(directory)
        community = Community(manifest.community_id, manifest.name)
    with EventLog(directory / EVENTS_FILE) as events:
        size, head = events.size(community.community_id), events.head(community.community_id)
    ring, trouble = _ring(where)
    return {
        "node_id": keys.node_id,
        "short_id": short_id(keys.node_id),
        "version": __version__,
        "community_id": community.community_id,
        "community": community.name,
        "port": where.port,
        "died": _has_died(where.data_dir),
        "event_log_size": size,
        "event_log_head": head,
        "telemetry": {"store": trouble or "ok"},
        "disk": disk_use(where),
        "ring": ring,
    }


def _has_died(directory: Path) -> bool:
    """Returns whether a run of the node has left its black box, which a clean stop removes."""
    from hearthnet.forensics.box import NODE, boxes_in, header_of, is_alive, is_locked

    headers = (header_of(path) for path in boxes_in(directory) if not is_locked(path))
    return any(header.role == NODE and not is_alive(header) for header in headers if header is not None)


def _ring(where: Locations) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the store's statistics of each capability, empty if it never ran, and the error if it is unreadable."""
    path = where.data_dir / DATABASE
    if not path.exists():
        return [], None
    from hearthnet.observability.store.query.stats import capability_stats
    from hearthnet.observability.store.reader import Reader

    reader = Reader(path)
    try:
        return capability_stats(reader), None
    except StoreError as error:  # the rest of the status can still be shown
        return [], error.message
    finally:
        reader.close()


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    disk = status["disk"]
    state = "running" if status["running"] else "not running"
    if status.get("died"):
        state += "; it did not stop cleanly: hearthnet autopsy"
    lines = [
        ("node", f"{status['short_id']}  ({state})"),
        ("community", status["community"]),
        ("event log", f"{counted(status['event_log_size'], 'event')}, head {status['event_log_head']}"),
        ("telemetry", f"{disk['telemetry_bytes'] / 1e6:.1f} MB"),
        ("logs", f"{disk['log_bytes'] / 1e6:.1f} MB"),
        ("store", status["telemetry"]["store"]),
    ]
    if status["running"]:
        capabilities = [f"{item['capability']}@{item['version']}" for item in status["capabilities"]]
        lines += [
            ("port", str(status["port"])),
            ("up", f"{status['uptime_s']:.0f} s, process {status['pid']}"),
            ("in flight", counted(status["calls_in_flight"], "call")),
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
