"""The sentence that the page begins with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.waiting import wait_until

from hearthnet.observability.reports.report_file import Remembered, remember, timestamp
from hearthnet.transport.page import verdict as module
from hearthnet.transport.page.verdict import Checks, us_of, verdict

RUN = {
    "run_id": "r", "role": "node", "program": "hearthnet", "is_alive": True, "started_us": 50, "ended_us": None,
    "last_seen_us": None, "end_reason": None,
}  # fmt: skip
TROUBLE = {
    "capability": "llm.chat", "count": 40, "failed": 12, "seq": 9, "result": "timeout", "error": "no route",
    "since_us": 60, "span": "generate",
}  # fmt: skip


def report(*checks: tuple[str, str]) -> Remembered:
    """Returns a report of checks by name and status."""
    found = {
        name: {"name": name, "status": status, "detail": f"{name} is {status}", "fix": "do"} for name, status in checks
    }
    return Remembered(datetime.now(UTC), "1.0", found)


def test_all_is_well():
    """Since the start, or since the last call that failed."""
    fine = report(("a", "pass"), ("b", "skip"))

    assert verdict(RUN, None, fine, None) == {
        "status": "ok", "sentence": "All is well", "detail": "no call has failed since", "since_us": 50, "fix": None,
        "check": None, "capability": None,
    }  # fmt: skip
    assert verdict(RUN, None, fine, 70)["since_us"] == 70
    assert "the checks are running" in verdict(RUN, None, None, None)["detail"]


def test_leading_finding():
    """A failure before a warning; the rate of errors last, for it is a sign and no cause."""
    found = report(("w", "warn"), ("recent_error_rate", "fail"), ("f", "fail"))

    assert verdict(RUN, None, found, None)["check"] == "f"
    assert (
        verdict(RUN, None, report(("w", "warn"), ("recent_error_rate", "fail")), None)["check"] == "recent_error_rate"
    )
    said = verdict(RUN, None, report(("w", "warn")), None)
    assert (said["status"], said["sentence"], said["fix"]) == ("warn", "w is warn", "do")


def test_failing_capability_comes_first():
    """With its share, error and span; the doctor's finding is the detail and has the fix."""
    alone = verdict(RUN, TROUBLE, report(("recent_error_rate", "fail")), 65)
    explained = verdict(RUN, TROUBLE, report(("backend", "fail")), 65)

    assert (alone["status"], alone["sentence"], alone["since_us"]) == ("warn", "llm.chat is failing", 60)
    assert (alone["capability"], explained["capability"]) == ("llm.chat", "llm.chat")
    assert alone["detail"] == "12 of its last 40 calls failed; the last one in generate: no route"
    assert explained["detail"].endswith(": no route. backend is fail")
    assert (explained["fix"], explained["check"]) == ("do", "backend")
    assert verdict(RUN, {**TROUBLE, "failed": 20}, None, 65)["status"] == "fail"


def test_dead_node():
    """A clean stop is no failure; a death is, with the autopsy as the next step."""
    stopped = verdict({**RUN, "is_alive": False, "end_reason": "clean", "ended_us": 90}, TROUBLE, None, 65)
    died = verdict({**RUN, "is_alive": False, "last_seen_us": 80}, None, None, None)
    other = verdict({**RUN, "is_alive": False, "role": "library", "program": "cron.py"}, None, None, None)

    assert (stopped["status"], stopped["since_us"], stopped["fix"]) == ("unknown", 90, "hearthnet run")
    assert (died["status"], died["since_us"], died["fix"]) == ("fail", 80, "hearthnet autopsy")
    assert other["sentence"] == "cron.py is not running: it died"
    assert verdict(None, None, None, None)["status"] == "unknown"


def test_long_sentence_is_cut():
    """A detail of any length leaves a sentence."""
    long = Remembered(datetime.now(UTC), "1.0", {"a": {"name": "a", "status": "fail", "detail": 999 * "x"}})

    assert len(verdict(RUN, None, long, None)["sentence"]) == 241


@pytest.fixture
def runs():
    """Counts the runs of the checks."""
    return []


@pytest.fixture
def checks(tmp_path, runs):
    """Checks that pass."""

    def run():
        runs.append(1)
        return [{"name": "a", "status": "pass", "detail": "", "fix": None}]

    return Checks(tmp_path, run)


def test_checks_run_in_the_background_once_a_minute(checks, runs, monkeypatch):
    """A caller never waits for them; the next ones get the result without another run."""
    checks.latest()
    wait_until(checks.latest)
    checks.latest()
    assert runs == [1]

    monkeypatch.setattr(checks, "_tried_at", checks._tried_at - 61)
    checks.latest()
    wait_until(lambda: runs == [1, 1])


def test_saved_report_of_the_last_minute_counts(checks, runs, tmp_path):
    """`hearthnet doctor` has just been run: nothing runs again."""
    named = [{"name": f"c{number}", "status": "warn", "ok": True, "detail": ""} for number in range(10)]
    written = {"ts": timestamp(datetime.now(UTC)), "program": "1.0", "source": "node", "ok": True, "checks": named}
    remember(tmp_path, written)

    assert checks.latest().checks["c3"]["status"] == "warn"
    assert runs == []


def test_old_or_short_reports_do_not_count(checks, runs, tmp_path):
    """One of an hour ago, and one of a single check: the checks run."""
    for count, age in ((10, timedelta(hours=1)), (1, timedelta(0))):
        named = [{"name": f"c{number}", "status": "fail", "ok": False, "detail": ""} for number in range(count)]
        moment = timestamp(datetime.now(UTC) - age)
        remember(tmp_path, {"ts": moment, "program": "1.0", "source": "node", "ok": True, "checks": named})
    checks.latest()

    wait_until(lambda: runs == [1])


def test_failing_checks_leave_the_page_alone(tmp_path, logged):
    """An error of the runner is logged; there is no report."""

    def run():
        raise OSError("no threads")

    checks = Checks(tmp_path, run)
    checks.latest()

    wait_until(lambda: any(record.msg == "the checks cannot run" for record in logged))
    assert checks.latest() is None


def test_without_checks_nothing_runs(tmp_path):
    """A folder from elsewhere has none."""
    checks = Checks(tmp_path, None)

    assert (checks.can_run, checks.latest()) == (False, None)


def test_changes_since_saved_reports(tmp_path):
    """A check that fails since the last report but one has that time."""
    before = datetime.now(UTC) - timedelta(hours=2)
    for status, moment in (("pass", before), ("fail", before + timedelta(hours=1))):
        check = {"name": "a", "status": status, "ok": status == "pass", "detail": ""}
        remember(tmp_path, {"ts": timestamp(moment), "program": "1.0", "source": "node", "ok": True, "checks": [check]})
    (change,) = Checks(tmp_path, None).changes(report(("a", "fail")))

    assert (change.was, change.status) == ("pass", "fail")
    assert abs(us_of(change.since) - us_of(before + timedelta(hours=1))) < 1_000
    assert module.Checks(tmp_path / "missing", None).changes(report(("a", "pass"))) == []
