"""What an assistant can ask: each method reads files alone, and returns one bounded JSON document as text."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from hearthnet import moments, references
from hearthnet.cli.log.lines import Wanted, newest
from hearthnet.cli.mcp.bounds import as_text
from hearthnet.cli.search import compiled
from hearthnet.cli.trace.show import rows_of
from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.errors import HearthNetError
from hearthnet.forensics.gather import gather
from hearthnet.forensics.report.document import document
from hearthnet.forensics.verdict import judge
from hearthnet.observability.store.reader import Reader, TraceFilter
from hearthnet.observability.store.search import run_query

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.observability.store.search import Order, TableName

__all__ = ["MAX_ROWS", "Records"]

MAX_ROWS: Final = 200
_TIMEOUT_S: Final = 10.0
_SQL_TIMEOUT_S: Final = 5.0
_SQL_START_S: Final = 30.0  # for the interpreter on a busy machine
_SQL_BYTES: Final = 100_000
_MOMENTS: Final = 30  # of a timeline
_PREFIX: Final = re.compile(r"^(error|hint): ", re.MULTILINE)

Level = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a folder.

    Every method raises HearthNetError for a question that cannot be answered, or files that cannot be read.

    Attributes:
        data_dir: the folder of telemetry.db.
        log_dir: the folder of the JSON logs.
        config: of this user's node; None: the folder is another one's.
    """

    data_dir: Path
    log_dir: Path
    config: Config | None = None

    @classmethod
    def of(cls, config: Config) -> Records:
        """Returns those of this user's node."""
        settings = config.observability
        assert settings.data_dir is not None
        assert settings.log_dir is not None
        return cls(settings.data_dir, settings.log_dir, config)

    @classmethod
    def in_folder(cls, folder: Path) -> Records:
        """Returns those of any folder, whose logs are in it, or in its folder `logs`."""
        logs = folder / "logs"
        return cls(folder, logs if logs.is_dir() else folder)

    def search(self, query: str, table: TableName | None, order: Order, limit: int) -> str:
        """Returns the traces or log records that match."""
        made = compiled(query, table)
        if made.problems:
            problem = made.problems[0]
            place = query[problem.start : problem.end]
            raise HearthNetError(f"{problem.message}, at {place!r}", hint=problem.hint)
        found = run_query(self.data_dir / DATABASE, made, order, _rows(limit), timeout_s=_TIMEOUT_S)
        said: dict[str, Any] = {"table": made.table, "matches": found.count_text, "rows": found.rows}
        if not found.rows:
            said["recorded"] = {"from": moments.iso(found.oldest_us), "to": moments.iso(found.newest_us)}
            said["newest_match_outside_of_the_time"] = moments.iso(found.newest_match_us)
            said["notes"] = [problem.message for problem in found.problems]
        return as_text(said)

    def trace(self, reference: str) -> str:
        """Returns one trace with its spans, once for each call of it that this store has."""
        with closing(Reader(self.data_dir / DATABASE)) as reader:
            ids = (record.trace_id for record in reader.recent(TRACE_RING_BUFFER))
            try:
                trace_id = references.chosen(reference, ids, "trace")
            except ValueError as error:
                hint = "the ring keeps the newest; its log records may still exist: ask for the logs of that trace"
                raise HearthNetError(str(error), hint=hint) from error
            visits = rows_of(reader, TRACE_RING_BUFFER, TraceFilter(trace_id=trace_id))
        return as_text({"trace_id": trace_id, "visits": [_timed(visit) for visit in visits]})

    def logs(
        self,
        level: Level,
        component: str | None,
        trace: str | None,
        text: str | None,
        since: str | None,
        until: str | None,
        limit: int,
    ) -> str:
        """Returns the newest lines of the JSON logs that match, newest first."""
        # No expression of the assistant's: there are some that take for ever.
        pattern = re.compile(re.escape(text), re.IGNORECASE) if text else None
        wanted = Wanted(level, component, trace and trace.upper(), _us(since), _us(until), pattern)
        lines = newest(self.log_dir, _rows(limit), wanted)
        if lines.tail is None:
            raise HearthNetError(f"no log files are in {self.log_dir}")
        rows = [line.values for line in reversed(lines.lines)]
        return as_text({"rows": rows, "has_older": lines.has_more})

    def doctor(self, check: str | None) -> str:
        """Returns the results of the checks, from the disk alone."""
        from hearthnet.observability import doctor

        if self.config is None:
            raise HearthNetError("the doctor checks this machine's node, and these files are another one's")
        if check is not None and check not in doctor.names():
            raise HearthNetError(f"there is no check {check!r}", hint=f"known are {', '.join(doctor.names())}")
        results = doctor.run_all(self.config, only=() if check is None else (check,))
        return as_text({"checks": [result.as_dict() for result in results]})

    def autopsy(self, run: str | None, program: str | None) -> str:
        """Returns why a run has ended, with the evidence."""
        log_dir = self.log_dir if self.config is not None else None
        try:
            case = gather(self.data_dir, log_dir=log_dir, run_id=run, program=program, limit=_MOMENTS)
        except ValueError as error:
            raise HearthNetError(str(error)) from error
        if case.run is None:
            raise HearthNetError("no run was found in these files")
        return as_text(document(case, judge(case)))

    def sql(self, statement: str, limit: int) -> str:
        """Returns the rows of one SELECT.

        By another process: a statement may take a step that SQLite cannot interrupt, and then that process is ended.
        """
        text = statement.encode("utf-8", "replace")
        if len(text) > _SQL_BYTES:
            raise HearthNetError(f"the statement is longer than {_SQL_BYTES:,} bytes")
        limits = ["--limit", str(_rows(limit)), "--timeout", str(_SQL_TIMEOUT_S)]
        # -P: nothing may be imported from the folder that the assistant works in. --data: the settings are not read
        # again, which may be others than those of this command.
        command = [
            sys.executable,
            "-P",
            "-m",
            "hearthnet",
            "telemetry",
            "sql",
            "--json",
            "--data",
            str(self.data_dir),
            *limits,
            "-",
        ]
        try:
            done = subprocess.run(  # noqa: S603  # ourselves
                command, input=text, capture_output=True, timeout=_SQL_TIMEOUT_S + _SQL_START_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HearthNetError(f"the query took longer than {_SQL_TIMEOUT_S:g} s") from error
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode:
            raise HearthNetError(_PREFIX.sub("", said) or f"the query ended with {done.returncode}")
        return as_text({"rows": orjson.loads(done.stdout), **({"note": said} if said else {})})


def _rows(limit: int) -> int:
    return max(1, min(limit, MAX_ROWS))


def _us(text: str | None) -> int | None:
    """Returns a time as UTC microseconds.

    Raises:
        HearthNetError: raised when it is none.
    """
    try:
        return None if text is None else moments.parse(text)
    except ValueError as error:
        raise HearthNetError(str(error)) from error


def _timed(visit: dict[str, Any]) -> dict[str, Any]:
    """Returns a trace that begins with its start as text."""
    return {"started_at": moments.iso(visit["started_us"]), **visit}
