"""`hearthnet caps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import console, json_option, print_json, print_plain, table, where_option

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_NUMBERS: Final = ("running", "max_concurrent", "calls")
_PERHAPS: Final = ("success_rate", "p50_ms", "p99_ms")


@click.command("caps")
@where_option
@json_option
def command(where: Locations, as_json: bool) -> None:
    """List the capabilities with health and latency of their last 100 calls.

    Example: hearthnet caps
    """
    entries = _capabilities(where)
    if as_json:
        print_json(entries)
        return
    listing = table(
        "capability", "running", "calls", "ok", "p50 ms", "p99 ms", "state",
        right=("running", "calls", "ok", "p50 ms", "p99 ms"),
    )  # fmt: skip
    for entry in entries:
        rate = entry["success_rate"]
        listing.add_row(
            f"{entry['capability']}@{entry['version']}",
            f"{entry['running']}/{entry['max_concurrent']}",
            str(entry["calls"]),
            "-" if rate is None else f"{rate:.0%}",
            *("-" if entry[key] is None else f"{entry[key]:.1f}" for key in ("p50_ms", "p99_ms")),
            "[red]quarantined[/]" if entry["quarantined"] else "[green]ready[/]",
        )
    print_plain(console(), listing)


def _capabilities(where: Locations) -> list[dict[str, Any]]:
    from hearthnet.cli.client import NUMBER, NodeClient

    read = {"capability": str, "version": str, "quarantined": bool}
    read |= dict.fromkeys(_NUMBERS, NUMBER) | dict.fromkeys(_PERHAPS, NUMBER | None)
    entries: list[dict[str, Any]] = NodeClient(where).need("/status", {"capabilities": [read]})["capabilities"]
    return entries
