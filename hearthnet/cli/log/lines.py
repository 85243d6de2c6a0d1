"""The daily JSON log files as `hearthnet log` reads them: the newest records, those to come, and which are wanted.

Lines are read as tolerantly as possible, for other programs and a damaged disk write them too. As JSON the line itself
is printed, not encoded again.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import click
import orjson

from hearthnet.cli.main import as_json_text, fields_text, printable
from hearthnet.cli.options import wait_or_leave
from hearthnet.constants import LEVELS
from hearthnet.files import NotRegularError, open_file
from hearthnet.observability.logs.daily_file import log_key, log_paths

__all__ = ["Line", "Newest", "Wanted", "follow", "newest"]

_SHOWN_FIRST: Final = frozenset({"ts", "level", "logger", "msg", "exc"})
_LONG_NUMBER: Final = re.compile(rb"\d{19}")  # orjson makes floats of integers of more than 64 bits


class Line(NamedTuple):
    """A line of the log.

    Attributes:
        raw: as it is in the file.
        values: its JSON object.
    """

    raw: bytes
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """Returns a value as text, empty if missing."""
        value = self.values.get(key, "")
        return value if isinstance(value, str) else as_json_text(value)

    def moment(self) -> datetime | None:
        """Returns its time; None if it has none."""
        try:
            found = datetime.fromisoformat(self.text("ts"))
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def moment_us(self) -> int | None:
        """Returns its time as UTC microseconds; None if it has none."""
        moment = self.moment()
        return None if moment is None else round(moment.timestamp() * 1e6)

    def fields(self, *, is_short: bool = False) -> str:
        """Returns all but time, level, logger, message and traceback as text; if short, with few decimals."""
        fields = {key: value for key, value in self._exact().items() if key not in _SHOWN_FIRST}
        return fields_text(fields, is_short=is_short)

    def _exact(self) -> dict[str, Any]:
        if not _LONG_NUMBER.search(self.raw):
            return self.values
        try:
            exact: dict[str, Any] = json.loads(self.raw)
        except RecursionError:
            return self.values
        return exact


class Wanted(NamedTuple):
    """Selects lines; None selects any value.

    Attributes:
        level: the lowest level.
        component: a logger, with or without `hearthnet.`; includes its children.
        trace: a trace id, or the beginning of one.
        since_us: earliest time, UTC microseconds.
        until_us: the time before which they were written, UTC microseconds.
        pattern: is found in the logger, the message, a field or the traceback.
    """

    level: str
    component: str | None = None
    trace: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    pattern: re.Pattern[str] | None = None

    def accepts(self, line: Line) -> bool:
        """Returns True if a line matches."""
        return (
            line.text("level") in LEVELS[LEVELS.index(self.level) :]
            and self._is_of_component(line.text("logger"))
            and (self.trace is None or line.text("trace_id").startswith(self.trace))
            and self._is_in_time(line)
            and (self.pattern is None or any(map(self.pattern.search, _searched(line))))
        )

    def _is_of_component(self, logger: str) -> bool:
        if self.component is None:
            return True
        return any(
            logger == name or logger.startswith(f"{name}.") for name in (self.component, f"hearthnet.{self.component}")
        )

    def _is_in_time(self, line: Line) -> bool:
        if self.since_us is None and self.until_us is None:
            return True
        us = line.moment_us()
        if us is None:
            return False
        return (self.since_us is None or us >= self.since_us) and (self.until_us is None or us < self.until_us)

    def is_in(self, path: Path) -> bool:
        """Returns False if a file is of a day on which nothing is wanted."""
        key = log_key(path)
        return key is None or (
            (self.since_us is None or key[0] >= _day(self.since_us, date.min))
            and (self.until_us is None or key[0] <= _day(self.until_us, date.max))
        )


def _day(us: int, otherwise: date) -> date:
    try:
        return datetime.fromtimestamp(us / 1e6, tz=UTC).date()
    except (OverflowError, ValueError, OSError):
        return otherwise


def _searched(line: Line) -> Iterator[str]:
    """Yields a line as text: with its numbers as they are in the file, and as they are shown."""
    for is_short in (False, True):
        yield f"{line.text('logger')}: {line.text('msg')}  {line.fields(is_short=is_short)}\n{line.text('exc')}"


class Newest(NamedTuple):
    """The newest lines that match.

    Attributes:
        lines: oldest first.
        has_more: there are older ones.
        tail: the newest file and its end, where `follow` goes on; None without a file.
    """

    lines: list[Line]
    has_more: bool
    tail: tuple[Path, int] | None


def newest(directory: Path, count: int, wanted: Wanted) -> Newest:
    """Returns the newest `count` lines that match."""
    found: list[Line] = []
    tail = None
    for path in reversed(log_paths(directory, of_any_kind=True)):
        if tail is not None and len(found) > count:
            break
        try:
            with open_file(path) as file:
                if wanted.is_in(path):
                    # One more than asked for shows that there are more.
                    kept = deque(filter(wanted.accepts, _lines(file)), maxlen=count + 1 - len(found))
                    found = [*kept, *found]
                else:
                    file.seek(0, 2)
                tail = tail or (path, file.tell())
        except NotRegularError as error:
            click.echo(f"skipped {printable(path)}: {error.strerror}", err=True)
    return Newest(found[max(0, len(found) - count) :], len(found) > count, tail)


def _lines(file: BinaryIO) -> Iterator[Line]:
    """Yields the lines from the file's position on; stops before an incomplete one."""
    while raw := file.readline():
        if not raw.endswith(b"\n"):
            file.seek(-len(raw), 1)
            return
        try:
            values = orjson.loads(raw)
        except orjson.JSONDecodeError:  # torn by a full disk or a power cut; the next line is intact
            continue
        if isinstance(values, dict):
            yield Line(raw, values)


def follow(directory: Path, tail: tuple[Path, int] | None, wanted: Wanted) -> Iterator[Line]:
    """Yields matching lines as they are written, across days, until interrupted."""
    path, offset = tail or (None, 0)
    while True:
        seen = log_key(path) if path is not None else None
        for newer in [item for item in log_paths(directory) if seen is None or (log_key(item) or seen) >= seen]:
            if newer != path:
                path, offset = newer, 0
            with suppress(NotRegularError), open_file(newer) as file:
                file.seek(offset)
                yield from filter(wanted.accepts, _lines(file))
                offset = file.tell()
        wait_or_leave()
