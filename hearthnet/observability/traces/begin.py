"""How a trace begins: one function, because each call of another would cost as much as what it does.

Of its 14,000 instructions, nine or ten a nanosecond, 2,500 are the object and its fields, 2,400 the mark in the black
box, 1,900 the id, 900 the clocks, 750 the context variable, 400 the microseconds, 300 the error that is being handled.
"""

from __future__ import annotations

import sys
from time import monotonic_ns, time_ns

from hearthnet.constants import MAX_CAPABILITY_CHARS
from hearthnet.forensics.marks import ENTRY
from hearthnet.observability.logs.context_fields import context_fields, fields_of_trace
from hearthnet.observability.records.context import current
from hearthnet.observability.records.ids import canonical, id_source, new_trace_id
from hearthnet.observability.records.record import clean_text, safe_text
from hearthnet.observability.redaction.rules import on_change
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.trace import NOT_OURS, Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ulid import ULID

__all__ = ["new_trace"]

_MAX_NAMES: Final = 1_024

_pack_entry: Final = ENTRY.pack_into
# Methods of an imported name are bound at each call, unless they are bound here.
_fields: Final = context_fields.get
_set_scope: Final = current.set


def new_trace(capability: str, *, trace_id: str | ULID | None = None, parent_id: str | None = None) -> Trace:
    """Starts a trace and makes it current; `detach` ends it.

    Args:
        capability: its name; a version behind `@` becomes the trace's version.
        trace_id: the caller's id, a ULID in upper or lower case. Anything else is replaced by a fresh one.
        parent_id: the caller's span.

    Returns:
        The trace. Used with `with`, it detaches by itself and takes its result from an exception that leaves.
    """
    trace = Trace()
    try:
        trace.capability, trace.version, encoded = _names[capability]
    except (KeyError, TypeError):  # new, or no text
        trace.capability, trace.version, encoded = _learn(capability)
    now_ns = time_ns()
    given_id = None if trace_id is None else canonical(trace_id)
    if given_id is None:  # also for one that is no ULID, which is never recorded
        began_ns, ends_ns, time = id_source.moment
        try:
            given_id = time + next(id_source.tails.left) if began_ns <= now_ns < ends_ns else new_trace_id(now_ns)
        except StopIteration:
            given_id = new_trace_id(now_ns)
    else:
        trace._origin = NOT_OURS
    trace.trace_id = given_id
    trace.parent_id = None if parent_id is None else clean_text(parent_id, MAX_CAPABILITY_CHARS)
    trace.started_us = started_us = now_ns // 1_000
    trace.started_ns = started_ns = monotonic_ns()
    trace.duration_ms = trace.result = trace.error = trace._held = trace._recorded = trace._top = trace._odd = None
    trace.ended = trace.is_over = False
    trace.extras = {} if _fields() is None else fields_of_trace()
    trace._spans = []
    trace._handling = sys.exception()  # an error that is already being handled is not the trace's
    slot = None
    if (box := runtime.recorder.box) is not None:
        try:
            slot = box.free.pop()
            _pack_entry(box.table, slot.at, given_id.encode(), encoded, started_us, started_ns, 1)
        except (IndexError, TypeError, ValueError):  # none is free, or the box moves
            slot = box.begin(given_id, trace.capability, started_us, started_ns, slot)
    trace._slot = slot
    trace.token = _set_scope(trace)
    return trace


_names: dict[str, tuple[str, str | None, bytes]] = {}  # of capabilities: as passed, and as recorded
on_change(_names.clear)


def _learn(capability: object) -> tuple[str, str | None, bytes]:
    text, _, version = clean_text(capability, 2 * MAX_CAPABILITY_CHARS).partition("@")
    name = safe_text(text, MAX_CAPABILITY_CHARS)
    found = name, safe_text(version, MAX_CAPABILITY_CHARS) if version else None, name.encode()
    if type(capability) is str:
        if len(_names) >= _MAX_NAMES:
            _names.clear()
        _names[capability] = found
    return found
