"""The command group. It imports a command's module only to run the command, so `--help` is fast.

This is the only place where errors become one line, a hint and an exit code.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click

from hearthnet import __version__
from hearthnet.errors import EXIT_DISK_FULL, EXIT_ERROR, EXIT_USAGE, HearthNetError
from hearthnet.extras import missing_extra

__all__ = ["COMMANDS", "cli", "main"]

# name: (module, one line of help); tests/test_docs.py compares the line with the command's own help
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("init", "Create this node's key, configuration and community."),
    "run": ("run", "Start the node; it records until SIGINT or SIGTERM."),
    "status": ("status", "Show the node's status."),
    "caps": ("caps", "List the capabilities with health and latency."),
    "call": ("call", "Call a capability of the running node."),
    "trace": ("trace.command", "Show traces of calls and where their time went."),
    "log": ("log.command", "Read the JSON log."),
    "telemetry": ("telemetry.command", "Manage telemetry.db: status, copy, query, rebuild, purge."),
    "doctor": ("doctor.command", "Check this node and show how to fix problems."),
    "autopsy": ("autopsy", "Diagnose why the node's last run ended."),
    "paths": ("paths", "Show the paths of this node's files."),
    "version": ("version", "Print the version."),
}


class _OutputClosedError(Exception):
    """Raised instead of BrokenPipeError, which click would turn into exit code 1."""


class LazyGroup(click.Group):
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

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _OutputClosedError from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hearthnet")
def cli() -> None:
    """A HearthNet node that records its calls.

    \b
    Start:  hearthnet init && hearthnet run
    Try:    hearthnet call experimental.echo --body '{"input": {"text": "hello"}}'
    Look:   hearthnet trace recent
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 success, 1 error, 2 usage, 3 no node, 4 not authorized, 5 disk full."""
    _open_standard_streams()
    sys.exit(_run(arguments))


def _open_standard_streams() -> None:
    """Opens closed standard streams on /dev/null; else a database would get their descriptor, and the output."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", encoding="utf-8", closefd=False))


def _run(arguments: list[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="hearthnet", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("aborted", err=True)
        return EXIT_USAGE
    except HearthNetError as error:
        return _report(error.message, error.hint, error.exit_code)
    except (_OutputClosedError, BrokenPipeError):
        return _end_quietly()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space: hearthnet paths shows where the files are" if full else None
        return _report(str(error), hint, EXIT_DISK_FULL if full else EXIT_ERROR)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        return _report_bug(error) if missing is None else _report(missing.message, missing.hint, missing.exit_code)
    except Exception as error:  # a bug: printed with its traceback  # noqa: BLE001
        return _report_bug(error)
    return code if isinstance(code, int) else 0


def _report_bug(error: Exception) -> int:
    # The interpreter would print it with any secrets in it, and a service's stderr is kept.
    from hearthnet.observability.process.uncaught import print_error

    print_error(error)
    return EXIT_ERROR


def _end_quietly() -> int:
    """Discards the remaining output: the reader, `head` say, is done. Python's own flush would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _report(message: str, hint: str | None, code: int) -> int:
    from hearthnet.cli.output import printable
    from hearthnet.observability.redaction.rules import scrub

    click.secho(f"error: {printable(scrub(message))}", fg="red", err=True)
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)
    return code
