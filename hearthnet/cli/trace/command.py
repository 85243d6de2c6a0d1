"""`hearthnet trace`: lists recent traces, and shows one as a waterfall."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import (
    console,
    json_option,
    local_time,
    print_json,
    printable,
    result_style,
    table,
    where_option,
)
from hearthnet.cli.trace.bodies import bodies
from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.errors import HearthNetError
from hearthnet.plural import counted

if TYPE_CHECKING:
    from hearthnet.locations import Locations
    from hearthnet.observability.store.reader import TraceFilter

_BAR_CHARS: Final = 30
_NAME_CHARS: Final = 24
_MIN_WIDTH_FOR_ERRORS: Final = 110  # narrower, the ids would be cut; `trace show` has the error


@click.group("trace")
def command() -> None:
    """Show traces of calls and where their time went.

    \b
    Example: hearthnet trace recent 20 --failed
             hearthnet trace show 01HXR4Z6W5S9E2JQ4Y0T7B3M1C
    """


command.add_command(bodies)


@command.command("recent")
@click.argument("n", type=click.IntRange(1, TRACE_RING_BUFFER), default=20)
@click.option("--capability", help="Only this capability.")
@click.option("--result", help="Only this result: ok, cancelled, timeout …")
@click.option("--failed", is_flag=True, help="Only failures.")
@click.option("--min-ms", type=float, help="Only traces of at least this many milliseconds.")
@click.option("--since", type=click.DateTime(), help="Only traces started at or after this local time.")
@click.option("--program", metavar="NAME", help="Only what this program recorded: hearthnet, cron.py …")
@where_option
@json_option
def recent(
    where: Locations,
    n: int,
    capability: str | None,
    result: str | None,
    failed: bool,
    min_ms: float | None,
    since: datetime | None,
    program: str | None,
    as_json: bool,
) -> None:
    """List the newest N traces (20), newest first; from disk when the node is not running.

    Traces of every program that records into the store, each with its program if there are several.

    \b
    Example: hearthnet trace recent 50 --capability llm.chat --min-ms 1000
             hearthnet trace recent --program cron.py
             hearthnet trace recent --failed --json
    """
    moment = since.astimezone(UTC) if since else None
    traces = _find(where, n, capability, "failed" if failed else result, min_ms, moment, program)
    if as_json:
        print_json(traces)
        return
    if not traces:
        click.echo("no traces match", err=True)
        return
    _list(traces)


def _list(traces: list[dict[str, Any]]) -> None:
    from rich.text import Text

    screen = console()
    # A running node of an older version does not send it.
    has_programs = len({item.get("program") for item in traces}) > 1
    columns = ["time", *(["program"] if has_programs else []), "trace", "capability", "result", "ms"]
    is_wide = screen.width >= _MIN_WIDTH_FOR_ERRORS
    listing = table(*columns, *(["error"] if is_wide else []), right=("ms",))
    for item in traces:
        cells = [
            Text(local_time(item["started_us"])),
            *([Text(printable(item.get("program") or ""))] if has_programs else []),
            Text(item["trace_id"]),
            Text(printable(item["capability"])),
            Text(item["result"], style=result_style(item["result"])),
            Text(f"{item['duration_ms']:.1f}"),
        ]
        listing.add_row(*cells, *([Text(printable(item["error"] or ""))] if is_wide else []))
    screen.print(listing)


def _find(
    where: Locations,
    n: int,
    capability: str | None,
    result: str | None,
    min_ms: float | None,
    since: datetime | None,
    program: str | None,
) -> list[dict[str, Any]]:
    """Returns the traces from the running node, which includes uncommitted ones, or else from disk."""
    from hearthnet.cli.client import NodeClient
    from hearthnet.observability.store.reader import TraceFilter

    live = NodeClient(where).ask(
        "/trace/recent",
        n=n,
        capability=capability,
        result=result,
        min_ms=min_ms,
        since=since.isoformat() if since else None,
        program=program,
    )
    if live is not None:
        found: list[dict[str, Any]] = live
        return found
    since_us = int(since.timestamp() * 1e6) if since else None
    return _from_disk(where, n, TraceFilter(capability, result, min_ms, since_us, program=program))


def _from_disk(where: Locations, n: int, wanted: TraceFilter) -> list[dict[str, Any]]:
    from hearthnet.observability.store.reader import Reader

    reader = Reader(where.data_dir / DATABASE)
    try:
        if wanted.program is not None and not reader.knows_programs():
            return []
        records = reader.recent(n, wanted)
        programs = reader.programs({record.run_id for record in records})
        return [{**record.as_dict(), "program": programs.get(record.run_id)} for record in records]
    finally:
        reader.close()


@command.command("show")
@click.argument("trace_id", metavar="ID")
@where_option
@json_option
def show(where: Locations, trace_id: str, as_json: bool) -> None:
    """Show one trace as a waterfall: the start and duration of each span.

    Example: hearthnet trace show 01HXR4Z6W5S9E2JQ4Y0T7B3M1C
    """
    from hearthnet.observability.records.ids import is_trace_id

    known = trace_id.upper()
    if not is_trace_id(known):
        raise click.BadParameter("a trace id is a ULID of 26 characters", param_hint="ID")
    visits = _visits(where, known)
    if not visits:
        raise HearthNetError(
            f"no trace {known} in the ring",
            hint=f"its log records may still exist: hearthnet log --trace {known}",
        )
    if as_json:
        print_json(visits)
        return
    for visit in visits:
        _draw(visit)


def _visits(where: Locations, trace_id: str) -> list[dict[str, Any]]:
    from hearthnet.cli.client import NodeClient
    from hearthnet.observability.store.reader import TraceFilter

    try:
        live = NodeClient(where).ask(f"/trace/{trace_id}")
    except HearthNetError:  # the node does not have it
        return []
    if live is not None:
        found: list[dict[str, Any]] = live
        return found
    return _from_disk(where, TRACE_RING_BUFFER, TraceFilter(trace_id=trace_id))


def _draw(trace: dict[str, Any]) -> None:
    """Prints a trace and its spans as bars over the trace's duration, children below their parents."""
    from rich.table import Table
    from rich.text import Text

    screen = console()
    style = result_style(trace["result"])
    version = f"@{printable(trace['version'])}" if trace["version"] else ""
    title = Text.assemble(
        (f"{printable(trace['capability'])}{version}", "bold"), "  ", (trace["result"], style),
        f"  {trace['duration_ms']:.2f} ms  {local_time(trace['started_us'])}",
    )  # fmt: skip
    screen.print(title)
    whose = f" of {printable(trace['program'])}" if trace.get("program") else ""
    screen.print(Text(f"trace {trace['trace_id']}  run {trace['run_id']}{whose}", style="dim"))
    if trace["error"]:
        screen.print(Text(printable(trace["error"]), style=style))
    if trace["extras"]:
        screen.print(Text(_fields(trace["extras"]), style="dim"))
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True, max_width=_NAME_CHARS + 10)
    lines.add_column(no_wrap=True)
    lines.add_column(justify="right", no_wrap=True)
    lines.add_column(overflow="fold", style="dim")
    for depth, item in _tree(trace["spans"]):
        lines.add_row(
            Text("  " * depth + printable(item["name"])),
            Text(_bar(item, trace["duration_ms"]), style="green" if item["status"] == "ok" else "red"),
            f"{item['duration_ms']:.2f} ms",
            Text(_fields(item["extras"])),
        )
    screen.print(lines)
    if "truncated" in trace["extras"]:
        dropped = counted(trace["extras"]["truncated"], "span")
        screen.print(f"{dropped} dropped: too many for one record", style="yellow")


def _tree(spans: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Returns the spans with their depth, by start time, each after its parent."""
    depths: dict[str | None, int] = {None: -1}
    for item in spans:
        depths[item["id"]] = depths.get(item["parent"], -1) + 1
    children: dict[str | None, list[dict[str, Any]]] = {}
    for item in spans:
        children.setdefault(item["parent"] if item["parent"] in depths else None, []).append(item)
    ordered: list[tuple[int, dict[str, Any]]] = []
    pending = list(reversed(children.get(None, [])))
    while pending:
        item = pending.pop()
        ordered.append((depths[item["id"]], item))
        pending.extend(reversed(children.get(item["id"], [])))
    return ordered


def _bar(item: dict[str, Any], total_ms: float) -> str:
    scale = _BAR_CHARS / total_ms if total_ms > 0 else 0.0
    start = min(_BAR_CHARS - 1, int(item["offset_ms"] * scale))
    length = max(1, min(_BAR_CHARS - start, round(item["duration_ms"] * scale)))
    bar: str = "·" * start + "█" * length + "·" * (_BAR_CHARS - start - length)
    return bar


def _fields(extras: dict[str, Any]) -> str:
    return printable("  ".join(f"{key}={value}" for key, value in extras.items()))
