"""`hearthnet trace recent`: lists the newest traces, and follows them."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import (
    as_json_text,
    console,
    data_option,
    hanging,
    json_option,
    print_json,
    print_plain,
    printable,
    result_style,
    table,
    where_option,
)
from hearthnet.cli.options import TIMES, since_option, until_option, wait_or_leave
from hearthnet.cli.tools import names
from hearthnet.cli.trace.show import ended_us, find, rows_of
from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.display import counted
from hearthnet.errors import StoreError
from hearthnet.moments import at, local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hearthnet.locations import Locations
    from hearthnet.observability.store.reader import TraceFilter

__all__ = ["print_traces", "recent", "remark_on", "remark_on_boxes"]

Trace = dict[str, Any]

_MIN_WIDTH_FOR_ERRORS: Final = 110  # narrower, the ids would be cut: an error is in a line of its own
_MIN_WIDTH_FOR_DATES: Final = 125
_MIN_CHARS: Final = 8


@click.command("recent", epilog=TIMES)
@click.argument("n", type=click.IntRange(1, TRACE_RING_BUFFER), default=20)
@click.option("--capability", shell_complete=names.capabilities, help="Only this capability.")
@click.option("--result", help="Only this result: ok, cancelled, timeout …")
@click.option("--failed", is_flag=True, help="Only failures.")
@click.option("--min-ms", type=float, help="Only traces of at least this many milliseconds.")
@since_option("traces that ended")
@until_option("traces that ended")
@click.option(
    "--program",
    metavar="NAME",
    shell_complete=names.programs,
    help="Only what this program recorded: hearthnet, cron.py …",
)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new traces, oldest first.")
@data_option
@where_option
@json_option
def recent(
    where: Locations,
    n: int,
    capability: str | None,
    result: str | None,
    failed: bool,
    min_ms: float | None,
    since_us: int | None,
    until_us: int | None,
    program: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """List the newest N traces (20), newest first; from disk when the node is not running.

    Traces of every program that records into the store, each with its program if there are several, in the order in
    which they were recorded: at their end, which is the time shown. It is local; --json has UTC.

    \b
    Example: hearthnet trace recent 50 --capability llm.chat --min-ms 1000
             hearthnet trace recent --since yesterday --until 16:30
             hearthnet trace recent --program cron.py
             hearthnet trace recent --follow --failed

    --json prints an array; with --follow, one line per trace.
    """
    from hearthnet.observability.store.reader import TraceFilter

    if follow and until_us is not None:
        raise click.UsageError("--until cannot be combined with --follow")
    wanted = TraceFilter(
        capability, "failed" if failed else result, min_ms, since_us, program=program, until_us=until_us
    )
    if follow:
        _follow(where, n, wanted, _print_json_line if as_json else _Lines().show)
        return
    found = find(where, min(n + 1, TRACE_RING_BUFFER), wanted)
    traces = found[:n]
    if as_json:
        print_json(traces)
    elif traces:
        print_traces(traces)
    else:
        click.echo("no traces match", err=True)
        remark_on(where, program)
    if not (traces and where.has_node):
        remark_on_boxes(where)
    if len(found) > n and (since_us is not None or until_us is not None):
        click.echo(f"older traces match, too: hearthnet trace recent {min(10 * n, TRACE_RING_BUFFER)} …", err=True)


def remark_on(where: Locations, program: str | None) -> None:
    """Says which programs are known if a name was asked for that is none of them."""
    from hearthnet.observability.store.reader import Reader

    if program is None:
        return
    with suppress(StoreError), closing(Reader(where.data_dir / DATABASE)) as reader:
        if program not in (known := reader.program_names()):
            names = ", ".join(map(printable, known)) or "none"
            click.echo(hanging("", f"no program has the name {program!r}; known are {names}"), err=True)


def remark_on_boxes(where: Locations) -> None:
    """Says where the last records of processes are that were killed or could not commit, until the next start."""
    from hearthnet.forensics.box import ENDED_CLEAN, ENDED_UNCOMMITTED
    from hearthnet.observability.store.query.flights import boxes

    ends = [view.end_code for view in boxes(where.data_dir) if not view.is_alive]
    uncommitted = ends.count(ENDED_UNCOMMITTED)
    for count, how in (
        (len(ends) - uncommitted - ends.count(ENDED_CLEAN), "ended uncleanly"),
        (uncommitted, "could not commit"),
    ):
        if count:
            verb, whose = ("has", "its") if count == 1 else ("have", "their")
            text = (
                f"{counted(count, 'process', 'processes')} {how} and {verb} records in {whose} black box, until "
                f"the next start recovers them; hearthnet autopsy{where.option} reads them now"
            )
            click.echo(hanging("", printable(text)), err=True)


def print_traces(traces: list[Trace]) -> None:
    """Prints traces as a table, as wide as the terminal; on a narrow one, errors are below their traces."""
    from rich.text import Text

    screen = console()
    has_errors = screen.width >= _MIN_WIDTH_FOR_ERRORS
    title, times = _times([ended_us(item) for item in traces], is_wide=screen.width >= _MIN_WIDTH_FOR_DATES)
    # A running node of an older version does not send it.
    has_programs = len({printable(item.get("program")) for item in traces}) > 1
    columns = {
        title: [Text(time) for time in times],
        "program": [Text(printable(item.get("program") or "")) for item in traces],
        "trace": [Text(printable(item["trace_id"])) for item in traces],
        "capability": [Text(printable(item["capability"])) for item in traces],
        "result": [Text(printable(item["result"]), style=result_style(item["result"])) for item in traces],
        "ms": [Text(f"{item['duration_ms']:.1f}") for item in traces],
        "error": [Text(printable(item["error"] or "")) for item in traces],
    }
    for name in (*([] if has_programs else ["program"]), *([] if has_errors else ["error"])):
        del columns[name]
    listing = table(*columns, right=(title, "ms"))
    # One column gives way, so that rich does not cut the ids.
    flexible = "error" if has_errors else "capability"
    others = sum(1 + max(len(name), *map(len, cells)) for name, cells in columns.items() if name != flexible)
    listing.columns[list(columns).index(flexible)].max_width = max(_MIN_CHARS, screen.width - others)
    for row in zip(*columns.values(), strict=True):
        listing.add_row(*row)
    if has_errors:
        print_plain(screen, listing)
        return
    with screen.capture() as captured:
        screen.print(listing)
    heading, *lines = captured.get().splitlines()
    click.echo(heading.rstrip())
    indent = 1 + max(map(len, (title, *times)))
    for line, item in zip(lines, traces, strict=True):
        click.echo(line.rstrip())
        if item["error"]:
            click.echo(_below(item, indent, screen.width))


def _below(trace: Trace, indent: int, columns: int) -> str:
    """Returns the error of a trace as a line below it."""
    from rich.text import Text

    text = Text(printable(trace["error"]))
    text.truncate(max(_MIN_CHARS, columns - indent), overflow="ellipsis")
    return " " * indent + click.style(text.plain, fg=result_style(trace["result"]))


def _times(ends_us: list[int], *, is_wide: bool) -> tuple[str, list[str]]:
    """Returns the title and the cells of the column of times: the zone is in one or the other."""
    known = [moment for us in ends_us if (moment := at(us)) is not None]
    if is_wide or len(known) < len(ends_us) or len({moment.utcoffset() for moment in known}) > 1:
        return "ended", [local(us, "seconds") for us in ends_us]
    now = datetime.now(UTC).astimezone()
    return _zone(known[0]), [_short(moment, now) for moment in known]


def _short(moment: datetime, now: datetime) -> str:
    if moment.date() == now.date():
        return f"{moment:%H:%M:%S}"
    return f"{moment:%m-%d %H:%M:%S}" if moment.year == now.year else f"{moment:%Y-%m-%d %H:%M:%S}"


def _zone(moment: datetime) -> str:
    """Returns the zone of a local time in few characters: UTC, UTC+2, UTC+5:30."""
    offset = moment.utcoffset()
    minutes = round(offset.total_seconds() / 60) if offset else 0
    hours, rest = divmod(abs(minutes), 60)
    if not minutes:
        return "UTC"
    return f"UTC{'+' if minutes > 0 else '-'}{hours}" + (f":{rest:02}" if rest else "")


def _follow(where: Locations, n: int, wanted: TraceFilter, show_one: Callable[[Trace], None]) -> None:
    """Prints the newest `n` traces that match and then each new one as it is committed, until interrupted."""
    for trace in _committed(where, n, wanted):
        show_one(trace)


def _committed(where: Locations, n: int, wanted: TraceFilter) -> Iterator[Trace]:
    """Yields the newest `n` and every later trace, in the order of commits, which only the database has."""
    from hearthnet.observability.store.reader import Reader

    with closing(Reader(where.data_dir / DATABASE)) as reader:
        seen, count = 0, n
        while True:
            last = reader.last_seq()
            if last < seen:  # the database was replaced by another, which counts from the start
                seen = 0
            if last > seen:
                yield from reversed(rows_of(reader, count, wanted._replace(seqs=(seen, last))))
            seen, count = last, TRACE_RING_BUFFER
            wait_or_leave()


def _print_json_line(trace: Trace) -> None:
    click.echo(printable(as_json_text(trace)))


class _Lines:
    """Prints traces line by line, in columns as wide as usual values."""

    def __init__(self) -> None:
        self._columns = console().width
        self._is_wide = self._columns >= _MIN_WIDTH_FOR_DATES
        self._day = ""

    def show(self, trace: Trace) -> None:
        """Prints one trace, on a narrow terminal below its day and zone."""
        day, _, clock = local(ended_us(trace)).partition(" ")
        if self._is_wide:
            moment = f"{day} {clock}"
        else:
            moment, zone = clock[:8], clock[12:]
            if (heading := f"{day}, UTC{zone}") != self._day:
                click.secho(heading, dim=True)
                self._day = heading
        result = click.style(f"{trace['result']:<9}", fg=result_style(trace["result"]))
        line = f"{moment} {trace['trace_id']} {printable(trace['capability']):<17} {result}"
        error = f" {printable(trace['error'])}" if trace["error"] and self._is_wide else ""
        program = f" {printable(trace['program'])}" if trace.get("program") and self._is_wide else ""
        click.echo(f"{line} {trace['duration_ms']:>9.1f} ms{program}{error}")
        if trace["error"] and not self._is_wide:
            click.echo(_below(trace, 1 + len(moment), self._columns))
