"""Options that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.locations import Locations

__all__ = ["config_option", "json_option", "where_option"]

F = TypeVar("F", bound=Callable[..., Any])


_DURATION: Final = re.compile(r"(\d{1,6})([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}


def _loaded(_: click.Context, __: click.Parameter, path: Path | None) -> Config:
    from hearthnet.config import load, resolve_paths  # late: pydantic, which `--help` can do without

    return resolve_paths(load(path))


def _located(_: click.Context, __: click.Parameter, path: Path | None) -> Locations:
    from hearthnet.locations import locate

    return locate(path)


def settings_option(
    name: str, callback: Callable[[click.Context, click.Parameter, Path | None], Any]
) -> Callable[[F], F]:
    """Adds `--config`; the command gets as `name` what `callback` makes of the path."""
    return click.option(
        "--config",
        name,
        type=click.Path(path_type=Path, dir_okay=False),
        callback=callback,
        help="Settings to use instead of the standard config.toml.",
    )


def config_option(command: F) -> F:
    """Adds `--config`; the command gets the settings, paths resolved, as `config`."""
    return settings_option("config", _loaded)(command)


def where_option(command: F) -> F:
    """Adds `--config`; the command gets the node's paths and address alone, which is quicker, as `where`."""
    return settings_option("where", _located)(command)


def for_option(examples: str, max_s: int, bound: str) -> Callable[[F], F]:
    """Adds `--for`, a time as people write it (90, 30s, 10m, 2h), as `for_s`: seconds, `max_s` at most."""

    def seconds_of(_: click.Context, __: click.Parameter, text: str) -> float:
        match = _DURATION.fullmatch(text)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 0 < seconds <= max_s:
            raise click.BadParameter(f"{text!r} is no time like {examples}, of {bound} at most")
        return float(seconds)

    told = f"How long: {examples.replace(' or', ',')}."
    return click.option("--for", "for_s", callback=seconds_of, default="10m", show_default=True, help=told)


def json_option(command: F) -> F:
    """Adds `--json` as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)
