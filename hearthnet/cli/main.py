"""The command line: the group of commands, the options that they share, and how they print.

The group imports a command's module only to run the command, so `--help` is fast. This is the only place where errors
become one line, a hint and an exit code. Printed are JSON for programs and tables for people, with control characters
escaped.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from hearthnet import __version__
from hearthnet.cli.output import COMPLETE_VARIABLE, discard_rest, escape_unprintable, has_lost_reader, make_lenient
from hearthnet.errors import EXIT_DISK_FULL, EXIT_ERROR, EXIT_USAGE, ConfigError, HearthNetError, missing_extra

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console, RenderableType
    from rich.table import Table

    from hearthnet.config import Config
    from hearthnet.locations import Locations

__all__ = [
    "COMMANDS",
    "EXIT_INTERRUPTED",
    "Group",
    "Part",
    "as_json_text",
    "cli",
    "colour",
    "config_option",
    "console",
    "data_given",
    "data_option",
    "fields_text",
    "hanging",
    "json_option",
    "loaded",
    "main",
    "print_json",
    "print_plain",
    "printable",
    "result_style",
    "settings_option",
    "table",
    "where_option",
    "width",
    "wrapped",
]

Part = tuple[str, dict[str, Any]]  # a text, and how `click.style` shows it
F = TypeVar("F", bound=Callable[..., Any])

# name: (module, one line of help); tests/test_docs.py compares the line with the command's own help
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("init", "Create this node's key, configuration and community."),
    "run": ("run", "Start the node; it records until SIGINT or SIGTERM."),
    "status": ("status", "Show the node's status."),
    "caps": ("caps", "List the capabilities with health and latency."),
    "call": ("call", "Call a capability of the running node."),
    "page": ("page", "Print a link to the page of the running node."),
    "trace": ("trace.command", "Show traces of calls and where their time went."),
    "log": ("log.command", "Read the JSON log."),
    "search": ("search", "Search traces and log records."),
    "telemetry": ("telemetry.command", "Manage telemetry.db: status, copy, query, export, migrate, purge."),
    "doctor": ("doctor.command", "Check this node and show how to fix problems."),
    "mcp": ("mcp.command", "Serve the records to an assistant (MCP), read only."),
    "autopsy": ("autopsy", "Diagnose why the last run of the node, or of a program, ended."),
    "config": ("config.command", "Show, explain, check and change the settings."),
    "service": ("service.command", "Run the node as a service of systemd: install, uninstall, status."),
    "tools": ("tools.command", "Write files for other programs: lnav, Datasette, Prometheus, Grafana, man."),
    "completion": ("tools.completion", "Print what makes SHELL complete commands, options, names and ids."),
    "paths": ("paths", "Show the paths of this node's files."),
    "version": ("version", "Print the version."),
}

_WORD: Final = re.compile(r"( *)([^ ]+)")
_MIN_WIDTH: Final = 40
_NO_TERMINAL: Final = 1_000_000  # columns: nothing is cut or wrapped for a program
_JSON_DEPTH: Final = 10_000  # orjson reads 1,024 levels, each of which may take several frames to write
_DATA: Final = "hearthnet.data"
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


class _OutputClosedError(Exception):
    """Raised instead of BrokenPipeError, which click would turn into exit code 1."""


class _InterruptedError(Exception):
    """Raised instead of KeyboardInterrupt, of which click would print an empty line."""


class Group(click.Group):
    """A group that suggests a command instead of one that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command with its arguments."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            args = self.instead_of(ctx, args)
        return super().resolve_command(ctx, args)

    def instead_of(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Returns the arguments to take instead of `args`, which begin with no command.

        Raises:
            click.UsageError: raised when there are none, or an option is unknown; it suggests the commands that are
                spelled alike.
        """
        if args[0].startswith("-"):  # click itself would show the help, and not say which option is wrong
            raise click.NoSuchOption(args[0], ctx=ctx)
        import difflib

        alike = difflib.get_close_matches(args[0], self.list_commands(ctx)) or self.found_below(ctx, args[0])
        meant = f" did you mean {' or '.join(alike)}?" if alike else ""
        raise click.UsageError(f"there is no command {args[0]!r};{meant or ' see --help'}", ctx)

    def found_below(self, ctx: click.Context, name: str) -> list[str]:
        """Returns the full names of the commands of sub-groups that are called `name`."""
        groups = [(own, self.get_command(ctx, own)) for own in self.list_commands(ctx)]
        return [f"{own} {name}" for own, group in groups if isinstance(group, click.Group) and name in group.commands]


class LazyGroup(Group):
    """A group that lists its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, in the order of first use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hearthnet.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns the completions of a command's name, without importing the commands."""
        from click.shell_completion import CompletionItem

        if not incomplete or incomplete[0].isalpha():
            found = [(name, text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
            return [CompletionItem(name, help=text) for name, text in found]
        return super().shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _OutputClosedError from error
        except KeyboardInterrupt as error:
            raise _InterruptedError from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hearthnet")
def cli() -> None:
    """A HearthNet node, and the records of any program that uses the library.

    \b
    A node:     hearthnet init && hearthnet run
                hearthnet call experimental.echo --body '{"input":{"text":"hi"}}'
    A program:  from hearthnet import telemetry; telemetry.keep_open()
    Of both:    hearthnet trace recent; --data DIR has those in another folder

    init, run, status, caps, call and service are for a node alone.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits.

    The exit codes are 0 success, 1 error, 2 usage, 3 no node, 4 not authorized, 5 disk full, 130 interrupted.
    """
    _open_standard_streams()
    escape_unprintable()
    make_lenient("stderr")
    code: Any
    try:
        code = _run(arguments) if COMPLETE_VARIABLE not in os.environ else _complete(os.environ[COMPLETE_VARIABLE])
    except SystemExit as error:  # so rich and click end a program whose reader has gone
        code = 0 if isinstance(error.__context__, BrokenPipeError) or has_lost_reader() else error.code
    discard_rest()
    sys.exit(code)


def _open_standard_streams() -> None:
    """Opens closed standard streams on /dev/null; else a database would get their descriptor, and the output."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", encoding="utf-8", closefd=False))


def _complete(instruction: str) -> int:
    from hearthnet.cli.tools.completion import complete

    return complete(cli, instruction)


def _run(arguments: list[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="hearthnet", standalone_mode=False, color=colour())
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, _InterruptedError) as error:
        return _end_aborted(error)
    except HearthNetError as error:
        return _report(error.message, error.hint, error.exit_code)
    except (_OutputClosedError, BrokenPipeError):
        return _end_quietly()
    except OSError as error:
        return _report_os_error(error)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        return _report_bug(error) if missing is None else _report(missing.message, missing.hint, missing.exit_code)
    except Exception as error:  # a bug: printed with its traceback  # noqa: BLE001
        return _report_bug(error)
    return code if isinstance(code, int) else 0


def _report_os_error(error: OSError) -> int:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _report(str(error), _where_to_free(error), EXIT_DISK_FULL)
    from hearthnet.files import hint_for

    if not isinstance(error.filename, str) or not error.strerror:
        return _report(str(error), hint_for(error), EXIT_ERROR)
    hint = hint_for(error)
    if hint is None and isinstance(error, PermissionError):
        hint = f"ls -ld {shlex.quote(str(Path(error.filename).parent))}"
    return _report(f"{error.filename}: {error.strerror.lower()}", hint, EXIT_ERROR)


def _where_to_free(error: OSError) -> str:
    if error.filename is None:  # the output: an error about a file of the node has its name
        return "write the output to a disk with free space"
    return "free some space: hearthnet paths shows where the files are"


def _report_bug(error: Exception) -> int:
    # The interpreter would print it with any secrets in it, and a service's stderr is kept.
    from hearthnet.observability.process.uncaught import print_error

    print_error(error)
    return EXIT_ERROR


def _end_quietly() -> int:
    """Discards the remaining output: the reader, `head` say, is done. Python's own flush would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _end_aborted(error: click.Abort | KeyboardInterrupt | _InterruptedError) -> int:
    """Returns the exit code after Ctrl-C, which is silent, or after a question that was declined or got no reply."""
    if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
        click.echo("aborted", err=True)
        return EXIT_USAGE
    if sys.stderr.isatty():  # ends the line that has the terminal's `^C`
        click.echo(err=True)
    return EXIT_INTERRUPTED


def _report(message: str, hint: str | None, code: int) -> int:
    from hearthnet.observability.redaction.rules import scrub

    click.secho(f"error: {printable(scrub(message))}", fg="red", err=True, color=colour())
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)
    return code


def loaded(context: click.Context, _: click.Parameter, path: Path | None) -> Config | Path | None:
    """Returns the settings of `--config` or of the user, paths resolved; of `--data` the defaults with its folders."""
    if context.resilient_parsing:  # a shell asks for completions: these need the path alone, if anything
        return path
    from hearthnet.config import default_config, load, resolve_paths  # late: pydantic, which `--help` does not need

    folder = _data(context, path)
    if folder is None:
        return resolve_paths(load(path))
    from hearthnet.locations import files_in

    config = default_config()  # the program's own settings are not known
    store = config.observability.model_copy(update=files_in(folder)._asdict())
    config = config.model_copy(update={"observability": store})
    with suppress(ConfigError):  # a user without a home folder: nothing of a node is read here
        config = resolve_paths(config)
    return config


def _located(context: click.Context, _: click.Parameter, path: Path | None) -> Locations | Path | None:
    if context.resilient_parsing:
        return path
    from hearthnet.locations import locate, locate_files

    folder = _data(context, path)
    return locate(path) if folder is None else locate_files(folder)


def _data(context: click.Context, config: Path | None) -> Path | None:
    """Returns the folder of `--data`, which has been parsed before `--config`; None: it is not given."""
    folder: Path | None = context.meta.get(_DATA)
    if folder is not None and config is not None:
        raise click.UsageError("--data and --config cannot be combined: each names a store")
    return folder


def data_given(context: click.Context) -> bool:
    """Returns whether `--data` is given."""
    return context.meta.get(_DATA) is not None


def _keep_data(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        from hearthnet.constants import DATABASE  # late: help must be quick

        if folder.name != DATABASE:
            raise click.BadParameter(f"{folder} is no folder")
    context.meta[_DATA] = folder


def settings_option(
    name: str, callback: Callable[[click.Context, click.Parameter, Path | None], Any]
) -> Callable[[F], F]:
    """Adds `--config`; the command gets the result of `callback` for that path as `name`."""
    return click.option(
        "--config",
        name,
        type=click.Path(path_type=Path, dir_okay=False),
        callback=callback,
        help="Settings to use instead of the standard config.toml.",
    )


def config_option(command: F) -> F:
    """Adds `--config`; the command gets the settings with resolved paths as `config`."""
    return settings_option("config", loaded)(command)


def where_option(command: F) -> F:
    """Adds `--config`; the command gets only the node's paths and address as `where`, which is faster."""
    return settings_option("where", _located)(command)


def data_option(command: F) -> F:
    """Adds `--data`, the store in a folder instead of the node's, to a command with `config_option`, `where_option`."""
    return click.option(
        "--data",
        metavar="DIR",
        type=click.Path(path_type=Path, exists=True),
        is_eager=True,
        expose_value=False,
        callback=_keep_data,
        help="The store in this folder, as of telemetry.open(DIR).",
    )(command)


def json_option(command: F) -> F:
    """Adds `--json` as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def printable(text: object) -> str:
    """Returns `text` with all control characters escaped."""
    from hearthnet.display import escaped  # late: `--help` needs none of it

    return escaped(text)


def print_json(value: Any) -> None:
    """Prints one JSON document, indented only on a terminal."""
    # JSON need not escape C1 and reordering characters; escaped, it is the same JSON.
    text = as_json_text(value, is_indented=sys.stdout.isatty())
    click.echo("\n".join(printable(line) for line in text.split("\n")))


def as_json_text(value: Any, *, is_indented: bool = False) -> str:
    """Returns a value as JSON, also one that orjson reads and cannot write."""
    import orjson

    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if is_indented else None).decode()
    except TypeError:  # nested more than 254 deep, a number of more than 64 bits, a path that is not UTF-8
        import json

        sys.setrecursionlimit(max(sys.getrecursionlimit(), _JSON_DEPTH))
        separators = (",", ": ") if is_indented else (",", ":")
        text = json.dumps(value, ensure_ascii=False, indent=2 if is_indented else None, separators=separators)
        return text.encode("utf-8", "replace").decode()


def fields_text(fields: Mapping[str, Any], *, is_short: bool = False) -> str:
    """Returns fields of a record as `key=value  key=value`, values that are no text as JSON.

    If short, as on the console: numbers have few decimals, and a text with blanks is in quotes.
    """
    from hearthnet.display import needs_quotes, short_floats  # late, as above

    values: Iterable[Any] = fields.values()
    if is_short:
        values = map(short_floats, values)
    texts = (
        value if isinstance(value, str) and not (is_short and needs_quotes(value)) else as_json_text(value)
        for value in values
    )
    return printable("  ".join(f"{key}={text}" for key, text in zip(fields, texts, strict=True)))


def console() -> Console:
    """Returns a console as wide as the terminal, in colour if the terminal has any; else nothing is wrapped."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _NO_TERMINAL)


def print_plain(screen: Console, *parts: RenderableType) -> None:
    """Prints parts one below the other, without the blanks that end the lines of a table."""
    with screen.capture() as captured:
        screen.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table with these columns and one line per row; those in `right` are right-aligned."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def colour() -> bool | None:
    """Returns False where the user wants no colours; None: a terminal has some. For `click`, which does not ask."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def width() -> int | None:
    """Returns the columns of the terminal; None without one, since programs prefer whole lines."""
    return max(_MIN_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def wrapped(parts: Iterable[Part], indent: int, columns: int | None) -> str:
    """Returns parts one after the other, each in its style, with lines of at most so many columns, broken at blanks.

    A longer word, such as a path, is left to the terminal to fold, so that it can be copied in one piece.

    Args:
        parts: texts with arguments of `click.style`.
        indent: columns to indent the lines after the first by.
        columns: of the terminal; None: nothing is wrapped.
    """
    if columns is None:
        return "".join(_styled(text, style) for text, style in parts)
    from rich.cells import cell_len

    found, used, blanks = "", 0, ""
    for text, style in parts:
        line, whole = "", blanks + text
        for match in _WORD.finditer(whole):
            needed = cell_len(match[0])
            if match[1] and used and used + needed > columns:
                line += "\n" + " " * indent + match[2]
                used = indent + cell_len(match[2])
            else:
                line += match[0]
                used += needed
        blanks = whole[len(whole.rstrip(" ")) :]
        found += _styled(line, style)
    return found


def _styled(text: str, style: dict[str, Any]) -> str:
    # Line by line: a style that is not reset at the end of a line would reach into the indent.
    return "\n".join(click.style(line, **style) if line and style else line for line in text.split("\n"))


def hanging(prefix: str, text: str) -> str:
    """Returns `prefix` and `text`; on a terminal, `text` is wrapped with a hanging indent of the prefix's width."""
    return wrapped([(prefix + text, {})], len(prefix), width())


def result_style(result: str) -> str:
    """Returns the colour of a result: green for ok, yellow for cancelled, red for failures."""
    return {"ok": "green", "cancelled": "yellow"}.get(result, "red")
