"""The sentence that the page begins with: whether all is well and since when, else the fault and what to do.

It is made of the doctor's leading finding, the capability that fails at present, and how the last run ended. The checks
run in the background, at most once a minute and only while the page is open; a report that `hearthnet doctor` has saved
meanwhile counts as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hearthnet import __version__
from hearthnet.observability import get_logger
from hearthnet.observability.reports.history import Change, changes
from hearthnet.observability.reports.report_file import Remembered, recall

__all__ = ["Checks", "us_of", "verdict"]

log = get_logger(__name__)

_FRESH_S: Final = 60.0
_WHOLE_REPORT: Final = 10  # checks; `doctor --check NAME` saves shorter ones
_MAX_SENTENCE: Final = 240
_STATUS: Final = {"fail": 0, "warn": 1}
_CLEAN: Final = "clean"
_SEVERE_SHARE: Final = 0.5

Run = Callable[[], list[dict[str, Any]]]


class Checks:
    """The newest results of the doctor's checks.

    Args:
        directory: of the saved reports.
        run: runs all checks, which takes seconds; None: there is nothing that could be checked.
    """

    def __init__(self, directory: Path, run: Run | None) -> None:
        self._directory = directory
        self._run = run
        self._running = threading.Lock()
        self._latest: Remembered | None = None
        self._tried_at = self._made_at = float("-inf")

    @property
    def can_run(self) -> bool:
        """Whether there is anything to run."""
        return self._run is not None

    def now(self) -> Remembered:
        """Runs all checks; a caller that comes meanwhile waits for the results of that run.

        Raises:
            HearthNetError: raised as by the checks' runner.
        """
        assert self._run is not None
        came_at = time.monotonic()
        with self._running:
            if self._latest is None or self._made_at < came_at:
                self._tried_at = time.monotonic()
                self._latest = _report(self._run())
                self._made_at = time.monotonic()
            return self._latest

    def latest(self) -> Remembered | None:
        """Returns the newest results, or None if there are none yet; has the checks run again if they are old."""
        if self._run is not None and time.monotonic() - self._tried_at > _FRESH_S and not self._running.locked():
            self._tried_at = time.monotonic()
            saved = self._saved()
            if saved is not None and (datetime.now(UTC) - saved.ts).total_seconds() < _FRESH_S:
                self._latest = saved
            else:
                threading.Thread(target=self._refresh, name="hearthnet-page-checks", daemon=True).start()
        return self._latest

    def _refresh(self) -> None:
        try:
            self.now()
        except Exception as error:  # the page shows what it knows without them  # noqa: BLE001
            log.warning("the checks cannot run", extra={"error": error})

    def _saved(self) -> Remembered | None:
        return next((report for report in reversed(self.history()) if len(report.checks) >= _WHOLE_REPORT), None)

    def history(self) -> list[Remembered]:
        """Returns the saved reports, oldest first; none if they cannot be read."""
        try:
            return recall(self._directory)
        except OSError as error:
            log.debug("earlier reports cannot be read", extra={"error": error})
            return []

    def changes(self, report: Remembered) -> list[Change]:
        """Returns the checks that are not well or recovered lately, and since when."""
        return changes(self.history(), report)


def us_of(moment: datetime) -> int:
    """Returns a moment as UTC microseconds."""
    return round(moment.timestamp() * 1e6)


def _report(results: Sequence[Mapping[str, Any]]) -> Remembered:
    return Remembered(datetime.now(UTC), __version__, {result["name"]: result for result in results})


def verdict(
    run: Mapping[str, Any] | None,
    trouble: Mapping[str, Any] | None,
    report: Remembered | None,
    last_failure_us: int | None,
) -> dict[str, Any]:
    """Returns the verdict, as `VerdictOut` describes it. The sentence names no time.

    Args:
        run: the newest of the node.
        trouble: the capability that fails at present.
        report: the doctor's newest.
        last_failure_us: the newest call that failed.
    """
    finding = _leading(report)
    if run is None:
        return _made("unknown", "Nothing is recorded yet", fix="hearthnet run")
    if not run["is_alive"]:
        return _of_ended(run)
    if trouble is not None:
        return _of_trouble(trouble, finding)
    if finding is not None:
        status = finding["status"]
        return _made(status, finding["detail"], fix=finding.get("fix"), check=finding["name"])
    since_us = max(run["started_us"], last_failure_us or 0)
    detail = "no call has failed since" if report is not None else "no call has failed since; the checks are running"
    return _made("ok", "All is well", detail, since_us)


def _leading(report: Remembered | None) -> Mapping[str, Any] | None:
    """Returns the first failure, or the first warning; the rate of errors last: it is a sign, no cause."""
    found = [check for check in (report.checks.values() if report else ()) if check["status"] in _STATUS]
    ordered = sorted(found, key=lambda check: (_STATUS[check["status"]], check["name"] == "recent_error_rate"))
    return next(iter(ordered), None)


def _of_ended(run: Mapping[str, Any]) -> dict[str, Any]:
    since_us = run["ended_us"] or run["last_seen_us"]
    whose = "The node" if run["role"] == "node" else run["program"] or "The program"
    if run["end_reason"] == _CLEAN:
        return _made("unknown", f"{whose} is not running: it stopped cleanly", since_us=since_us, fix="hearthnet run")
    return _made("fail", f"{whose} is not running: it died", since_us=since_us, fix="hearthnet autopsy")


def _of_trouble(trouble: Mapping[str, Any], finding: Mapping[str, Any] | None) -> dict[str, Any]:
    is_severe = trouble["failed"] / trouble["count"] >= _SEVERE_SHARE
    where = f" in {trouble['span']}" if trouble["span"] else ""
    detail = f"{trouble['failed']} of its last {trouble['count']} calls failed; the last one{where}: "
    detail += trouble["error"] or trouble["result"]
    fix, check = "hearthnet trace recent 20 --failed", None
    if finding is not None and finding["name"] != "recent_error_rate":
        detail, fix, check = f"{detail}. {finding['detail']}", finding.get("fix") or fix, finding["name"]
    sentence = f"{trouble['capability']} is failing"
    made = _made("fail" if is_severe else "warn", sentence, detail, trouble["since_us"], fix, check)
    return {**made, "capability": trouble["capability"]}


def _made(
    status: str,
    sentence: str,
    detail: str = "",
    since_us: int | None = None,
    fix: str | None = None,
    check: str | None = None,
) -> dict[str, Any]:
    short = sentence if len(sentence) <= _MAX_SENTENCE else sentence[:_MAX_SENTENCE] + "…"
    return {
        "status": status,
        "sentence": short,
        "detail": detail,
        "since_us": since_us,
        "fix": fix,
        "check": check,
        "capability": None,
    }
