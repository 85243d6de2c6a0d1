"""Delivers batches of one signal in order, whatever the backend says: waits, halves, skips, holds.

A single record that is refused is skipped only on evidence that it is at fault: that the backend takes others now, or
an empty request. (The latter says nothing of a 500, which may come from what only records make the backend do.) So an
outage of whatever status costs no record, and records that are too old for the backend hold nothing up.

Knows neither threads nor SQL: it is called with records, and says how many are done with and when to come again. So an
outage of the log records' receiver delays no trace.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hearthnet.errors import StoreError
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.otel.export.verdict import Verdict

__all__ = ["MAX_BYTES", "MAX_RECORDS", "Delivery"]

log = get_logger(__name__)

MAX_RECORDS: Final = 512  # what the batches of the SDK have
MAX_BYTES: Final = 1 << 20  # of a request before compression: receivers advise 20 MiB, and take less
_FIRST_RECORDS: Final = 32  # after an outage: a backend that comes back is not to be thrown down again
_FIRST_WAIT_S: Final = 1.0
_LAST_WAIT_S: Final = 60.0
_PROBE_S: Final = 300.0  # between two tries while the settings are at fault
_UNSURE_TRIES: Final = 5
_MAX_SUSPECTS: Final = 8  # single records refused in a row, without evidence: then it is hardly they that are at fault
_MAX_REQUESTS: Final = 64  # of one call, which is enough to find one record: the other signal has its turn, too

Encode = Callable[[Sequence[Any], list[int]], bytes | None]


@dataclass(slots=True)
class Counts:
    """What became of records since the start.

    Attributes:
        sent: records accepted.
        failed: records lost, by reason; of a partial success with traces, spans.
    """

    sent: int = 0
    failed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Course:
    """How far the delivery of one batch has come.

    Attributes:
        waiting: its parts that are to be sent, the next one last.
        passed: records that were delivered, skipped, or are suspect.
        done: the first so many are done with.
        requests: how many were sent.
        is_proven: whether the backend takes anything at present.
        is_exhausted: whether one was unsure five times: then it is refused, for the rest of this batch.
        suspects: verdicts on single records that were refused before anything was taken.
    """

    waiting: list[Sequence[Any]]
    passed: int = 0
    done: int = 0
    requests: int = 0
    is_proven: bool = False
    is_exhausted: bool = False
    suspects: list[tuple[Any, Verdict]] = field(default_factory=list)

    def pass_by(self, count: int) -> None:
        """Goes on behind records; they are done with once no suspect is before them."""
        self.passed += count
        if not self.suspects:
            self.done = self.passed


class Delivery:
    """The way of one signal.

    Args:
        signal: `traces` or `logs`.
        encode: returns the body of these records, and appends the seq of each that has no form in OTLP; None if none
            has one. Of no records that of an empty request.
        send: sends a body.
        is_stopping: whether to leave the rest to the next start, once something is done.
        is_over: whether to send nothing more.
        clock: monotonic seconds; tests pass their own.

    Attributes:
        counts: since the start.
        trouble: the verdict because of which nothing is delivered at present, or None.
        ready_at: when to come again, by `clock`.
    """

    def __init__(
        self,
        signal: str,
        encode: Encode,
        send: Callable[[bytes], Verdict],
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.signal = signal
        self.counts = Counts()
        self.trouble: Verdict | None = None
        self.ready_at = 0.0
        self._encode = encode
        self._send = send
        self._is_stopping = is_stopping
        self._is_over = is_over
        self._clock = clock
        self._failures = 0
        self._unsure = 0
        self._is_skipping = False
        self._told = ""

    @property
    def limit(self) -> int:
        """How many records to read for the next batch."""
        return MAX_RECORDS if self.trouble is None else _FIRST_RECORDS

    def deliver(self, records: Sequence[Any]) -> int:
        """Sends records, in order; returns how many, from the first on, are delivered or skipped.

        With fewer than all the rest is to be read again: at `ready_at`, or at once if there is no `trouble`.
        """
        course = _Course([records])
        while course.waiting and not self._must_end(course):
            part = course.waiting.pop()
            unmapped: list[int] = []
            body, is_fit = self._body(part, unmapped)
            if not is_fit:
                course.waiting += _halves(part)
                continue
            verdict = Verdict("accepted") if body is None else self._ask(body, course)
            if verdict.kind == "accepted":
                self._accept(len(part), unmapped, verdict, course, was_sent=body is not None)
            elif not self._is_refused(verdict, course):
                self._wait(verdict)
                return course.done
            elif len(part) > 1:
                course.waiting += _halves(part)
            elif not self._suspect(part[0], verdict, course):
                break
        if course.suspects:
            self._hold(course.suspects[-1][1])
        return course.done

    def _body(self, part: Sequence[Any], unmapped: list[int]) -> tuple[bytes | None, bool]:
        """Returns the body of a request, and False if the part is to be halved: it is too large, or cannot be made."""
        try:
            body = self._encode(part, unmapped)
        except (StoreError, ImportError, MemoryError):  # no record's fault
            raise
        except Exception as error:  # a row of a damaged file, of a kind that was not thought of  # noqa: BLE001
            log.debug("a request cannot be made", extra={"kind": self.signal, "seq": part[0].seq, "error": error})
            unmapped[:] = [part[0].seq]
            return None, len(part) == 1
        return body, body is None or len(body) <= MAX_BYTES or len(part) == 1

    def _must_end(self, course: _Course) -> bool:
        return course.requests >= _MAX_REQUESTS or self._is_over() or (course.done > 0 and self._is_stopping())

    def _ask(self, body: bytes, course: _Course) -> Verdict:
        course.requests += 1
        return self._send(body)

    def _is_refused(self, verdict: Verdict, course: _Course) -> bool:
        if verdict.kind == "unsure" and self._unsure + 1 >= _UNSURE_TRIES:
            course.is_exhausted = True
        return verdict.kind == "refused" or (verdict.kind == "unsure" and course.is_exhausted)

    def _accept(self, count: int, unmapped: list[int], verdict: Verdict, course: _Course, *, was_sent: bool) -> None:
        if was_sent:
            self._prove(course)
        course.pass_by(count)
        if unmapped:
            self._lose("unmapped", len(unmapped))
            fields = {"kind": self.signal, "seq": unmapped[0], "count": len(unmapped)}
            log.warning("records have no form in OTLP, and are skipped", extra=fields)
        if not was_sent:
            return
        self._is_skipping = False
        sent = count - len(unmapped)
        if verdict.rejected:
            self._lose(verdict.reason, verdict.rejected)
            sent -= min(sent, verdict.rejected) if self.signal == "logs" else 0  # of traces, spans are counted
        self.counts.sent += sent
        metrics.telemetry_exported_total.labels(kind=self.signal).inc(sent)
        self._tell_words(verdict)

    def _prove(self, course: _Course) -> None:
        """Notes that the backend takes something: what it has refused before is at fault itself."""
        course.is_proven = True
        self._failures = self._unsure = 0
        if self.trouble is not None:
            log.info("telemetry is exported again", extra={"kind": self.signal, "reason": self.trouble.reason})
        self.trouble = None
        for record, verdict in course.suspects:
            self._skip(record, verdict)
        course.suspects.clear()
        course.done = course.passed

    def _lose(self, reason: str, count: int) -> None:
        self.counts.failed[reason] = self.counts.failed.get(reason, 0) + count
        metrics.telemetry_export_failed_total.labels(kind=self.signal, reason=reason).inc(count)

    def _tell_words(self, verdict: Verdict) -> None:
        """Logs what a backend says of an accepted request, once until it says something else."""
        if verdict.words and verdict.words != self._told:
            self._told = verdict.words
            fields = {"kind": self.signal, "rejected": verdict.rejected, "words": verdict.words}
            log.warning("a backend took telemetry, and has something to say", extra=fields)

    def _suspect(self, record: Any, verdict: Verdict, course: _Course) -> bool:
        """Skips one record that is refused, if it is known to be at fault; returns False if it can hardly be."""
        is_first = not course.suspects
        course.suspects.append((record, verdict))
        course.pass_by(1)
        if not course.is_proven and is_first and verdict.kind == "refused":
            body = self._encode((), [])
            course.is_proven = body is not None and self._ask(body, course).kind == "accepted"
        if course.is_proven:
            self._prove(course)
        return len(course.suspects) < _MAX_SUSPECTS

    def _skip(self, record: Any, verdict: Verdict) -> None:
        self._lose(verdict.reason, 1)
        if not self._is_skipping:  # of many in a row the first is logged, all are counted
            self._is_skipping = True
            fields = {"kind": self.signal, "seq": record.seq, "reason": verdict.words}
            log.warning("records are refused by the backend, and skipped", extra=fields)

    def _hold(self, verdict: Verdict) -> None:
        """Waits, because there is no sign that the records are at fault."""
        if verdict.kind == "refused":
            self._wait(Verdict("misset", verdict.reason, f"each record is refused: {verdict.words}"))
        else:
            self._wait(Verdict("retry", verdict.reason, verdict.words, wait_s=verdict.wait_s))

    def _wait(self, verdict: Verdict) -> None:
        self._unsure = self._unsure + 1 if verdict.kind == "unsure" else 0
        self._failures += 1
        now = self._clock()
        if verdict.kind == "misset":
            self.ready_at = now + _PROBE_S
        else:
            # Not all at the same moment: there may be a fleet of us.
            wait_s = min(_FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 10), _LAST_WAIT_S)
            asked_s = (verdict.wait_s or 0.0) * random.uniform(1.0, 1.1)  # noqa: S311  # no secret
            self.ready_at = now + max(asked_s, wait_s * random.uniform(0.5, 1.0))  # noqa: S311
        if self.trouble is None:
            fields: Mapping[str, Any] = {
                "kind": self.signal,
                "reason": verdict.words,
                "settings": verdict.kind == "misset",
            }
            log.warning("telemetry cannot be exported, it waits in the store", extra=fields)
        self.trouble = verdict


def _halves(part: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Returns the second half and the first, which is taken next."""
    middle = len(part) // 2
    return part[middle:], part[:middle]
