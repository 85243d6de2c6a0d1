"""`hearthnet autopsy`: diagnoses why the last run ended."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hearthnet.cli.main import json_option
from hearthnet.config import load, resolve_paths
from hearthnet.errors import ConfigError
from hearthnet.forensics.main import (
    DEFAULT_LIMIT,
    EXIT_NOTHING,
    MAX_LIMIT,
    SCHEMA,
    Request,
    has_colour,
    moment_us,
    print_report,
)


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else moment_us(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("autopsy")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="The folder of the JSON logs.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that opens offline.")
@click.option("--force", is_flag=True, help="Overwrite the page.")
@click.option("--since", "since_us", callback=_moment, help="Only newer: 30m, 2h, 1d, or an ISO 8601 time.")
@click.option("--run", "run_id", help="This run instead of the last ended one; a prefix is enough.")
@click.option("--program", metavar="NAME", help="The last run of this program, not the node's: cron.py.")
@click.option("--around", metavar="TRACE", help="Show what happened around this trace.")
@click.option("--limit", type=click.IntRange(0, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Moments.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of --json.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Use these settings, not config.toml.")
@json_option
def command(
    path: Path | None,
    log_dir: Path | None,
    html: Path | None,
    force: bool,
    since_us: int | None,
    run_id: str | None,
    program: str | None,
    around: str | None,
    limit: int,
    schema: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Diagnose why the node's last run ended.

    Where no node has recorded, the last run of any program. PATH is telemetry.db or its folder, if not this node's own.
    No file is changed.

    \b
    Example: hearthnet autopsy
             hearthnet autopsy --html report.html
             hearthnet autopsy --program cron.py
             hearthnet autopsy /media/stick/hearthnet --json

    Exits with 0 when the run stopped cleanly or still runs, 1 when it ended uncleanly, 2 when no run was found.
    """
    if schema:
        click.echo(SCHEMA.read_text("utf-8"), nl=False)
        return
    if path is None:
        path, log_dir = _own_files(config, log_dir)
    colour = has_colour(sys.stdout)
    request = Request(path, log_dir, as_json, html, force, since_us, run_id, program, around, limit, colour)
    # Not sys.exit: whether the report could be printed is noticed by the group.
    click.get_current_context().exit(print_report(request, sys.stdout))


def _own_files(config: Path | None, log_dir: Path | None) -> tuple[Path, Path | None]:
    try:
        found = resolve_paths(load(config)).observability
    except ConfigError as error:
        # A node that fails on its configuration still has files, which can be named on the command line.
        click.secho(f"error: {error.message}", fg="red", err=True)
        click.echo("hint: name the folder of telemetry.db: hearthnet autopsy FOLDER", err=True)
        sys.exit(EXIT_NOTHING)
    assert found.data_dir is not None
    return found.data_dir, log_dir or found.log_dir
