"""A span of ours as OpenTelemetry's API knows it, or a trace of ours as the root of its spans.

A `BridgeSpan` keeps nothing: attributes are extras, and what the API has besides is in extras too, under names that
begin with `otel.`, which its conventions reserve. So several of them may be of one span, each as good as the others.

    attributes, name, status      extras, name, status; of a root: extras, capability, result
    otel.kind                     client, server, producer, consumer; internal ones have none
    otel.scope.name               the library that made the span
    otel.events, otel.links       the last 16 each; `otel.dropped_…_count` counts the others
    otel.parent_is_remote         false, of a root whose parent is of this process
    otel.status_code              `OK`, where the program has said so: it is final

Nothing here raises into the program, whatever it passes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from time import monotonic_ns, time_ns
from types import MappingProxyType, TracebackType
from typing import Any, Final, ParamSpec

from opentelemetry import trace as api
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from hearthnet.constants import MAX_CAPABILITY_CHARS, MAX_KEYS, MAX_STRING_BYTES
from hearthnet.observability.logs.tracebacks import Error, texts_of
from hearthnet.observability.otel.fields import EVENTS, KIND, LINKS, OWN, SCOPE, STATUS, dropped
from hearthnet.observability.records.record import bounded, clean_text, safe_text
from hearthnet.observability.records.results import CANCELLED, OK, is_failure, result_of
from hearthnet.observability.redaction.told import Told
from hearthnet.observability.traces.span import Span, describe
from hearthnet.observability.traces.trace import Trace
from hearthnet.observability.traces.traceparent import from_w3c, root_span_id, to_w3c

__all__ = ["BridgeSpan", "capability_of", "monotonic_of", "to_ulid", "wall_time"]

P = ParamSpec("P")

_MAX_ATTRIBUTES: Final = MAX_KEYS - 12  # a record keeps 64 fields: the others are for ours
_MAX_ITEMS: Final = 16  # events, and links
_MAX_CHARS: Final = 2 * MAX_STRING_BYTES + 1  # as much as is searched for secrets, and a sign that there was more
_SAMPLED, _RANDOM = 1, 2
_MAX_NS: Final = 2**63
_API_KEY: Final = re.compile(r"[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13}")
_SCALARS: Final = (bool, int, float)


def _quiet(setter: Callable[P, None]) -> Callable[P, None]:
    """Returns a setter that ignores what raises: keys, values and mappings are the program's, and may do anything."""

    @wraps(setter)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        try:  # a fifth of the time that `suppress` takes
            setter(*args, **kwargs)
        except Exception:  # the program's values  # noqa: BLE001
            return

    return called


class BridgeSpan(api.Span):
    """A span or a trace of ours.

    Args:
        scope: the span, or the trace as the root of its spans.
        start_time: when it began, nanoseconds since 1970, if the program said so.
        records_exceptions: whether an exception that leaves a `with` block becomes an event.
        fails_with_exceptions: whether it sets the status.
    """

    def __init__(
        self,
        scope: Span | Trace,
        start_time: int | None = None,
        *,
        records_exceptions: bool = True,
        fails_with_exceptions: bool = True,
    ) -> None:
        self.scope = scope
        self._start_time = start_time
        self._records_exceptions = records_exceptions
        self._fails_with_exceptions = fails_with_exceptions
        self._context: SpanContext | None = None
        self._raised: str | None = None  # the result that the exception recorded last means
        # An error that is being handled already is not the span's.
        self._handling = sys.exception()

    @property
    def trace(self) -> Trace:
        """Our trace that it belongs to."""
        return self.scope.trace  # type: ignore[return-value]  # tracing sets only its own scopes

    @property
    def name(self) -> str:
        """The name; of a root the capability."""
        return self.scope.name if isinstance(self.scope, Span) else self.scope.capability

    @property
    def kind(self) -> SpanKind:
        """What it is to its parent."""
        said = self._extras().get(KIND)
        return SpanKind.__members__.get(str(said).upper(), SpanKind.INTERNAL)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes as they were passed, cut where they are too long."""
        return MappingProxyType({key: value for key, value in self._extras().items() if not str(key).startswith(OWN)})

    def _extras(self) -> dict[str, Any]:
        extras: object = self.scope.extras
        if isinstance(extras, dict):
            return extras
        self.scope.extras = {}  # the program had set something else
        return self.scope.extras

    def get_span_context(self) -> SpanContext:
        """Returns its ids, as they are in a row and in `traceparent`."""
        if self._context is None:
            trace, scope = self.trace, self.scope
            span_id = scope.id if isinstance(scope, Span) else ""
            self._context = SpanContext(
                int(to_w3c(trace.trace_id), 16),
                int(span_id or root_span_id(trace.trace_id, trace.started_us, trace.started_ns), 16),
                is_remote=False,
                trace_flags=TraceFlags(_SAMPLED | (_RANDOM if trace.is_random else 0)),
                trace_state=_state_of(trace.tracestate),
            )
        return self._context

    def is_recording(self) -> bool:
        """Returns whether it has not ended."""
        return not self.scope.closed_ns and not self.trace.ended

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Sets attributes; those that cannot be kept are ignored."""
        if self.is_recording():
            self._set_all(attributes)

    @_quiet
    def _set_all(self, attributes: Mapping[str, Any] | None) -> None:
        for key, value in (attributes or {}).items():
            self.set_attribute(key, value)

    @_quiet
    def set_attribute(self, key: str, value: Any) -> None:
        """Sets an attribute. None is no value; names of our own, `otel.…`, are not set."""
        if not self.is_recording() or not isinstance(key, str) or not key or value is None or key.startswith(OWN):
            return
        extras = self._extras()
        if key not in extras and len(extras) >= _MAX_ATTRIBUTES:
            _count_dropped(extras, "attributes")
            return
        extras[key] = self._kept(key, value)

    def _kept(self, key: str, value: Any) -> Any:
        """Returns a value that stays as it is and takes little memory; secrets in a container are replaced at once."""
        if type(value) is str:
            return value if len(value) <= _MAX_CHARS else value[:_MAX_CHARS]
        if isinstance(value, _SCALARS):
            return value
        with Told() as told:
            kept = bounded(value, strict=True, name=key)
        self.trace.note_told(told)
        return kept

    @_quiet
    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Adds an event; of more than 16 the first are dropped.

        `timestamp` is in nanoseconds since 1970; now, if it is None.
        """
        if not self.is_recording():
            return
        at_ns = monotonic_of(wall_time(timestamp))
        event = {"name": clean_text(name, 128), "offset_ms": (at_ns - self.trace.started_ns) / 1e6}
        self._add(EVENTS, event, attributes)

    @_quiet
    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Adds a link to a span; of more than 16 the first are dropped."""
        if not self.is_recording() or not context.is_valid:
            return
        link = {"trace_id": to_ulid(context.trace_id), "span_id": f"{context.span_id:016x}"}
        self._add(LINKS, link, attributes)

    def _add(self, key: str, item: dict[str, Any], attributes: Attributes) -> None:
        if attributes:
            said = {name: value for name, value in attributes.items() if value is not None}
            item["attributes"] = self._kept("", said)
        extras = self._extras()
        items = extras.setdefault(key, [])
        items.append(item)
        if len(items) > _MAX_ITEMS:
            del items[0]
            _count_dropped(extras, key.removeprefix(OWN))

    @_quiet
    def describe(self, scope_name: str, kind: SpanKind, attributes: Attributes, links: Sequence[Link] | None) -> None:
        """Notes what a span is made with."""
        extras = self._extras()
        if scope_name:
            extras[SCOPE] = scope_name
        if kind is not SpanKind.INTERNAL:
            extras[KIND] = kind.name.lower()
        self._set_all(attributes)
        for link in links or ():
            self.add_link(link.context, link.attributes)

    @_quiet
    def update_name(self, name: str) -> None:
        """Gives it another name."""
        if not self.is_recording():
            return
        if isinstance(self.scope, Span):
            self.scope.rename(name)
        else:
            self.scope.capability = capability_of(name)

    @_quiet
    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Sets the status: OK is final, UNSET is ignored, a description counts with ERROR only."""
        code, said = (status.status_code, status.description) if isinstance(status, Status) else (status, description)
        extras = self._extras()
        if not self.is_recording() or extras.get(STATUS) == "OK":
            return
        if code is StatusCode.OK:
            extras[STATUS] = "OK"
            self._succeed(extras)
        elif code is StatusCode.ERROR:
            self._fail(extras, said if isinstance(said, str) and said else None)

    def _succeed(self, extras: dict[str, Any]) -> None:
        if isinstance(self.scope, Span):
            if self.scope.status != OK:
                extras.pop("error", None)
            self.scope.status = OK
        else:
            self.scope.result, self.scope.error = OK, None

    def _fail(self, extras: dict[str, Any], said: str | None) -> None:
        if isinstance(self.scope, Span):
            self.scope.status = "error"
            if said is not None:
                extras["error"] = self._kept("error", said)
        else:
            self.scope.fail(self._raised or "internal_error", said)

    @_quiet
    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Adds an exception as an event, with its traceback cut to a KiB; it does not set the status."""
        if not self.is_recording():
            return
        kind = type(exception)
        is_builtin = kind.__module__ == "builtins"
        with Told() as told:
            texts = texts_of(Error((kind, exception, exception.__traceback__)))
        self.trace.note_told(told)
        if is_failure(result := result_of(exception)):
            self._raised = result
        fields: dict[str, Any] = {
            "exception.type": kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": safe_text(exception),
            "exception.stacktrace": texts[1] if texts else "",
            **({"exception.escaped": True} if escaped else {}),
        }
        self.add_event("exception", {**fields, **(attributes or {})}, timestamp)

    @_quiet
    def end(self, end_time: int | None = None) -> None:
        """Ends it, once, in any context and thread; a root records its trace.

        `end_time` is in nanoseconds since 1970; now, if it is None.
        """
        if not self.is_recording():
            return
        self._note_cancelled(sys.exception())
        ended_ns = self._end_of(wall_time(end_time))
        scope = self.scope
        if isinstance(scope, Span):
            scope.close(max(ended_ns, scope.started_ns))
        else:
            scope.end(max(ended_ns, scope.started_ns))

    def _end_of(self, end_time: int | None) -> int:
        if self._start_time is None or end_time is None:
            return monotonic_of(end_time)
        return self.scope.started_ns + end_time - self._start_time  # two times of one clock: the length that they say

    def _note_cancelled(self, error: BaseException | None) -> None:
        """Marks it cancelled if what ends it is a cancellation, which the API does not take for an exception."""
        if error is None or error is self._handling or isinstance(error, Exception):
            return
        scope = self.scope
        if isinstance(scope, Span):
            extras = self._extras()
            if scope.status == OK and STATUS not in extras:
                scope.status = CANCELLED
                extras.setdefault("error", describe(error))
        elif scope.result is None:
            scope.fail(CANCELLED, describe(error))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            if self._records_exceptions:
                self.record_exception(error)
            if self._fails_with_exceptions:
                self.set_status(StatusCode.ERROR, describe(error))
        self.end()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BridgeSpan) and other.scope is self.scope

    def __hash__(self) -> int:
        return id(self.scope)

    def __repr__(self) -> str:
        return f"<BridgeSpan of {self.scope!r}>"


def _count_dropped(extras: dict[str, Any], what: str) -> None:
    key = dropped(what)
    extras[key] = extras.get(key, 0) + 1


def capability_of(name: object) -> str:
    """Returns the name of a root as the capability of its trace."""
    return safe_text(clean_text(name, 2 * MAX_CAPABILITY_CHARS), MAX_CAPABILITY_CHARS)


def wall_time(given: object) -> int | None:
    """Returns a time that the program passed, nanoseconds since 1970; None for anything else, or far from any time."""
    if given is None:
        return None
    try:
        found = int(given)  # type: ignore[call-overload]  # of any kind
    except Exception:  # the program's value  # noqa: BLE001
        return None
    return found if 0 <= found < _MAX_NS else None


def monotonic_of(wall_ns: int | None) -> int:
    """Returns a time of the wall clock (nanoseconds since 1970) on the monotonic clock, as both are now; None: now."""
    now_ns = monotonic_ns()
    return now_ns if wall_ns is None else wall_ns - time_ns() + now_ns


def to_ulid(trace_id: int) -> str:
    """Returns a trace id of OpenTelemetry's as a ULID."""
    return from_w3c(f"{trace_id:032x}")


@lru_cache(maxsize=64)
def _state_of(tracestate: str) -> TraceState:
    """Returns what the API can hold of a `tracestate`: members of the older grammar, the first of each key.

    One of another kind would cost it all members, and the API logs a warning.
    """
    members: dict[str, str] = {}
    for member in tracestate.split(",") if tracestate else ():
        key, _, value = member.partition("=")
        if _API_KEY.fullmatch(key):
            members.setdefault(key, value)
    return TraceState(list(members.items()))
