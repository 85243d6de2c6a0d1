"""`hearthnet doctor`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hearthnet.cli.options import json_option, settings_option

if TYPE_CHECKING:
    from hearthnet.cli.doctor.ask import NoSettings
    from hearthnet.config import Config


def _settings(_: click.Context, __: click.Parameter, path: Path | None) -> Config | NoSettings:
    """Returns the settings, or why there are none: that is a finding, not an end."""
    from hearthnet.cli.doctor.ask import NoSettings
    from hearthnet.config import default_path, load, resolve_paths
    from hearthnet.errors import ConfigError

    try:
        return resolve_paths(load(path))
    except ConfigError as error:
        return NoSettings(error, path or default_path())


def _known(_: click.Context, __: click.Parameter, wanted: tuple[str, ...]) -> tuple[str, ...]:
    from hearthnet.cli.doctor.run import refuse_unknown

    refuse_unknown(wanted)
    return wanted


@click.command("doctor")
@click.option("--check", "only", multiple=True, metavar="NAME", callback=_known, help="Run this check; repeatable.")
@click.option("--list", "listing", is_flag=True, help="List the checks and what they verify.")
@click.option("--history", metavar="NAME", help="Show how a check fared in the reports that are remembered.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the report.")
@click.option("--quiet", "-q", is_flag=True, help="Print only what is not well: nothing when healthy.")
@click.option("--verbose", "-v", is_flag=True, help="Print what was measured, too.")
@click.option("--strict", is_flag=True, help="Count warnings as failures.")
@click.option("--no-memory", is_flag=True, help="Do not remember this report.")
@click.option("--fix", is_flag=True, help="Mend what is safe to mend: shows the plan and asks.")
@click.option("--dry-run", is_flag=True, help="With --fix: show the plan alone.")
@click.option("--bundle", type=click.Path(path_type=Path, dir_okay=False), help="Write a zip safe to show in public.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="With --bundle: overwrite FILE.")
@settings_option("config", _settings)
@json_option
@click.pass_context
def command(
    context: click.Context,
    config: Config | NoSettings,
    only: tuple[str, ...],
    listing: bool,
    history: str | None,
    schema: bool,
    quiet: bool,
    verbose: bool,
    strict: bool,
    no_memory: bool,
    fix: bool,
    dry_run: bool,
    bundle: Path | None,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Check this node and say how to fix what is wrong; asks the node if it is running.

    \b
    Example: hearthnet doctor
             hearthnet doctor --check disk_space --check clock_sanity
             hearthnet doctor --history clock_sanity
             hearthnet doctor --quiet --strict
             hearthnet doctor --fix --dry-run
             hearthnet doctor --bundle bundle.zip

    Each report is remembered in doctor.jsonl; without --fix nothing else is changed.
    Exits with 0 when nothing failed, 1 when a check did, 2 when the doctor itself could not work.
    """
    from hearthnet.cli.doctor import run as doctor_run

    if listing:
        doctor_run.list_checks(as_json=as_json)
    elif schema:
        click.echo(files("hearthnet").joinpath("schemas/doctor.json").read_text("utf-8"), nl=False)
    elif history is not None:
        doctor_run.show_history(config, history, as_json=as_json)
    else:
        action = doctor_run.Action(fix=fix, dry_run=dry_run, bundle=bundle, yes=yes, force=force, as_json=as_json)
        show = doctor_run.Show(quiet=quiet, verbose=verbose, strict=strict, as_json=as_json)
        # Not sys.exit: the group still has to find out whether the reader is there.
        context.exit(doctor_run.examine(config, only, action, show, is_remembered=not no_memory))
