"""`hearthnet service status`: what systemd knows of the units, and whether they are those of this version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import click

from hearthnet.cli.main import print_json, printable
from hearthnet.errors import EXIT_NO_NODE, HearthNetError
from hearthnet.service.install import Change, plan
from hearthnet.service.layout import Found, of_machine, of_user
from hearthnet.service.manager import Manager, unit_folder
from hearthnet.service.units import NODE, TIMER, is_as_written, units_of, value_of

__all__ = ["show_status"]

_OF_NODE: Final = (
    "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "UnitFileState", "StatusText", "ActiveEnterTimestamp",
)  # fmt: skip
_OF_TIMER: Final = ("ActiveState", "NextElapseUSecRealtime", "NextElapseUSecMonotonic", "LastTriggerUSec")


def show_status(is_system: bool | None, *, as_json: bool) -> int:
    """Prints the status; returns the exit code."""
    wants_system = _scope(is_system)
    manager = Manager(is_system=wants_system)
    installed = plan(unit_folder(is_system=wants_system), {})
    is_there = manager.is_there()
    node = manager.show(NODE, _OF_NODE) if is_there else {}
    timer = manager.show(TIMER, _OF_TIMER) if is_there else {}
    document = {
        "scope": "system" if wants_system else "user",
        "installed": any(change.before is not None for change in installed),
        "systemd": is_there,
        "active": node.get("ActiveState") == "active",
        "units": _units(installed, wants_system),
        "node": node,
        "doctor": timer,
    }
    if as_json:
        print_json(document)
    else:
        _print(document)
    return 0 if document["active"] else EXIT_NO_NODE


def _scope(is_system: bool | None) -> bool:
    """Returns whether to show the machine's service: without an option, the one that is installed."""
    if is_system is not None:
        return is_system
    has_own = any(change.before is not None for change in plan(unit_folder(is_system=False), {}))
    has_system = any(change.before is not None for change in plan(unit_folder(is_system=True), {}))
    return has_system if has_own != has_system else os.geteuid() == 0


def _units(installed: Sequence[Change], is_system: bool) -> list[dict[str, Any]]:
    wanted = _wanted(installed, is_system)
    return [
        {
            "path": str(change.path),
            "installed": change.before is not None,
            "edited": change.before is not None and not is_as_written(change.before),
            "current": None if not wanted or change.before is None else wanted.get(change.path.name) == change.before,
        }
        for change in installed
    ]


def _wanted(installed: Sequence[Change], is_system: bool) -> dict[str, str]:
    """Returns the units that `install` would write now; none if that cannot be known here."""
    node = next(change.before for change in installed if change.path.name == NODE)
    if node is None:
        return {}
    try:
        found: Found = of_machine(None, value_of(node, "User")) if is_system else of_user(None)
        return units_of(found.layout)
    except (HearthNetError, OSError):  # another user's node, or no node any more
        return {}


def _print(document: dict[str, Any]) -> None:
    if not document["installed"]:
        click.echo("not installed: hearthnet service install")
    for unit in document["units"]:
        if unit["installed"]:
            click.echo(f"{printable(unit['path'])}{_note(unit)}")
    node, timer = document["node"], document["doctor"]
    if not document["systemd"]:
        click.echo("no systemd runs here for it")
        return
    if document["installed"]:
        _print_node(node, is_active=document["active"])
        click.echo(f"doctor  {timer.get('ActiveState', 'unknown')}{_last_run(timer)}")
        if not document["active"]:
            user = "" if document["scope"] == "system" else "--user "
            click.echo(f"hint: journalctl {user}-u hearthnet -n 30", err=True)


def _print_node(node: dict[str, str], *, is_active: bool) -> None:
    state = f"{node.get('ActiveState', 'unknown')} ({node.get('SubState', '?')})"
    parts = [state if is_active else f"{state}, {node.get('Result', 'no result')}"]
    if is_active:
        parts.append(f"pid {node.get('MainPID', '?')}")
    if since := node.get("ActiveEnterTimestamp"):
        parts.append(f"since {since}")
    parts.append(f"restarted {node.get('NRestarts', '0')} times")
    parts.append("starts by itself" if node.get("UnitFileState") == "enabled" else "does not start by itself")
    click.echo(f"node    {printable(', '.join(parts))}")
    if text := node.get("StatusText"):
        click.echo(f"        {printable(text)}")


def _note(unit: dict[str, Any]) -> str:
    if unit["edited"]:
        return ": edited by hand"
    return ": of another version or other settings: hearthnet service install" if unit["current"] is False else ""


def _last_run(timer: dict[str, str]) -> str:
    last = timer.get("LastTriggerUSec")
    return f", last run {printable(last)}" if last else ""
