"""`hearthnet doctor --bundle FILE`: shows what would be in it, asks, and writes it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from hearthnet.checks.support.bundle import CONTENTS, make_bundle, write_bundle
from hearthnet.cli.output import print_json
from hearthnet.config import Config
from hearthnet.errors import DiskFullError, HearthNetError

__all__ = ["offer_bundle"]


def offer_bundle(
    config: Config, report: dict[str, Any], path: Path, *, is_sure: bool, force: bool, as_json: bool
) -> None:
    """Lists what the bundle holds, asks unless `is_sure`, and writes it.

    Raises:
        click.UsageError: raised when the file exists, or no terminal is there to ask on.
        click.Abort: raised when the answer is no.
        HearthNetError: raised when it cannot be written.
    """
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask on; --yes writes without asking")
    parts = make_bundle(config, report)
    if not as_json:
        click.echo("The bundle holds these files, and no text that anybody wrote:")
        for name, content in parts.items():
            click.echo(f"  {name:<14} {len(content):>9,} bytes  {CONTENTS.get(name, 'what each file is')}")
    if not is_sure:
        click.confirm(f"write {path}?", abort=True, err=True)
    _write(parts, path)
    if as_json:
        listing = [{"name": name, "bytes": len(content)} for name, content in parts.items()]
        print_json({"version": 2, "file": str(path), "parts": listing})
    else:
        click.echo(f"written: {path}; nothing was sent anywhere")


def _write(parts: dict[str, bytes], path: Path) -> None:
    try:
        write_bundle(parts, path)
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else HearthNetError
        hint = "name a place that you can write: --bundle FILE"
        raise kind(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error
