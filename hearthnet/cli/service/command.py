"""`hearthnet service`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hearthnet.cli.main import Group, json_option, settings_option

F = TypeVar("F", bound=Callable[..., Any])


def _as_given(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    return path


def _scope_option(command: F) -> F:
    """Adds `--user` and `--system` as `is_system`; None: by who calls."""
    texts = {"--user": "Of this user; the default unless root calls.", "--system": "Of the machine; needs root."}
    for name, value in (("--system", True), ("--user", False)):
        command = click.option(name, "is_system", flag_value=value, default=None, type=bool, help=texts[name])(command)
    return command


@click.group("service", cls=Group)
def command() -> None:
    """Run the node as a service of systemd: install, uninstall, status.

    \b
    Example: hearthnet service install
             hearthnet service status
    """


@command.command("install")
@_scope_option
@click.option("--run-as", metavar="NAME", help="With --system: the user who runs the node. [who called sudo]")
@click.option("--no-start", is_flag=True, help="Write the units; do not enable or start them.")
@click.option("--dry-run", is_flag=True, help="Only show what would be written.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Replace units that were edited by hand; a copy is kept.")
@settings_option("config", _as_given)
@json_option
def install(
    is_system: bool | None,
    run_as: str | None,
    no_start: bool,
    dry_run: bool,
    yes: bool,
    force: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Write the units of node and doctor, after showing them, and start both.

    Repeated after an update it shows what differs, and restarts the node.

    \b
    Example: hearthnet service install --dry-run
             hearthnet service install
             sudo hearthnet service install --run-as hearthnet
    """
    from hearthnet.cli.service.change import Agreed, install_units

    agreed = Agreed(is_sure=yes, may_replace_edited=force, is_dry=dry_run, as_json=as_json)
    install_units(config, is_system, run_as, agreed, may_start=not no_start)


@command.command("uninstall")
@_scope_option
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove units that were edited by hand; a copy is kept.")
@json_option
def uninstall(is_system: bool | None, dry_run: bool, yes: bool, force: bool, as_json: bool) -> None:
    """Stop the service and remove its units; all data is kept.

    \b
    Example: hearthnet service uninstall
    """
    from hearthnet.cli.service.change import Agreed, uninstall_units

    agreed = Agreed(is_sure=yes, may_replace_edited=force, is_dry=dry_run, as_json=as_json)
    uninstall_units(is_system, agreed)


@command.command("status")
@_scope_option
@json_option
@click.pass_context
def status(context: click.Context, is_system: bool | None, as_json: bool) -> None:
    """Show whether the service is installed, runs, and has units of this version.

    Exits with 0 when the node's unit is active, with 3 when it is not.

    \b
    Example: hearthnet service status
    """
    from hearthnet.cli.service.shown import show_status

    context.exit(show_status(is_system, as_json=as_json))
