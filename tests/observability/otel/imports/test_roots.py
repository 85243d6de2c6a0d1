"""The id of a root, and the clock that it was made of."""

from __future__ import annotations

import pytest

from hearthnet.observability.otel.imports.roots import mono_ns_of
from hearthnet.observability.records.ids import new_span_id, new_trace_id
from hearthnet.observability.traces.traceparent import root_span_id


@pytest.mark.parametrize("mono_ns", [0, 1, 10**9, 10**15 + 7, 2**55])
def test_clock_comes_back(mono_ns):
    """Of a machine that has run for a second or a year."""
    for started_us in (0, 1_786_000_000_123_456):
        trace_id = new_trace_id()
        found = mono_ns_of(trace_id, started_us, root_span_id(trace_id, started_us, mono_ns))

        assert root_span_id(trace_id, started_us, found) == root_span_id(trace_id, started_us, mono_ns)
        assert found <= mono_ns
        assert mono_ns < 128 or found == mono_ns


def test_any_id_has_a_clock_that_gives_it_or_none():
    """Of another tool's spans: never one that gives another id, or that a column does not hold."""
    for _ in range(64):
        trace_id, span_id = new_trace_id(), new_span_id()
        found = mono_ns_of(trace_id, 5, span_id)

        assert found is None or (found < 2**63 and root_span_id(trace_id, 5, found) == span_id)
