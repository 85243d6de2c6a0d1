"""`hearthnet trace bodies`: what is in the calls of one capability, recorded for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.options import for_option, json_option, where_option
from hearthnet.cli.output import print_json, printable
from hearthnet.errors import HearthNetError

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_PATH: Final = "/control/record-bodies"
_MAX_S: Final = 3_600


@click.command("bodies")
@click.argument("capability", required=False)
@for_option("30s, 10m or 1h", _MAX_S, "one hour")
@click.option("--off", is_flag=True, help="No longer: all of them, or the CAPABILITY that is named.")
@where_option
@json_option
def bodies(where: Locations, capability: str | None, for_s: float, off: bool, as_json: bool) -> None:
    """Record what is in the calls of one capability, for a while; without CAPABILITY, list what is recorded.

    Requests and answers are never recorded unless this says so. It ends by itself, after an hour at most, and with the
    node. What was recorded stays in the traces, as `request_body` and `answer_body`: `hearthnet trace show` has it,
    `hearthnet telemetry purge --capability` removes it. Secrets are redacted, but people's words are not.

    \b
    Example: hearthnet trace bodies llm.chat --for 5m
             hearthnet trace bodies
             hearthnet trace bodies --off

    Exits with 3 when no node runs.
    """
    if off or capability is not None:
        present = _ask(where, "POST", {"capability": capability, "for_s": None if off else for_s})
    else:
        present = _ask(where, "GET")
    if as_json:
        print_json(present)
        return
    if not present:
        click.echo("no capability's bodies are recorded", err=True)
    for item in present:
        click.echo(f"{printable(item['capability']):<32} for {round(item['left_s'])} s more")


def _ask(where: Locations, method: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    from hearthnet.cli.client import NodeClient

    answer = NodeClient(where).control(method, _PATH, body)
    if answer.is_error:
        message, _, hint = answer.json().get("message", str(answer.status)).partition("; ")
        raise HearthNetError(f"the node answered: {message}", hint=hint or None)
    present: list[dict[str, Any]] = answer.json()
    return present
