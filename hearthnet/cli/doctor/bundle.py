"""`hearthnet doctor --bundle FILE`: lists the bundle's contents, asks, and writes it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from hearthnet.checks.support.bundle import CONTENTS, make_bundle, write_bundle
from hearthnet.cli.main import print_json
from hearthnet.config import Config
from hearthnet.errors import DiskFullError, HearthNetError

__all__ = ["offer_bundle"]


def offer_bundle(
    config: Config, report: dict[str, Any], path: Path, *, is_sure: bool, force: bool, as_json: bool
) -> None:
    """Lists the bundle's contents, asks unless `is_sure`, and writes it.

    Raises:
        click.UsageError: raised when the file exists, or stdin is not a terminal.
        click.Abort: raised when the user declines.
        HearthNetError: raised when it cannot be written.
    """
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal; pass --yes to write without asking")
    parts = make_bundle(config, report)
    if not as_json:
        click.echo("The bundle has these files, without any text written by a person:")
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
        hint = "choose a writable path: --bundle FILE"
        raise kind(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error
