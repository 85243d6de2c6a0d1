"""The history of checks: how long each has had its status, and what changed.

A streak is a series of reports in which a check had the same status. Reports that did not run the check are not part
of its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from hearthnet.observability.reports.report_file import Remembered, timestamp

__all__ = ["BAD", "Change", "Streak", "changes", "streaks"]

BAD: Final = ("fail", "warn")
NEWS: Final = timedelta(
    days=1
)  # a recovery is reported for so long: the first report after it may be an unread one of a cron job


@dataclass(slots=True)
class Streak:
    """Successive reports with the same status of a check.

    Attributes:
        status: `pass`, `warn`, `fail` or `skip`.
        since: of the first report.
        until: of the last one.
        reports: how many.
        program: the version that made the first.
        after: the version that made the report before, if it was another.
        detail: of the last one.
    """

    status: str
    since: datetime
    until: datetime
    reports: int
    program: str
    after: str | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the streak with the keys of the JSON output."""
        return {**asdict(self), "since": timestamp(self.since), "until": timestamp(self.until)}


@dataclass(frozen=True, slots=True)
class Change:
    """A check that is not well, or recovered lately, and since when.

    Attributes:
        name: the check's.
        status: the current one.
        since: the first report of the current streak.
        was: the status before; None if no older report is kept.
        until: the last report of the status before.
        after: the program's version before, if it changed with the status.
    """

    name: str
    status: str
    since: datetime
    was: str | None
    until: datetime | None
    after: str | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the change with the keys of the JSON output."""
        until = None if self.until is None else timestamp(self.until)
        return {**asdict(self), "since": timestamp(self.since), "until": until}


def streaks(memory: Sequence[Remembered], name: str) -> list[Streak]:
    """Returns the streaks of a check, oldest first."""
    found: list[Streak] = []
    program: str | None = None
    for report in memory:
        check = report.checks.get(name)
        if check is None:
            continue
        detail = str(check.get("detail", ""))
        if found and found[-1].status == check["status"]:
            found[-1].until, found[-1].detail = report.ts, detail
            found[-1].reports += 1
        else:
            after = program if program != report.program else None
            found.append(Streak(check["status"], report.ts, report.ts, 1, report.program, after, detail))
        program = report.program
    return found


def changes(memory: Sequence[Remembered], present: Remembered) -> list[Change]:
    """Returns the checks that are not well, and those that recovered lately; failures first.

    A check without earlier reports is no change.
    """
    whole = [*memory, present]
    found = [change for name in present.checks if (change := _change(streaks(whole, name), name)) is not None]
    rank = {"fail": 0, "warn": 1}
    return sorted(found, key=lambda change: rank.get(change.status, 2))


def _change(row: list[Streak], name: str) -> Change | None:
    now, before = row[-1], row[-2] if len(row) > 1 else None
    is_old = before is not None or now.reports > 1
    is_news = now.status == "pass" and before is not None and before.status in BAD and now.until - now.since < NEWS
    if not is_news and not (now.status in BAD and is_old):
        return None
    if before is None:
        return Change(name, now.status, now.since, None, None, None)
    return Change(name, now.status, now.since, before.status, before.until, now.after)
