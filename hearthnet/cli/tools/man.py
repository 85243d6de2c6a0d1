"""`hearthnet tools man`: the manual pages, made of the commands' own help."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path
from typing import Final

import click

from hearthnet import __file__ as package_file
from hearthnet import __version__
from hearthnet.cli.main import COMMANDS, cli
from hearthnet.errors import EXIT_USAGE, HearthNetError

__all__ = ["man_command", "page", "pages"]

_PROGRAM: Final = "hearthnet"
_WIDTH: Final = 80
_LINE: Final = 72  # of the source, in which editors and linters expect short lines
_SPECIAL: Final = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
_EXAMPLE: Final = re.compile(r"^Example: +")
_EXITS: Final = (
    "0 success; 1 error; 2 usage error or abort; 3 the node is not running but needed; 4 signature or authorization;"
    " 5 disk full; 130 interrupted. Where this command differs, its description says so."
)


def _escaped(text: str) -> str:
    """Returns a text that roff shows as it is; no line begins with a request."""
    shown = "".join(_SPECIAL.get(one, one if one.isascii() else f"\\[u{ord(one):04X}]") for one in text)
    return re.sub(r"(?m)^([.])", r"\\&\1", shown)


def _flowing(paragraph: str) -> str:
    return _escaped(textwrap.fill(paragraph, _LINE, break_long_words=False, break_on_hyphens=False))


def _verbatim(lines: list[str]) -> Iterator[str]:
    yield ".nf"
    yield from (_escaped(line) for line in lines)
    yield ".fi"


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f".SH {title}"
        yield from lines


def _told(text: str) -> tuple[list[str], list[str]]:
    """Returns the lines of the description and of the examples of a help text."""
    description, examples = list[str](), list[str]()
    for paragraph in filter(None, re.split(r"\n\s*\n", text)):
        if not paragraph.startswith("\b"):
            description += [".PP", _flowing(paragraph)]
            continue
        lines = paragraph.splitlines()[1:]
        match = _EXAMPLE.match(lines[0])
        if match is None:
            description += [".PP", *_verbatim(lines)]
        else:
            cut = len(match[0])  # the later lines are indented by as much
            lines[1:] = [line[cut:] if line[:cut].isspace() else line for line in lines[1:]]
            examples += _verbatim([lines[0][cut:], *lines[1:]])
    return description[1:], examples


def _options(command: click.Command, context: click.Context) -> list[str]:
    found = []
    for parameter in command.get_params(context):
        record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(context)
        if record is not None:
            found += [".TP", f"\\fB{_escaped(record[0])}\\fR", _flowing(record[1]) or "\\&"]
    return found


def _below(command: click.Command, name: str, context: click.Context) -> list[str]:
    """Returns the list of a group's commands, each with the name of its page."""
    found = []
    for child in command.list_commands(context) if isinstance(command, click.Group) else ():
        text = COMMANDS[child][1] if command is cli else _child(command, child).get_short_help_str(_WIDTH)
        found += [".TP", f"\\fB{_escaped(f'{name} {child}')}\\fR(1)".replace(" ", "\\-"), _flowing(text)]
    return found


def _child(command: click.Command, name: str) -> click.Command:
    """Returns the command of a group.

    Raises:
        HearthNetError: raised when there is none of that name.
    """
    found = command.get_command(click.Context(command), name) if isinstance(command, click.Group) else None
    if found is None:
        error = HearthNetError(f"there is no command {name!r}", hint="hearthnet --help")
        error.exit_code = EXIT_USAGE
        raise error
    return found


def page(names: tuple[str, ...], command: click.Command) -> str:
    """Returns the manual page of a command as man(7).

    Args:
        names: of the command, without the program's.
        command: it.
    """
    full = " ".join((_PROGRAM, *names))
    context = click.Context(command, info_name=full, terminal_width=_WIDTH)
    title = full.replace(" ", "-")
    made = datetime.fromtimestamp(Path(package_file).stat().st_mtime, UTC)
    text = "\n\n".join(cleandoc(part).partition("\f")[0] for part in (command.help, command.epilog) if part)
    first = text.partition("\n\n")[0]
    # One line, by which `apropos` finds it.
    summary = _escaped(re.split(r"(?<=[.:;]) ", " ".join(first.split()))[0].rstrip(".:;"))
    description, examples = _told(text)
    see = [_PROGRAM, "-".join((_PROGRAM, *names[:-1]))] if names else []
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH {title.upper()} 1 {made:%Y-%m-%d} "{_PROGRAM} {__version__}" HearthNet',
        *_section("NAME", [f"{_escaped(title)} \\- {summary}"]),
        *_section("SYNOPSIS", [f"\\fB{_escaped(full)}\\fR {_escaped(usage)}"]),
        *_section("DESCRIPTION", description),
        *_section("COMMANDS", _below(command, full, context)),
        *_section("OPTIONS", _options(command, context)),
        *_section("EXIT STATUS", [_flowing(_EXITS)]),
        *_section("EXAMPLES", examples),
        *_section("SEE ALSO", [", ".join(f"\\fB{_escaped(one)}\\fR(1)" for one in dict.fromkeys(see))] if see else []),
    ]
    return "\n".join(lines) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Yields the name of each page's file, and its text."""
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while waiting:
        names, command = waiting.pop(0)
        yield f"{'-'.join((_PROGRAM, *names))}.1", page(names, command)
        if isinstance(command, click.Group):
            children = command.list_commands(click.Context(command))
            waiting += [((*names, child), _child(command, child)) for child in children]


@click.command("man")
@click.argument("names", metavar="[COMMAND]...", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write all pages to DIR.")
def man_command(names: tuple[str, ...], out: Path | None) -> None:
    """Print the manual page of a command, or write those of all commands.

    \b
    Example: hearthnet tools man trace show | man -l -
             hearthnet tools man --out ~/.local/share/man/man1
             man hearthnet-trace-show
    """
    if out is None:
        command: click.Command = cli
        for name in names:
            command = _child(command, name)
        click.echo(page(names, command), nl=False)
        return
    if names:
        raise click.UsageError("--out writes all pages: name no COMMAND")
    out.mkdir(parents=True, exist_ok=True)
    made = dict(pages())
    for name, text in made.items():
        (out / name).write_text(text, "utf-8")
    click.echo(f"{len(made)} pages in {out}", err=True)
