"""`hearthnet trace bodies`: temporarily records the bodies of calls of a capability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import json_option, print_json, printable, where_option
from hearthnet.cli.options import for_option
from hearthnet.cli.tools import names
from hearthnet.errors import HearthNetError
from hearthnet.moments import duration

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_PATH: Final = "/control/record-bodies"
_MAX_S: Final = 3_600


@click.command("bodies")
@click.argument("capability", required=False, shell_complete=names.capabilities)
@for_option("30s, 10m or 1h", _MAX_S, "one hour")
@click.option("--off", is_flag=True, help="Stop recording all bodies, or those of CAPABILITY.")
@where_option
@json_option
def bodies(where: Locations, capability: str | None, for_s: float, off: bool, as_json: bool) -> None:
    """Record the bodies of a capability's calls, temporarily; without CAPABILITY, list the capabilities recorded.

    By default no bodies are recorded. Recording ends by itself, after an hour at most, and with the node. The bodies
    stay in the traces as `request_body` and `answer_body`: `hearthnet trace show` prints them, `hearthnet telemetry
    purge --capability` removes them. Secrets are redacted, other text is not.

    \b
    Example: hearthnet trace bodies llm.chat --for 5m
             hearthnet trace bodies
             hearthnet trace bodies --off

    Exits with 3 when the node is not running.
    """
    if off or capability is not None:
        present = _ask(where, "POST", {"capability": capability, "for_s": None if off else for_s})
    else:
        present = _ask(where, "GET")
    if as_json:
        print_json(present)
        return
    if not present:
        click.echo("no bodies are being recorded", err=True)
    for item in present:
        click.echo(f"{printable(item['capability']):<32} for {duration(item['left_s'])} more")


def _ask(where: Locations, method: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    from hearthnet.cli.client import MILLISECONDS, NodeClient

    response = NodeClient(where).control(method, _PATH, [{"capability": str, "left_s": MILLISECONDS}], body)
    if response.is_error:
        message, _, hint = response.message.partition("; ")
        raise HearthNetError(f"the node reported: {message}", hint=hint or None)
    present: list[dict[str, Any]] = response.json()
    return present
