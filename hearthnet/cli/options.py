"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hearthnet.config import Config, load, resolve_paths

__all__ = ["config_option", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])


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


def json_option(command: F) -> F:
    """Adds `--json` as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)
