"""Traces and spans: what a request did, where its time went, and how it ended.

`new_trace` makes a trace, which is current in its context until `detach` and is then recorded once, with its spans.
Spans find their parent through the context, also nested and parallel ones. Nothing here raises into the traced program,
waits, or touches a file.

    trace = new_trace("llm.chat")          with new_trace("llm.chat"):         (ends by itself)
    try:                                       with span("generate", model="tiny") as generate:
        with span("generate"):                     …
            …                                      generate.extras["tokens"] = 128
    finally:
        detach()
"""

from __future__ import annotations

import sys
from operator import index
from typing import TYPE_CHECKING, Any, Final, cast

from hearthnet import observability
from hearthnet.constants import MAX_CAPABILITY_CHARS, TRACE_RING_BUFFER
from hearthnet.observability.records.context import current
from hearthnet.observability.records.record import TraceRecord, clean_text, is_a, safe_text
from hearthnet.observability.records.results import OK, is_failure, result_of
from hearthnet.observability.redaction.rules import on_change
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.span import OpenTrace, Root, Span, innermost_root, span, step_out
from hearthnet.observability.traces.trace import Trace, begin

if TYPE_CHECKING:
    from ulid import ULID

__all__ = [
    "Span",
    "Trace",
    "attach",
    "current_trace",
    "detach",
    "get_recent",
    "is_failure",
    "new_trace",
    "result_of",
    "span",
]

_MAX_NAMES: Final = 1_024


def new_trace(capability: str, *, trace_id: str | ULID | None = None, parent_id: str | None = None) -> Trace:
    """Starts a trace and makes it current; `detach` ends it.

    Args:
        capability: its name; a version behind `@` becomes the trace's version.
        trace_id: the caller's id, a ULID in upper or lower case. Anything else is replaced by a fresh one.
        parent_id: the caller's span.

    Returns:
        The trace. Used with `with`, it detaches by itself and takes its result from an exception that leaves.
    """
    try:
        name, version, encoded = _names[capability]
    except (KeyError, TypeError):  # new, or no text
        name, version, encoded = _learn(capability)
    trace = begin(name, version, encoded, trace_id, parent_id)
    trace.token = current.set(trace)
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


def attach(trace: Trace | None) -> None:
    """Makes an existing trace current in this task; neither starts nor ends it. `detach` takes it back.

    A trace that this very context began and that is current already stays so: `new_trace`, `attach`, `detach` is one
    trace, recorded. None, as returned by `current_trace` outside any trace, records nothing until `detach`.
    """
    if is_a(trace, Trace):
        if innermost_root() is trace and trace.began_here():
            return
    else:
        trace = _no_trace()
    root = Root(trace)
    root.token = current.set(root)


def _no_trace() -> Trace:
    """Returns a trace that has ended, so nothing is recorded in it."""
    return Trace.from_record(TraceRecord(0, "", 0, "", None, "", None, 0, 0, 0.0, OK, None, 0, b"[]", b"{}"))


def detach() -> None:
    """Ends and records the current trace if this context started it; puts the previous one back.

    For a trace that was attached, or inherited with a copied context, it only restores. Without one it does nothing.
    An exception on its way out of the `try … finally` around this call sets the result, if nothing else did.
    """
    scope: Any = current.get()  # tracing sets only its own scopes
    if type(scope) is not Trace:
        _detach_around(innermost_root())
    elif (token := scope.token) is not None:
        try:
            current.reset(token)
        except (ValueError, RuntimeError):
            scope.leave()  # of a context that this one is a copy of
        else:
            scope.token = None
            if (error := sys.exception()) is not None:
                scope.fail_on_way(error)
            scope.end()
    if current.get() is not None:
        step_out()


def _detach_around(root: Root | OpenTrace | None) -> None:
    """Leaves the trace around spans that were left open, or one that was attached here."""
    if root is not None and root.leave():
        root.trace.end()


def current_trace() -> Trace | None:
    """Returns the trace of the current task, or None if there is none or it has ended."""
    scope = current.get()
    if scope is None:
        return None
    trace = cast("Trace", scope.trace)  # tracing sets only its own scopes
    return None if trace.ended else trace


def get_recent(n: int = 100) -> list[Trace]:
    """Returns the last `n` completed traces, newest first: from SQL, and those of this process that are not there yet.

    Any process may ask. One that has telemetry open, or had, reads that store; any other the standard one. Without a
    database that can be read, those in memory are returned. Takes a millisecond or two of reading: not for a loop.

    Raises:
        TypeError: raised when `n` is no whole number.
    """
    try:
        wanted = min(index(n), TRACE_RING_BUFFER)
    except TypeError:
        raise TypeError(f"n is the number of traces, an int: {type(n).__name__} is none") from None
    if wanted < 1:
        return []
    read = runtime.recent or observability.read_recent
    return [Trace.from_record(record) for record in read(wanted)]
