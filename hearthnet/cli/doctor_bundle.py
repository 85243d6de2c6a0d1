"""`hearthnet doctor --bundle FILE`: shows what would be in it, asks, and writes it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click
import httpx

from hearthnet.checks.bundle import Bundle, make_bundle
from hearthnet.cli.client import NodeClient
from hearthnet.cli.output import print_json
from hearthnet.config import Config
from hearthnet.errors import DiskFullError, HearthNetError

__all__ = ["offer_bundle"]


def offer_bundle(
    config: Config, report: dict[str, Any], path: Path, *, is_sure: bool, force: bool, as_json: bool
) -> None:
    """Lists what the bundle holds, asks unless `is_sure`, and writes it.

    Raises:
        click.UsageError: raised when the file is there, or nobody can be asked.
        click.Abort: raised when the answer is no.
        HearthNetError: raised when it cannot be written.
    """
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; --yes writes without asking")
    bundle = make_bundle(config, report, _exposition(config))
    listing = _listing(bundle)
    if not as_json:
        _print(bundle, listing)
    if not is_sure:
        click.confirm(f"write {path}?", abort=True, err=True)
    _write(bundle, path)
    if as_json:
        print_json({"version": 1, "file": str(path), "parts": listing, "replaced": dict(bundle.replaced)})
    else:
        click.echo(f"written: {path}; nothing was sent anywhere")


def _write(bundle: Bundle, path: Path) -> None:
    try:
        bundle.write(path)
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else HearthNetError
        hint = "name a place that you can write: --bundle FILE"
        raise kind(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


def _exposition(config: Config) -> str | None:
    """Returns the metrics of our running node, or None."""
    client = NodeClient(config, timeout_s=3.0)
    try:
        with client.http:
            if not client.is_ours(client.http.get("/health")):
                return None
            return client.http.get("/metrics").text
    except (httpx.HTTPError, httpx.InvalidURL, HearthNetError):
        return None


def _listing(bundle: Bundle) -> list[dict[str, Any]]:
    return [{"name": name, "bytes": len(content)} for name, content in bundle.parts.items()]


def _print(bundle: Bundle, listing: list[dict[str, Any]]) -> None:
    click.echo("The bundle holds:")
    for part in listing:
        click.echo(f"  {part['name']:<16} {part['bytes']:>9,} bytes")
    found = ", ".join(f"{kind} {count:,} times" for kind, count in sorted(bundle.replaced.items()))
    click.echo(f"Replaced by numbered words: {found or 'nothing'}.")
    click.echo("No extras of calls or records, no prompts, no messages, no secrets.")
