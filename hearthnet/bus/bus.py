"""Calls capabilities. Every call is one trace with a span for each stage, and is counted once, however it ends.

The stages: find the entry, check who calls, check the body, take one of the entry's places, run the handler within its
time, check the answer. A call made inside a trace becomes a span of that trace instead of a trace of its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple

from hearthnet.bus.capability import CapabilityDescriptor, Frames, Handler, RouteRequest, parse_version
from hearthnet.bus.ratelimit import RateLimitedError, RateLimiter
from hearthnet.bus.registry import Entry, Registry
from hearthnet.bus.stream import CallStream
from hearthnet.errors import WireError
from hearthnet.identity.keys import short_id
from hearthnet.observability import get_logger, metrics
from hearthnet.observability.records.context import current, swap
from hearthnet.observability.records.results import decisive
from hearthnet.observability.traces.bodies import Bodies, KeptBodies
from hearthnet.observability.traces.span import Span
from hearthnet.observability.tracing import Trace, current_trace, detach, new_trace, result_of, span

__all__ = ["CapabilityBus"]

log = get_logger(__name__)


class Admission(NamedTuple):
    """A place that a call has taken; `is_probe`: it decides whether a quarantine ends."""

    entry: Entry
    is_probe: bool


# Ends a call: takes its place and the error that ended it, returns the error that its caller may see.
Settle = Callable[[Admission | None, BaseException | None], BaseException | None]

_LEVELS: Final = ("member", "trusted", "anchor", "self")
_UNKNOWN: Final = "other"  # the metric label of a capability that is not offered here: callers invent names
_RETRY_AFTER_MS: Final = 1_000  # when all places are taken; an answer rarely takes less


class CapabilityBus:
    """The bus of one node.

    Args:
        node_id: our own full id; calls from it need no membership.
        level_of: returns the community level of a node, or None for a stranger.

    Attributes:
        bodies: whose calls have their bodies recorded; none, until an operator says so.
        limiter: how often each peer may call.
    """

    def __init__(self, node_id: str, level_of: Callable[[str], str | None] = lambda _: None) -> None:
        self.node_id = node_id
        self.registry = Registry()
        self.bodies = Bodies()
        self.limiter = RateLimiter(node_id)
        self._level_of = level_of

    def register(self, descriptor: CapabilityDescriptor, handler: Handler) -> None:
        """Offers a capability."""
        self.registry.add(descriptor, handler)

    def check_rate(self, caller: str, capability: str, *, is_claimed: bool = False) -> None:
        """Counts a call that came from outside, before any work is spent on it: a flood leaves no traces.

        Args:
            caller: full node id of the peer.
            capability: what it calls; all that is not offered counts as one.
            is_claimed: the caller is not authenticated yet. Nothing is counted then; only what is over a hard limit
                already is turned away.

        Raises:
            RateLimitedError: raised when the call is one too many.
        """
        label = capability if capability in self.registry else _UNKNOWN
        check = self.limiter.check_claimed if is_claimed else self.limiter.check
        try:
            check(caller, label)
        except RateLimitedError as error:
            metrics.rate_limited_total.labels(label, error.reason).inc()
            raise

    async def handle_call(self, request: RouteRequest) -> dict[str, Any] | CallStream:
        """Answers a request; the trace is recorded before this returns, or before a stream's end is seen.

        Raises:
            WireError: raised when the call fails, with the code that the trace has as its result.
        """
        outside = current.get()
        trace = new_trace(request.capability, trace_id=request.trace_id, parent_id=request.parent_id)
        trace.version = "{}.{}".format(*request.version_req)
        trace.extras["caller"] = request.caller
        if request.link is not None:
            trace.extras["link"] = {"trace_id": request.link.trace_id, "span_id": request.link.span_id}
        settle = partial(self._settle_trace, trace, request)
        kept = self.bodies.keep(request.capability, trace.extras, request.body)
        try:
            answer = await self._answer(request, settle, kept)
        finally:
            # A stream goes on in its own scope; everything else is settled by now, so the trace has ended.
            if trace.ended:
                detach()
            else:
                swap(outside)
        return answer

    async def call(
        self, capability: str, version: str, body: dict[str, Any], *, stream: bool = False
    ) -> dict[str, Any] | CallStream:
        """Calls a capability of this node from within it.

        Raises:
            WireError: raised when the call fails.
        """
        request = RouteRequest(capability, parse_version(version), body, self.node_id, stream=stream)
        if current_trace() is None:
            return await self.handle_call(request)
        with span("call", capability=capability, version=version) as made:
            kept = self.bodies.keep(capability, made.extras, body)
            return await self._answer(request, partial(self._settle_span, made, monotonic(), request), kept)

    async def _answer(
        self,
        request: RouteRequest,
        settle: Settle,
        kept: KeptBodies | None,
    ) -> dict[str, Any] | CallStream:
        """Runs the stages; `settle` is called once, here or at the end of the stream."""
        admission: Admission | None = None
        try:
            admission = self._admit(request)
            entry = admission.entry
            limit_s = self._limit_s(entry, request)
            answer = await self._run(entry, request, limit_s)
            if not isinstance(answer, dict):
                return self._stream(answer, admission, request, settle, kept)
            if kept is not None:
                kept.take(answer)
            with span("check_answer"):
                entry.check_response(answer)
        except BaseException as error:
            visible = settle(admission, error)
            if visible is error:
                raise
            raise visible or error from error
        settle(admission, None)
        return answer

    def _stream(
        self, frames: object, admission: Admission, request: RouteRequest, settle: Settle, kept: KeptBodies | None
    ) -> CallStream:
        if not isinstance(frames, AsyncIterator):
            raise WireError("internal_error", "the capability's answer is neither an object nor frames")
        entry = admission.entry
        metrics.active_streams.labels(request.capability).inc()
        return CallStream(
            frames,
            current.get(),
            self._limit_s(entry, request),
            self._limit_s(entry, request) < entry.descriptor.timeout_seconds,
            entry.check_frame if kept is None else kept.checking(entry.check_frame),
            partial(self._end_stream, request, admission, settle),
        )

    @staticmethod
    def _end_stream(
        request: RouteRequest, admission: Admission, settle: Settle, error: BaseException | None
    ) -> BaseException | None:
        metrics.active_streams.labels(request.capability).dec()
        return settle(admission, error)

    def _admit(self, request: RouteRequest) -> Admission:
        """Returns the entry that will serve the request, with one of its places taken."""
        with span("find"):
            entry = self.registry.find(request.capability, request.version_req)
        with span("authorize"):
            self._check_trust(entry, request.caller)
        with span("validate"):
            entry.check_request(request.body)
        with span("admit", running=entry.running):
            if entry.running >= entry.descriptor.max_concurrent:
                metrics.rate_limited_total.labels(request.capability, "max_concurrent").inc()
                raise WireError("capacity_exceeded", "all places are taken", retry_after_ms=_RETRY_AFTER_MS)
            wait_ms = entry.health.admit()
            if wait_ms:
                raise WireError("partition", "quarantined after too many failures", retry_after_ms=wait_ms)
            entry.running += 1
        log.debug("call admitted", extra={"capability": request.capability, "caller": request.caller})
        return Admission(entry, is_probe=entry.health.is_quarantined)

    def _check_trust(self, entry: Entry, caller: str) -> None:
        if caller == self.node_id:
            return
        level = self._level_of(caller)
        if level is None:
            raise WireError("unauthorized", "not a member of this community")
        required = entry.descriptor.trust_required
        if _LEVELS.index(level) < _LEVELS.index(required):
            raise WireError("unauthorized", f"this capability needs the level {required}")

    @staticmethod
    def _limit_s(entry: Entry, request: RouteRequest) -> float:
        limit_s = entry.descriptor.timeout_seconds
        return limit_s if request.deadline_ms is None else min(limit_s, request.deadline_ms / 1_000)

    @staticmethod
    async def _run(entry: Entry, request: RouteRequest, limit_s: float) -> dict[str, Any] | Frames:
        with span("handle", timeout_s=limit_s):
            try:
                async with asyncio.timeout(limit_s) as limit:
                    result = entry.handler(request)
                    if inspect.isawaitable(result):
                        return await result
                    return result
            except TimeoutError as error:
                if not limit.expired():
                    raise
                # A deadline of the caller's own says nothing about the capability's health.
                own = limit_s < entry.descriptor.timeout_seconds
                raise WireError("timeout", f"no answer within {limit_s:g} s", asked_for=own) from error

    def _settle_trace(
        self, trace: Trace, request: RouteRequest, admission: Admission | None, error: BaseException | None
    ) -> BaseException | None:
        """Ends the trace and counts the call; returns the error that the caller may see."""
        visible = self._visible(request, error)
        if error is not None and trace.result is None:  # what the handler set itself stands
            trace.fail_with(decisive(error))
        trace.end()
        self._count(request, admission, trace.result or "ok", trace.duration_ms or 0.0, error)
        return visible

    def _settle_span(
        self,
        made: Span,
        started: float,
        request: RouteRequest,
        admission: Admission | None,
        error: BaseException | None,
    ) -> BaseException | None:
        visible = self._visible(request, error)
        result = "ok" if error is None else result_of(error)
        made.extras["result"] = result
        self._count(request, admission, result, (monotonic() - started) * 1_000, error)
        return visible

    @staticmethod
    def _visible(request: RouteRequest, error: BaseException | None) -> BaseException | None:
        """Returns what may leave the node of an error: a wire error, or a cancellation. Internals are logged."""
        if error is None or not isinstance(error, Exception):
            return error
        cause = decisive(error)
        if isinstance(cause, WireError):
            return cause
        if isinstance(cause, TimeoutError):
            return WireError("timeout", "no answer in time")
        log.error("capability failed", extra={"capability": request.capability}, exc_info=error)
        return WireError("internal_error", "the capability failed; the node's log has the cause")

    def _count(
        self,
        request: RouteRequest,
        admission: Admission | None,
        result: str,
        duration_ms: float,
        error: BaseException | None,
    ) -> None:
        label = request.capability if request.capability in self.registry else _UNKNOWN
        metrics.requests_total.labels(label, result).inc()
        metrics.request_duration_ms.labels(label).observe(duration_ms)
        if admission is None:
            return
        entry, is_probe = admission
        entry.running -= 1
        if error is None or _is_entrys_fault(error):
            entry.health.record(ok=error is None, duration_ms=duration_ms, is_probe=is_probe)
        elif is_probe:
            entry.health.skip()

    def refresh_metrics(self) -> None:
        """Sets the gauges of health, for a scrape. Whoever reads them is told no full id of a node."""
        node = short_id(self.node_id)
        for entry in self.registry:
            rate = entry.health.success_rate
            if rate is not None:
                metrics.capability_health_success_rate.labels(entry.descriptor.name, node).set(rate)

    def stats(self) -> list[dict[str, Any]]:
        """Returns each entry with its calls in flight, health and latency (milliseconds)."""
        return [
            {
                "capability": entry.descriptor.name,
                "version": entry.descriptor.version_text,
                "stability": entry.descriptor.stability,
                "trust_required": entry.descriptor.trust_required,
                "running": entry.running,
                "max_concurrent": entry.descriptor.max_concurrent,
                "calls": entry.health.calls,
                "success_rate": entry.health.success_rate,
                "p50_ms": entry.health.quantile_ms(0.50),
                "p99_ms": entry.health.quantile_ms(0.99),
                "quarantined": entry.health.is_quarantined,
            }
            for entry in self.registry
        ]


def _is_entrys_fault(error: BaseException) -> bool:
    """Tells whether an error counts against the entry: not what the caller did wrong, asked for, or gave up on."""
    cause = decisive(error)
    if isinstance(cause, WireError):
        return not cause.asked_for and (cause.status >= 500 or cause.code == "timeout")
    return isinstance(cause, Exception)
