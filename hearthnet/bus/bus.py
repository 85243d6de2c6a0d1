"""The bus: runs calls of capabilities. Every call is one trace with a span per stage, and is counted exactly once.

The stages: find the entry, authorize the caller, validate the body, take a slot of the entry, run the handler within
its timeout, check the response. A call made inside a trace becomes a span of that trace instead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple

from hearthnet.bus.capability import CapabilityDescriptor, Entry, Frames, Handler, Registry, RouteRequest, parse_version
from hearthnet.bus.ratelimit import RateLimitedError, RateLimiter
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
    """A slot taken by a call; `is_probe`: the call decides whether a quarantine ends."""

    entry: Entry
    is_probe: bool


# Ends a call: gets its slot and the error that ended it, returns the error that its caller may see.
Settle = Callable[[Admission | None, BaseException | None], BaseException | None]

_LEVELS: Final = ("member", "trusted", "anchor", "self")
_UNKNOWN: Final = "other"  # the metric label of a capability that is not offered here: callers invent names
_RETRY_AFTER_MS: Final = 1_000  # when all slots are in use; a call rarely takes less


class CapabilityBus:
    """The bus of one node.

    Args:
        node_id: our own full id; calls from it need no membership.
        level_of: returns the community level of a node, or None if it is not a member.

    Attributes:
        bodies: the capabilities whose bodies are recorded; none until an operator enables one.
        limiter: the rate limits of callers.
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
        """Counts a call from outside, before any work is spent on it, so that a flood leaves no traces.

        Args:
            caller: full node id of the caller.
            capability: the capability called; all that are not offered count as one.
            is_claimed: the caller is not authenticated yet. Then nothing is counted; the call is refused only if the
                caller is already over a hard limit.

        Raises:
            RateLimitedError: raised when the call is over a limit.
        """
        label = capability if capability in self.registry else _UNKNOWN
        check = self.limiter.check_claimed if is_claimed else self.limiter.check
        try:
            check(caller, label)
        except RateLimitedError as error:
            metrics.rate_limited_total.labels(label, error.reason).inc()
            raise

    async def handle_call(self, request: RouteRequest) -> dict[str, Any] | CallStream:
        """Handles a request. The trace is recorded before this returns, or before a stream's end is delivered.

        Raises:
            WireError: raised when the call fails; its code is the trace's result.
        """
        outside = current.get()
        trace = new_trace(request.capability, trace_id=request.trace_id, parent_id=request.parent_id)
        trace.version = "{}.{}".format(*request.version_req)
        trace.is_random |= request.is_random
        trace.tracestate = request.tracestate
        trace.extras["caller"] = request.caller
        if request.link is not None:
            trace.extras["link"] = {"trace_id": request.link.trace_id, "span_id": request.link.span_id}
        settle = partial(self._settle_trace, trace, request)
        kept = self.bodies.keep(request.capability, trace.extras, request.body)
        try:
            response = await self._respond(request, settle, kept)
        finally:
            # A stream continues in its own scope; any other call is settled by now, so its trace has ended.
            if trace.ended:
                detach()
            else:
                swap(outside)
        return response

    async def call(
        self, capability: str, version: str, body: dict[str, Any], *, stream: bool = False
    ) -> dict[str, Any] | CallStream:
        """Calls a capability of this node from inside the node.

        Raises:
            WireError: raised when the call fails.
        """
        request = RouteRequest(capability, parse_version(version), body, self.node_id, stream=stream)
        if current_trace() is None:
            return await self.handle_call(request)
        with span("call", capability=capability, version=version) as made:
            kept = self.bodies.keep(capability, made.extras, body)
            return await self._respond(request, partial(self._settle_span, made, monotonic(), request), kept)

    async def _respond(
        self,
        request: RouteRequest,
        settle: Settle,
        kept: KeptBodies | None,
    ) -> dict[str, Any] | CallStream:
        """Runs the stages; `settle` is called once, here or at the stream's end."""
        admission: Admission | None = None
        try:
            admission = self._admit(request)
            entry = admission.entry
            limit_s = self._limit_s(entry, request)
            response = await self._run(entry, request, limit_s)
            if not isinstance(response, dict):
                return self._stream(response, admission, request, settle, kept)
            if kept is not None:
                kept.take(response)
            with span("check_answer"):
                entry.check_response(response)
        except BaseException as error:
            visible = settle(admission, error)
            if visible is error:
                raise
            raise visible or error from error
        settle(admission, None)
        return response

    def _stream(
        self, frames: object, admission: Admission, request: RouteRequest, settle: Settle, kept: KeptBodies | None
    ) -> CallStream:
        if not isinstance(frames, AsyncIterator):
            raise WireError("internal_error", "the capability's response is neither an object nor frames")
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
        """Returns the entry that will serve the request, with one of its slots taken."""
        with span("find"):
            entry = self.registry.find(request.capability, request.version_req)
        with span("authorize"):
            self._check_trust(entry, request.caller)
        with span("validate"):
            entry.check_request(request.body)
        with span("admit", running=entry.running):
            if entry.running >= entry.descriptor.max_concurrent:
                metrics.rate_limited_total.labels(request.capability, "max_concurrent").inc()
                raise WireError("capacity_exceeded", "all slots are in use", retry_after_ms=_RETRY_AFTER_MS)
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
            raise WireError("unauthorized", f"this capability requires level {required}")

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
                # A deadline set by the caller does not count against the capability's health.
                own = limit_s < entry.descriptor.timeout_seconds
                raise WireError("timeout", f"no response within {limit_s:g} s", asked_for=own) from error

    def _settle_trace(
        self, trace: Trace, request: RouteRequest, admission: Admission | None, error: BaseException | None
    ) -> BaseException | None:
        """Ends the trace and counts the call; returns the error that the caller may see."""
        visible = self._visible(request, error)
        if error is not None and trace.result is None:  # a result set by the handler takes precedence
            trace.fail_with(decisive(error))
            if getattr(decisive(error), "asked_for", False):
                trace.extras["asked_for"] = True
        trace.end()
        self._count(request, trace.trace_id, admission, trace.result or "ok", trace.duration_ms or 0.0, error)
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
        self._count(request, made.trace.trace_id, admission, result, (monotonic() - started) * 1_000, error)
        return visible

    @staticmethod
    def _visible(request: RouteRequest, error: BaseException | None) -> BaseException | None:
        """Returns the error to show to the caller: a wire error or a cancellation. Internal errors are logged."""
        if error is None or not isinstance(error, Exception):
            return error
        cause = decisive(error)
        if isinstance(cause, WireError):
            return cause
        if isinstance(cause, TimeoutError):
            return WireError("timeout", "no response in time")
        log.error("capability failed", extra={"capability": request.capability}, exc_info=error)
        return WireError("internal_error", "the capability failed; the node's log has the cause")

    def _count(
        self,
        request: RouteRequest,
        trace_id: str,
        admission: Admission | None,
        result: str,
        duration_ms: float,
        error: BaseException | None,
    ) -> None:
        label = request.capability if request.capability in self.registry else _UNKNOWN
        metrics.requests_total.labels(label, result).inc()
        metrics.request_duration_ms.labels(label).observe(duration_ms, {"trace_id": trace_id})
        if admission is None:
            return
        entry, is_probe = admission
        entry.running -= 1
        if error is None or _is_entrys_fault(error):
            entry.health.record(ok=error is None, duration_ms=duration_ms, is_probe=is_probe)
        elif is_probe:
            entry.health.skip()

    def refresh_metrics(self) -> None:
        """Sets the health gauges for a scrape, which does not show the node's full id."""
        node = short_id(self.node_id)
        for entry in self.registry:
            rate = entry.health.success_rate
            if rate is not None:
                metrics.capability_health_success_rate.labels(entry.descriptor.name, node).set(rate)

    def stats(self) -> list[dict[str, Any]]:
        """Returns each entry with its running calls, health and latency in milliseconds."""
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
    """Returns True if an error counts against the entry: not one caused, requested or cancelled by the caller."""
    cause = decisive(error)
    if isinstance(cause, WireError):
        return not cause.asked_for and (cause.status >= 500 or cause.code == "timeout")
    return isinstance(cause, Exception)
