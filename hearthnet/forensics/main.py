"""The command line shared by `scripts/forensics.py` and `hearthnet autopsy`.

Exit codes: 0 the run stopped cleanly or is still running; 1 it died; 2 wrong usage, or no run was found; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from hearthnet import moments
from hearthnet.display import has_colour, has_unicode
from hearthnet.files import packaged
from hearthnet.forensics.evidence.kernel import KernelSources
from hearthnet.forensics.gather import gather
from hearthnet.forensics.model import DEFAULT_LIMIT, MAX_LIMIT, Case, Verdict
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.text import printable, report
from hearthnet.forensics.verdict import judge

__all__ = ["EXIT_DIED", "EXIT_FINE", "EXIT_NOTHING", "Request", "main", "print_report"]

EXIT_FINE: Final = 0
EXIT_DIED: Final = 1
EXIT_NOTHING: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
SCHEMA: Final = "schemas/autopsy.json"
_EXAMPLES: Final = """examples:
  forensics.py                                  how this user's node ended
  forensics.py /media/stick/hearthnet           files copied from elsewhere
  forensics.py telemetry.db --run 01HXR4 --json
  forensics.py --html report.html --since 1h

TIME is {forms};
without a zone it is local. Times in the text are local, those in --json and in the page UTC.

exit codes: 0 stopped cleanly, running or imported; 1 it died; 2 wrong usage, or no run was found; 130 Ctrl-C
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one report.

    Attributes:
        path: telemetry.db or its folder.
        log_dir: the folder of the JSON logs; None: found beside the store.
        as_json: print one JSON document instead of text.
        html: the file to write the page to.
        force: overwrite `html`.
        since_us: drops older timeline entries, UTC microseconds.
        until_us: drops timeline entries from then on, UTC microseconds.
        run_id: the run to judge, by the beginning of its id or its place; None: the node's last one that ended.
        program: the program to diagnose the last run of; None: the node.
        around: a trace, by the beginning of its id or its place; shows the timeline around that trace.
        limit: the maximum number of timeline entries.
        colour: print colours.
        kernel_log: the kernel's log of the machine of the run, as text; None: this machine's.
    """

    path: Path
    log_dir: Path | None = None
    as_json: bool = False
    html: Path | None = None
    force: bool = False
    since_us: int | None = None
    until_us: int | None = None
    run_id: str | None = None
    program: str | None = None
    around: str | None = None
    limit: int = DEFAULT_LIMIT
    colour: bool = False
    kernel_log: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns the exit code."""
    chosen = _parser().parse_args(arguments)
    if sys.stdout is None:  # closed by the caller
        return _print_error("there is no standard output to print to")
    if chosen.schema:
        sys.stdout.write(packaged(SCHEMA))
        return EXIT_FINE
    try:
        since_us, until_us = (None if text is None else moments.parse(text) for text in (chosen.since, chosen.until))
    except ValueError as error:
        return _print_error(str(error))
    request = Request(
        _default_data_dir() if chosen.path is None else Path(chosen.path),
        None if chosen.log_dir is None else Path(chosen.log_dir),
        chosen.as_json,
        None if chosen.html is None else Path(chosen.html),
        chosen.force,
        since_us,
        until_us,
        chosen.run,
        chosen.program,
        chosen.around,
        chosen.limit,
        has_colour(sys.stdout) and not chosen.no_color,
        None if chosen.kernel_log is None else Path(chosen.kernel_log),
    )
    try:
        code = print_report(request, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed; without dup2 Python fails at its final flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FINE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:  # such as a full disk: must not look like the exit code of a dead node
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _print_error(f"the report cannot be written: {error.strerror or error}")
    return code


def print_report(request: Request, out: TextIO) -> int:
    """Prints the report and returns the exit code. Changes none of the files it reads."""
    if request.kernel_log is not None and not os.access(request.kernel_log, os.R_OK):
        return _print_error(f"{request.kernel_log} cannot be read")
    try:
        case = gather(
            request.path,
            log_dir=request.log_dir,
            since_us=request.since_us,
            until_us=request.until_us,
            run_id=request.run_id,
            program=request.program,
            around=request.around,
            limit=request.limit,
            kernel=None if request.kernel_log is None else KernelSources(log=request.kernel_log, is_given=True),
        )
    except ValueError as error:
        return _print_error(str(error))
    verdict = judge(case)
    if request.html is not None and not _write_page(request, case, verdict):
        return EXIT_NOTHING
    _print(request, case, verdict, out)
    if case.run is None:
        is_closed = any(source.state == "unreadable" for source in case.sources)
        hint = (
            "run as the user who owns the files"
            if is_closed
            else "start the node once, hearthnet run, or pass the folder that a program records in"
        )
        return _print_error("no run was found in these files", hint)
    return EXIT_FINE if verdict.cause in ("clean_stop", "running", "imported") else EXIT_DIED


def _print(request: Request, case: Case, verdict: Verdict, out: TextIO) -> None:
    if request.as_json:
        indent = 2 if out.isatty() else None
        # ASCII only, so that terminal control characters stay escaped in JSON strings.
        out.write(json.dumps(document(case, verdict), ensure_ascii=True, allow_nan=False, indent=indent) + "\n")
    else:
        columns = shutil.get_terminal_size((100, 24)).columns if out.isatty() else None
        shown = report(case, verdict, colour=request.colour, unicode=has_unicode(out), columns=columns)
        encoding = getattr(out, "encoding", None) or "utf-8"
        # Characters that the output's encoding lacks are escaped.
        out.write(shown.encode(encoding, "backslashreplace").decode(encoding))


def _write_page(request: Request, case: Case, verdict: Verdict) -> bool:
    from hearthnet.forensics.report.page import page

    target = request.html
    assert target is not None
    try:
        if target.exists() and not request.force:
            _print_error(f"{target} exists", "--force overwrites it")
            return False
        if any(_is_same_file(target, source.path) for source in case.sources):
            _print_error(f"{target} is evidence", "choose another file for the page")
            return False
        _replace(target, page(document(case, verdict)))
    except OSError as error:
        _print_error(f"{target} cannot be written: {error.strerror}")
        return False
    sys.stderr.write(f"page: {target}\n")
    return True


def _is_same_file(target: Path, source: Path) -> bool:
    try:
        return target.samefile(source)
    except OSError:  # one of them does not exist
        return False


def _replace(target: Path, content: str) -> None:
    fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # mkstemp makes it 0600
    try:
        os.fchmod(fd, 0o600)  # a umask may have taken away even our own access
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(content)
        Path(temporary).replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _print_error(message: str, hint: str | None = None) -> int:
    sys.stderr.write(f"error: {printable(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    return EXIT_NOTHING


def _default_data_dir() -> Path:
    """Returns the default data folder of this user's node, without platformdirs."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "hearthnet"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "hearthnet"


def _limit(text: str) -> int:
    count = int(text)
    if not 0 <= count <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"between 0 and {MAX_LIMIT:,}")
    return count


def _parser() -> argparse.ArgumentParser:
    parser: Any = argparse.ArgumentParser(
        prog="forensics.py",
        description="Find out how a node's last run ended, from its files alone. Never changes them.",
        epilog=_EXAMPLES.format(forms=moments.FORMS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", help="telemetry.db or its folder")
    parser.add_argument("--log-dir", help="the folder of the JSON logs, if it is elsewhere")
    parser.add_argument("--kernel-log", metavar="FILE", help="the kernel's log of that machine: dmesg, journalctl -k")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON document")
    parser.add_argument("--html", metavar="FILE", help="also write an HTML page that opens offline")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--since", metavar="TIME", help="only entries since then")
    parser.add_argument("--until", metavar="TIME", help="only entries before then")
    parser.add_argument("--run", metavar="ID", help="judge this run: its id or the beginning, last, -2 ...")
    parser.add_argument("--program", metavar="NAME", help="judge the last run of this program, not the node's")
    parser.add_argument("--around", metavar="TRACE", help="show the timeline around this trace; named like a run")
    parser.add_argument(
        "--limit", type=_limit, default=DEFAULT_LIMIT, help=f"entries of the timeline ({DEFAULT_LIMIT})"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of --json")
    parser.add_argument("--no-color", action="store_true", help="print no colours; NO_COLOR does the same")
    typed: argparse.ArgumentParser = parser
    return typed
