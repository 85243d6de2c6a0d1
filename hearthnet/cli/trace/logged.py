"""The log records of a trace, beside its spans: those that are in the store."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from hearthnet.cli.main import fields_text, printable
from hearthnet.constants import DATABASE
from hearthnet.display import counted
from hearthnet.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from hearthnet.locations import Locations

__all__ = ["add_logs", "logged_text", "more_text", "shown"]

_MAX_SHOWN: Final = 50  # as text; --json has 1,000

Trace = dict[str, Any]


def add_logs(where: Locations, visits: list[Trace]) -> None:
    """Gives each visit of one trace its log records as `logs`, oldest first; none where they cannot be read."""
    for source in {visit.get("imported") for visit in visits}:
        own = sorted(
            (visit for visit in visits if visit.get("imported") == source), key=lambda visit: visit["started_us"]
        )
        found = _read(_folder(where, source), own[0]["trace_id"])
        for visit, until in zip(own, [*own[1:], None], strict=True):
            visit["logs"] = [log for log in found if _is_of(log, visit, until)]


def _folder(where: Locations, imported: str | None) -> Path:
    if imported is None:
        return where.data_dir
    from hearthnet.observability.otel.imports.store import folder_of

    return folder_of(where.data_dir, imported)


def _read(folder: Path, trace_id: str) -> list[dict[str, Any]]:
    from hearthnet.observability.store.query.one_trace import logs_of
    from hearthnet.observability.store.reader import Reader

    try:
        with closing(Reader(folder / DATABASE)) as reader:
            found = logs_of(reader, trace_id)
    except StoreError:  # of an older version, or damaged: the trace is shown all the same
        return []
    return [{key: value for key, value in log.items() if key != "seq"} for log in found]


def _is_of(log: dict[str, Any], visit: Trace, later: Trace | None) -> bool:
    """Returns whether a record is of this visit: of its run, and made before the next one of the same run."""
    if log["run_id"] != visit["run_id"]:
        return False
    ends_us = later["started_us"] if later is not None and later["run_id"] == visit["run_id"] else None
    return bool(log["ts_us"] >= visit["started_us"] and (ends_us is None or log["ts_us"] < ends_us))


def shown(trace: Trace) -> list[dict[str, Any]]:
    """Returns the log records that are shown as text."""
    return list(trace.get("logs", ())[:_MAX_SHOWN])


def logged_text(log: dict[str, Any]) -> str:
    """Returns what a log record says, on one line."""
    extras = dict(log["extras"])
    error = ": ".join(str(extras.pop(name)) for name in ("exc_type", "exc_message") if extras.get(name))
    repeats = f"(and {log['repeats']} alike)" if log["repeats"] else ""
    said = (printable(f"{log['logger']}: {log['msg']}"), printable(error), fields_text(extras, is_short=True), repeats)
    return "  ".join(filter(None, said))


def more_text(trace: Trace) -> str | None:
    """Returns where the log records are that are not shown; None without any."""
    more = len(trace.get("logs", ())) - _MAX_SHOWN
    if more <= 0:
        return None
    return f"{counted(more, 'log record')} more: hearthnet log --trace {printable(trace['trace_id'])}"
