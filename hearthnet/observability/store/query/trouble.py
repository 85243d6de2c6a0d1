"""The capability that fails at present, since when and how, from the newest calls alone."""

from __future__ import annotations

from typing import Any, Final

from hearthnet.observability.records.results import CALLERS_ERRORS, CANCELLED, INTERRUPTED, OK
from hearthnet.observability.store.query.shapes import decoded
from hearthnet.observability.store.reader import Reader

__all__ = ["last_failure_us", "trouble"]

_NEWEST: Final = 500  # calls that are looked through
_LATELY_US: Final = 15 * 60_000_000  # a capability that has not failed since is not failing at present
_OF_EACH: Final = 40  # its newest calls, of which the share is given
_MIN_FAILED: Final = 3
_MIN_SHARE: Final = 0.2
# By the caller's mistake or wish, or the end of the run: no fault of the capability.
_CALLERS: Final = f"({', '.join(repr(result) for result in sorted({OK, CANCELLED, INTERRUPTED, *CALLERS_ERRORS}))})"
_FAILED: Final = f"result NOT IN {_CALLERS} AND instr(extras, '\"asked_for\":true') = 0"
_SQL: Final = f"""
    WITH newest AS (
        SELECT seq, capability, started_us, is_failed,
               row_number() OVER (PARTITION BY capability ORDER BY seq DESC) AS place
          FROM (SELECT seq, capability, started_us, {_FAILED} AS is_failed FROM traces ORDER BY seq DESC LIMIT ?)
    ), counted AS (
        SELECT capability, count(*) AS count, sum(is_failed) AS failed, max(iif(is_failed, seq, 0)) AS last_failed
          FROM newest WHERE place <= ? GROUP BY capability
    )
    SELECT c.capability, c.count, c.failed, n.seq, n.result, n.error, n.spans,
           (SELECT min(started_us) FROM newest AS f
             WHERE f.capability = c.capability AND f.is_failed AND f.seq > ifnull(
                   (SELECT max(o.seq) FROM newest AS o
                     WHERE o.capability = c.capability AND NOT o.is_failed AND o.seq < c.last_failed), 0))
      FROM counted AS c JOIN traces AS n ON n.seq = c.last_failed
     WHERE c.failed >= ? AND 1.0 * c.failed / c.count >= ? AND n.started_us >= ?
     ORDER BY c.failed DESC LIMIT 1
"""  # noqa: S608  # constants
_NAMES: Final = ("capability", "count", "failed", "seq", "result", "error", "spans", "since_us")


def trouble(reader: Reader, now_us: int) -> dict[str, Any] | None:
    """Returns the capability that fails most, or None: a fifth of its newest calls failed, the last one lately.

    `since_us` is the first failure after its last success, `span` where the last failed call spent its time.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    rows = reader.rows(_SQL, (_NEWEST, _OF_EACH, _MIN_FAILED, _MIN_SHARE, now_us - _LATELY_US))
    if not rows:
        return None
    found = dict(zip(_NAMES, rows[0], strict=True))
    spans = found.pop("spans")
    return {**found, "span": _slowest(spans)}


def _slowest(spans: str) -> str | None:
    """Returns the name of the longest span without spans below it."""
    known = [span for span in decoded(spans, []) if isinstance(span, dict)]
    parents = {span.get("parent") for span in known}
    leaves = [span for span in known if span.get("id") not in parents]
    slowest = max(leaves, key=lambda span: span.get("duration_ms") or 0.0, default=None)
    return None if slowest is None else str(slowest.get("name"))


def last_failure_us(reader: Reader) -> int | None:
    """Returns when the newest call that failed began, or None if the ring has none.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    sql = f"SELECT started_us FROM traces WHERE notable = 1 AND {_FAILED} ORDER BY seq DESC LIMIT 1"  # noqa: S608
    rows = reader.rows(sql)
    return rows[0][0] if rows else None
