"""`hearthnet doctor`."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from hearthnet import checks
from hearthnet.cli.client import NodeClient
from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import hanging, print_json, printable
from hearthnet.config import Config
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE
from hearthnet.observability import doctor

_MARKS: Final = {
    "pass": ("✔", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✘", "red"),
    "skip": ("-", "bright_black"),
}
_ASCII_MARKS: Final = {"✔": "ok", "✘": "X "}
_REPORT_VERSION: Final = 1
_NAME_CHARS: Final = max(len(check.__name__) for check in checks.ALL)


@click.command("doctor")
@click.option("--check", "only", multiple=True, metavar="NAME", help="Run this check alone; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the checks and what they verify.")
@config_option
@json_option
def command(config: Config, only: tuple[str, ...], listing: bool, as_json: bool) -> None:
    """Check this node and say how to fix what is wrong; asks the node if it is running.

    \b
    Example: hearthnet doctor
             hearthnet doctor --check disk_space --check clock_sanity
             hearthnet doctor --json

    Exits with 0 when nothing failed, 1 when a check did, 2 when the doctor itself could not work.
    """
    checks.register_all()
    if listing:
        _list(as_json=as_json)
        return
    unknown = [name for name in only if name not in doctor.names()]
    if unknown:
        raise click.BadParameter(f"no check is named {unknown[0]}; see --list", param_hint="--check")
    try:
        results = _diagnose(config, only)
    except Exception as error:  # the border: whatever broke the doctor is told as such  # noqa: BLE001
        click.secho(f"error: the doctor itself failed: {type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(EXIT_USAGE)
    healthy = all(result["ok"] for result in results)
    if as_json:
        print_json({"version": _REPORT_VERSION, "ok": healthy, "checks": results})
    else:
        _print(results)
    sys.exit(0 if healthy else EXIT_ERROR)


def _diagnose(config: Config, only: tuple[str, ...]) -> list[dict[str, Any]]:
    answer = NodeClient(config).ask("/doctor", check=list(only) or None)
    if answer is not None:
        found: list[dict[str, Any]] = answer
        return found
    return [result.as_dict() for result in doctor.run_all(config, only=only)]


def _list(*, as_json: bool) -> None:
    described = [{"name": check.__name__, "verifies": (check.__doc__ or "").splitlines()[0]} for check in checks.ALL]
    if as_json:
        print_json(described)
        return
    for item in described:
        click.echo(hanging(f"{item['name']:<{_NAME_CHARS}}  ", item["verifies"]))


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        mark, colour = _MARKS[result["status"]]
        line = hanging(f"{_drawable(mark)} {result['name']:<{_NAME_CHARS}}  ", printable(result["detail"]))
        click.echo(click.style(line[: len(_drawable(mark))], fg=colour) + line[len(_drawable(mark)) :])
        if result["fix"]:
            click.echo(hanging(f"  {'':<{_NAME_CHARS}}  ", f"fix: {printable(result['fix'])}"))
    failed = sum(not result["ok"] for result in results)
    click.echo(f"{len(results)} checks, {failed} failed" if failed else f"{len(results)} checks, none failed")


def _drawable(mark: str) -> str:
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _ASCII_MARKS.get(mark, mark)
    return mark
