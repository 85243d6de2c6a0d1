"""`hearthnet trace import`: exported traces and log records as a store of their own, to read beside one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hearthnet.cli.main import data_option, json_option, print_json, printable, where_option
from hearthnet.display import counted
from hearthnet.errors import StoreError
from hearthnet.moments import iso, local

if TYPE_CHECKING:
    from hearthnet.locations import Locations
    from hearthnet.observability.otel.imports.contents import Contents
    from hearthnet.observability.otel.imports.store import Imported

__all__ = ["import_command", "imported_traces"]


@click.command("import")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What to call it. Default: the name of FILE.")
@click.option("--list", "is_list", is_flag=True, help="List the imported stores.")
@click.option("--remove", metavar="NAME", help="Remove what was imported as NAME.")
@data_option
@where_option
@json_option
def import_command(
    where: Locations, file: Path | None, name: str | None, is_list: bool, remove: str | None, as_json: bool
) -> None:
    """Import exported traces and log records, to read them beside one's own.

    FILE is of `hearthnet telemetry export`, in either format, or of a Collector's file exporter. It becomes a store of
    its own: `trace show` finds its traces where one's own store has none; `trace recent`, `search` and `telemetry sql`
    read it alone with `--data`. One's own records, statistics and checks stay as they are.

    \b
    Example: hearthnet trace import kitchen.jsonl
             hearthnet trace import day.binpb --name kitchen
             hearthnet trace import --list
             hearthnet trace import --remove kitchen
    """
    if sum((file is not None, is_list, remove is not None)) != 1 or (name is not None and file is None):
        raise click.UsageError("name a FILE, or --list, or --remove NAME: one of them")
    if file is not None:
        _import(where, file, name, as_json)
    elif remove is not None:
        _remove(where, remove, as_json)
    else:
        _list(where, as_json)


def _import(where: Locations, file: Path, name: str | None, as_json: bool) -> None:
    from hearthnet.observability.otel.imports import contents, store

    name = name or store.name_for(file)
    store.folder_of(where.data_dir, name)  # before a large file is read
    try:
        found = contents.load(file)
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}", hint="name another file") from error
    folder = store.create(where.data_dir, name, found)
    made = store.summary(where.data_dir, name)
    if as_json:
        print_json(_fields(made) | {"repeated": found.repeated})
    else:
        click.echo(f"imported {_counts(made)} as {name}", err=True)
        click.echo(f"hearthnet trace recent --data {shlex.quote(printable(folder))}")
    _remark(found)


def _remark(found: Contents) -> None:
    if found.repeated:
        click.echo(f"left as they were first: {counted(found.repeated, 'record')} with an id seen before", err=True)
    if found.metrics:
        click.echo("metrics were not imported", err=True)


def _remove(where: Locations, name: str, as_json: bool) -> None:
    from hearthnet.observability.otel.imports import store

    store.remove(where.data_dir, name)
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"removed {name}", err=True)


def _list(where: Locations, as_json: bool) -> None:
    from hearthnet.observability.otel.imports import store

    found = []
    for name in store.names(where.data_dir):
        try:
            found.append(store.summary(where.data_dir, name))
        except StoreError as error:
            _warn(error)
    if as_json:
        print_json([_fields(item) for item in found])
        return
    if not found:
        click.echo("nothing is imported", err=True)
    for item in found:
        when = "" if item.newest_us is None else f", the newest of {local(item.newest_us, 'seconds')}"
        whose = f" of {', '.join(map(printable, item.programs))}" if item.programs else ""
        click.echo(f"{item.name:<16} {_counts(item)}{whose}{when}")
        click.echo(f"{'':<16} hearthnet trace recent --data {shlex.quote(printable(item.folder))}")


def _fields(item: Imported) -> dict[str, Any]:
    fields = item._asdict()
    return fields | {"newest": iso(fields.pop("newest_us"), "microseconds")}


def _counts(item: Imported) -> str:
    return f"{counted(item.traces, 'trace')} and {counted(item.logs, 'log record')}"


def _warn(error: StoreError) -> None:
    click.echo(f"warning: {printable(error.message)}", err=True)


def imported_traces(where: Locations, trace_id: str, n: int) -> list[dict[str, Any]]:
    """Returns the traces with an id, or its beginning, of the stores imported beside one, each with its source.

    Of each source there are `n` at most.
    """
    if not (where.data_dir / "imported").is_dir():  # without the driver of the database
        return []
    from hearthnet.observability.otel.imports.store import traces_alike

    return [found | {"imported": name} for name, found in traces_alike(where.data_dir, trace_id, n, _warn)]
