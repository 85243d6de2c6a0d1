"""`hearthnet search`: searches traces and log records in the store."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import click

from hearthnet import moments
from hearthnet.cli.main import data_option, hanging, json_option, print_json, printable, where_option
from hearthnet.cli.options import TIMES, since_option, until_option
from hearthnet.cli.tools import names
from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.display import counted
from hearthnet.errors import EXIT_USAGE

if TYPE_CHECKING:
    from hearthnet.locations import Locations
    from hearthnet.observability.store.search import Compiled, Found, Order, TableName
    from hearthnet.observability.store.search.language import Problem

__all__ = ["command", "compiled"]

_MINUS: Final = "\0-"  # which no argument has: click would take the letters behind a - for options
_OWN_SHORT: Final = re.compile(r"-(?:n\d*|h)")
_WITH_SPACE: Final = re.compile(r'(-?(?:[^\W\d][\w.-]*:)?)([^"]*\s[^"]*)')
_PENDING: Final = 1_000  # traces that a node is asked for
_PENDING_US: Final = 60_000_000  # twice as long as the rarest commits are apart
_INTEGERS: Final = range(2**63)
_TIMEOUT_S: Final = 10.0
# A word as other tools write a field.
_COMPARED: Final = re.compile(r"(?<!\S)-?([^\W\d]\w*)([<>]=?|=)([^\s\"]+)(?!\S)")
_AROUND: Final = 40  # characters of a long query beside the place of an error
_NOUNS: Final[dict[TableName, str]] = {"traces": "trace", "logs": "log record"}


class _SearchCommand(click.Command):
    """The command; an argument such as `-result:ok` is a term, not a bundle of short options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments."""
        takes_value = {name for option in self.params if not getattr(option, "is_flag", False) for name in option.opts}
        marked = list(args)
        for at, argument in enumerate(args):
            if argument == "--":
                break
            is_value = at > 0 and args[at - 1] in takes_value
            if re.match("-[^-]", argument) and not is_value and not _OWN_SHORT.fullmatch(argument):
                marked[at] = _MINUS + argument[1:]
        return super().parse_args(ctx, marked)


def _query(_: click.Context, __: click.Parameter, arguments: tuple[str, ...]) -> str:
    """Returns the query: one argument as it is; of several, one with a space was in quotes of the shell."""
    given = [argument.replace(_MINUS, "-", 1) if argument.startswith(_MINUS) else argument for argument in arguments]
    if len(given) == 1:
        return given[0]
    return " ".join(map(_requoted, given))


def _requoted(argument: str) -> str:
    match = _WITH_SPACE.fullmatch(argument)
    return f"{match[1]}{json.dumps(match[2], ensure_ascii=False)}" if match else argument


@click.command("search", cls=_SearchCommand, epilog=TIMES)
@click.argument("query", nargs=-1, callback=_query, metavar="[QUERY]...")
@click.option(
    "--traces",
    "table",
    flag_value="traces",
    help="Only traces; the default, unless a field is of logs or only they match.",
)
@click.option("--logs", "table", flag_value="logs", help="Log records, oldest first, as `hearthnet log` shows them.")
@click.option(
    "-n", "count", type=click.IntRange(1, TRACE_RING_BUFFER), default=20, show_default=True, help="Rows, at most."
)
@click.option("--order", type=click.Choice(["newest", "slowest"]), default="newest", help="Of traces: the first ones.")
@since_option("records")
@until_option("records")
@click.option(
    "--program",
    metavar="NAME",
    shell_complete=names.programs,
    help="Only what this program recorded: hearthnet, cron.py …",
)
@click.option("--sql", "is_sql", is_flag=True, help="Print the query as SQL for `hearthnet telemetry sql -`.")
@data_option
@where_option
@json_option
def command(
    where: Locations,
    query: str,
    table: TableName | None,
    count: int,
    order: Order,
    since_us: int | None,
    until_us: int | None,
    program: str | None,
    is_sql: bool,
    as_json: bool,
) -> int | None:
    """Search traces and log records in the store, whether the node is running or not.

    All terms of QUERY must hold. A word is found, in any case, in a trace's
    capability, result, error, extras and names of spans; in a log record's
    message, logger, extras and traceback.

    \b
    no                      a word; "no route" in quotes: these words in a row
    result:timeout,failed   a field with one of these values
    cap:llm.*               a value that begins so
    duration:>2s            a comparison: >, >=, <, <=
    -model:tiny             the records without that, also those without a model
    since:2h until:16:30    times

    \b
    Fields of traces: cap result error duration span version parent
    Fields of logs:   level logger component msg exc span_id
    Of both:          since until trace run program
    Any other name is one of the extras, of a trace also of its spans.

    \b
    Example: hearthnet search result:failed since:2h
             hearthnet search 'cap:llm.chat duration:>2s -"no route"'
             hearthnet search --logs 'level:>=warning component:bus'
             hearthnet search model:tiny --order slowest -n 5
             hearthnet search result:timeout --sql | hearthnet telemetry sql -

    docs/search.md has the whole language.
    """
    from hearthnet.observability.store.search.select import statement

    text = _with_options(query, since_us, until_us, program)
    made = compiled(text, table)
    if made.problems:
        for problem in made.problems:
            _show_problem(problem, text)
        return EXIT_USAGE
    if order == "slowest" and made.table == "logs":
        raise click.UsageError("log records have no duration: --order slowest is for traces")
    if is_sql:
        click.echo(statement(made, order, count))
        return None
    found = _run(where, made, order, count)
    is_of_any = table is None and order == "newest" and not as_json
    is_of_logs = is_of_any and not found.rows and _show_logs_instead(where, made, text, count)
    if not is_of_logs:
        _print(found, made.table, as_json)
        _remark(found, made, text)
    _remark_on_store(where, program, has_rows=is_of_logs or bool(found.rows))
    if table is None and not is_of_logs:
        _count_other(where, made.table, text)
    return None


def _with_options(query: str, since_us: int | None, until_us: int | None, program: str | None) -> str:
    """Returns the query with the options as terms."""
    from hearthnet.observability.store.search.language import term

    given = [("since", _exact(since_us)), ("until", _exact(until_us)), ("program", program)]
    return " ".join(filter(None, [query, *(term(name, value) for name, value in given if value is not None)]))


def _exact(us: int | None) -> str | None:
    return moments.iso(us, "microseconds")


def compiled(text: str, table: TableName | None) -> Compiled:
    """Returns the query of a table, by default of traces, unless only log records have all its fields."""
    from hearthnet.observability.store.search import compile_query

    now_us = time.time_ns() // 1_000
    made = compile_query(text, table or "traces", now_us=now_us)
    if table is None and made.problems:
        other = compile_query(text, "logs", now_us=now_us)
        # The table that understands more of it: `level:eror` is of log records, though no level.
        return made if other.problems and other.problems[0].start <= made.problems[0].start else other
    return made


def _run(where: Locations, made: Compiled, order: Order, count: int) -> Found:
    from hearthnet.observability.store.search import run_query

    pending = _pending(where) if made.table == "traces" else []
    return run_query(where.data_dir / DATABASE, made, order, count, timeout_s=_TIMEOUT_S, pending=pending)


def _show_logs_instead(where: Locations, made: Compiled, text: str, count: int) -> bool:
    """Shows the log records that match where no trace does; returns False if none do, or the query is not of them."""
    if made.table == "logs" or not made.terms or (logs := compiled(text, "logs")).problems:
        return False
    found = _run(where, logs, "newest", count)
    if found.rows:
        _print_logs(found.rows)
        click.echo("no traces match, only log records", err=True)
        _remark_on_more(found, _NOUNS["logs"])
    return bool(found.rows)


def _pending(where: Locations) -> list[dict[str, Any]]:
    """Returns the newest traces of the running node, which has some before they are on disk."""
    from hearthnet.cli.client import NodeClient
    from hearthnet.cli.trace.show import trace_shape
    from hearthnet.observability.records.stored import TraceRecord

    since = _exact(time.time_ns() // 1_000 - _PENDING_US)
    # Columns of the table, too: integers that SQLite can take.
    integers = dict.fromkeys((name for name, kind in get_type_hints(TraceRecord).items() if kind is int), _INTEGERS)
    shape = [{**integers, **trace_shape(), "parent_id": str | None, "seq": int | None}]
    return NodeClient(where).ask("/trace/recent", shape, n=_PENDING, since=since) or []


def _print(found: Found, table: TableName, as_json: bool) -> None:
    if as_json:
        print_json(found.rows)
    elif table == "logs":
        _print_logs(found.rows)
    elif found.rows:
        from hearthnet.cli.trace.recent import print_traces

        print_traces(found.rows)


def _print_logs(rows: list[dict[str, Any]]) -> None:
    from hearthnet.cli.log.lines import Line
    from hearthnet.cli.log.shown import LinePrinter

    printer = LinePrinter()
    for row in reversed(rows):
        named = {name: row[name] for name in ("trace_id", "span_id") if row[name] is not None}
        repeats = {"repeats": row["repeats"]} if row["repeats"] else {}
        ends = {} if row["exc"] is None else {"exc": row["exc"]}
        first = {"ts": moments.iso(row["ts_us"]), "level": row["level"], "logger": row["logger"], "msg": row["msg"]}
        printer.show(Line(b"", {**row["extras"], **named, **repeats, **ends, **first}))


# --- remarks, on standard error


def _remark(found: Found, made: Compiled, text: str) -> None:
    noun = _NOUNS[made.table]
    if found.rows:
        _remark_on_more(found, noun)
        return
    click.echo(hanging("", f"no {noun}s match{_range(found, made)}"), err=True)
    if found.newest_match_us is not None:
        newest = f"the newest match outside of that ended at {moments.local(found.newest_match_us)}"
        click.echo(hanging("", newest), err=True)
    for problem in found.problems:
        _show_problem(problem, text, kind="note", colour="yellow")
    if match := _COMPARED.search(text):
        name, sign, value = match.groups()
        wanted = f"{name}:{sign.removeprefix('=')}{value}"
        click.echo(f"hint: a field is written with a colon: {printable(wanted)}", err=True)


def _remark_on_store(where: Locations, program: str | None, *, has_rows: bool) -> None:
    from hearthnet.cli.trace.recent import remark_on, remark_on_boxes

    if has_rows and where.has_node:
        return
    if not has_rows:
        remark_on(where, program)
    remark_on_boxes(where)


def _remark_on_more(found: Found, noun: str) -> None:
    shown = len(found.rows)
    if found.count > shown or not found.count_is_exact:
        click.echo(f"{shown:,} of {found.count_text} {noun}s: -n shows more", err=True)


def _range(found: Found, made: Compiled) -> str:
    """Returns the time that was searched, and if the store has nothing of it, the time that it has."""
    if found.oldest_us is None or found.newest_us is None:
        return ": the store has none"
    oldest, newest = found.oldest_us, found.newest_us
    since = oldest if made.since_us is None else made.since_us
    until = newest if made.until_us is None else made.until_us
    if made.since_us is not None and made.until_us is not None and since >= until:
        return f": until {moments.local(until)} is before since {moments.local(since)}"
    if max(since, oldest) <= min(until, newest):
        return _from_to(max(since, oldest), min(until, newest))
    asked = f" since {moments.local(since)}" if since > newest else f" until {moments.local(until)}"
    return f"{asked}; the store has those{_from_to(oldest, newest)}"


def _from_to(since: int, until: int) -> str:
    first, last = moments.local(since), moments.local(until)
    return f" from {first} to {last}" if first != last else f" at {first}"


def _count_other(where: Locations, table: TableName, text: str) -> None:
    """Says how many records of the other table match, if the query can be of that, too."""
    from hearthnet.observability.store.search import compile_query, run_query

    other: TableName = "logs" if table == "traces" else "traces"
    made = compile_query(text, other, now_us=time.time_ns() // 1_000)
    if not made.terms or made.problems:
        return
    found = run_query(where.data_dir / DATABASE, made, n=1, timeout_s=_TIMEOUT_S)
    if found.count:
        noun = counted(found.count, _NOUNS[other]) if found.count_is_exact else f"{found.count_text} {_NOUNS[other]}s"
        click.echo(f"{noun} {'matches' if found.count == 1 else 'match'}: add --{other}", err=True)


def _show_problem(problem: Problem, text: str, *, kind: str = "error", colour: str = "red") -> None:
    """Prints a problem, the query, and a mark below the place."""
    from rich.cells import cell_len

    start, end = max(0, problem.start - _AROUND), problem.end + _AROUND
    before = ("…" if start else "") + printable(text[start : problem.start])
    wrong, after = printable(text[problem.start : problem.end]), printable(text[problem.end : end])
    click.secho(f"{kind}: {printable(problem.message)}", fg=colour, err=True)
    click.echo(f"  {before}{wrong}{after}{'…' if end < len(text) else ''}", err=True)
    click.echo(f"  {' ' * cell_len(before)}{'^' * max(1, cell_len(wrong))}", err=True)
    if problem.hint:
        click.echo(f"hint: {printable(problem.hint)}", err=True)
