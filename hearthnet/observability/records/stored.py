"""The two records of telemetry as named tuples: for those that read them, or hand them on.

Their fields are the columns of their tables, in the order of the tables. A module of its own, because programs that
make records make plain tuples.
"""

from __future__ import annotations

from typing import NamedTuple, get_args, get_type_hints

__all__ = ["LogRecord", "TraceRecord", "column_types"]


class TraceRecord(NamedTuple):
    """A finished trace. Times: `_us` UTC microseconds, `_mono_ns` of this run's monotonic clock, `_ms` durations.

    Its identity is `run_id` and `number`, from its birth; `seq` is given when it is committed, and 0 before.
    """

    seq: int
    run_id: str
    number: int
    trace_id: str
    parent_id: str | None
    capability: str
    version: str | None
    started_us: int
    started_mono_ns: int
    duration_ms: float
    result: str
    error: str | None
    notable: int
    spans: bytes
    extras: bytes

    @property
    def root_key(self) -> tuple[str, int, int]:
        """What the span id of its root is made of, see `root_span_id`."""
        return self.trace_id, self.started_us, self.started_mono_ns


class LogRecord(NamedTuple):
    """A stored log record. `repeats` counts equal records that it represents, itself not included.

    `run_id`, `number` and `seq` are as in a trace.
    """

    seq: int
    run_id: str
    number: int
    ts_us: int
    level: str
    logger: str
    msg: str
    trace_id: str | None
    span_id: str | None
    notable: int
    repeats: int
    extras: bytes
    exc: str | None


def column_types(record: type[TraceRecord | LogRecord]) -> dict[str, tuple[type, ...]]:
    """Returns the types that each column of a record may have; those that are bytes hold JSON."""
    return {name: get_args(kind) or (kind,) for name, kind in get_type_hints(record).items()}
