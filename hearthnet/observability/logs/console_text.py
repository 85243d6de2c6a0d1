"""A record as people read it on the console: one line, its further lines and its traceback indented below.

    08:14:22.281 warning app.sync: backend failed  backend=desk status=503        on a terminal
    2026-05-26 08:14:22.281+00:00 warning app.sync: backend failed  …             elsewhere
    08:14:22.300 info    nightly ok in 30.4 ms  01M8MXPDA831G2S0GZETXTBR6A        a trace that has ended

Times are local. Text comes from anywhere, so control characters are escaped: the terminal obeys none of them. Records
are redacted already. Numbers have few digits and long values are cut: the JSON log has all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from hearthnet.constants import DONE, TRACE_LOGGER
from hearthnet.display import escaped, needs_quotes, short_floats

__all__ = ["escaped_json", "text_of_line"]


_COLOURS: Final = {"debug": "90", "info": "34", "warning": "33", "error": "31", "critical": "1;31"}
_DIM, _BOLD, _PLAIN = "2", "1", ""
_INDENT: Final = "    "
_MAX_VALUE_CHARS: Final = 300
# JSON escapes the others.
_CONTROL_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII: Final = re.compile("[^\x00-\x7e]")
_OWN_FRAME: Final = re.compile(r'  File "[^"]*[/\\]hearthnet[/\\]observability[/\\]traces[/\\]')
# Shown elsewhere in the line, or said by the traceback.
_NOT_FIELDS: Final = frozenset({"ts", "level", "logger", "msg", "span_id", "exc", "exc_type", "exc_message"})


def text_of_line(line: bytes, *, is_for_people: bool, has_colour: bool) -> str:
    """Returns a line of the JSON log as text with a line end.

    Args:
        line: of the JSON log.
        is_for_people: whether it is for a terminal, to be read now: dates, zones and trace ids are dropped.
        has_colour: whether to colour it.
    """
    values: dict[str, Any] = orjson.loads(line)
    level = str(values["level"])
    paint = _coloured if has_colour else _plain
    head = [paint(_time(values["ts"], is_short=is_for_people), _DIM), paint(f"{level:<7}", _COLOURS.get(level, _PLAIN))]
    if values["logger"] == TRACE_LOGGER and values["msg"] == DONE:
        return f"{' '.join([*head, *_done(values, paint)])}\n"
    first, *more = str(values["msg"]).splitlines() or [""]
    head.append(f"{escaped(values['logger'])}: {paint(escaped(first), _BOLD)}")
    skipped = _NOT_FIELDS | {"trace_id", "after_trace"} if is_for_people else _NOT_FIELDS
    if fields := _fields({key: value for key, value in values.items() if key not in skipped}):
        head.append(f" {fields}")
    more += _without_own_frames(str(values.get("exc", "")).splitlines())
    return "".join([" ".join(head), "\n", *(f"{_INDENT}{escaped(part)}\n" for part in more)])


def _without_own_frames(lines: list[str]) -> Iterator[str]:
    """Yields the lines of a traceback without the frames of decorators, which tell nothing about the program."""
    is_own = False
    for line in lines:
        is_own = _OWN_FRAME.match(line) is not None or (is_own and line.startswith(_INDENT))
        if not is_own:
            yield line


def escaped_json(line: str, encoding: str | None = None) -> str:
    """Returns a line of JSON whose control characters, and those that reorder text, are escaped as JSON does it.

    Args:
        line: of the JSON log.
        encoding: of the stream; in any but UTF-8 (None) all that is not ASCII is escaped, too: Python's own escapes
            of a character are no JSON.
    """
    is_whole = line.isascii() or (encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    return (_CONTROL_IN_JSON if is_whole else _NOT_ASCII).sub(_json_escape, line)


def _json_escape(match: re.Match[str]) -> str:
    raw = match[0].encode("utf-16-be")  # beyond 16 bits JSON takes two escapes
    return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))


def _done(values: Mapping[str, Any], paint: Any) -> list[str]:
    """Returns the parts of a line about a trace that has ended."""
    error = f": {escaped(_short(values['error']))}" if "error" in values else ""
    said = f"{escaped(values['result'])} in {short_floats(values['ms'])} ms{error}"
    return [paint(escaped(values["capability"]), _BOLD), said, "", paint(str(values.get("trace_id", "")), _DIM)]


def _time(ts: str, *, is_short: bool) -> str:
    moment = datetime.fromisoformat(ts).astimezone()
    return moment.time().isoformat("milliseconds") if is_short else moment.isoformat(" ", "milliseconds")


def _fields(values: Mapping[str, Any]) -> str:
    return " ".join(f"{escaped(key)}={escaped(_value(value))}" for key, value in values.items())


def _value(value: object) -> str:
    if not isinstance(value, str):
        return _short(orjson.dumps(short_floats(value)).decode())
    return _short(orjson.dumps(value).decode() if needs_quotes(value) else value)


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _MAX_VALUE_CHARS else f"{shown[:_MAX_VALUE_CHARS]}…"


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def _plain(text: str, _: str) -> str:
    return text
