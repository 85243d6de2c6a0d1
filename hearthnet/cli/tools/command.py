"""`hearthnet tools`: prints files for other programs, and manual pages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import click

from hearthnet.cli.main import Group, as_json_text
from hearthnet.cli.tools.man import man_command
from hearthnet.errors import HearthNetError
from hearthnet.tools.files import FILES, ToolFile

_OUT: Final = click.Path(path_type=Path, dir_okay=False)


@click.group("tools", cls=Group)
def command() -> None:
    """Write files for other programs: lnav, Datasette, Prometheus, Grafana, man.

    docs/tools.md says how each is used.

    \b
    Example: hearthnet tools lnav --out hearthnet.json && lnav -i hearthnet.json
             hearthnet tools man trace show | man -l -
    """


def _write(text: str, out: Path | None, *, force: bool) -> None:
    """Prints a text, or writes it to a new file that other users, such as Prometheus's, may read."""
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise HearthNetError(f"{out} exists", hint="replace it with --force, or name another file") from error


def _print_file(file: ToolFile, out: Path | None, force: bool) -> None:
    _write(file.text(), out, force=force)


def _command_of(name: str, file: ToolFile) -> click.Command:
    example = "\n".join(f"{'        ' if number else 'Example:'} {one}" for number, one in enumerate(file.examples))
    return click.Command(
        name, params=_params(), callback=partial(_print_file, file), help=f"{file.purpose}\n\n\b\n{example}\n"
    )


def _params() -> list[click.Parameter]:
    return [
        click.Option(["--out"], type=_OUT, metavar="FILE", help="Write FILE instead of standard output."),
        click.Option(["--force"], is_flag=True, help="Replace FILE if it exists."),
    ]


@command.command("datasette", params=_params())
@click.option("--name", default="telemetry", show_default=True, help="Of the database: its file's, without an ending.")
def datasette_command(name: str, out: Path | None, force: bool) -> None:
    """Print metadata for Datasette, with the queries of docs/queries.md.

    Only root is let in: the browser that opens the link of `datasette --root`.

    \b
    Example: hearthnet tools datasette --name copy --out metadata.json
             datasette copy.db -m metadata.json --root
    """
    from hearthnet.tools.datasette import metadata

    _write(as_json_text(metadata(name), is_indented=True) + "\n", out, force=force)


for _name, _file in FILES.items():
    command.add_command(_command_of(_name, _file))
command.add_command(man_command)
