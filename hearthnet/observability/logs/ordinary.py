"""Ordinary records, and the lines of ended traces, by ways of their own with few calls: it is calls that cost.

A record is ordinary if our handler alone gets it, its message was logged before, has no argument, no error and no
secret, and is within its budget, and its fields can be encoded as they are. Nearly all are. Any other takes the way of
`handler.JsonHandler.take`, which copes with everything; a property test compares line, row and frame of both.

Line and frame are put together from the same bytes: the fields are encoded once, the message was when it was new.

    CPU time of the caller's thread, the least of 300 rounds: a record of four fields 5.9 us, of it the file 1.8, box
    and buffer 1.2, fields checked and encoded 0.8, the call and its message 0.6, clock, budget and line 0.6, row and
    frame 0.4, whether other handlers and filters get it 0.4. A line of an ended trace 3.7 us.
"""

from __future__ import annotations

import logging
from time import time_ns

from orjson import OPT_APPEND_NEWLINE, dumps

from hearthnet.constants import DONE, TRACE_LOGGER
from hearthnet.observability.logs.context_fields import context_fields
from hearthnet.observability.logs.messages import (
    MESSAGE_BYTES,
    MS,
    OWN_KEYS,
    find,
    known_messages,
    latest,
    place,
    start_of,
    timestamp,
)
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import is_plain, one_line
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.observability.logs.handler import JsonHandler
    from hearthnet.observability.logs.messages import Message

__all__ = ["take_ordinary", "write_done"]

_SECOND_NS: Final = 1_000_000_000
_NO_FIELDS: Final = b"{}\n"
_NOWHERE: Final = (None, None, None)


def take_ordinary(  # noqa: C901  # a call for each part takes as long as the part
    handler: JsonHandler, logger: logging.Logger, level: int, message: Message, extra: object
) -> bool:
    """Writes and records an ordinary record; returns False, and does nothing, for any other.

    Args:
        handler: ours.
        logger: whose record it is, and passes this level on.
        level: the standard library's number.
        message: of `known_messages`.
        extra: the fields, as passed.
    """
    try:
        walked = logger  # as `is_alone` does, without the cost of a call
        while not (handlers := walked.handlers):
            if (parent := walked.parent) is None or not walked.propagate:
                return False
            walked = parent
        if (
            len(handlers) != 1 or handlers[0] is not handler or (walked.parent is not None and walked.propagate)
            or level < handler.level or logger.filters or handler.filters or context_fields.get() is not None
            or (extra is not None and not (is_plain(extra) and OWN_KEYS.isdisjoint(extra)))  # type: ignore[arg-type]  # a dictionary, then
        ):  # fmt: skip
            return False
        try:
            encoded = _NO_FIELDS if extra is None else dumps(extra, None, OPT_APPEND_NEWLINE)
        except TypeError:  # an integer over 64 bits, a lone surrogate
            return False
        trace_id, span_id, ended_id = _NOWHERE if current.get() is None else place()
        file, console, notable, now_ns = handler.file, handler.console, message.is_notable, time_ns()
        second = now_ns // _SECOND_NS
        if message.second != second:
            if message.dropped_rows:  # their number is logged first
                return False
            message.second, message.lines, message.rows = second, 0, 0
        if (
            message.lines >= message.ordinary_a_second or ended_id or len(encoded) > MESSAGE_BYTES
            or (file is not None and file.is_shedding) or runtime.journal is not None
            or (trace_id is not None and message.rows >= message.rows_a_second)  # its trace may hold it
        ):  # fmt: skip
            return False
        message.lines, message.rows = message.lines + 1, message.rows + 1
        ids, columns = (b"", message.untraced) if trace_id is None else _encoded(message, trace_id, span_id)
        stamp, ms = latest[0], MS[now_ns // 1_000_000 % 1_000]
        start = stamp[1] if stamp[0] == second else start_of(second)
        line = b"".join((start, ms, message.head, ids, b"," if extra else b"", encoded[1:]))
        line = line if line.isascii() else one_line(line)
        if file is not None:
            file.write(line, now_ns / 1e9)
        if console is not None and (console.is_talkative or notable):
            console.show(line, message.logger, message.level, notable)
        if message.rows > message.rows_a_second:
            message.drop_row()
            return True
        recorder, us, fields = runtime.recorder, now_ns // 1_000, encoded[:-1]
        number, m = next(recorder.numbers), message
        row = (0, recorder.run_id, number, us, m.level, m.logger, m.text, trace_id, span_id, notable, 0, fields, None)
        recorder.keep_log(row, b"[%d,%d,%b%b,null]" % (number, us, columns, fields))
    except Exception:  # must not raise into the program  # noqa: BLE001
        handler.failures += 1
    return True


def write_done(handler: JsonHandler, level: int, trace_id: str, fields: dict[str, Any]) -> None:
    """Writes the line of a trace that has ended. Not limited; it has no row, for the trace has one.

    Args:
        handler: ours.
        level: the standard library's number.
        trace_id: a ULID.
        fields: of a trace's record, so that they can be encoded as they are.
    """
    try:
        message = known_messages.get((TRACE_LOGGER, level, DONE)) or find(TRACE_LOGGER, level, DONE)
        file, console, notable, now_ns = handler.file, handler.console, message.is_notable, time_ns()
        line = b'%b%b,"trace_id":"%b",%b\n' % (timestamp(now_ns), message.head, trace_id.encode(), dumps(fields)[1:])
        line = line if line.isascii() else one_line(line)
        if file is not None:
            if file.is_shedding and not notable:
                file.shed_lines += 1
            else:
                file.write(line, now_ns / 1e9)
        if console is not None and (console.is_talkative or notable):
            console.show(line, TRACE_LOGGER, message.level, notable)
        if notable and runtime.journal is not None:
            runtime.journal.send_text(message.level, TRACE_LOGGER, DONE, fields, trace_id)
    except Exception:  # must not raise into the program  # noqa: BLE001
        handler.failures += 1


def _encoded(message: Message, trace_id: str, span_id: str | None) -> tuple[bytes, bytes]:
    """Returns the ids as JSON for the line, and the row's columns from level to repeats."""
    trace, span = dumps(trace_id), b"null" if span_id is None else dumps(span_id)
    columns = b"%b,%b,%b,%d,0," % (message.columns, trace, span, message.is_notable)
    if span_id is None:
        return b',"trace_id":%b' % trace, columns
    return b',"trace_id":%b,"span_id":%b' % (trace, span), columns
