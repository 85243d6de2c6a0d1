"""Options shared by commands."""

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
    from hearthnet.config import load, resolve_paths  # late: pydantic, which `--help` does not need

    return resolve_paths(load(path))


def _located(_: click.Context, __: click.Parameter, path: Path | None) -> Locations:
    from hearthnet.locations import locate

    return locate(path)


def settings_option(
    name: str, callback: Callable[[click.Context, click.Parameter, Path | None], Any]
) -> Callable[[F], F]:
    """Adds `--config`; the command gets the result of `callback` for that path as `name`."""
    return click.option(
        "--config",
        name,
        type=click.Path(path_type=Path, dir_okay=False),
        callback=callback,
        help="Settings to use instead of the standard config.toml.",
    )


def config_option(command: F) -> F:
    """Adds `--config`; the command gets the settings with resolved paths as `config`."""
    return settings_option("config", _loaded)(command)


def where_option(command: F) -> F:
    """Adds `--config`; the command gets only the node's paths and address as `where`, which is faster."""
    return settings_option("where", _located)(command)


def for_option(examples: str, max_s: int, bound: str) -> Callable[[F], F]:
    """Adds `--for`, a duration (90, 30s, 10m, 2h), passed to the command in seconds as `for_s`; at most `max_s`."""

    def seconds_of(_: click.Context, __: click.Parameter, text: str) -> float:
        match = _DURATION.fullmatch(text)
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 0 < seconds <= max_s:
            raise click.BadParameter(f"{text!r} is not a duration like {examples}, at most {bound}")
        return float(seconds)

    text = f"How long: {examples.replace(' or', ',')}."
    return click.option("--for", "for_s", callback=seconds_of, default="10m", show_default=True, help=text)


def json_option(command: F) -> F:
    """Adds `--json` as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)
