"""Pydantic models of the page's JSON, for the OpenAPI document. Tests compare them with real responses.

Names are those of SQL columns. Times in `_us` are UTC microseconds, durations in `_ms` milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hearthnet.transport.api.models import CheckOut, SpanOut

__all__ = [
    "CapabilitiesOut",
    "CatalogueOut",
    "ClaimIn",
    "ClaimOut",
    "DoctorOut",
    "LogsOut",
    "NowOut",
    "OneRunOut",
    "OneTraceOut",
    "OtlpOut",
    "RunsOut",
    "SeriesOut",
    "SqlIn",
    "SqlOut",
    "TracesOut",
]

_MAX_TOKEN = 128
_MAX_SQL = 20_000


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ClaimIn(_In):
    """A token from `hearthnet page`."""

    token: Annotated[str, Field(min_length=1, max_length=_MAX_TOKEN)]


class ClaimOut(_Out):
    """The secret of a browser, for the header `X-HearthNet-Page`; it ends at `until_us`."""

    secret: str
    until_us: int


class Figures(_Out):
    """Calls, failures and durations; a quantile is null under twenty calls."""

    count: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None


class Totals(Figures):
    """Of all calls within the last `window_s` seconds."""

    window_s: int


class Point(Figures):
    """Of the calls that began within a step, which starts at `ts_us`."""

    ts_us: int
    max_ms: float


class CapabilityFigures(Figures):
    """Of one capability."""

    capability: str


class Capability(CapabilityFigures):
    """Of one capability, with its slowest and its last call."""

    p99_ms: float | None
    max_ms: float
    last_us: int


class VersionFigures(Figures):
    """Of the calls that a version of the node's program has served."""

    version: str
    by_capability: list[CapabilityFigures]


class Run(_Out):
    """A run; `verdict`, `summary` and `confidence` are null until an autopsy has been asked for."""

    run_id: str
    program: str | None
    role: str | None
    node_id: str | None
    version: str
    pid: int
    started_us: int
    ended_us: int | None
    last_seen_us: int | None
    end_reason: str | None
    commits: int | None
    is_alive: bool


class JudgedRun(Run):
    """A run with its end, as far as it is known."""

    verdict: str | None
    summary: str | None
    confidence: str | None


class Gap(_Out):
    """Records that were dropped."""

    ts_us: int
    count: int
    reason: str
    kind: str


class SeriesOut(_Out):
    """The steps in which calls began; `ring_from_us` says since when the ring has every call."""

    from_us: int
    to_us: int
    step_s: int
    ring_from_us: int | None
    points: list[Point]
    runs: list[Run]
    gaps: list[Gap]


class CapabilitiesOut(_Out):
    """The capabilities, the most called first."""

    capabilities: list[Capability]


class NodeFacts(_Out):
    """The node, or another program in a store without one, by its newest run."""

    name: str
    node_id: str | None
    short_id: str | None
    version: str | None
    program: str | None
    role: str | None
    run_id: str | None
    started_us: int | None
    pid: int | None
    is_alive: bool
    page_version: str


class VerdictOut(_Out):
    """Whether all is well; the sentence names no time, `since_us` does. `check` is the doctor's that found it.

    `capability` is the one that fails at present.
    """

    status: Literal["ok", "warn", "fail", "unknown"]
    sentence: str
    detail: str
    since_us: int | None
    fix: str | None
    check: str | None
    capability: str | None


class Flight(_Out):
    """A call in flight; of a run that is dead, the ages are the least that they were at its end."""

    trace_id: str
    capability: str
    started_us: int
    age_ms: float
    span: str | None
    span_age_ms: float | None
    program: str | None
    run_id: str
    is_alive: bool


class VitalsOut(_Out):
    """A sample of process health; null: not measured there."""

    ts_us: int
    rss_bytes: int | None
    memory_left_bytes: int | None
    open_files: int | None
    disk_free_bytes: int | None
    load: float | None
    loop_lag_s: float | None
    group_oom_kills: int | None
    group_processes: int | None


class Part(_Out):
    """Bytes on disk, and their bound."""

    bytes: int
    bound: int


class Ring(_Out):
    """The rows of a ring, and its size."""

    ordinary: int
    notable: int
    size: int
    oldest_us: int | None
    newest_us: int | None


class Lost(_Out):
    """Records that were dropped for a reason, in all."""

    reason: str
    kind: str
    count: int
    last_us: int


class StoreOut(_Out):
    """The store against its bounds; `disk` has `database`, `wal`, `box` and `logs`, `rings` `traces` and `logs`."""

    disk: dict[str, Part]
    rings: dict[str, Ring]
    lost: list[Lost]
    commits_per_minute: float | None
    max_disk_bytes: int


class NowOut(_Out):
    """The first view; the event `now` of the stream has the newest of the vitals alone."""

    now_us: int
    node: NodeFacts
    verdict: VerdictOut
    in_flight: list[Flight]
    vitals: list[VitalsOut]
    store: StoreOut
    totals: Totals


class Summary(_Out):
    """A trace of a list; where its extras are long, `…` counts those that are missing."""

    seq: int
    run_id: str
    trace_id: str
    parent_id: str | None
    capability: str
    version: str | None
    started_us: int
    duration_ms: float
    result: str
    error: str | None
    notable: bool
    span_count: int
    program: str | None
    extras: dict[str, Any]


class Log(_Out):
    """A log record."""

    seq: int
    run_id: str
    ts_us: int
    level: str
    logger: str
    msg: str
    trace_id: str | None
    span_id: str | None
    repeats: int
    extras: dict[str, Any]
    exc: str | None
    program: str | None


class TermOut(_Out):
    """A term of a query and its place; of several `values` one must match, `value` is the first. `us`: of a time."""

    text: str
    field: str | None
    op: str
    value: str
    values: list[str]
    negated: bool
    start: int
    end: int
    is_attribute: bool
    us: int | None


class ProblemOut(_Out):
    """A part of a query that is not understood, and its place."""

    message: str
    hint: str | None
    start: int
    end: int


class Range(_Out):
    """The ends of the oldest and newest record of a table."""

    oldest_us: int | None
    newest_us: int | None


class _Found(_Out):
    next: str | None
    count: int
    count_is_exact: bool
    sql: str
    values: list[Any]
    terms: list[TermOut]
    problems: list[ProblemOut]
    ring: Range
    newest_match_us: int | None


class TracesOut(_Found):
    """The traces that match; with `next` as `before` come the ones after them."""

    traces: list[Summary]


class LogsOut(_Found):
    """The log records that match."""

    logs: list[Log]


class TraceOut(Summary):
    """A trace with all of its extras and its spans; `truncated_spans` did not fit into its row."""

    spans: list[SpanOut]
    truncated_spans: int


class Usual(_Out):
    """How long successful calls, or spans, usually take."""

    count: int
    p50_ms: float | None
    p95_ms: float | None


class UsualTrace(Usual):
    """Of a capability, with its spans by name."""

    spans: dict[str, Usual]


class Other(_Out):
    """Another record of the same trace id."""

    seq: int
    capability: str
    result: str
    started_us: int
    duration_ms: float
    program: str | None


class OneTraceOut(_Out):
    """A trace and what explains it."""

    trace: TraceOut
    logs: list[Log]
    usual: UsualTrace
    run: Run | None
    others: list[Other]


class OtlpOut(_Out):
    """An `ExportTraceServiceRequest` of OpenTelemetry, in its JSON mapping."""

    resourceSpans: list[dict[str, Any]]  # noqa: N815  # the protocol's name


class RunsOut(_Out):
    """The newest runs, and the versions of the node's program, newest first."""

    runs: list[JudgedRun]
    versions: list[VersionFigures]


class OneRunOut(JudgedRun):
    """A run with its autopsy."""

    evidence: list[str]
    alternatives: list[str]
    missing: list[str]
    in_flight: list[Flight]
    vitals: list[VitalsOut]


class Finding(CheckOut):
    """A check's result, and since when it has been so, if it is not well and that is known."""

    model_config = ConfigDict(extra="forbid", strict=True)

    since_us: int | None


class ChangeOut(BaseModel):
    """A check whose status has changed."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str
    before: Annotated[str, Field(alias="from")]
    to: str
    at_us: int


class DoctorOut(_Out):
    """The doctor's report; without `results`, `message` says why there are none."""

    results: list[Finding] | None
    message: str | None
    ran_us: int | None
    changes: list[ChangeOut]


class Question(_Out):
    """A question and its SQL."""

    title: str
    sql: str


class Column(_Out):
    """A column and its meaning."""

    name: str
    comment: str


class Relation(_Out):
    """A view or table."""

    name: str
    kind: str
    comment: str
    columns: list[Column]


class CatalogueOut(_Out):
    """Questions to begin with, and what can be queried."""

    questions: list[Question]
    tables: list[Relation]


class SqlIn(_In):
    """One SELECT."""

    sql: Annotated[str, Field(min_length=1, max_length=_MAX_SQL)]


class SqlOut(_Out):
    """The rows of a statement; blobs are hexadecimal digits."""

    columns: list[str]
    rows: list[list[Any]]
    has_more: bool
    took_ms: float
