"""The doctor's report for people: problems first, as wide as the terminal, readable without colour.

Word, mark and colour all show the status. A fix is never wrapped: if it does not fit behind its label, it gets its own
line, so that it can be pasted whole. A spinner runs while the checks do.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import click

from hearthnet.cli.main import as_json_text, colour, printable, width, wrapped
from hearthnet.display import counted, has_unicode
from hearthnet.moments import in_local_time
from hearthnet.observability.reports.history import BAD, Change, Streak

__all__ = ["local_moment", "print_history", "print_report", "waiting"]

# status: (mark, ASCII mark, colour or None for the colour of text)
_MARKS: Final = {
    "fail": ("✘", "X", "red"),
    "warn": ("!", "!", "yellow"),
    "pass": ("✔", "+", "green"),
    "skip": ("-", "-", None),
}
_COUNTED: Final = {"fail": "failed", "warn": "warned", "pass": "passed", "skip": "skipped"}
_NOW: Final = {"fail": "failing", "warn": "warning", "pass": "healthy again"}
_BEFORE: Final = {"fail": "failing", "warn": "a warning", "pass": "healthy", "skip": "skipped"}
_INDENT: Final = " " * 7


def print_report(document: Mapping[str, Any], news: Iterable[Change], *, quiet: bool, verbose: bool) -> None:
    """Prints a report, given as its JSON document; with `quiet` only problems, with `verbose` the evidence too."""
    results: list[dict[str, Any]] = document["checks"]
    bad = sorted((result for result in results if result["status"] in BAD), key=lambda result: bool(result["ok"]))
    shown = [change for change in news if not quiet or change.status in BAD]
    if not quiet:
        _print(printable(document["note"]))
    together: dict[str, list[str]] = {}
    for change in shown:
        together.setdefault(_since(change), []).append(printable(change.name))
    for since, names in together.items():
        _print_wrapped("", f"{', '.join(names)} {since}")
    if shown:
        _print("")
    fixes: set[str] = set()
    for result in bad:
        _print_bad(result, fixes, verbose=verbose)
    if quiet:
        return
    _print_good([result for status in ("pass", "skip") for result in results if result["status"] == status], verbose)
    _print_summary(document, results)


def _print_bad(result: dict[str, Any], fixes: set[str], *, verbose: bool) -> None:
    _print_marked(result["status"], printable(result["name"]), "")
    _print_wrapped(_INDENT, printable(in_local_time(result["detail"])))
    if result["fix"]:
        _print_fix(printable(result["fix"]), fixes)
    if verbose:
        _print_evidence(result)


def _print_fix(fix: str, fixes: set[str]) -> None:
    line = f"{_INDENT}fix: {fix}"
    columns = width()
    if columns is not None and fix in fixes:
        line = f"{_INDENT}fix: as above"
    elif columns is not None and len(line) > columns:
        _print(f"{_INDENT}fix:")
        line = fix
    fixes.add(fix)
    _print(line)


def _print_good(results: list[dict[str, Any]], verbose: bool) -> None:
    names = [printable(result["name"]) for result in results]
    columns = max(map(len, names), default=0)
    is_cut = False
    for name, result in zip(names, results, strict=True):
        detail = printable(in_local_time(result["detail"]))
        is_cut |= _print_marked(result["status"], f"{name:<{columns}}", detail, may_cut=not verbose)
        if verbose:
            _print_evidence(result)
    if is_cut:
        _print(f"{_INDENT}-v shows the details that are cut")


def _print_evidence(result: Mapping[str, Any]) -> None:
    for key, value in result["evidence"].items():
        _print(f"{_INDENT}  {printable(key)}: {printable(as_json_text(value))}")


def _print_summary(document: Mapping[str, Any], results: list[dict[str, Any]]) -> None:
    counts = Counter(result["status"] for result in results)
    numbers = ", ".join(f"{counts[status]} {word}" for status, word in _COUNTED.items())
    line = f"{counted(len(results), 'check')} in {document['duration_ms'] / 1e3:.1f} s: {numbers}"
    _print(click.style(line, fg="green" if document["ok"] else "red", bold=True))


def print_history(name: str, history: list[Streak]) -> None:
    """Prints the streaks of a check, newest first."""
    total = sum(streak.reports for streak in history)
    _print(f"{printable(name)}: {counted(total, 'report')}")
    for streak in reversed(history):
        times = f"{local_moment(streak.since)} to {local_moment(streak.until)}, {streak.reports} times"
        after = f", after {printable(streak.after)}" if streak.after else ""
        _print_marked(
            streak.status, (times if streak.reports > 1 else f"{local_moment(streak.since)}, once") + after, ""
        )
        _print_wrapped(_INDENT, printable(in_local_time(streak.detail)))


def local_moment(moment: datetime) -> str:
    """Returns a moment as local time: with the weekday if it is not today, or the date if a week or more ago."""
    local, now = moment.astimezone(), datetime.now().astimezone()
    if local.date() == now.date():
        return f"{local:%H:%M}"
    is_near = timedelta() <= now - local < timedelta(days=6)
    return f"{local:%a %H:%M}" if is_near else f"{local:%Y-%m-%d %H:%M}"


def _since(change: Change) -> str:
    parts = [f"{_NOW[change.status]} since {local_moment(change.since)}"]
    if change.was is not None and change.until is not None:
        parts.append(f"{_BEFORE.get(change.was, 'different')} until {local_moment(change.until)}")
    if change.after:
        parts.append(f"after {printable(change.after)}")
    return ", ".join(parts)


def _print_marked(status: str, title: str, text: str, *, may_cut: bool = False) -> bool:
    """Prints a line with its mark; returns True if the text had to be cut."""
    mark, ascii_mark, colour = _MARKS[status]
    rest = f" {title}  {text}".rstrip()
    columns, whole = width(), rest
    if may_cut and columns is not None:
        rest = _cut(rest, columns - len(f"{mark} {status}"))
    # The word keeps the text's colour: yellow is unreadable on white.
    word = click.style(status, bold=status in BAD)
    _print(f"{click.style(mark if has_unicode(sys.stdout) else ascii_mark, fg=colour, bold=True)} {word}{rest}")
    return rest != whole


def _print_wrapped(indent: str, text: str) -> None:
    for line in wrapped([(indent + text, {})], len(indent), width()).split("\n"):
        _print(line)


def _cut(text: str, columns: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= columns:
        return text
    mark = "…" if has_unicode(sys.stdout) else "..."
    return set_cell_size(text, columns - len(mark)).rstrip() + mark


def _print(line: str) -> None:
    """Prints a line, with characters escaped that the terminal cannot show."""
    encoding = sys.stdout.encoding or "ascii"
    shown = line.encode(encoding, "backslashreplace").decode(encoding)
    click.echo(shown, color=colour())


@contextmanager
def waiting(known: Sized) -> Iterator[None]:
    """Shows a spinner on stderr while the context is open, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    text = f"running {counted(len(known), 'check')}"
    with Console(stderr=True, highlight=False).status(text, spinner="dots" if has_unicode(sys.stdout) else "line"):
        yield
