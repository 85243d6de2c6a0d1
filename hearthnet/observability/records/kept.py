"""How a trace waits in the buffer: as its fields, or, encoded in one go, with its frame in the black box as the last.

Spans and extras are taken out of the frame when they are needed, by the writer one row after the other. A frame was
made in this process, by `record_whole`, so what is here need not doubt it.
"""

from __future__ import annotations

from typing import Final, cast

from hearthnet.forensics.frames import FRAME
from hearthnet.observability.records.record import TraceFields

__all__ = ["WHOLE_ITEMS", "KeptTrace", "WholeColumns", "WholeTrace", "fields_of", "json_texts_of", "spans_in"]

# Encoded in one go: the columns of its row from its number to `notable`, and what waits: seq, run, columns, frame.
WholeColumns = tuple[int, str, str | None, str, str | None, int, int, float, str, str | None, int]
WholeTrace = tuple[int, str, *WholeColumns, bytes]
KeptTrace = TraceFields | WholeTrace

WHOLE_ITEMS: Final = 14  # one less than fields
_PAYLOAD_AT: Final = FRAME.size
_EXTRAS_AT: Final = 10  # in the frame: their length, in two bytes
_FIRST_SPAN: Final = ',[{"id":"'  # no value has these characters: a quote within one is escaped


def fields_of(kept: KeptTrace) -> TraceFields:
    """Returns the fields of a trace in the buffer."""
    if len(kept) != WHOLE_ITEMS:
        return cast("TraceFields", kept)
    frame = kept[-1]
    spans_at, extras_at = _parts(frame)
    return cast("TraceFields", (*kept[:-1], frame[spans_at : extras_at - 1], frame[extras_at:-1]))


def json_texts_of(frame: bytes) -> tuple[str, str]:
    """Returns the spans and the extras in the frame of a trace, as JSON. 0.4 us."""
    text = frame[_PAYLOAD_AT:].decode()
    head_chars = text.find(_FIRST_SPAN)
    if head_chars > 0 and text.isascii():  # else its parts are not as many characters as bytes
        extras_at = -1 - (frame[_EXTRAS_AT] | frame[_EXTRAS_AT + 1] << 8)
        return text[head_chars + 1 : extras_at - 1], text[extras_at:-1]
    spans_at, at = _parts(frame)
    return frame[spans_at : at - 1].decode(), frame[at:-1].decode()


def spans_in(frame: bytes) -> bytes:
    """Returns the spans in the frame of a trace, as JSON."""
    spans_at, extras_at = _parts(frame)
    return frame[spans_at : extras_at - 1]


def _parts(frame: bytes) -> tuple[int, int]:
    """Returns where spans and extras begin."""
    extras_at = len(frame) - 1 - int.from_bytes(frame[_EXTRAS_AT : _EXTRAS_AT + 2], "little")
    if frame[extras_at - 3 : extras_at - 1] == b"[]":
        return extras_at - 3, extras_at
    return frame.index(_FIRST_SPAN.encode(), _PAYLOAD_AT) + 1, extras_at
