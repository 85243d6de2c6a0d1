"""`hearthnet log level`: one logger of the running node more talkative, or quieter, for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.options import for_option, json_option, where_option
from hearthnet.cli.output import print_json, printable
from hearthnet.constants import LEVELS
from hearthnet.errors import EXIT_USAGE, HearthNetError

if TYPE_CHECKING:
    from hearthnet.cli.client import Response
    from hearthnet.locations import Locations

_MAX_S: Final = 24 * 3_600
_BAD_REQUEST: Final = 400


@click.command("level")
@click.argument("change", metavar="[LOGGER=LEVEL]", required=False)
@for_option("30s, 10m or 2h", _MAX_S, "24 hours")
@click.option("--reset", is_flag=True, help="Back to what it was: all of them, or the LOGGER that is named.")
@where_option
@json_option
def level(where: Locations, change: str | None, for_s: float, reset: bool, as_json: bool) -> None:
    """Change the level of one logger of the running node, for a while; without LOGGER=LEVEL, list what is changed.

    The level reverts by itself. The logger is named as in the log; `hearthnet.` may be left out. Those below it follow.

    \b
    Example: hearthnet log level bus=debug --for 10m
             hearthnet log level
             hearthnet log level --reset

    Exits with 2 for a logger or a level that there is none of, 3 when no node runs.
    """
    if change is None and not reset:
        present = _ask(where, "GET")
    else:
        present = _ask(where, "POST", _wanted(change, for_s, reset=reset))
    if as_json:
        print_json(present)
    else:
        _print(present)


def _wanted(change: str | None, for_s: float, *, reset: bool) -> dict[str, Any]:
    name, sign, wanted = (change or "").partition("=")
    if reset:
        if sign:
            raise click.UsageError("--reset takes a LOGGER without a level")
        return {"logger": change}
    if not name or wanted not in LEVELS:
        raise _usage(f"{change!r} is not LOGGER=LEVEL", f"the levels are {', '.join(LEVELS)}: bus=debug, for instance")
    return {"logger": name, "level": wanted, "for_s": for_s}


def _usage(message: str, hint: str) -> HearthNetError:
    error = HearthNetError(message, hint=hint)
    error.exit_code = EXIT_USAGE
    return error


def _ask(where: Locations, method: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    from hearthnet.cli.client import NodeClient

    answer = NodeClient(where).control(method, "/control/log-level", body)
    if answer.is_error:
        raise _refused(answer)
    present: list[dict[str, Any]] = answer.json()
    return present


def _refused(answer: Response) -> HearthNetError:
    message = answer.json().get("message", str(answer.status))
    if answer.status != _BAD_REQUEST:
        return HearthNetError(f"the node answered: {message}")
    what, _, hint = message.partition("; ")
    return _usage(what, hint or "see: hearthnet log level --help")


def _print(present: list[dict[str, Any]]) -> None:
    if not present:
        click.echo("every logger has its usual level", err=True)
    for item in present:
        left = f"for {_spoken(item['left_s'])}, then {item['was']}"
        click.echo(f"{printable(item['logger']):<32} {item['level']:<8} {left}")


def _spoken(seconds: float) -> str:
    """Returns a time as a person writes it: 9m58s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
