"""The traces that are written: made once by the instruments, then numbered by the thousand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import orjson

from hearthnet.forensics.frames import pack
from hearthnet.observability import trace
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.record import WholeTrace
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.ring import RECOUNT

__all__ = ["CAPABILITY", "count_rows", "framed", "make_trace", "numbered", "template"]

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
    return runtime.recorder.pending_traces()[-1]


def numbered(record: TraceRecord, first: int, count: int) -> Iterator[TraceRecord]:
    """Returns `count` records like `record`, with numbers from `first` on and ids of their own."""
    for number in range(first, first + count):
        yield record._replace(seq=number, number=number, trace_id=new_trace_id())


def framed(record: TraceRecord) -> WholeTrace:
    """Returns a record as the buffer holds an ordinary trace: with its frame in the black box."""
    columns = (*record[2:-2], orjson.Fragment(record.spans), orjson.Fragment(record.extras))
    return (*record[:-2], pack(orjson.dumps(columns), record.number, len(record.extras)))


def count_rows(connection: sqlite3.Connection) -> None:
    """Makes the rings' state fit rows that were inserted by other means than a writer's."""
    for statement in RECOUNT:
        connection.execute(statement)
    last = "max(value, (SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs))"
    connection.execute(f"UPDATE state SET value = {last} WHERE name = 'seq'")  # noqa: S608  # constants
