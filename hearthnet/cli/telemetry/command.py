"""`hearthnet telemetry`: manages the store on disk: status, snapshot, export, migrate, rebuild, purge."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hearthnet.cli.main import Group, config_option, data_option, json_option, print_json, printable
from hearthnet.cli.options import TIMES, moment
from hearthnet.cli.telemetry.browse import browse_command
from hearthnet.cli.telemetry.export import export_command
from hearthnet.cli.telemetry.sql import sql_command
from hearthnet.cli.telemetry.text import amount, ask, bar, info_lines, remarks, rows
from hearthnet.cli.tools import names
from hearthnet.constants import DATABASE
from hearthnet.display import counted

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.observability.store.purge.purge import Places, Purged
    from hearthnet.observability.store.purge.selection import Selection
    from hearthnet.observability.store.recovery.rebuild import Rebuilt

_FILE: Final = click.Path(path_type=Path, dir_okay=True)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("telemetry", cls=Group)
def command() -> None:
    """Manage telemetry.db: status, copy, query, export, migrate, purge.

    \b
    Example: hearthnet telemetry info
             hearthnet telemetry snapshot /media/stick/telemetry.db
             hearthnet telemetry purge --older-than 7d
    """
    from hearthnet.observability.logging import keep_quiet

    # The commands print by themselves what the store logs in a node.
    keep_quiet()


command.add_command(sql_command)
command.add_command(browse_command)
command.add_command(export_command)


@command.command("info")
@data_option
@config_option
@json_option
def info_command(config: Config, as_json: bool) -> None:
    """Show store status: rows, disk usage, dropped records, wear.

    \b
    Example: hearthnet telemetry info
             hearthnet telemetry info --json
    """
    from hearthnet.observability.otel.export.status import read_status
    from hearthnet.observability.store.query.info import info

    store = _store(config)
    found = info(store, config.observability)
    if found["export"] or config.observability.otlp_endpoint:
        found["export_status"] = read_status(store.parent)
    if as_json:
        print_json(found)
        return
    for name, value in info_lines(found):
        click.echo(f"{name:<12} {printable(value)}".rstrip())


@command.command("snapshot")
@click.argument("file", type=_FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@data_option
@config_option
@json_option
def snapshot_command(config: Config, file: Path, force: bool, as_json: bool) -> None:
    """Copy the database to FILE; the node may be running.

    \b
    Example: hearthnet telemetry snapshot /media/stick/telemetry.db
             hearthnet telemetry snapshot today.db --force --json
    """
    from hearthnet.observability.store.snapshot import snapshot

    made = snapshot(_store(config), file.absolute(), force=force)
    if as_json:
        print_json({"path": str(made.path), "rows": made.rows, "bytes": made.bytes, "newest": made.newest})
        return
    newest = f", the newest of {made.newest}" if made.newest else ""
    click.echo(f"{printable(made.path)}: {rows(made.rows)}{newest}, {made.bytes:,} bytes")


@command.command("rebuild")
@click.argument("file", type=_FILE, required=False)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@_yes
@data_option
@config_option
@json_option
def rebuild_command(config: Config, file: Path | None, force: bool, yes: bool, as_json: bool) -> None:
    """Rebuild a database from the JSON logs.

    It gets the log records, and traces without their spans. With FILE, creates a new database there. Without, replaces
    telemetry.db, which is moved aside; then the node must not be running.

    \b
    Example: hearthnet telemetry rebuild /tmp/rebuilt.db
             hearthnet telemetry rebuild --yes
    """
    from hearthnet.observability.store.lock import StoreInUseError
    from hearthnet.observability.store.recovery.rebuild import log_bytes, rebuild, rebuild_in_place

    settings, store = config.observability, _store(config)
    if force and file is None:
        raise click.UsageError("--force requires FILE; without it, the old database is moved aside")

    def agree() -> None:
        if not yes and store.exists():
            ask(f"{store} will be moved aside", "Replace it with a rebuilt one?")

    with bar("reading logs", log_bytes(settings.log_dir)) as progress:
        if file is not None:
            target = file.absolute()
            made = rebuild(settings.log_dir, store, target, settings.slow_ms, force=force, progress=progress)
        else:
            try:
                made = rebuild_in_place(settings.log_dir, store, settings.slow_ms, agree=agree, progress=progress)
            except StoreInUseError as error:
                hint = "stop the node first, or name a FILE to rebuild into"
                raise StoreInUseError(error.message, hint=hint) from error
    _print_rebuilt(made, as_json)


@command.command("migrate")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@data_option
@config_option
@json_option
def migrate_command(config: Config, folder: Path | None, as_json: bool) -> None:
    """Bring a telemetry.db of an older version to this program's schema.

    A node does so by itself when it starts. This is for FOLDER from elsewhere, such as a backup: its rows stay, and
    older programs cannot write it any more. No program may be recording there.

    \b
    Example: hearthnet telemetry migrate /media/stick/hearthnet
    """
    from hearthnet.observability.store.migrate import migrate_store

    store = _store(config) if folder is None else folder.absolute() / DATABASE
    before, after = migrate_store(store, may_be_copy=store.resolve() != _store(config).resolve())
    if as_json:
        print_json({"path": str(store), "before": before, "after": after})
        return
    done = f"schema {before} to {after}" if before != after else f"nothing to do, its schema is {after}"
    click.echo(f"{printable(store)}: {done}")


def _print_rebuilt(made: Rebuilt, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(made), "path": str(made.path), "moved_to": made.moved_to and str(made.moved_to)})
        return
    click.echo(f"{printable(made.path)}: {rows(made.rows)}, {made.bytes:,} bytes")
    click.echo(f"read {counted(made.lines, 'line')}, skipped {made.skipped:,} that are not JSON or not ours")
    click.echo(f"the rows belong to run {made.run_id}")
    if made.moved_to is not None:
        click.echo(f"the old database is {printable(made.moved_to)}")


def _trace_id(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    from hearthnet.observability.records.ids import is_trace_id

    if text is not None and not is_trace_id(text.upper()):
        raise click.BadParameter("a trace id is a ULID of 26 characters")
    return None if text is None else text.upper()


def _name(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and (not text or "@" in text):
        raise click.BadParameter("must be a capability's name without a version")
    return text


@command.command("purge", epilog=TIMES)
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--older-than", "before_us", callback=moment, metavar="TIME", help="Records from before: 24h, 7d …")
@click.option(
    "--capability",
    callback=_name,
    shell_complete=names.capabilities,
    help="Traces of or naming this capability, and their log records; not JSON logs.",
)
@click.option(
    "--trace",
    "trace_id",
    callback=_trace_id,
    metavar="ID",
    shell_complete=names.traces,
    help="One trace and its log records.",
)
@click.option("--dry-run", is_flag=True, help="Only count; also works while the node runs.")
@_yes
@data_option
@config_option
@json_option
def purge_command(
    config: Config,
    everything: bool,
    before_us: int | None,
    capability: str | None,
    trace_id: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Permanently erase records; the node must not be running.

    They are erased from the bytes of database, WAL, black boxes and JSON logs. Quarantined databases are removed
    completely. Copies made elsewhere are not touched.

    --capability keeps the JSON logs, and prints the days that have lines of it.

    \b
    Example: hearthnet telemetry purge --older-than 7d --dry-run
             hearthnet telemetry purge --capability llm.chat
             hearthnet telemetry purge --all --yes
    """
    from hearthnet.observability.store.budget import Budget
    from hearthnet.observability.store.purge.purge import Places, count
    from hearthnet.observability.store.purge.selection import Selection

    if [everything, before_us is not None, capability is not None, trace_id is not None].count(True) != 1:
        raise click.UsageError("specify one of --all, --older-than, --capability, --trace")
    settings = config.observability
    selection = Selection(everything=everything, before_us=before_us, capability=capability, trace_id=trace_id)
    places = Places(_store(config), settings.log_dir, Budget(settings.max_disk_mb))
    found = count(places, selection) if dry_run else _purge(places, selection, yes)
    if as_json:
        print_json({"dry_run": dry_run, **asdict(found)})
        return
    click.echo(f"{'would erase' if dry_run else 'erased'} {amount(found)}")
    for line in remarks(found):
        click.echo(line)


def _purge(places: Places, selection: Selection, yes: bool) -> Purged:
    from hearthnet.observability.otel.imports.store import remove_unfinished
    from hearthnet.observability.store.purge.purge import purge

    def agree(found: Purged) -> None:
        if not yes:
            ask("\n".join([f"to be erased: {amount(found)}", *remarks(found)]), "Erase it permanently?")

    found = purge(places, selection, agree=agree)
    remove_unfinished(places.store.parent)
    return found


def _store(config: Config) -> Path:
    assert config.observability.data_dir is not None
    return config.observability.data_dir / DATABASE
