"""`hearthnet trace bodies`: what is in the calls of one capability, recorded for a while."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import print_json, printable
from hearthnet.config import Config
from hearthnet.errors import HearthNetError

_PATH: Final = "/control/record-bodies"
_DURATION: Final = re.compile(r"(\d{1,4})([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}
_MAX_S: Final = 3_600


def _duration(_: click.Context, __: click.Parameter, text: str) -> float:
    """Returns seconds."""
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_S:
        raise click.BadParameter(f"{text!r} is no time like 30s, 10m or 1h, of one hour at most")
    return float(seconds)


@click.command("bodies")
@click.argument("capability", required=False)
@click.option("--for", "for_s", callback=_duration, default="10m", show_default=True, help="How long: 30s, 10m, 1h.")
@click.option("--off", is_flag=True, help="No longer: all of them, or the CAPABILITY that is named.")
@config_option
@json_option
def bodies(config: Config, capability: str | None, for_s: float, off: bool, as_json: bool) -> None:
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
        present = _ask(config, "POST", {"capability": capability, "for_s": None if off else for_s})
    else:
        present = _ask(config, "GET")
    if as_json:
        print_json(present)
        return
    if not present:
        click.echo("no capability's bodies are recorded", err=True)
    for item in present:
        click.echo(f"{printable(item['capability']):<32} for {round(item['left_s'])} s more")


def _ask(config: Config, method: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    import httpx

    from hearthnet.cli.client import NodeClient

    client = NodeClient(config)
    try:
        answer = client.http.request(method, _PATH, json=body)
    except httpx.HTTPError as error:
        raise client.unreachable() from error
    if not client.is_ours(answer):
        raise client.unreachable()
    if answer.is_error:
        message, _, hint = answer.json().get("message", str(answer.status_code)).partition("; ")
        raise HearthNetError(f"the node answered: {message}", hint=hint or None)
    present: list[dict[str, Any]] = answer.json()
    return present
