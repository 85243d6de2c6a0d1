"""How `hearthnet log` and `hearthnet search` show a record to people."""

from __future__ import annotations

from typing import Final

import click

from hearthnet import moments
from hearthnet.cli.log.lines import Line
from hearthnet.cli.main import Part, printable, width, wrapped

__all__ = ["LinePrinter"]

_COLOURS: Final = {
    "debug": "bright_black",
    "info": "blue",
    "warning": "yellow",
    "error": "red",
    "critical": "red",
}
_INDENT: Final = 4
_MIN_WIDTH_FOR_DATES: Final = 125


class LinePrinter:
    """Prints records, each with its fields, and its traceback below.

    On a narrow terminal they are below their day and zone, for a date and an offset take a third of the line.
    """

    def __init__(self) -> None:
        self._columns = width()
        self._day = ""

    def show(self, line: Line) -> None:
        """Prints one record."""
        level = line.text("level")
        parts: list[Part] = [
            (self._when(line), {"dim": True}),
            (f" {level:<7} ", {"fg": _COLOURS.get(level)}),
            (f"{printable(line.text('logger'))}:", {}),
            (f" {printable(line.text('msg'))}", {"bold": True}),
        ]
        if fields := line.fields(is_short=True):
            parts.append((f"  {fields}", {}))
        click.echo(wrapped(parts, _INDENT, self._columns))
        for part in line.text("exc").splitlines():
            click.echo(f"{' ' * _INDENT}{printable(part)}")

    def _when(self, line: Line) -> str:
        """Returns the time to print; prints a heading first where the day is not in it."""
        us = line.moment_us()
        if us is None:
            return printable(line.text("ts"))
        when = moments.local(us)
        if self._columns is None or self._columns >= _MIN_WIDTH_FOR_DATES or " " not in when:
            return when
        day, clock, zone = when[:10], when[11:23], when[23:]
        if (heading := f"{day}, UTC{zone}") != self._day:
            click.secho(heading, dim=True)
            self._day = heading
        return clock
