"""`hearthnet log`: reads the daily JSON log files and follows them."""

from __future__ import annotations

import select
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click
import orjson
from click.core import ParameterSource

from hearthnet.cli.log.level import level as level_command
from hearthnet.cli.main import json_option, print_json, printable, where_option
from hearthnet.constants import LEVELS
from hearthnet.files import NotRegularError, open_file
from hearthnet.observability.logs.daily_file import log_key, log_paths

if TYPE_CHECKING:
    from hearthnet.locations import Locations

_COLOURS: Final = {
    "debug": "bright_black",
    "info": "blue",
    "warning": "yellow",
    "error": "red",
    "critical": "red",
}
_SHOWN_FIRST: Final = frozenset({"ts", "level", "logger", "msg", "exc"})
_POLL_MS: Final = 200

Line = dict[str, Any]


@click.group("log", invoke_without_command=True)
@click.option("-n", "lines", type=click.IntRange(0), default=50, show_default=True, help="Records to show, at most.")
@click.option("--follow", "-f", is_flag=True, help="Keep printing new records.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only this level and above.")
@click.option("--component", help="Only this logger and its children: hearthnet.bus or just bus.")
@click.option("--trace", "trace_id", help="Only records of this trace.")
@where_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    where: Locations,
    lines: int,
    follow: bool,
    level: str,
    component: str | None,
    trace_id: str | None,
    as_json: bool,
) -> None:
    """Read the JSON log: the newest records, oldest first.

    \b
    Example: hearthnet log --level warning
             hearthnet log --follow --component bus
             hearthnet log --trace 01HXR4Z6W5S9E2JQ4Y0T7B3M1C

    --json prints an array; with --follow, one line per record.
    """
    if context.invoked_subcommand is not None:
        _refuse_own_options(context)
        return
    wanted = _filter(level, component, trace_id)
    found, tail = _newest(where.log_dir, lines, wanted)
    show = _echo_json if as_json else _echo
    if as_json and not follow:
        print_json(found)
        return
    for line in found:
        show(line)
    if follow:
        for line in _follow(where.log_dir, tail, wanted):
            show(line)


command.add_command(level_command)


def _refuse_own_options(context: click.Context) -> None:
    """Refuses options before a subcommand, where they would have no effect."""
    for parameter in context.command.params:
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            name = context.invoked_subcommand
            raise click.UsageError(f"{parameter.opts[-1]} is for reading the log; `{name}` has its own options")


def _filter(level: str, component: str | None, trace_id: str | None) -> Callable[[Line], bool]:
    levels = frozenset(LEVELS[LEVELS.index(level) :])
    prefix = component if component is None or component.startswith("hearthnet") else f"hearthnet.{component}"
    accepted = {component, prefix}

    def wanted(line: Line) -> bool:
        logger = str(line.get("logger", ""))
        below = component is None or any(logger == name or logger.startswith(f"{name}.") for name in accepted if name)
        known = trace_id is None or line.get("trace_id") == trace_id.upper()
        return below and known and str(line.get("level")) in levels

    return wanted


def _newest(directory: Path, count: int, wanted: Callable[[Line], bool]) -> tuple[list[Line], tuple[Path, int] | None]:
    """Returns the newest `count` matching records, and the newest file with the offset it was read up to."""
    found: list[Line] = []
    tail: tuple[Path, int] | None = None
    for path in reversed(log_paths(directory)):
        if tail is not None and len(found) >= count:
            break
        try:
            with open_file(path) as file:
                kept = deque((line for line in _records(file) if wanted(line)), maxlen=count - len(found))
                tail = tail or (path, file.tell())
        except NotRegularError as error:
            click.echo(f"skipped {printable(path)}: {error.strerror}", err=True)
            continue
        found = [*kept, *found]
    return found, tail


def _records(file: BinaryIO) -> Iterator[Line]:
    """Yields the records from the file's position on; stops before an incomplete line."""
    while raw := file.readline():
        if not raw.endswith(b"\n"):
            file.seek(-len(raw), 1)
            return
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:  # torn by a full disk or a power cut; the next line is intact
            continue
        if isinstance(line, dict):
            yield line


def _follow(directory: Path, tail: tuple[Path, int] | None, wanted: Callable[[Line], bool]) -> Iterator[Line]:
    """Yields matching records as they are written, across days, until interrupted."""
    path, offset = tail or (None, 0)
    while True:
        seen = log_key(path) if path is not None else None
        for newer in [item for item in log_paths(directory) if seen is None or (log_key(item) or seen) >= seen]:
            if newer != path:
                path, offset = newer, 0
            with suppress(NotRegularError), open_file(newer) as file:
                file.seek(offset)
                yield from (line for line in _records(file) if wanted(line))
                offset = file.tell()
        _wait_or_leave()


def _wait_or_leave() -> None:
    """Waits a moment; raises BrokenPipeError once the reader has closed the pipe, even if nothing is written."""
    poller = select.poll()
    poller.register(sys.stdout, 0)  # only errors and hang-ups, which are always reported
    if poller.poll(_POLL_MS):
        raise BrokenPipeError


def _echo_json(line: Line) -> None:
    click.echo(printable(orjson.dumps(line).decode()))


def _echo(line: Line) -> None:
    level = str(line.get("level", ""))
    fields = "  ".join(f"{key}={value}" for key, value in line.items() if key not in _SHOWN_FIRST)
    click.echo(
        f"{printable(line.get('ts', ''))} {click.style(f'{level:<8}', fg=_COLOURS.get(level))}"
        f"{printable(line.get('logger', ''))}: {click.style(printable(line.get('msg', '')), bold=True)}"
        f"  {printable(fields)}"
    )
    for part in str(line.get("exc", "")).splitlines():
        click.echo(f"    {printable(part)}")
