"""`hearthnet service install` and `uninstall`: show the units, ask, write them, and have systemd take them."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from hearthnet.checks.probes.lock_owner import live_nodes
from hearthnet.cli.main import print_json, printable
from hearthnet.errors import HearthNetError
from hearthnet.files import owner_of
from hearthnet.service.install import Change, carry_out, make_folders, plan
from hearthnet.service.layout import Found, is_read_by_others, missing_variables, of_machine, of_user
from hearthnet.service.manager import LINGER, Manager, unit_folder
from hearthnet.service.units import NODE, TIMER, units_of

__all__ = ["Agreed", "install_units", "uninstall_units"]

_STATES: Final = {
    "new": "to be written",
    "same": "unchanged",
    "changed": "to be replaced",
    "edited": "edited by hand",
    "remove": "to be removed",
    "absent": "not installed",
}


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the caller has agreed to, and how to print."""

    is_sure: bool
    may_replace_edited: bool
    is_dry: bool
    as_json: bool


def install_units(
    config: Path | None, is_system: bool | None, run_as: str | None, agreed: Agreed, *, may_start: bool
) -> None:
    """Installs the service.

    Raises:
        HearthNetError: raised when there is no systemd, no node, no right to do so, or an edited unit is in the way.
        click.UsageError: raised when stdin is not a terminal.
        click.Abort: raised when the user declines.
    """
    wants_system = _is_of_machine(is_system)
    if run_as is not None and not wants_system:
        raise click.UsageError("--run-as requires --system")
    manager = Manager(is_system=wants_system)
    if not agreed.is_dry:
        _require_rights(wants_system, "install")
        _require_own_home(wants_system)
        if may_start:
            manager.require()
    found = of_machine(config, run_as) if wants_system else of_user(config)
    changes = plan(unit_folder(is_system=wants_system), units_of(found.layout))
    if not agreed.is_dry and may_start:
        _require_no_other_node(found, manager)
    _show(changes, agreed)
    copies: list[Path] = []
    if not agreed.is_dry:
        _ask(changes, agreed, "write these units" if not may_start else "write these units and start the node")
        copies = carry_out(changes, may_replace_edited=agreed.may_replace_edited)
        make_folders(found)
        if may_start:
            _start(manager)
    _report_installed(found, changes, copies, agreed, is_started=may_start and not agreed.is_dry)


def _is_of_machine(is_system: bool | None) -> bool:
    return os.geteuid() == 0 if is_system is None else is_system


def _require_rights(is_system: bool, what: str) -> None:
    if is_system and os.geteuid() != 0:
        raise HearthNetError(
            "a service of the machine needs root", hint=f"sudo hearthnet service {what}, or without --system"
        )


def _require_own_home(is_system: bool) -> None:
    """Refuses to write as root into another user's home: a link there could lead to the machine's own units."""
    if not is_system and os.geteuid() == 0 and (owner := owner_of(Path.home())) not in (0, None):
        raise HearthNetError(
            f"{Path.home()} belongs to another user, {owner}", hint="as that user, without sudo, or with --system"
        )


def _require_no_other_node(found: Found, manager: Manager) -> None:
    """Refuses to start a second node beside one that was started by hand: it would only find its port in use."""
    pids = live_nodes(found.data_dir)
    own = manager.show(NODE, ["MainPID"]).get("MainPID", "0")
    if others := [pid for pid in pids if str(pid) != own]:
        raise HearthNetError(f"this node is running already, pid {others[0]}", hint=f"stop it first: kill {others[0]}")


def _start(manager: Manager) -> None:
    manager.run("daemon-reload")
    manager.run("enable", NODE, TIMER)
    manager.run("restart", NODE, TIMER)


def _show(changes: Sequence[Change], agreed: Agreed) -> None:
    if agreed.as_json:
        return
    for change in changes:
        click.secho(f"{change.path}: {_STATES[change.state]}", bold=True)
        if change.state == "new":
            click.echo(_escaped(change.after or ""))
        elif change.is_due and change.after is not None:
            click.echo(_escaped(_difference(change)))


def _escaped(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines()) + "\n"


def _difference(change: Change) -> str:
    old, new = ((text or "").splitlines() for text in (change.before, change.after))
    return "\n".join(difflib.unified_diff(old, new, "installed", "this version", lineterm=""))


def _ask(changes: Sequence[Change], agreed: Agreed, what: str) -> None:
    if agreed.is_sure or not any(change.is_due for change in changes):
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"stdin is not a terminal; pass --yes to {what} without asking, --dry-run to see them")
    click.confirm(f"{what}?", abort=True, err=True)


def _report_installed(
    found: Found, changes: Sequence[Change], copies: Sequence[Path], agreed: Agreed, *, is_started: bool
) -> None:
    hints = list(_hints(found, is_started=is_started))
    if agreed.as_json:
        print_json({**_as_document(changes, copies, agreed), "started": is_started, "hints": hints})
        return
    for copy in copies:
        click.echo(f"a copy of the edited unit: {printable(copy)}")
    if not agreed.is_dry:
        click.echo("started: hearthnet service status" if is_started else "written, not started")
    for hint in hints:
        click.echo(f"hint: {printable(hint)}", err=True)


def _hints(found: Found, *, is_started: bool) -> list[str]:
    hints = []
    name = found.account.pw_name
    if not found.layout.is_system and not (LINGER / name).exists():
        hints.append(f"it ends when you log out, and starts when you log in, until: loginctl enable-linger {name}")
    if unset := missing_variables(found):
        hints.append(f"the service has no {', '.join(unset)}: write NAME=value into {found.layout.environment_file}")
    if is_read_by_others(found.layout.environment_file):
        hints.append(f"other users can read the service's keys: chmod 600 {found.layout.environment_file}")
    if is_started:
        user = "" if found.layout.is_system else "--user "
        hints.append(f"its log: journalctl {user}-u hearthnet -f")
    return hints


def _as_document(changes: Sequence[Change], copies: Sequence[Path], agreed: Agreed) -> dict[str, Any]:
    units = [
        {"path": str(change.path), "state": change.state, **({"text": change.after} if agreed.is_dry else {})}
        for change in changes
    ]
    return {"dry_run": agreed.is_dry, "units": units, "copies": [str(copy) for copy in copies]}


def uninstall_units(is_system: bool | None, agreed: Agreed) -> None:
    """Removes the service and keeps the data.

    Raises:
        HearthNetError: raised when there is no right to do so, or an edited unit is in the way.
        click.UsageError: raised when stdin is not a terminal.
        click.Abort: raised when the user declines.
    """
    wants_system = _is_of_machine(is_system)
    folder = unit_folder(is_system=wants_system)
    changes = plan(folder, {})
    manager = Manager(is_system=wants_system)
    due = any(change.is_due for change in changes)
    _show(changes, agreed)
    copies: list[Path] = []
    if due and not agreed.is_dry:
        _require_rights(wants_system, "uninstall")
        _require_own_home(wants_system)
        _ask(changes, agreed, "stop the service and remove these units")
        if agreed.may_replace_edited or all(change.state != "edited" for change in changes):
            _stop(manager, changes)
        copies = carry_out(changes, may_replace_edited=agreed.may_replace_edited)
        if manager.is_there():
            manager.run("daemon-reload")
    _report_removed(changes, copies, agreed)


def _stop(manager: Manager, changes: Sequence[Change]) -> None:
    """Stops and disables the installed units, if a manager is there to know of it."""
    if manager.is_there():
        names = [change.path.name for change in changes if change.before is not None]
        manager.run("disable", "--now", *names)


def _report_removed(changes: Sequence[Change], copies: Sequence[Path], agreed: Agreed) -> None:
    kept = _kept(changes)
    if agreed.as_json:
        print_json({**_as_document(changes, copies, agreed), "kept": kept})
        return
    for copy in copies:
        click.echo(f"a copy of the edited unit: {printable(copy)}")
    if kept:
        click.echo(f"all data is kept: {printable(', '.join(kept))}")


def _kept(changes: Sequence[Change]) -> list[str]:
    """Returns the folders of the node that the removed unit names, or else those of this user."""
    from hearthnet.service.units import listed

    for change in changes:
        if change.path.name == NODE and change.before and (found := listed(change.before, "ReadWritePaths")):
            return found
    if all(change.before is None for change in changes):
        return []
    from hearthnet.locations import locate

    where = locate()
    return [str(where.data_dir), str(where.log_dir)]
