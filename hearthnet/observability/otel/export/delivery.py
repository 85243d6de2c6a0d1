"""Delivers batches of one signal in order, whatever the backend says: waits, halves, skips, holds.

Knows neither threads nor SQL: it is called with records, and says how many are done with and when to come again. So an
outage of the log records' receiver delays no trace.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

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
_MAX_SKIPS: Final = 8  # single records refused in a row: then it is not they that are at fault

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


class Delivery:
    """The way of one signal.

    Args:
        signal: `traces` or `logs`.
        encode: returns the body of these records, and appends the seq of each that has no form in OTLP; None if none
            has one.
        send: sends a body.
        is_stopping: whether to leave the rest to the next start.
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
    ) -> None:
        self.signal = signal
        self.counts = Counts()
        self.trouble: Verdict | None = None
        self.ready_at = 0.0
        self._encode = encode
        self._send = send
        self._is_stopping = is_stopping
        self._clock = clock
        self._failures = 0
        self._unsure = 0
        self._skips = 0
        self._told = ""

    @property
    def limit(self) -> int:
        """How many records to read for the next batch."""
        return MAX_RECORDS if self.trouble is None else _FIRST_RECORDS

    def deliver(self, records: Sequence[Any]) -> int:
        """Sends records, in order; returns how many, from the first on, are delivered or skipped."""
        waiting, done = [records], 0
        is_exhausted = False  # one that was unsure five times is refused for the rest of this batch
        while waiting and not (done and self._is_stopping()):
            part = waiting.pop()
            unmapped: list[int] = []
            body = self._encode(part, unmapped)
            if body is not None and len(body) > MAX_BYTES and len(part) > 1:
                waiting += _halves(part)
                continue
            verdict = Verdict("accepted") if body is None else self._send(body)
            is_exhausted = is_exhausted or (verdict.kind == "unsure" and self._unsure + 1 >= _UNSURE_TRIES)
            if verdict.kind == "accepted":
                self._accept(len(part), len(unmapped), verdict, was_sent=body is not None)
            elif verdict.kind != "refused" and not (verdict.kind == "unsure" and is_exhausted):
                self._wait(verdict)
                break
            elif len(part) > 1:
                waiting += _halves(part)
                continue
            elif not self._skip(part[0], verdict):
                break
            done += len(part)
        return done

    def _accept(self, count: int, unmapped: int, verdict: Verdict, *, was_sent: bool) -> None:
        if unmapped:
            self._lose("unmapped", unmapped)
        if not was_sent:
            return
        self._failures = self._unsure = self._skips = 0
        sent = count - unmapped
        if verdict.rejected:
            self._lose(verdict.reason, verdict.rejected)
            sent -= min(sent, verdict.rejected) if self.signal == "logs" else 0  # of traces, spans are counted
        self.counts.sent += sent
        metrics.telemetry_exported_total.labels(kind=self.signal).inc(sent)
        self._tell_words(verdict)
        if self.trouble is not None:
            log.info("telemetry is exported again", extra={"kind": self.signal, "reason": self.trouble.reason})
        self.trouble = None

    def _lose(self, reason: str, count: int) -> None:
        self.counts.failed[reason] = self.counts.failed.get(reason, 0) + count
        metrics.telemetry_export_failed_total.labels(kind=self.signal, reason=reason).inc(count)

    def _tell_words(self, verdict: Verdict) -> None:
        """Logs what a backend says of an accepted request, once until it says something else."""
        if verdict.words and verdict.words != self._told:
            self._told = verdict.words
            fields = {"kind": self.signal, "rejected": verdict.rejected, "words": verdict.words}
            log.warning("a backend took telemetry, and has something to say", extra=fields)

    def _skip(self, record: Any, verdict: Verdict) -> bool:
        """Skips one record that is refused; returns False where it cannot be its fault, as many in a row are."""
        if self._skips >= _MAX_SKIPS:
            self._skips = 0
            self._wait(Verdict("misset", verdict.reason, f"each record is refused: {verdict.words}"))
            return False
        self._skips += 1
        self._lose(verdict.reason, 1)
        fields = {"kind": self.signal, "seq": record.seq, "reason": verdict.words}
        log.warning("a record is refused by the backend, and skipped", extra=fields)
        return True

    def _wait(self, verdict: Verdict) -> None:
        self._unsure = self._unsure + 1 if verdict.kind == "unsure" else 0
        self._failures += 1
        now = self._clock()
        if verdict.kind == "misset":
            self.ready_at = now + _PROBE_S
        elif verdict.wait_s is not None:
            # Not all at the same moment: there may be a fleet of us.
            self.ready_at = now + verdict.wait_s * random.uniform(1.0, 1.1)  # noqa: S311  # no secret
        else:
            wait_s = min(_FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 10), _LAST_WAIT_S)
            self.ready_at = now + wait_s * random.uniform(0.5, 1.0)  # noqa: S311
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
