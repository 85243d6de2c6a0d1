"""`hearthnet log level`: temporarily changes the level of a logger of the running node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import json_option, print_json, printable, where_option
from hearthnet.cli.options import for_option
from hearthnet.cli.tools import names
from hearthnet.constants import LEVELS
from hearthnet.errors import EXIT_USAGE, HearthNetError
from hearthnet.moments import duration

if TYPE_CHECKING:
    from hearthnet.cli.client import Response
    from hearthnet.locations import Locations

_MAX_S: Final = 24 * 3_600
_BAD_REQUEST: Final = 400


@click.command("level")
@click.argument("change", metavar="[LOGGER=LEVEL]", required=False, shell_complete=names.level_changes)
@for_option("30s, 10m or 2h", _MAX_S, "24 hours")
@click.option("--reset", is_flag=True, help="Restore the level of all loggers, or of LOGGER.")
@where_option
@json_option
def level(where: Locations, change: str | None, for_s: float, reset: bool, as_json: bool) -> None:
    """Change a logger's level in the running node, temporarily; without LOGGER=LEVEL, list the changes.

    The level reverts by itself. LOGGER is a name as in the log, with or without `hearthnet.`; its children follow.

    \b
    Example: hearthnet log level bus=debug --for 10m
             hearthnet log level
             hearthnet log level --reset

    Exits with 2 for an unknown logger or level, 3 when the node is not running.
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
        raise _usage(f"{change!r} is not LOGGER=LEVEL", f"levels are {', '.join(LEVELS)}; example: bus=debug")
    return {"logger": name, "level": wanted, "for_s": for_s}


def _usage(message: str, hint: str) -> HearthNetError:
    error = HearthNetError(message, hint=hint)
    error.exit_code = EXIT_USAGE
    return error


def _ask(where: Locations, method: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    from hearthnet.cli.client import MILLISECONDS, NodeClient

    change = {"logger": str, "level": str, "was": str, "left_s": MILLISECONDS}
    response = NodeClient(where).control(method, "/control/log-level", [change], body)
    if response.is_error:
        raise _refusal(response)
    present: list[dict[str, Any]] = response.json()
    return present


def _refusal(response: Response) -> HearthNetError:
    message = response.message
    if response.status != _BAD_REQUEST:
        return HearthNetError(f"the node reported: {message}")
    problem, _, hint = message.partition("; ")
    return _usage(problem, hint or "see: hearthnet log level --help")


def _print(present: list[dict[str, Any]]) -> None:
    if not present:
        click.echo("every logger has its usual level", err=True)
    for item in present:
        left = f"for {duration(item['left_s'])}, then {item['was']}"
        click.echo(printable(f"{item['logger']:<32} {item['level']:<8} {left}"))
