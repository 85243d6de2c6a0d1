"""`hearthnet telemetry export`: writes traces and log records as OTLP, to a file or to a backend."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from hearthnet.cli.main import config_option, data_option, printable
from hearthnet.cli.options import TIMES, since_option, until_option
from hearthnet.cli.telemetry.text import bar
from hearthnet.cli.tools import names
from hearthnet.constants import DATABASE
from hearthnet.display import counted
from hearthnet.errors import EXIT_ERROR, StoreError
from hearthnet.files import name_new, private_temporary, why_no_file

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.observability.otel.export.once import Exported
    from hearthnet.observability.otel.export.settings import LogsOrTraces, Settings
    from hearthnet.observability.store.query.unsent import Selected
    from hearthnet.observability.store.reader import Reader

__all__ = ["export_command"]

_ID_START: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{0,25}")
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_NOUNS: Final = {"traces": "trace", "logs": "log record"}
# The command line says where to, and that it is to be: these variables are for the continuous export.
_NOT_HERE: Final = re.compile(r"OTEL_(?:EXPORTER_OTLP_(?:\w+_)?ENDPOINT|SDK_DISABLED|(?:TRACES|LOGS)_EXPORTER)")


def _id_start(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _ID_START.fullmatch(text.upper()):
        raise click.BadParameter("must be a trace id, or the beginning of one")
    return None if text is None else text.upper()


@click.command("export", epilog=TIMES)
@since_option("records")
@until_option("records")
@click.option(
    "--trace",
    "trace_id",
    callback=_id_start,
    metavar="ID",
    shell_complete=names.traces,
    help="One trace and its log records.",
)
@click.option("--only", type=click.Choice(["traces", "logs"]), help="One kind of records. Default: both.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["otlp-json", "otlp"]),
    help="JSON, a request per line, or protobuf. Default: otlp-json; to a URL, the protocol of OTEL_….",
)
@click.option("--to", metavar="FILE|URL", help="Where to. Default: standard output.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@data_option
@config_option
def export_command(
    config: Config,
    since_us: int | None,
    until_us: int | None,
    trace_id: str | None,
    only: LogsOrTraces | None,
    form: str | None,
    to: str | None,
    force: bool,
) -> None:
    """Export traces and log records as OTLP, to a file or a backend.

    The node may be running. Where the continuous export has come to is
    neither used nor changed: a backend may get records twice. Headers,
    timeout and certificates for a URL are those of the variables
    OTEL_EXPORTER_OTLP_….

    \b
    Example: hearthnet telemetry export --since 1h > traces.jsonl
             hearthnet telemetry export --trace 01KQ --to trace.jsonl
             hearthnet telemetry export --format otlp --to day.binpb
             hearthnet telemetry export --to http://localhost:4318
    """
    from hearthnet.observability.store.query.unsent import Selected, count
    from hearthnet.observability.store.reader import Reader

    wanted = Selected(since_us, until_us, trace_id)
    assert config.observability.data_dir is not None
    with closing(Reader(config.observability.data_dir / DATABASE)) as reader:
        signals: tuple[LogsOrTraces, ...] = ("traces", "logs") if only is None else (only,)
        found = count(reader, wanted)
        with bar("exporting", sum(found[signal] for signal in signals)) as progress:
            if to is not None and _URL.match(to):
                done = _send(reader, signals, wanted, to, form, progress)
            else:
                done = _write(reader, signals, wanted, to, form == "otlp", force, progress)
    _report(done)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _NOT_HERE.fullmatch(name)}


def _send(
    reader: Reader,
    signals: tuple[LogsOrTraces, ...],
    wanted: Selected,
    url: str,
    form: str | None,
    progress: Callable[[int], None],
) -> Exported:
    from hearthnet.observability.otel.export.once import send
    from hearthnet.observability.otel.export.route import routes
    from hearthnet.observability.otel.export.settings import read
    from hearthnet.observability.redaction.rules import register_secrets

    protocol = (
        {} if form is None else {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json" if form == "otlp-json" else "http/protobuf"}
    )
    settings = read(url, _environment() | protocol)
    assert settings is not None  # there is an endpoint, and nothing switches it off
    register_secrets(settings.secrets())
    for doubt in settings.doubts:
        click.echo(f"warning: {printable(doubt.replace('[observability] otlp_endpoint', '--to'))}", err=True)
    chosen = [route for route in routes(settings, reader) if route.signal in signals]
    return send(reader, chosen, wanted, progress)


def _write(
    reader: Reader,
    signals: tuple[LogsOrTraces, ...],
    wanted: Selected,
    to: str | None,
    is_binary: bool,
    force: bool,
    progress: Callable[[int], None],
) -> Exported:
    from hearthnet.observability.otel.export.once import write
    from hearthnet.observability.otel.export.route import Serial, adds_of

    settings = _settings_of_resources()
    serials = [Serial(signal, adds_of(settings), reader, is_json=not is_binary) for signal in signals]
    if to is None or to == "-":
        if is_binary and sys.stdout.isatty():
            raise click.UsageError("protobuf is not for a terminal; name a file with --to, or redirect the output")
        sys.stdout.flush()
        done = write(reader, serials, wanted, sys.stdout.buffer, progress)
        sys.stdout.buffer.flush()
        return done
    with _new_file(Path(to).absolute(), force=force) as out:
        return write(reader, serials, wanted, out, progress)


def _settings_of_resources() -> Settings | None:
    """Returns the settings for the attributes of resources alone; nothing is sent."""
    from hearthnet.observability.otel.export.settings import read

    return read("http://localhost", _environment())


@contextmanager
def _new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Yields a file that is at `path` once it is whole.

    Raises:
        StoreError: raised when there is something at that path, and it may not be replaced; only a file ever is.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder", hint="name a file in it")
    if (reason := why_no_file(path)) is not None:
        raise StoreError(f"{path} cannot be replaced: {reason}", hint="name another file, or redirect the output to it")
    if not force and (path.exists() or path.is_symlink()):
        raise StoreError(f"{path} exists", hint="replace it with --force, or name another file")
    path = Path(os.path.realpath(path))  # a link stays one
    fd, temporary = private_temporary(path)
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
        if force:
            temporary.replace(path)
        else:
            name_new(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _report(done: Exported) -> None:
    """Says on standard error what was exported; exits with 1 if something was not."""
    texts = [counted(number, _NOUNS[signal]) for signal, number in done.records.items() if number]
    click.echo(f"exported {', '.join(texts) or 'nothing: no record matches'}", err=True)
    if done.failed:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in done.failed.items())
        click.echo(f"not exported: {reasons}", err=True)
        click.get_current_context().exit(EXIT_ERROR)
