"""Texts of the `hearthnet telemetry` commands: questions, amounts, a progress bar, the store's status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import printable
from hearthnet.display import counted, size
from hearthnet.moments import duration, in_local_time, iso

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from hearthnet.observability.store.purge.purge import Purged

__all__ = ["amount", "ask", "bar", "info_lines", "remarks", "rows"]

_MIN_DAYS: Final = 1 / 24  # less is too short for a daily rate


def ask(fact: str, question: str) -> None:
    """Asks on standard error, so that standard output has only the result.

    Raises:
        click.Abort: raised when the user declines.
    """
    for line in fact.splitlines():
        click.echo(printable(line), err=True)
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        if not sys.stdin.isatty():
            click.echo("\nstdin is not a terminal; pass --yes to skip the confirmation", err=True)
        raise


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a progress callback; on a terminal it shows a bar on standard error, from the first step on."""
    shown: list[ProgressBar[int]] = []

    def advance(steps: int) -> None:
        if not shown:
            shown.append(click.progressbar(length=total, label=label, file=sys.stderr, update_min_steps=1 << 18))
            shown[0].__enter__()
        shown[0].update(steps)

    try:
        yield advance if sys.stderr.isatty() and total else _no_progress
    finally:
        for item in shown:
            item.render_finish()


def _no_progress(_: int) -> None:
    """Progress callback without a terminal."""


def amount(found: Purged) -> str:
    """Returns the erased records as text."""
    counts = (
        (found.traces, "trace"), (found.logs, "log record"), (found.gaps, "gap"), (found.runs, "run"),
        (len(found.quarantined), "quarantined database"),
    )  # fmt: skip
    parts = [counted(count, noun) for count, noun in counts if count]
    if found.log_files:
        parts.append(f"{counted(found.log_lines, 'line')} in {counted(found.log_files, 'log file')}")
    return ", ".join(parts) or "nothing"


def remarks(found: Purged) -> Iterator[str]:
    """Yields lines about records that are not counted, and what a purge by capability leaves in the JSON logs."""
    if found.boxes:
        yield f"not counted: records in {counted(found.boxes, 'black box', 'black boxes')} of killed runs"
    for skipped in found.skipped:
        yield f"skipped {skipped}"
    if found.days_left:
        after = date.fromisoformat(found.days_left[-1]) + timedelta(days=1)
        yield f"the JSON logs of {', '.join(found.days_left)} are kept and may have lines of it"
        yield "to erase them and everything older:"
        yield f"  hearthnet telemetry purge --older-than {after}T00:00Z"


def rows(counts: dict[str, int]) -> str:
    """Returns the row counts of a database, in words."""
    return f"{counted(counts['traces'], 'trace')}, {counted(counts['logs'], 'log record')}"


def info_lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the store's status as names and texts, each within 80 columns except for long paths."""
    yield "database", found["path"]
    for name, ring in found["rings"].items():
        yield name, f"{ring['rows']:,} of {ring['size']:,}: {ring['ordinary']:,} ordinary, {ring['notable']:,} notable"
        if ring["rows"]:
            oldest, newest = (ring[end] or "a time beyond all years" for end in ("oldest", "newest"))
            yield "", f"{in_local_time(oldest)} to {in_local_time(newest)}"
    yield from _disk_lines(found["disk"])
    drops = [f"{counted(item['count'], item['kind'])}, {item['reason']}" for item in found["drops"]]
    yield from _with_name("dropped", drops or ["nothing"])
    runs = found["runs"]
    is_running = {0: "", 1: ", one is running"}.get(runs["running"], f", {runs['running']:,} are running")
    others = f"; {runs['of_other_programs']:,} of other programs" if runs["of_other_programs"] else ""
    yield "runs", f"{runs['count']:,}, {runs['unclean']:,} ended uncleanly{is_running}{others}"
    yield "wear", _wear(found["wear"])
    yield from _export_lines(found["export"], found.get("export_status"))
    yield from _with_name("not ours", [_addition(item) for item in found["not_ours"]])
    yield from _with_name("quarantine", [_quarantined(item) for item in found["quarantined"]])
    refusing = [f"{item['kind']} {item['name']}" for item in found["not_ours"] if item["refuses"]]
    yield from _with_name("black boxes", [_box(item, refusing) for item in found["boxes"]])


def _with_name(name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(texts):
        yield (name if index == 0 else ""), text


def _disk_lines(disk: dict[str, Any]) -> Iterator[tuple[str, str]]:
    used, budget = disk["bytes"], disk["budget"]
    yield "on disk", f"{size(disk['total'])} of {size(budget['total'])}"
    for name in ("database", "wal", "box"):
        yield "", f"{name:<10} {size(used[name])} of {size(budget[name])}"
    yield "", f"{'logs':<10} {size(used['logs'])}, quarantine {size(used['quarantine'])} of {size(budget['rest'])}"
    low = "; telemetry does not grow" if disk["free"] < disk["floor"] else ""
    yield "free", f"{size(disk['free'])}, {size(disk['floor'])} reserved for the system{low}"


def _wear(wear: dict[str, Any]) -> str:
    if not wear["days"]:
        return "not measured yet"
    if wear["days"] < _MIN_DAYS:
        return f"{size(wear['written_bytes'])} and {counted(wear['commits'], 'commit')} so far; too early for a rate"
    return (
        f"{size(wear['written_bytes_per_day'])} and {wear['commits_per_day']:,.0f} commits per day,"
        f" over {duration(wear['days'] * 86_400)}"
    )


def _export_lines(progress: dict[str, Any], status: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yields how far the export has come, and why it comes no further."""
    if status is None:
        return
    troubles = status.get("troubles", {})
    texts = [] if progress else ["not begun"]
    for name, found in progress.items():
        lost = f"; {found['lost']:,} evicted before they were exported" if found["lost"] else ""
        behind = f"{found['unsent']:,} wait, the oldest since {found['oldest']}" if found["unsent"] else "all sent"
        texts.append(f"{name}: {behind}{lost}")
        if name in troubles:
            texts.append(f"  {troubles[name]['words']}, since {iso(troubles[name]['since_us'])}")
    texts += filter(None, [status.get("error")])
    yield from _with_name("export", [printable(in_local_time(text)) for text in texts])


def _addition(item: dict[str, Any]) -> str:
    place = f" on {item['table']}" if item["kind"] in ("trigger", "index") else ""
    words = f", refuses records: {item['refuses']}" if item["refuses"] else ""
    return printable(f"{item['kind']} {item['name']}{place}{words}")


def _quarantined(item: dict[str, Any]) -> str:
    return printable(
        f"{item['path']}: {item['trouble']}" if item["trouble"] else f"{size(item['bytes'])} {item['path']}"
    )


def _box(item: dict[str, Any], refusing: list[str]) -> str:
    if item["trouble"]:
        return printable(f"{item['path']}: {item['trouble']}")
    waits = f"it keeps the records that the {', '.join(refusing)} refuses" if refusing else None
    state = "alive" if item["alive"] else f"dead; {waits or 'the next start recovers it'}"
    return printable(f"process {item['pid'] or 'unknown'}, {state}")
