"""The command line of forensics: what `scripts/forensics.py` and `hearthnet autopsy` share.

Exit codes: 0 the run was stopped in order, or still runs; 1 it died; 2 wrong usage, or nothing there to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from hearthnet.forensics.gather import gather
from hearthnet.forensics.model import Case, Verdict
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.text import printable, report
from hearthnet.forensics.verdict import judge

__all__ = ["EXIT_DIED", "EXIT_FINE", "EXIT_NOTHING", "Request", "answer", "has_colour", "main", "moment_us"]

EXIT_FINE: Final = 0
EXIT_DIED: Final = 1
EXIT_NOTHING: Final = 2
DEFAULT_LIMIT: Final = 30
MAX_LIMIT: Final = 20_000  # both rings
SCHEMA: Final = Path(__file__).parent.parent / "schemas" / "autopsy.json"
_AGO: Final = re.compile(r"(\d{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EXAMPLES: Final = """examples:
  forensics.py                                  what the node of this user died of
  forensics.py /media/stick/hearthnet           files that were copied from elsewhere
  forensics.py telemetry.db --run 01HXR4 --json
  forensics.py --html report.html --since 1h

exit codes: 0 stopped in order, or running; 1 it died; 2 wrong usage, or nothing there to judge
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to know.

    Attributes:
        path: telemetry.db, or the folder that it is in.
        log_dir: the JSON logs; None: looked for beside it.
        html: where the page goes.
        since_us: nothing older, UTC microseconds.
        run_id: this run instead of the last that ended; its beginning is enough.
        around: what happened around this trace.
        limit: how many moments of the timeline.
    """

    path: Path
    log_dir: Path | None = None
    as_json: bool = False
    html: Path | None = None
    force: bool = False
    since_us: int | None = None
    run_id: str | None = None
    around: str | None = None
    limit: int = DEFAULT_LIMIT
    colour: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Answers one command line; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    if sys.stdout is None:  # closed by the caller
        return _refuse("there is no standard output to print to")
    if chosen.schema:
        sys.stdout.write(SCHEMA.read_text("utf-8"))
        return EXIT_FINE
    try:
        since_us = None if chosen.since is None else moment_us(chosen.since)
    except ValueError as error:
        return _refuse(str(error))
    request = Request(
        _standard_place() if chosen.path is None else Path(chosen.path),
        None if chosen.log_dir is None else Path(chosen.log_dir),
        chosen.as_json,
        None if chosen.html is None else Path(chosen.html),
        chosen.force,
        since_us,
        chosen.run,
        chosen.around,
        chosen.limit,
        has_colour(sys.stdout) and not chosen.no_color,
    )
    try:
        code = answer(request, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has what it wanted; Python would complain at its own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FINE
    except OSError as error:  # a full disk, say: not the node's end, and no code that says so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _refuse(f"the report cannot be written: {error.strerror or error}")
    return code


def answer(request: Request, out: TextIO) -> int:
    """Prints what the files say; returns the exit code. Changes none of them."""
    try:
        case = gather(
            request.path,
            log_dir=request.log_dir,
            since_us=request.since_us,
            run_id=request.run_id,
            around=request.around,
            limit=request.limit,
        )
    except ValueError as error:
        return _refuse(str(error))
    verdict = judge(case)
    if request.html is not None and not _write_page(request, case, verdict):
        return EXIT_NOTHING
    _print(request, case, verdict, out)
    if case.run is None:
        is_closed = any(source.state == "unreadable" for source in case.sources)
        hint = "ask as the user whose files they are" if is_closed else "give the folder that telemetry.db is in"
        return _refuse("there is no run to judge here", hint)
    return EXIT_FINE if verdict.cause in ("clean_stop", "running") else EXIT_DIED


def _print(request: Request, case: Case, verdict: Verdict, out: TextIO) -> None:
    if request.as_json:
        indent = 2 if out.isatty() else None
        # Escaped, so that what a terminal would obey stays a string of JSON.
        out.write(json.dumps(document(case, verdict), ensure_ascii=True, allow_nan=False, indent=indent) + "\n")
    else:
        shown = report(case, verdict, colour=request.colour, unicode=_draws(out))
        encoding = getattr(out, "encoding", None) or "utf-8"
        # What the terminal's language has no letter for is spelled out.
        out.write(shown.encode(encoding, "backslashreplace").decode(encoding))


def _write_page(request: Request, case: Case, verdict: Verdict) -> bool:
    from hearthnet.forensics.report.page import page

    target = request.html
    assert target is not None
    try:
        if target.exists() and not request.force:
            _refuse(f"{target} exists", "--force overwrites it")
            return False
        if any(_are_one(target, source.path) for source in case.sources):
            _refuse(f"{target} is evidence", "name another file for the page")
            return False
        _replace(target, page(document(case, verdict)))
    except OSError as error:
        _refuse(f"{target} cannot be written: {error.strerror}")
        return False
    sys.stderr.write(f"page: {target}\n")
    return True


def _are_one(target: Path, source: Path) -> bool:
    try:
        return target.samefile(source)
    except OSError:  # one of them is not there
        return False


def _replace(target: Path, content: str) -> None:
    fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # mkstemp makes it 0600
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(content)
        Path(temporary).replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _refuse(message: str, hint: str | None = None) -> int:
    sys.stderr.write(f"error: {printable(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    return EXIT_NOTHING


def moment_us(text: str) -> int:
    """Returns UTC microseconds of `30m` ago, or of an ISO 8601 time; one without a zone is local.

    Raises:
        ValueError: raised when it is neither.
    """
    match = _AGO.fullmatch(text)
    if match:
        return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1e6)
    try:
        moment = datetime.fromisoformat(text)
        return int(moment.astimezone(UTC).timestamp() * 1e6)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is neither a time like 30m, 2h or 1d nor one like 2026-05-26T08:14:22Z") from None


def _standard_place() -> Path:
    """Returns where a node of this user keeps its data, as far as that can be told without any library."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "hearthnet"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "hearthnet"


def has_colour(out: TextIO) -> bool:
    """Tells whether somebody looks at `out` who wants colours."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _draws(out: TextIO) -> bool:
    try:
        "▁█•…".encode(getattr(out, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _limit(text: str) -> int:
    count = int(text)
    if not 0 <= count <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"between 0 and {MAX_LIMIT:,}")
    return count


def _parser() -> argparse.ArgumentParser:
    parser: Any = argparse.ArgumentParser(
        prog="forensics.py",
        description="Says what a node died of, from its files alone. Reads; never changes a byte.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", help="telemetry.db, or the folder that it is in")
    parser.add_argument("--log-dir", help="the folder of the JSON logs, if it is elsewhere")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON document")
    parser.add_argument("--html", metavar="FILE", help="write a page that opens offline as well")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--since", metavar="TIME", help="nothing older: 30m, 2h, 1d, or an ISO 8601 time")
    parser.add_argument("--run", metavar="ID", help="this run; its beginning is enough")
    parser.add_argument("--around", metavar="TRACE", help="what happened around this trace")
    parser.add_argument(
        "--limit", type=_limit, default=DEFAULT_LIMIT, help=f"moments of the timeline ({DEFAULT_LIMIT})"
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of --json")
    parser.add_argument("--no-color", action="store_true", help="no colours; NO_COLOR does the same")
    made: argparse.ArgumentParser = parser
    return made
