"""`hearthnet status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet import __version__
from hearthnet.cli.main import console, json_option, print_json, print_plain, printable, table, where_option
from hearthnet.constants import DATABASE
from hearthnet.display import counted, size
from hearthnet.errors import IdentityError, StoreError
from hearthnet.moments import duration

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_LAST_RUN: Final = {
    "clean": "stopped cleanly",
    "running": "still runs and does not respond: hearthnet doctor",
    "unclean": "did not stop cleanly: hearthnet autopsy",
}
_QUANTILES: Final = ("p50_ms", "p90_ms", "p99_ms")


@click.command("status")
@where_option
@json_option
def command(where: Locations, as_json: bool) -> None:
    """Show the node's status; from disk when it is not running.

    A node's id is shown short; messages and other nodes use the full one. The table at the end covers the node's calls
    in the telemetry store.

    \b
    Example: hearthnet status
             hearthnet status --json
    """
    live = _from_node(where)
    status = {**live, "running": True} if live is not None else {**_from_disk(where), "running": False}
    if as_json:
        print_json(status)
        return
    for name, value in _lines(status):
        click.echo(f"{name:<12} {printable(value)}")
    if status["ring"]:
        _print_ring(status["ring"])


def _from_node(where: Locations) -> dict[str, Any] | None:
    from hearthnet.cli.client import MILLISECONDS, NUMBER, NodeClient

    read = dict.fromkeys(("short_id", "node_id", "community"), str) | {
        **dict.fromkeys(("event_log_size", "event_log_head", "port", "pid", "calls_in_flight"), int),
        "uptime_s": MILLISECONDS,
        "telemetry": {"store": str},
        "disk": dict.fromkeys(("telemetry_bytes", "log_bytes"), int),
        "capabilities": [{"capability": str, "version": str}],
        "ring": [{"capability": str, **dict.fromkeys(("count", "errors", "error_rate", *_QUANTILES), NUMBER)}],
    }
    found: dict[str, Any] | None = NodeClient(where).ask("/status", read)
    return found


def _from_disk(where: Locations) -> dict[str, Any]:
    from hearthnet.events.event_log import EVENTS_FILE, EventLog
    from hearthnet.identity.community import Community, community_dir, signed_community
    from hearthnet.identity.keys import KeyPair, short_id
    from hearthnet.locations import disk_use

    try:
        keys = KeyPair.load(where.keys_dir)
    except IdentityError as error:
        if not (isinstance(error.__cause__, FileNotFoundError) and (where.data_dir / DATABASE).exists()):
            raise
        hint = f"{error.hint}; what programs recorded here: hearthnet autopsy, hearthnet trace recent"
        raise IdentityError(error.message, hint=hint) from error
    directory = community_dir(where.state_dir, where.community_id or keys.node_id)
    community = signed_community(directory)
    if community is None:
        from hearthnet.identity.manifest import read_manifest  # late: it imports pydantic

        manifest = read_manifest(directory)
        community = Community(manifest.community_id, manifest.name)
    with EventLog(directory / EVENTS_FILE, is_read_only=True) as events:
        size, head = events.size(community.community_id), events.head(community.community_id)
    ring, last_run, trouble = _stored(where)
    return {
        "node_id": keys.node_id,
        "short_id": short_id(keys.node_id),
        "version": __version__,
        "community_id": community.community_id,
        "community": community.name,
        "port": where.port,
        "event_log_size": size,
        "event_log_head": head,
        "telemetry": {"store": trouble or "ok"},
        "disk": disk_use(where),
        "ring": ring,
        "last_run": last_run,
    }


def _stored(where: Locations) -> tuple[list[dict[str, Any]], str | None, str | None]:
    """Returns the statistics of each capability, how the last run ended, and the error if the store is unreadable."""
    path = where.data_dir / DATABASE
    if not path.exists():
        return [], None, None
    from hearthnet.observability.store.query.stats import capability_stats, ended_in_order, last_end
    from hearthnet.observability.store.reader import Reader

    reader = Reader(path)
    try:
        end = last_end(reader, ended_in_order(where.data_dir))
        return capability_stats(reader), "running" if end == "unclean" and _has_live_box(where) else end, None
    except StoreError as error:  # the rest of the status can still be shown
        return [], None, error.message
    finally:
        reader.close()


def _has_live_box(where: Locations) -> bool:
    """Returns True if a node that does not respond still has its black box."""
    from hearthnet.forensics.box import NODE
    from hearthnet.observability.store.query.flights import living

    return bool(living(where.data_dir, NODE))


def _lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    disk = status["disk"]
    lines = [
        ("node", f"{status['short_id']}  ({'running' if status['running'] else 'not running'})"),
        ("full id", status["node_id"]),
        ("community", status["community"]),
        ("event log", f"{counted(status['event_log_size'], 'event')}, head {status['event_log_head']}"),
        ("telemetry", size(disk["telemetry_bytes"])),
        ("logs", size(disk["log_bytes"])),
        ("store", status["telemetry"]["store"]),
    ]
    if status["running"]:
        capabilities = [f"{item['capability']}@{item['version']}" for item in status["capabilities"]]
        lines += [
            ("port", str(status["port"])),
            ("up", f"{duration(status['uptime_s'])}, process {status['pid']}"),
            ("in flight", counted(status["calls_in_flight"], "call")),
            ("capabilities", ", ".join(capabilities) or "none"),
        ]
    elif status["last_run"] in _LAST_RUN:
        lines.insert(2, ("last run", _LAST_RUN[status["last_run"]]))
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
    print_plain(console(), listing)
