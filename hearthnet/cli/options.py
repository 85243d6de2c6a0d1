"""Options that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from hearthnet.config import Config, load, resolve_paths

__all__ = ["config_option", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])


_DURATION: Final = re.compile(r"(\d{1,6})([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}


def _loaded(_: click.Context, __: click.Parameter, path: Path | None) -> Config:
    return resolve_paths(load(path))


def config_option(command: F) -> F:
    """Adds `--config`; the command gets the settings, paths resolved, as `config`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_loaded,
        help="Settings to use instead of the standard config.toml.",
    )(command)


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
