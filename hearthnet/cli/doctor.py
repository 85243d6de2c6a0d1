"""`hearthnet doctor`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from hearthnet import __version__, checks
from hearthnet.cli.doctor_ask import Findings, NoSettings, diagnose
from hearthnet.cli.doctor_text import print_history, print_report
from hearthnet.cli.doctor_wait import waiting
from hearthnet.cli.options import json_option
from hearthnet.cli.output import hanging, print_json, printable
from hearthnet.config import Config, default_path, load, resolve_paths
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE, ConfigError
from hearthnet.observability import doctor
from hearthnet.observability.doctor_history import Change, changes, streaks
from hearthnet.observability.doctor_memory import Remembered, recall, remember, timestamp
from hearthnet.observability.redaction import scrub

_REPORT_VERSION: Final = 1


def _settings(_: click.Context, __: click.Parameter, path: Path | None) -> Config | NoSettings:
    """Returns the settings, or why there are none: that is a finding, not an end."""
    try:
        return resolve_paths(load(path))
    except ConfigError as error:
        return NoSettings(error, path or default_path())


def _known(_: click.Context, __: click.Parameter, wanted: tuple[str, ...]) -> tuple[str, ...]:
    checks.register_all()
    for name in wanted:
        if name not in doctor.names():
            raise _unknown(name, doctor.names(), "--check")
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
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_settings,
    help="Settings to use instead of the standard config.toml.",
)
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
    if listing:
        _list(as_json=as_json)
    elif schema:
        click.echo(files("hearthnet").joinpath("schemas/doctor.json").read_text("utf-8"), nl=False)
    elif history is not None:
        _show_history(config, history, as_json=as_json)
    else:
        after = _Wish(fix=fix, dry_run=dry_run, bundle=bundle, yes=yes, force=force, as_json=as_json)
        is_wished = after.is_any()
        try:
            with waiting(list(only) or doctor.names()):
                found = diagnose(config, only)
            memory = _Memory(config)
            news = memory.changes(found)
            document = _document(found, news, strict=strict)
            if not no_memory:
                memory.add(document, found)
        except Exception as error:  # the border: whatever broke the doctor is told as such  # noqa: BLE001
            _give_up(context, error, as_json=as_json)
        if is_wished:
            context.exit(after.grant(config, found, document))
        if as_json:
            print_json(document)
        else:
            print_report(document, news, quiet=quiet, verbose=verbose)
        # Not sys.exit: the group still has to find out whether the reader is there.
        context.exit(0 if document["ok"] else EXIT_ERROR)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is wanted of the doctor beyond a report."""

    fix: bool
    dry_run: bool
    bundle: Path | None
    yes: bool
    force: bool
    as_json: bool

    def is_any(self) -> bool:
        """Tells whether there is one.

        Raises:
            click.UsageError: raised when two exclude each other, or one needs another.
        """
        if self.fix and self.bundle is not None:
            raise click.UsageError("--fix and --bundle are two things: first the one, then the other")
        if self.dry_run and not self.fix:
            raise click.UsageError("--dry-run shows the plan of --fix")
        return self.fix or self.bundle is not None

    def grant(self, config: Config | NoSettings, found: Findings, document: dict[str, Any]) -> int:
        """Mends, or writes the bundle; returns the exit code.

        Raises:
            ConfigError: raised when there are no settings to do it with.
        """
        if isinstance(config, NoSettings):
            raise config.error
        if self.bundle is not None:
            from hearthnet.cli.doctor_bundle import offer_bundle

            is_sure, force = self.yes, self.force
            offer_bundle(config, document, self.bundle, is_sure=is_sure, force=force, as_json=self.as_json)
            return 0
        from hearthnet.cli.doctor_fix import mend

        settings = config

        def look_again(names: Collection[str]) -> list[dict[str, Any]]:
            return diagnose(settings, tuple(names)).results

        is_well = mend(
            settings, found.results, look_again, is_sure=self.yes, only_plan=self.dry_run, as_json=self.as_json
        )
        return 0 if is_well else EXIT_ERROR


class _Memory:
    """The earlier reports of this node; what cannot be read or written is told on stderr and harms nothing."""

    def __init__(self, config: Config | NoSettings) -> None:
        directory = None if isinstance(config, NoSettings) else config.observability.data_dir
        # Where nothing was set up there is nothing to remember, and no folder to make.
        self._directory = directory if directory is not None and directory.is_dir() else None
        self._reports: list[Remembered] = []
        if self._directory is not None:
            try:
                self._reports = recall(self._directory)
            except OSError as error:
                _note(f"the earlier reports cannot be read: {error}")

    def changes(self, found: Findings) -> list[Change]:
        """Returns what changed until now."""
        present = {result["name"]: result for result in found.results}
        return changes(self._reports, Remembered(found.moment, found.program, present))

    def add(self, document: dict[str, Any], found: Findings) -> None:
        """Remembers this report."""
        if self._directory is None:
            return
        try:
            # Its own `ok`, not that of --strict: what is remembered does not depend on how it was looked at.
            remember(self._directory, {**document, "ok": all(result["ok"] for result in found.results)})
        except OSError as error:
            _note(f"this report is not remembered: {error}")


def _document(found: Findings, news: Sequence[Change], *, strict: bool) -> dict[str, Any]:
    is_bad = [not result["ok"] or (strict and result["status"] == "warn") for result in found.results]
    return {
        "version": _REPORT_VERSION,
        "ok": not any(is_bad),
        "ts": timestamp(found.moment),
        "program": found.program,
        "source": found.source,
        "pid": found.pid,
        "note": found.note,
        "strict": strict,
        "duration_ms": found.duration_ms,
        "changes": [change.as_dict() for change in news],
        "checks": found.results,
    }


def _give_up(context: click.Context, error: Exception, *, as_json: bool) -> NoReturn:
    told = printable(scrub(f"{type(error).__name__}: {error}"))
    if as_json:
        print_json(
            {"version": _REPORT_VERSION, "ok": False, "program": __version__, "error": {"message": told}, "checks": []}
        )
    click.secho(f"error: the doctor itself failed: {told}", fg="red", err=True)
    click.echo("hint: look at one check after the other: hearthnet doctor --check NAME", err=True)
    context.exit(EXIT_USAGE)


def _note(text: str) -> None:
    click.echo(f"note: {printable(scrub(text))}", err=True)


def _unknown(name: str, known: Sequence[str], hint: str) -> click.BadParameter:
    close = difflib.get_close_matches(name, known, n=3)
    meant = f"did you mean {' or '.join(close)}?" if close else "see --list"
    return click.BadParameter(f"no check is named {printable(name)}; {meant}", param_hint=hint)


def _list(*, as_json: bool) -> None:
    verifies = {check.__name__: (check.__doc__ or "").partition("\n")[0] for check in checks.ALL}
    described = [{"name": name, "verifies": verifies.get(name, "")} for name in doctor.names()]
    if as_json:
        print_json(described)
        return
    columns = max(len(item["name"]) for item in described)
    for item in described:
        click.echo(hanging(f"{item['name']:<{columns}}  ", item["verifies"]))


def _show_history(config: Config | NoSettings, name: str, *, as_json: bool) -> None:
    if isinstance(config, NoSettings):
        raise config.error
    assert config.observability.data_dir is not None
    memory = recall(config.observability.data_dir)
    row = streaks(memory, name)
    known = [*doctor.names(), *{check for report in memory for check in report.checks}]
    if not row and name not in known:
        raise _unknown(name, known, "--history")
    if as_json:
        found = [streak.as_dict() for streak in reversed(row)]
        reports = sum(streak.reports for streak in row)
        print_json({"version": _REPORT_VERSION, "name": name, "reports": reports, "streaks": found})
    elif row:
        print_history(name, row)
    else:
        click.echo(f"no report of {name} is remembered yet; each `hearthnet doctor` adds one")
