"""The traces that are written: made once by the instruments, then numbered by the thousand."""

from __future__ import annotations

from collections.abc import Iterator

from hearthnet.observability import trace
from hearthnet.observability.records import recorder as recording
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.record import TraceRecord

__all__ = ["CAPABILITY", "make_trace", "numbered", "template"]

CAPABILITY = "experimental.echo"


def make_trace() -> None:
    """Makes one trace as a node would: a span with two extras in it."""
    trace.new_trace(CAPABILITY)
    with trace.span("handle", model="tiny", size=3):
        pass
    trace.detach()


def template() -> TraceRecord:
    """Returns the record that the instruments make of such a trace."""
    make_trace()
    return recording.active.pending_traces()[-1]


def numbered(record: TraceRecord, first_seq: int, count: int) -> Iterator[TraceRecord]:
    """Returns `count` records like `record`, with numbers from `first_seq` on and ids of their own."""
    for seq in range(first_seq, first_seq + count):
        yield record._replace(seq=seq, trace_id=new_trace_id())
