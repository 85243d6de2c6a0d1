"""Ordinary records, and the lines of ended traces, by ways of their own with few calls: it is calls that cost.

A record is ordinary if our handler alone gets it, its message was logged before, has no argument, no error and no
secret, and is within its budget, and its fields can be encoded as they are. Nearly all are. Any other takes the way of
`handler.JsonHandler.take`, which copes with everything; a property test compares line, row and frame of both.

Line and frame are put together from the same bytes: the fields are encoded once, the message was when it was new. What
holds for a whole second is kept for it: how its lines begin, when it began, and that the file can be appended to.

    CPU time of the caller's thread, the least of many batches: a record of four fields 5.2 us, 5.9 us in a cold loop,
    of it 1.0 us the system's write; 35,600 instructions of the processor besides that. A line of an ended trace
    3.2 us, 16,900 instructions.
"""

from __future__ import annotations

import logging
from struct import Struct
from time import time_ns
from zlib import crc32

from orjson import OPT_APPEND_NEWLINE, dumps

from hearthnet.constants import DONE, MAX_KEYS, MIN_SECRET_CHARS, TRACE_LOGGER
from hearthnet.forensics.frames import FRAME_FIELDS, FRAME_MAGIC
from hearthnet.forensics.tables import PAYLOAD_VERSION
from hearthnet.observability.logs.context_fields import context_fields
from hearthnet.observability.logs.handler import is_alone
from hearthnet.observability.logs.messages import (
    MESSAGE_BYTES,
    MS,
    OWN_KEYS,
    find,
    known_messages,
    latest,
    place,
    start_of,
)
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import (
    SCALARS,
    SHORT_CHARS,
    harmless,
    is_harmless,
    one_line,
)
from hearthnet.observability.redaction.rules import active, needs_scrub, on_change
from hearthnet.observability.redaction.told import known
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.observability.logs.handler import JsonHandler
    from hearthnet.observability.logs.messages import Message
    from hearthnet.observability.records.record import LogFields
    from hearthnet.observability.records.recorder import Recorder

__all__ = ["take_ordinary", "write_done"]

_SECOND_NS: Final = 1_000_000_000
_NO_FIELDS: Final = b"{}\n"
_MAX_REMEMBERED: Final = 4_096
_root: Final = logging.root
_pack_fields: Final = FRAME_FIELDS.pack
_pack_check: Final = Struct("<4sI").pack  # as `frames.FRAME` begins
# Bound once: a method of a name that is imported takes three times as long.
_known: Final = known_messages.get
_fields_here: Final = context_fields.get
_scope_here: Final = current.get
_names: Final[set[str]] = set()  # of fields: neither the line's own nor, with any value, a secret's
on_change(_names.clear)


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
        walked: Any = logger if logger.handlers or not logger.propagate else logger.parent
        while walked is not _root and walked is not None and not walked.handlers and walked.propagate:
            walked = walked.parent
        handlers, file = _root.handlers, handler.file
        is_usual = walked is _root and len(handlers) == 1 and handlers[0] is handler
        if (
            level < handler.level or logger.filters or handler.filters or _fields_here() is not None
            or not (is_usual or is_alone(logger, handler))
            or (encoded := _NO_FIELDS if extra is None else _plain(extra)) is None
        ):  # fmt: skip
            return False
        second, start, from_ns, from_us = latest[0]
        passed_ns = time_ns() - from_ns
        if not 0 <= passed_ns < _SECOND_NS:
            second, start, from_ns, from_us = start_of((from_ns + passed_ns) // _SECOND_NS)
            passed_ns %= _SECOND_NS
        if message.second is not second:
            if message.second != second:
                if message.dropped_rows:  # their number is logged first
                    return False
                message.lines = 0
            message.second = second
        lines = message.lines + 1
        outside = None, None, message.opened if extra else message.head, message.untraced
        trace_id, span_id, head, columns = outside if _scope_here() is None else _placed(message, extra)
        if (
            (lines > message.ordinary_rows and (trace_id is not None or lines > message.ordinary_a_second))
            or (file is not None and file.ready is not second and not file.is_ready(second))
            or head is None or runtime.journal is not None
        ):  # fmt: skip
            return False
        message.lines, notable = lines, message.is_notable
        line = b"".join((start, MS[passed_ns // 1_000_000], head, encoded[1:]))
        line = line if line.isascii() else one_line(line)
        if file is not None:
            file.append(line)
        if handler.console is not None and (handler.console.is_talkative or notable):
            handler.console.show(line, message.logger, message.level, notable)
        if lines > message.ordinary_rows:
            message.drop_row()
            return True
        recorder, us, fields = runtime.recorder, from_us + passed_ns // 1_000, encoded[:-1]
        number, m = next(recorder.numbers), message
        row = (0, recorder.run_id, number, us, m.level, m.logger, m.text, trace_id, span_id, notable, 0, fields, None)
        _keep(recorder, row, b"[%d,%d,%b%b,null]" % (number, us, columns, fields), notable)
    except Exception:  # must not raise into the program  # noqa: BLE001
        handler.failures += 1
    return True


def _plain(extra: object) -> bytes | None:  # noqa: C901  # as above
    """Returns the JSON of fields that can be encoded as they are, and a newline; None for others. See `is_plain`."""
    if type(extra) is not dict or len(extra) > MAX_KEYS or known:
        return None
    clean = active.clean
    for key in extra:
        if key not in _names and not _is_name(key, extra):
            return None
        value = extra[key]
        kind = type(value)
        if kind is str:
            if len(value) < MIN_SECRET_CHARS or value in clean:
                continue
            if len(value) > SHORT_CHARS or needs_scrub(value):
                return None
        elif kind is not int and kind not in SCALARS and (kind is not float or value - value):
            return None  # also NaN and infinity, which orjson would make null
    try:
        encoded = dumps(extra, None, OPT_APPEND_NEWLINE)
    except TypeError:  # an integer over 64 bits, a lone surrogate
        return None
    return encoded if len(encoded) <= MESSAGE_BYTES else None


def _is_name(key: Any, extra: dict[Any, Any]) -> bool:
    if not is_harmless(key, extra) or key in OWN_KEYS:
        return False
    if key in harmless:  # else another value of it may be a secret
        if len(_names) >= _MAX_REMEMBERED:
            _names.clear()
        _names.add(key)
    return True


def _placed(message: Message, extra: object) -> tuple[str | None, str | None, bytes | None, bytes]:
    """Returns the ids of trace and span, the line from its time to its fields, and the row's columns up to repeats.

    The line is None for work that has outlived its trace.
    """
    trace_id, span_id, ended_id = place()
    if trace_id is None:
        head = message.opened if extra else message.head
        return None, None, None if ended_id else head, message.untraced
    trace, span = dumps(trace_id), b"null" if span_id is None else dumps(span_id)
    columns = b"%b,%b,%b,%d,0," % (message.columns, trace, span, message.is_notable)
    ids = b',"trace_id":%b' % trace if span_id is None else b',"trace_id":%b,"span_id":%b' % (trace, span)
    return trace_id, span_id, b"%b%b%b" % (message.head, ids, b"," if extra else b""), columns


def _keep(recorder: Recorder, row: LogFields, payload: bytes, notable: int) -> None:
    """Keeps a record that has its number: its frame in the box, its row in the buffer."""
    box, buffer = recorder.box, recorder.logs
    if box is not None:
        ring = box.logs
        covered = _pack_fields(PAYLOAD_VERSION, 0, len(payload), next(ring.ordinals)) + payload
        frame = _pack_check(FRAME_MAGIC, crc32(covered)) + covered  # as `frames.pack`
        try:
            ring.write(frame)
        except Exception:  # there is no space at its end, mostly  # noqa: BLE001
            box.turn(ring, frame)
    queue = buffer.queue
    queue.append(row)
    if notable or recorder.is_idle or len(queue) + len(buffer.in_flight) >= recorder.many_logs:
        recorder.wake_for_log(notable == 1)


def write_done(logger: logging.Logger, level: int, fields: dict[str, Any]) -> bool:  # noqa: C901  # as above
    """Writes the line of a trace that has ended; returns False if other handlers must get the record too.

    It is not limited, and has no row, for the trace has one.

    Args:
        logger: of such lines.
        level: the standard library's number.
        fields: of a trace's record, so that they can be encoded as they are; the first is its id.
    """
    handler: JsonHandler | None = runtime.handler
    if handler is None:
        return False
    try:
        walked: Any = logger if logger.handlers or not logger.propagate else logger.parent
        while walked is not _root and walked is not None and not walked.handlers and walked.propagate:
            walked = walked.parent
        handlers = _root.handlers
        is_usual = walked is _root and len(handlers) == 1 and handlers[0] is handler
        if logger.filters or handler.filters or not (is_usual or is_alone(logger, handler)):
            return False
        if level < handler.level:
            return True
        message = _known((TRACE_LOGGER, level, DONE)) or find(TRACE_LOGGER, level, DONE)
        second, start, from_ns, _ = latest[0]
        passed_ns = time_ns() - from_ns
        if not 0 <= passed_ns < _SECOND_NS:
            second, start, from_ns, _ = start_of((from_ns + passed_ns) // _SECOND_NS)
            passed_ns %= _SECOND_NS
        encoded = dumps(fields, None, OPT_APPEND_NEWLINE)
        line = b"".join((start, MS[passed_ns // 1_000_000], message.opened, encoded[1:]))
        line = line if line.isascii() else one_line(line)
        file, console, notable = handler.file, handler.console, message.is_notable
        if file is None or file.ready is second or file.is_ready(second):
            if file is not None:
                file.append(line)
        elif file.is_shedding and not notable:
            file.shed_lines += 1
        else:
            file.write(line, second)
        if console is not None and (console.is_talkative or notable):
            console.show(line, TRACE_LOGGER, message.level, notable)
        if notable and runtime.journal is not None:
            trace_id = fields.pop("trace_id")
            runtime.journal.send_text(message.level, TRACE_LOGGER, DONE, fields, trace_id)
    except Exception:  # must not raise into the program  # noqa: BLE001
        handler.failures += 1
    return True
