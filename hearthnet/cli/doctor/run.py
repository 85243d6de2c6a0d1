"""The implementation of `hearthnet doctor`: runs the checks, saves and prints the report, repairs or bundles.

Separate from the command, so that its `--help` imports none of the checks.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from hearthnet import __version__, checks
from hearthnet.cli.doctor.ask import Findings, NoSettings, diagnose
from hearthnet.cli.doctor.notify import Notice, as_told, why_not_run
from hearthnet.cli.doctor.text import print_history, print_report, waiting
from hearthnet.cli.main import hanging, print_json, printable
from hearthnet.config import Config
from hearthnet.errors import EXIT_ERROR, EXIT_USAGE
from hearthnet.observability import doctor
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.reports.history import Change, changes, streaks
from hearthnet.observability.reports.report_file import Remembered, recall, remember, timestamp

__all__ = [
    "Action",
    "Show",
    "list_checks",
    "refuse_unknown",
    "run_checks",
    "show_history",
    "tell_of_failed_run",
    "try_channels",
]

_REPORT_VERSION: Final = 1
# Recommended as a whole, without words around it.
_READS_STORE: Final = re.compile(r"hearthnet (?:autopsy|doctor|log|search|telemetry|trace)(?: [\w.@/-]+)*")


@dataclass(frozen=True, slots=True)
class Action:
    """The action requested beyond a report: repairs or a bundle."""

    fix: bool
    dry_run: bool
    bundle: Path | None
    yes: bool
    force: bool
    as_json: bool

    def is_any(self) -> bool:
        """Returns True if an action is requested.

        Raises:
            click.UsageError: raised when two options exclude each other, or one needs another.
        """
        if self.fix and self.bundle is not None:
            raise click.UsageError("--fix and --bundle cannot be combined")
        if self.dry_run and not self.fix:
            raise click.UsageError("--dry-run requires --fix")
        return self.fix or self.bundle is not None

    def run(self, config: Config | NoSettings, found: Findings, document: dict[str, Any]) -> int:
        """Repairs, or writes the bundle; returns the exit code.

        Raises:
            ConfigError: raised when there are no usable settings.
        """
        if isinstance(config, NoSettings):
            raise config.error
        if self.bundle is not None:
            from hearthnet.cli.doctor.bundle import offer_bundle

            is_sure, force = self.yes, self.force
            offer_bundle(config, document, self.bundle, is_sure=is_sure, force=force, as_json=self.as_json)
            return 0
        from hearthnet.cli.doctor.fix import fix

        settings = config

        def check_again(names: Collection[str]) -> list[dict[str, Any]]:
            return diagnose(settings, tuple(names)).results

        is_healthy = fix(
            settings, found.results, check_again, is_sure=self.yes, only_plan=self.dry_run, as_json=self.as_json
        )
        return 0 if is_healthy else EXIT_ERROR


@dataclass(frozen=True, slots=True)
class Show:
    """How to print the report, and whether warnings count as failures."""

    quiet: bool
    verbose: bool
    strict: bool
    as_json: bool


def refuse_unknown(wanted: Sequence[str]) -> None:
    """Checks the names that `--check` was given.

    Raises:
        click.BadParameter: raised when no check has one of the names.
    """
    for name in wanted:
        if name not in doctor.names():
            raise _unknown(name, doctor.names(), "--check")


# Of a store, whatever program it is of.
STORE_CHECKS: Final = (
    "disk_space",
    "recent_error_rate",
    "telemetry_store",
    "last_run",
    "restart_loop",
    "log_directory",
    "file_modes",
)


def run_checks(
    config: Config | NoSettings,
    only: tuple[str, ...],
    action: Action,
    show: Show,
    notice: Notice | None = None,
    *,
    is_saved: bool,
    has_node: bool = True,
) -> int:
    """Runs the checks, prints the report or runs the action, tells what has changed, and returns the exit code.

    Raises:
        click.UsageError: raised when the action's options are inconsistent.
    """
    has_action = action.is_any()
    if has_action and notice is not None:
        raise click.UsageError("--notify cannot be combined with --fix or --bundle")
    try:
        with waiting(list(only) or doctor.names()):
            found = diagnose(config, only, has_node=has_node)
        if not has_node and not isinstance(config, NoSettings):
            _name_folder(found, config.observability.data_dir)
        history = _History(config)
        news = history.changes(found)
        document = _document(found, news, strict=show.strict)
        if is_saved:
            history.add(document, found)
    except Exception as error:  # any error here is one of the doctor itself  # noqa: BLE001
        message = printable(scrub(f"{type(error).__name__}: {error}"))
        if notice is not None:
            notice.tell_of_doctor(f"the doctor itself failed: {message}")
        return _report_failure(message, as_json=show.as_json)
    if has_action:
        return action.run(config, found, document)
    if show.as_json:
        print_json(document)
    else:
        print_report(document, news, quiet=show.quiet, verbose=show.verbose)
    is_told = notice is None or notice.tell(as_told(found), quiet=show.quiet, strict=show.strict)
    return 0 if document["ok"] and is_told else EXIT_ERROR


def _name_folder(found: Findings, folder: Path | None) -> None:
    """Makes the commands that results recommend read the same store as these checks."""
    for result in found.results:
        if folder is not None and result["fix"] and _READS_STORE.fullmatch(result["fix"]):
            result["fix"] = f"{result['fix']} --data {shlex.quote(str(folder))}"


def try_channels(notice: Notice | None, *, as_json: bool) -> int:
    """Sends a test message to each channel, prints what became of it, and returns the exit code.

    Raises:
        click.UsageError: raised without `--notify`, and when there is no channel.
    """
    if notice is None:
        raise click.UsageError("--test requires --notify")
    return 0 if notice.try_out(as_json=as_json) else EXIT_ERROR


def tell_of_failed_run(notice: Notice | None) -> int:
    """Tells, after a run that was ended or could not be started, that there was none; returns the exit code.

    Raises:
        click.UsageError: raised without `--notify`.
    """
    if notice is None:
        raise click.UsageError("--failed requires --notify")
    return 0 if notice.tell_of_doctor(why_not_run(os.environ)) else EXIT_ERROR


class _History:
    """The saved reports of this node; failures to read or write them are only printed to stderr."""

    def __init__(self, config: Config | NoSettings) -> None:
        directory = None if isinstance(config, NoSettings) else config.observability.data_dir
        # Without an initialised node there is nothing to save, and no folder to create.
        self._directory = directory if directory is not None and directory.is_dir() else None
        self._reports: list[Remembered] = []
        if self._directory is not None:
            try:
                self._reports = recall(self._directory)
            except OSError as error:
                _print_note(f"earlier reports cannot be read: {error}")

    def changes(self, found: Findings) -> list[Change]:
        """Returns the changes since the earlier reports."""
        present = {result["name"]: result for result in found.results}
        return changes(self._reports, Remembered(found.moment, found.program, present))

    def add(self, document: dict[str, Any], found: Findings) -> None:
        """Saves this report."""
        if self._directory is None:
            return
        try:
            # `ok` without --strict: the saved report does not depend on the options.
            remember(self._directory, {**document, "ok": all(result["ok"] for result in found.results)})
        except OSError as error:
            _print_note(f"this report is not saved: {error}")


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


def _report_failure(message: str, *, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "version": _REPORT_VERSION,
                "ok": False,
                "program": __version__,
                "error": {"message": message},
                "checks": [],
            }
        )
    click.secho(f"error: the doctor itself failed: {message}", fg="red", err=True)
    click.echo("hint: run the checks one by one: hearthnet doctor --check NAME", err=True)
    return EXIT_USAGE


def _print_note(text: str) -> None:
    click.echo(f"note: {printable(scrub(text))}", err=True)


def _unknown(name: str, known: Sequence[str], hint: str) -> click.BadParameter:
    close = difflib.get_close_matches(name, known, n=3)
    meant = f"did you mean {' or '.join(close)}?" if close else "see --list"
    return click.BadParameter(f"no check is named {printable(name)}; {meant}", param_hint=hint)


def list_checks(*, as_json: bool) -> None:
    """Prints the checks and what each one verifies."""
    verifies = {name: (check.__doc__ or "").partition("\n")[0] for name, check in checks.by_name().items()}
    described = [{"name": name, "verifies": verifies.get(name, "")} for name in doctor.names()]
    if as_json:
        print_json(described)
        return
    columns = max(len(item["name"]) for item in described)
    for item in described:
        click.echo(hanging(f"{item['name']:<{columns}}  ", item["verifies"]))


def show_history(config: Config | NoSettings, name: str, *, as_json: bool) -> None:
    """Prints the results of one check in the saved reports.

    Raises:
        ConfigError: raised when there are no usable settings.
        click.BadParameter: raised when no check has or had that name.
    """
    if isinstance(config, NoSettings):
        raise config.error
    assert config.observability.data_dir is not None
    memory = recall(config.observability.data_dir)
    history = streaks(memory, name)
    known = [*doctor.names(), *{check for report in memory for check in report.checks}]
    if not history and name not in known:
        raise _unknown(name, known, "--history")
    if as_json:
        found = [streak.as_dict() for streak in reversed(history)]
        reports = sum(streak.reports for streak in history)
        print_json({"version": _REPORT_VERSION, "name": name, "reports": reports, "streaks": found})
    elif history:
        print_history(name, history)
    else:
        click.echo(f"no report of {name} is saved yet; each `hearthnet doctor` adds one")
