"""One trace with everything that explains it: its log records, the other records of its id, and the usual durations."""

from __future__ import annotations

from typing import Any, Final

from hearthnet.observability.store.query.calls import quantile
from hearthnet.observability.store.query.shapes import LOG, SUMMARY, decoded, log_of, summary_of
from hearthnet.observability.store.reader import Reader

__all__ = ["one_trace"]

_MAX_LOGS: Final = 1_000
_MAX_OTHERS: Final = 100
_USUAL_OF: Final = 1_000  # of the capability's newest traces: their spans are parsed
_USUAL_SPANS: Final = 100  # names
_RANKED: Final = """
    SELECT name, count(*), {p50}, {p95}
      FROM (SELECT name, duration_ms, cume_dist() OVER (PARTITION BY name ORDER BY duration_ms) AS share FROM ({found}))
     GROUP BY name ORDER BY count(*) DESC LIMIT {most}
"""
_CALLS: Final = (
    "SELECT '' AS name, duration_ms FROM traces WHERE capability = ? AND result = 'ok' ORDER BY seq DESC LIMIT ?"
)
_SPANS: Final = """
    SELECT span.value ->> 'name' AS name, span.value ->> 'duration_ms' AS duration_ms
      FROM (SELECT spans FROM traces WHERE capability = ? AND result = 'ok' AND json_valid(spans)
             ORDER BY seq DESC LIMIT ?) AS newest, json_each(newest.spans) AS span
"""


def one_trace(reader: Reader, seq: int) -> dict[str, Any] | None:
    """Returns a trace by its seq, or None if the ring has none; `run` is the id of its run.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    rows = reader.rows(f"SELECT {SUMMARY}, spans FROM traces WHERE seq = ?", (seq,))  # noqa: S608  # constants
    if not rows:
        return None
    *summary, spans = rows[0]
    trace = summary_of(summary)
    extras = decoded(summary[-1], {})
    cut = extras.get("truncated")
    trace |= {"extras": extras, "spans": decoded(spans, []), "truncated_spans": cut if isinstance(cut, int) else 0}
    return {
        "trace": trace,
        "logs": _logs(reader, trace["trace_id"]),
        "usual": _usual(reader, trace["capability"]),
        "others": _others(reader, trace["trace_id"], seq),
    }


def _logs(reader: Reader, trace_id: str) -> list[dict[str, Any]]:
    sql = f"SELECT {LOG} FROM logs WHERE trace_id = ? ORDER BY seq LIMIT {_MAX_LOGS}"  # noqa: S608  # constants
    return [*map(log_of, reader.rows(sql, (trace_id,)))]


def _usual(reader: Reader, capability: str) -> dict[str, Any]:
    """Returns how long the capability's successful calls take, and their spans by name."""
    count, p50_ms, p95_ms = next((row[1:] for row in _ranked(reader, _CALLS, capability)), (0, None, None))
    spans = {name: _figures(*row) for name, *row in _ranked(reader, _SPANS, capability)}
    return {**_figures(count, p50_ms, p95_ms), "spans": spans}


def _figures(count: int, p50_ms: float | None, p95_ms: float | None) -> dict[str, Any]:
    return {"count": count, "p50_ms": p50_ms, "p95_ms": p95_ms}


def _ranked(reader: Reader, found: str, capability: str) -> list[tuple[Any, ...]]:
    sql = _RANKED.format(p50=quantile(0.5), p95=quantile(0.95), found=found, most=_USUAL_SPANS)
    return reader.rows(sql, (capability, _USUAL_OF))


def _others(reader: Reader, trace_id: str, seq: int) -> list[dict[str, Any]]:
    """Returns the other records of the same trace id, oldest first: calls to several capabilities or programs."""
    names = ("seq", "capability", "result", "started_us", "duration_ms", "program")
    sql = (
        "SELECT seq, capability, result, started_us, duration_ms,"
        " (SELECT program FROM runs WHERE runs.run_id = traces.run_id) FROM traces"
        " WHERE trace_id = ? AND seq <> ? ORDER BY seq LIMIT ?"
    )
    return [dict(zip(names, row, strict=True)) for row in reader.rows(sql, (trace_id, seq, _MAX_OTHERS))]
