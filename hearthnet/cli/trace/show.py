"""`hearthnet trace show`: one trace as a waterfall; and how a trace is found, in the node or on disk."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet import moments, references
from hearthnet.cli.main import (
    console,
    data_option,
    fields_text,
    json_option,
    print_json,
    print_plain,
    printable,
    result_style,
    where_option,
)
from hearthnet.cli.tools import names
from hearthnet.cli.trace.importing import imported_traces
from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.display import counted, has_unicode, span_tree
from hearthnet.errors import EXIT_USAGE, HearthNetError, NodeRefusedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import RenderableType

    from hearthnet.locations import Locations
    from hearthnet.observability.records.stored import LogRecord
    from hearthnet.observability.store.reader import Reader, TraceFilter

__all__ = ["ended_us", "find", "is_reference", "rows_of", "show", "trace_id_of", "trace_shape"]

_BAR_CHARS: Final = 30
_NAME_CHARS: Final = 24
_ID_START: Final = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{0,25}")
_LEVEL_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_MAX_LOGS: Final = 1_000  # of a trace id
_MAX_SHOWN: Final = 50  # as text
_MAX_ALIKE: Final = 100  # records whose ids begin alike


def is_reference(text: str) -> bool:
    """Returns whether `text` can refer to a trace: an id, its beginning, `last` or a place like -2."""
    return _ID_START.fullmatch(text.upper()) is not None or references.place(text) is not None


def _reference(context: click.Context, _: click.Parameter, text: str) -> str:
    # Options that the command does not have arrive here, so that -2 does.
    if text.startswith("-") and not is_reference(text):
        raise click.NoSuchOption(text, possibilities=["--config", "--json"], ctx=context)
    if not is_reference(text):
        raise click.BadParameter(f"{text!r} is no trace id, no beginning of one, and no place like last or -2")
    return text


@click.command("show", context_settings={"ignore_unknown_options": True})
@click.argument("reference", metavar="ID", callback=_reference, shell_complete=names.traces)
@data_option
@where_option
@json_option
def show(where: Locations, reference: str, as_json: bool) -> None:
    """Show one trace as a waterfall: the start and duration of each span, then what was logged, and when.

    ID is a trace's id or its beginning; or `last` or -1 for the one at the top of `hearthnet trace recent`, -2 for the
    second, and so on. The word `show` may be omitted. Times are local, in --json UTC. A trace that the store does not
    have may be one that `hearthnet trace import` brought; its source is shown, in --json as `imported`.

    \b
    Example: hearthnet trace show last
             hearthnet trace show 01HXR4Z6W5S9
             hearthnet trace -2
    """
    trace_id = trace_id_of(where, reference)
    visits = _or_imported(lambda: _visits(where, trace_id), where, trace_id, TRACE_RING_BUFFER)
    if not visits:
        raise _missing(where, trace_id)
    _add_logs(where, visits)
    if as_json:
        print_json(visits)
        return
    for visit in visits:
        _draw(visit, where.option)


def trace_id_of(where: Locations, reference: str) -> str:
    """Returns the id of the trace that is meant.

    Raises:
        HearthNetError: raised when no trace is meant, or several are.
    """
    from hearthnet.observability.records.ids import is_trace_id
    from hearthnet.observability.store.reader import TraceFilter

    if is_trace_id(reference.upper()):
        return reference.upper()
    place = references.place(reference)
    if place is not None:
        found = find(where, place, TraceFilter())
        if len(found) < place:
            hint = f"hearthnet trace recent{where.option} lists them"
            there_are = f"only {counted(len(found), 'trace')}" if found else "none is recorded there"
            raise HearthNetError(f"there is no trace {reference}: {there_are}", hint=hint)
        found = found[place - 1 :]
    else:
        begin = reference.upper()
        wanted = TraceFilter(trace_id=begin)
        found = _or_imported(lambda: find(where, _MAX_ALIKE, wanted), where, begin, _MAX_ALIKE)
    ids = list(dict.fromkeys(item["trace_id"] for item in found))
    if len(ids) > 1:
        error = HearthNetError(
            f"several traces begin with {reference.upper()}", hint=f"type more of the id: {', '.join(ids[:3])} …"
        )
        error.exit_code = EXIT_USAGE
        raise error
    if not ids:
        raise _missing(where, reference.upper())
    return str(ids[0])


def _or_imported(
    find_own: Callable[[], list[dict[str, Any]]], where: Locations, trace_id: str, n: int
) -> list[dict[str, Any]]:
    """Returns the store's own traces, or where it has none, or is none, those imported beside it."""
    try:
        if found := find_own():
            return found
    except StoreError:
        if found := imported_traces(where, trace_id, n):
            return found
        raise
    return imported_traces(where, trace_id, n)


def _missing(where: Locations, trace_id: str) -> HearthNetError:
    hint = f"its log records may still exist: hearthnet log --trace {trace_id}{where.option}"
    return HearthNetError(f"no trace {trace_id} in the ring", hint=hint)


def find(where: Locations, n: int, wanted: TraceFilter) -> list[dict[str, Any]]:
    """Returns the newest traces that match from the running node, which includes uncommitted ones, or else from disk.

    Args:
        where: the node's.
        n: the maximum number.
        wanted: which traces; its `of_node` and `seqs` are for the disk only.
    """
    from hearthnet.cli.client import NodeClient

    live = NodeClient(where).ask(
        "/trace/recent",
        [trace_shape()],
        n=n,
        capability=wanted.capability,
        result=wanted.result,
        min_ms=wanted.min_ms,
        since=_exact(wanted.since_us),
        until=_exact(wanted.until_us),
        program=wanted.program,
        trace=wanted.trace_id,
    )
    if live is None:
        return _from_disk(where, n, wanted)
    # A node of an older version does not know of `until` and `trace`.
    return [
        item
        for item in live
        if item["trace_id"].startswith(wanted.trace_id or "")
        and (wanted.until_us is None or ended_us(item) < wanted.until_us)
    ]


def trace_shape() -> dict[str, Any]:
    """Returns the shape of a trace as it is read from a node; one of an older version does not send its program."""
    from hearthnet.cli.client import MILLISECONDS, MOMENT_US, NUMBER

    named = dict.fromkeys(("trace_id", "run_id", "capability", "result"), str)
    perhaps = dict.fromkeys(("version", "error"), str | None)
    span = {"id": str, "parent": str | None, "name": str, "status": str, "extras": dict}
    timed = {"offset_ms": NUMBER, "duration_ms": MILLISECONDS}
    when = {"started_us": MOMENT_US, "duration_ms": MILLISECONDS}
    return {**named, **perhaps, **when, "extras": dict, "spans": [span | timed]}


def ended_us(trace: dict[str, Any]) -> int:
    """Returns when a trace ended, UTC microseconds."""
    return moments.ended_us(trace["started_us"], trace["duration_ms"])


def _exact(us: int | None) -> str | None:
    return moments.iso(us, "microseconds")


def _from_disk(where: Locations, n: int, wanted: TraceFilter) -> list[dict[str, Any]]:
    from hearthnet.observability.store.reader import Reader

    reader = Reader(where.data_dir / DATABASE)
    try:
        return rows_of(reader, n, wanted)
    finally:
        reader.close()


def rows_of(reader: Reader, n: int, wanted: TraceFilter) -> list[dict[str, Any]]:
    """Returns the newest `n` committed traces that match, each with its program."""
    from hearthnet.observability.store.rows import as_dict

    if wanted.program is not None and not reader.knows_programs():
        return []
    records = reader.recent(n, wanted)
    programs = reader.programs({record.run_id for record in records})
    return [{**as_dict(record), "program": programs.get(record.run_id)} for record in records]


def _visits(where: Locations, trace_id: str) -> list[dict[str, Any]]:
    from hearthnet.cli.client import NodeClient
    from hearthnet.observability.store.reader import TraceFilter

    try:
        live = NodeClient(where).ask(f"/trace/{trace_id}", [trace_shape()])
    except NodeRefusedError:  # the node does not have it
        return []
    if live is not None:
        found: list[dict[str, Any]] = live
        return found
    return _from_disk(where, TRACE_RING_BUFFER, TraceFilter(trace_id=trace_id))


def _add_logs(where: Locations, visits: list[dict[str, Any]]) -> None:
    """Gives each visit of one trace its log records as `logs`, oldest first; none where they cannot be read."""
    for source in {visit.get("imported") for visit in visits}:
        own = sorted(
            (visit for visit in visits if visit.get("imported") == source), key=lambda visit: visit["started_us"]
        )
        found = _logs_in(_folder(where, source), own[0]["trace_id"])
        for visit in own:
            visit["logs"] = []
        for log in found:
            if (visit_of := _visit_of(log, own)) is not None:
                visit_of["logs"].append(log)


def _folder(where: Locations, imported: str | None) -> Path:
    if imported is None:
        return where.data_dir
    from hearthnet.observability.otel.imports.store import folder_of

    return folder_of(where.data_dir, imported)


def _logs_in(folder: Path, trace_id: str) -> list[dict[str, Any]]:
    from hearthnet.observability.store.reader import Reader

    try:
        with closing(Reader(folder / DATABASE)) as reader:
            found = reader.logs_of(trace_id, _MAX_LOGS)
    except StoreError:  # of an older version, or damaged: the trace is shown all the same
        return []
    return [_as_dict(record) for record in found]


def _as_dict(record: LogRecord) -> dict[str, Any]:
    fields = record._asdict() | {"extras": _decoded(record.extras)}
    return {name: value for name, value in fields.items() if name not in ("seq", "number", "notable")}


def _decoded(extras: bytes) -> dict[str, Any]:
    import orjson

    try:
        found = orjson.loads(extras)
    except orjson.JSONDecodeError:  # of a damaged file
        return {}
    return found if isinstance(found, dict) else {}


def _visit_of(log: dict[str, Any], visits: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the visit that a log record is of: that of its span, or else one that ran when it was made.

    Visits overlap where a program calls itself. The clock may have been set back: then the first one has it.
    """
    own = [visit for visit in visits if visit["run_id"] == log["run_id"]]
    span_id = log["span_id"]
    if span_id is not None:
        for visit in own:
            if any(span["id"] == span_id for span in visit["spans"]):
                return visit
    begun = [visit for visit in own if visit["started_us"] <= log["ts_us"]] or own[:1]
    running = [visit for visit in begun if log["ts_us"] <= ended_us(visit)]
    return next(reversed(running or begun), None)


def _shown(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the log records that are shown as text."""
    return list(trace.get("logs", ())[:_MAX_SHOWN])


def _logged_text(log: dict[str, Any]) -> str:
    """Returns what a log record says, on one line."""
    extras = dict(log["extras"])
    error = ": ".join(str(extras.pop(name)) for name in ("exc_type", "exc_message") if extras.get(name))
    repeats = f"(and {log['repeats']} alike)" if log["repeats"] else ""
    said = (printable(f"{log['logger']}: {log['msg']}"), printable(error), fields_text(extras, is_short=True), repeats)
    return "  ".join(filter(None, said))


def _more_text(trace: dict[str, Any], option: str) -> str | None:
    """Returns where the log records are that are not shown; None without any."""
    more = len(trace.get("logs", ())) - _MAX_SHOWN
    if more <= 0:
        return None
    return f"{counted(more, 'log record')} more: hearthnet log --trace {printable(trace['trace_id'])}{option}"


def _draw(trace: dict[str, Any], option: str) -> None:
    """Prints a trace and its spans as bars over the trace's duration, children below their parents.

    Args:
        trace: with its log records.
        option: by which another command reads the same files.
    """
    from rich.text import Text

    style = result_style(trace["result"])
    version = f"@{printable(trace['version'])}" if trace["version"] else ""
    whose = f" of {printable(trace['program'])}" if trace.get("program") else ""
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{printable(trace['capability'])}{version}", "bold"), "  ", (printable(trace["result"]), style),
            f"  {trace['duration_ms']:.2f} ms",
        ),
        Text(f"started {moments.local(trace['started_us'])}", style="dim"),
        Text(f"trace {printable(trace['trace_id'])}  run {printable(trace['run_id'])}{whose}", style="dim"),
    ]  # fmt: skip
    if trace.get("imported"):
        parts.append(Text(f"imported as {printable(trace['imported'])}", style="dim"))
    if trace["error"]:
        parts.append(Text(printable(trace["error"]), style=style))
    if trace["extras"]:
        parts.append(Text(fields_text(trace["extras"], is_short=True), style="dim"))
    parts.append(_waterfall(trace))
    if more := _more_text(trace, option):
        parts.append(Text(more, style="dim"))
    if isinstance(trace["extras"].get("truncated"), int):
        dropped = counted(trace["extras"]["truncated"], "span")
        parts.append(Text(f"{dropped} dropped: too many for one record", style="yellow"))
    print_plain(console(), *parts)


def _waterfall(trace: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True, max_width=_NAME_CHARS + 10)
    lines.add_column(no_wrap=True)
    lines.add_column(justify="right", no_wrap=True)
    lines.add_column(overflow="fold", style="dim")
    for depth, item in span_tree(trace["spans"]):
        lines.add_row(
            Text("  " * depth + printable(item["name"])),
            Text(_bar(item, trace["duration_ms"]), style="green" if item["status"] == "ok" else "red"),
            f"{item['duration_ms']:.2f} ms",
            Text(fields_text(item["extras"], is_short=True)),
        )
    for log in _shown(trace):
        offset_ms = (log["ts_us"] - trace["started_us"]) / 1_000
        style = _LEVEL_STYLES.get(log["level"], "")
        lines.add_row(
            Text(printable(log["level"]), style=style),
            Text(_bar({"offset_ms": offset_ms, "duration_ms": 0.0}, trace["duration_ms"], is_point=True), style=style),
            f"at {offset_ms:.2f} ms",
            Text(_logged_text(log), style="not dim"),
        )
    return lines


def _bar(item: dict[str, Any], total_ms: float, *, is_point: bool = False) -> str:
    gap, full, point = "·█▲" if has_unicode(sys.stdout) else ".#^"
    full = point if is_point else full
    scale = _BAR_CHARS / total_ms if total_ms > 0 else 0.0
    start = int(max(0, min(_BAR_CHARS - 1, item["offset_ms"] * scale)))
    length = max(1, round(min(_BAR_CHARS - start, item["duration_ms"] * scale)))
    bar: str = gap * start + full * length + gap * (_BAR_CHARS - start - length)
    return bar
