"""`hearthnet autopsy`: diagnoses why the last run ended."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hearthnet.cli.main import json_option
from hearthnet.cli.options import TIMES, since_option, until_option
from hearthnet.cli.tools import names
from hearthnet.display import has_colour
from hearthnet.errors import ConfigError
from hearthnet.forensics.model import DEFAULT_LIMIT, MAX_LIMIT


@click.command("autopsy", epilog=TIMES)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="The same as PATH.")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="The folder of the JSON logs.")
@click.option("--kernel-log", type=click.Path(path_type=Path, dir_okay=False), help="That machine's dmesg, as a file.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page that opens offline.")
@click.option("--force", is_flag=True, help="Overwrite the page.")
@since_option("entries")
@until_option("entries")
@click.option(
    "--run",
    "run_id",
    metavar="ID",
    shell_complete=names.runs,
    help="This run: its id or the beginning, last (that ended), -2 …",
)
@click.option(
    "--program",
    metavar="NAME",
    shell_complete=names.programs,
    help="The last run of this program, not the node's: cron.py.",
)
@click.option(
    "--around",
    metavar="TRACE",
    shell_complete=names.traces,
    help="Show what happened around this trace: id, last, -2 …",
)
@click.option("--limit", type=click.IntRange(0, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Moments.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of --json.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Use these settings, not config.toml.")
@json_option
def command(
    path: Path | None,
    data: Path | None,
    log_dir: Path | None,
    kernel_log: Path | None,
    html: Path | None,
    force: bool,
    since_us: int | None,
    until_us: int | None,
    run_id: str | None,
    program: str | None,
    around: str | None,
    limit: int,
    schema: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Diagnose why the last run of the node, or of a program, ended.

    Where no node has recorded, the last run of any program. PATH is telemetry.db or its folder, if not this node's own.
    No file is changed. Times in the text are local, those in --json and in the page UTC.

    \b
    Example: hearthnet autopsy
             hearthnet autopsy --html report.html
             hearthnet autopsy --run -2 --since yesterday
             hearthnet autopsy --program cron.py
             hearthnet autopsy /media/stick/hearthnet --json

    Exits with 0 when the run stopped cleanly, still runs or is imported, 1 when it ended uncleanly, 2 when no run was
    found.
    """
    from hearthnet.files import packaged
    from hearthnet.forensics.main import SCHEMA, Request, print_report

    if schema:
        click.echo(packaged(SCHEMA), nl=False)
        return
    if data is not None:
        if path is not None:
            raise click.UsageError("--data and PATH are the same: give one")
        path = data
    if path is None:
        path, log_dir = _own_files(config, log_dir)
    colour = has_colour(sys.stdout)
    request = Request(
        path, log_dir, as_json, html, force, since_us, until_us, run_id, program, around, limit, colour, kernel_log
    )
    # Not sys.exit: whether the report could be printed is noticed by the group.
    click.get_current_context().exit(print_report(request, sys.stdout))


def _own_files(config: Path | None, log_dir: Path | None) -> tuple[Path, Path | None]:
    from hearthnet.config import load, resolve_paths
    from hearthnet.forensics.main import EXIT_NOTHING

    try:
        found = resolve_paths(load(config)).observability
    except ConfigError as error:
        # A node that fails on its configuration still has files, which can be named on the command line.
        click.secho(f"error: {error.message}", fg="red", err=True)
        click.echo("hint: name the folder of telemetry.db: hearthnet autopsy FOLDER", err=True)
        sys.exit(EXIT_NOTHING)
    assert found.data_dir is not None
    return found.data_dir, log_dir or found.log_dir
