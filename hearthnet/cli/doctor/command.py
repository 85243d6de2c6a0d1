"""`hearthnet doctor`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hearthnet.cli.main import data_given, data_option, json_option, loaded, settings_option
from hearthnet.cli.tools import names

if TYPE_CHECKING:
    from hearthnet.cli.doctor.ask import NoSettings
    from hearthnet.config import Config


def _settings(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Config | NoSettings | Path | None:
    """Returns the settings, or the error that makes them unusable, which is reported as a finding."""
    if context.resilient_parsing:  # for completions
        return path
    from hearthnet.cli.doctor.ask import NoSettings
    from hearthnet.config import default_path
    from hearthnet.errors import ConfigError

    try:
        return loaded(context, parameter, path)
    except ConfigError as error:
        return NoSettings(error, path or default_path())


def _known(context: click.Context, _: click.Parameter, wanted: tuple[str, ...]) -> tuple[str, ...]:
    if context.resilient_parsing:
        return wanted
    from hearthnet.cli.doctor.run import refuse_unknown

    refuse_unknown(wanted)
    return wanted


@click.command("doctor")
@click.option(
    "--check",
    "only",
    multiple=True,
    metavar="NAME",
    callback=_known,
    shell_complete=names.checks,
    help="Run this check; repeatable.",
)
@click.option("--list", "listing", is_flag=True, help="List the checks and what they verify.")
@click.option(
    "--history", metavar="NAME", shell_complete=names.checks, help="Show a check's results in earlier reports."
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the report.")
@click.option("--quiet", "-q", is_flag=True, help="Print only problems: nothing when healthy.")
@click.option("--verbose", "-v", is_flag=True, help="Also print the measurements.")
@click.option("--strict", is_flag=True, help="Count warnings as failures.")
@click.option("--no-memory", is_flag=True, help="Do not save this report.")
@click.option("--fix", is_flag=True, help="Make safe repairs: shows the plan and asks.")
@click.option("--dry-run", is_flag=True, help="With --fix: only show the plan.")
@click.option("--bundle", type=click.Path(path_type=Path, dir_okay=False), help="Write a zip that is safe to publish.")
@click.option("--notify", is_flag=True, help="Tell the channels in [doctor] of config.toml what has changed.")
@click.option("--notify-webhook", metavar="URL", help="Tell this URL.")
@click.option("--notify-command", metavar="COMMAND", help="Tell this command, with JSON on its standard input.")
@click.option("--notify-mail", metavar="ADDRESS", help="Tell this address, by sendmail.")
@click.option("--test", is_flag=True, help="With --notify: only send a test message.")
@click.option("--failed", is_flag=True, help="With --notify: only tell that a run has failed, as the unit does.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="With --bundle: overwrite FILE.")
@data_option
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
    notify: bool,
    notify_webhook: str | None,
    notify_command: str | None,
    notify_mail: str | None,
    test: bool,
    failed: bool,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Check this node and show how to fix problems; asks the node if it is running.

    \b
    Example: hearthnet doctor
             hearthnet doctor --check disk_space --check clock_sanity
             hearthnet doctor --history clock_sanity
             hearthnet doctor --quiet --strict
             hearthnet doctor --fix --dry-run
             hearthnet doctor --bundle bundle.zip
             hearthnet doctor --quiet --notify
             hearthnet doctor --data runs

    Each report is saved in doctor.jsonl; without --fix nothing else is changed.
    With --data the checks of a store are run, on that of any program, and no
    report is saved.
    Exits with 0 when no check failed, 1 when one did, 2 when the doctor itself failed.
    """
    from hearthnet.cli.doctor import run as doctor_run

    if listing:
        doctor_run.list_checks(as_json=as_json)
    elif schema:
        click.echo(files("hearthnet").joinpath("schemas/doctor.json").read_text("utf-8"), nl=False)
    elif history is not None:
        doctor_run.show_history(config, history, as_json=as_json)
    else:
        from hearthnet.cli.doctor.notify import Notice

        notice = Notice.of_options(
            config, is_wanted=notify, webhook=notify_webhook, command=notify_command, mail=notify_mail
        )
        if test:
            context.exit(doctor_run.try_channels(notice, as_json=as_json))
        if failed:
            context.exit(doctor_run.tell_of_failed_run(notice))
        action = doctor_run.Action(fix=fix, dry_run=dry_run, bundle=bundle, yes=yes, force=force, as_json=as_json)
        show = doctor_run.Show(quiet=quiet, verbose=verbose, strict=strict, as_json=as_json)
        is_store = data_given(context)
        if is_store:
            only, no_memory = only or doctor_run.STORE_CHECKS, True
        code = doctor_run.run_checks(config, only, action, show, notice, is_saved=not no_memory, has_node=not is_store)
        # Not sys.exit: the group still has to notice a closed pipe.
        context.exit(code)
        context.exit(code)
