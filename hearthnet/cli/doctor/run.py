"""What `hearthnet doctor` does: runs the checks, remembers the report, prints it, mends or bundles.

Apart from the command, so that its `--help` imports none of the checks.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from hearthnet import __version__, checks
from hearthnet.cli.doctor.ask import Findings, NoSettings, diagnose
from hearthnet.cli.doctor.spinner import waiting
from hearthnet.cli.doctor.text import print_history, print_report
from hearthnet.cli.output import hanging, print_json, printable
from hearthnet.config import Config
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE
from hearthnet.observability import doctor
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.reports.history import Change, changes, streaks
from hearthnet.observability.reports.report_file import Remembered, recall, remember, timestamp

__all__ = ["Action", "Show", "examine", "list_checks", "refuse_unknown", "show_history"]

_REPORT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Action:
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

    def run(self, config: Config | NoSettings, found: Findings, document: dict[str, Any]) -> int:
        """Mends, or writes the bundle; returns the exit code.

        Raises:
            ConfigError: raised when there are no settings to do it with.
        """
        if isinstance(config, NoSettings):
            raise config.error
        if self.bundle is not None:
            from hearthnet.cli.doctor.bundle import offer_bundle

            is_sure, force = self.yes, self.force
            offer_bundle(config, document, self.bundle, is_sure=is_sure, force=force, as_json=self.as_json)
            return 0
        from hearthnet.cli.doctor.fix import mend

        settings = config

        def look_again(names: Collection[str]) -> list[dict[str, Any]]:
            return diagnose(settings, tuple(names)).results

        is_well = mend(
            settings, found.results, look_again, is_sure=self.yes, only_plan=self.dry_run, as_json=self.as_json
        )
        return 0 if is_well else EXIT_ERROR


@dataclass(frozen=True, slots=True)
class Show:
    """How the report is to be printed, and whether warnings count as failures."""

    quiet: bool
    verbose: bool
    strict: bool
    as_json: bool


def refuse_unknown(wanted: Sequence[str]) -> None:
    """Registers the checks.

    Raises:
        click.BadParameter: raised for a name in `wanted` that no check has.
    """
    checks.register_all()
    for name in wanted:
        if name not in doctor.names():
            raise _unknown(name, doctor.names(), "--check")


def examine(
    config: Config | NoSettings, only: tuple[str, ...], action: Action, show: Show, *, is_remembered: bool
) -> int:
    """Runs the checks, prints their report or runs the action, and returns the exit code.

    Raises:
        click.UsageError: raised when the action contradicts itself.
    """
    has_action = action.is_any()
    try:
        with waiting(list(only) or doctor.names()):
            found = diagnose(config, only)
        memory = _Memory(config)
        news = memory.changes(found)
        document = _document(found, news, strict=show.strict)
        if is_remembered:
            memory.add(document, found)
    except Exception as error:  # the border: whatever broke the doctor is told as such  # noqa: BLE001
        return _give_up(error, as_json=show.as_json)
    if has_action:
        return action.run(config, found, document)
    if show.as_json:
        print_json(document)
    else:
        print_report(document, news, quiet=show.quiet, verbose=show.verbose)
    return 0 if document["ok"] else EXIT_ERROR


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


def _give_up(error: Exception, *, as_json: bool) -> int:
    told = printable(scrub(f"{type(error).__name__}: {error}"))
    if as_json:
        print_json(
            {"version": _REPORT_VERSION, "ok": False, "program": __version__, "error": {"message": told}, "checks": []}
        )
    click.secho(f"error: the doctor itself failed: {told}", fg="red", err=True)
    click.echo("hint: look at one check after the other: hearthnet doctor --check NAME", err=True)
    return EXIT_USAGE


def _note(text: str) -> None:
    click.echo(f"note: {printable(scrub(text))}", err=True)


def _unknown(name: str, known: Sequence[str], hint: str) -> click.BadParameter:
    close = difflib.get_close_matches(name, known, n=3)
    meant = f"did you mean {' or '.join(close)}?" if close else "see --list"
    return click.BadParameter(f"no check is named {printable(name)}; {meant}", param_hint=hint)


def list_checks(*, as_json: bool) -> None:
    """Prints the checks and what each verifies."""
    verifies = {check.__name__: (check.__doc__ or "").partition("\n")[0] for check in checks.ALL}
    described = [{"name": name, "verifies": verifies.get(name, "")} for name in doctor.names()]
    if as_json:
        print_json(described)
        return
    columns = max(len(item["name"]) for item in described)
    for item in described:
        click.echo(hanging(f"{item['name']:<{columns}}  ", item["verifies"]))


def show_history(config: Config | NoSettings, name: str, *, as_json: bool) -> None:
    """Prints how one check fared in the reports that are remembered.

    Raises:
        ConfigError: raised when there are no settings that say where they are.
        click.BadParameter: raised when no check has that name, nor had.
    """
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
