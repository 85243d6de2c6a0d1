"""`hearthnet log`: reads the daily JSON log files and follows them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from hearthnet import references
from hearthnet.cli.log.level import level as level_command
from hearthnet.cli.log.lines import Line, Newest, Wanted, follow, newest
from hearthnet.cli.log.shown import LinePrinter
from hearthnet.cli.main import Group, data_option, json_option, printable, where_option
from hearthnet.cli.options import TIMES, since_option, until_option
from hearthnet.cli.tools import names
from hearthnet.constants import LEVELS
from hearthnet.errors import HearthNetError
from hearthnet.files import hint_for

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_BETWEEN_TOKENS: Final = str.maketrans("\t\r\n", "   ")  # JSON has no others outside its texts, and none within them


def _pattern(_: click.Context, __: click.Parameter, text: str | None) -> re.Pattern[str] | None:
    try:
        # As grep's users know it from journalctl and rg: capitals are meant.
        return None if text is None else re.compile(text, 0 if text != text.lower() else re.IGNORECASE)
    except re.error as error:
        raise click.BadParameter(f"{text!r} is not a regular expression: {error}") from None


@click.group("log", cls=Group, invoke_without_command=True, epilog=TIMES)
@click.option("-n", "count", type=click.IntRange(0), default=50, show_default=True, help="Records to show, at most.")
@click.option("--follow", "-f", "is_following", is_flag=True, help="Keep printing new records.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only this level and above.")
@click.option(
    "--component", shell_complete=names.loggers, help="Only this logger and its children: hearthnet.bus or just bus."
)
@click.option(
    "--trace",
    metavar="ID",
    shell_complete=names.traces,
    help="Only records of this trace: its id or the beginning, last, -2 …",
)
@click.option(
    "--grep",
    "pattern",
    metavar="REGEX",
    callback=_pattern,
    help="Only records in which this is found: logger, message, fields, traceback. Case counts only with capitals.",
)
@since_option("records")
@until_option("records")
@data_option
@where_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    where: Locations,
    count: int,
    is_following: bool,
    level: str,
    component: str | None,
    trace: str | None,
    pattern: re.Pattern[str] | None,
    since_us: int | None,
    until_us: int | None,
    as_json: bool,
) -> None:
    """Read the JSON log: the newest records, oldest first, in local time; --json has UTC.

    \b
    Example: hearthnet log --level warning --since yesterday
             hearthnet log --follow --component bus
             hearthnet log --grep "disk|full" -n 1000
             hearthnet log --trace last

    --json prints an array; with --follow, one line per record. A line does not name its program where several share the
    files: `hearthnet search --logs --program NAME` has the records of one, from the store.
    """
    if context.invoked_subcommand is not None:
        _refuse_own_options(context)
        return
    if is_following and until_us is not None:
        raise click.UsageError("--until cannot be combined with --follow")
    wanted = Wanted(level, component, trace and _trace_id(where, trace), since_us, until_us, pattern)
    found = newest(where.log_dir, count, wanted)
    if found.tail is None:
        _refuse_closed(where)
    show = _print_json if as_json else LinePrinter().show
    if as_json and not is_following:
        _print_array(found.lines)
    else:
        for line in found.lines:
            show(line)
    if not is_following:
        _remark(found, where, count, is_limited=since_us is not None or until_us is not None)
        return
    for line in follow(where.log_dir, found.tail, wanted):
        show(line)


command.add_command(level_command)


def _refuse_own_options(context: click.Context) -> None:
    """Refuses options before a subcommand, where they would have no effect."""
    for parameter in context.command.params:
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            name = context.invoked_subcommand
            raise click.UsageError(f"{parameter.opts[-1]} is for reading the log; `{name}` has its own options")


def _trace_id(where: Locations, reference: str) -> str:
    """Returns the id, or what it begins with: log records outlive their traces, so ids are not looked up."""
    if references.place(reference) is None:
        return reference.upper()
    from hearthnet.cli.trace.show import trace_id_of

    return trace_id_of(where, reference)


def _refuse_closed(where: Locations) -> None:
    """Raises the error of a log folder that is there, or may be, and cannot be listed."""
    try:
        with os.scandir(where.log_dir):
            pass
    except PermissionError as error:
        message = f"{where.log_dir} cannot be read by this user"
        raise HearthNetError(message, hint=hint_for(error)) from error
    except OSError:  # it is missing, which is said
        pass


def _remark(found: Newest, where: Locations, count: int, *, is_limited: bool) -> None:
    """Says what the output alone does not: that there is nothing, or more."""
    if found.tail is None:
        click.echo(f"no log files are in {printable(where.log_dir)} yet", err=True)
    elif not found.lines and count:
        click.echo("no records match", err=True)
    elif found.has_more and is_limited:
        click.echo(f"older records match, too: hearthnet log -n {10 * count or 50} …", err=True)


def _print_array(lines: list[Line]) -> None:
    """Prints an array with one record per line."""
    click.echo("[\n" + ",\n".join(map(_json, lines)) + "\n]" if lines else "[]")


def _print_json(line: Line) -> None:
    click.echo(_json(line))


def _json(line: Line) -> str:
    """Returns the line as it was written: whatever could be read is JSON, also where it could not be encoded again."""
    return printable(line.raw.decode().strip().translate(_BETWEEN_TOKENS))
