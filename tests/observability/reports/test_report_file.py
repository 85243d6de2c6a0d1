"""The saved reports: bounded, complete lines, shared by concurrent doctors; and a check's history."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from hearthnet.constants import MAX_JSON_LINE_BYTES
from hearthnet.files import replace_private
from hearthnet.observability.reports import report_file as doctor_memory
from hearthnet.observability.reports.history import changes, streaks
from hearthnet.observability.reports.report_file import (
    MAX_MEMORY_BYTES,
    MEMORY_FILE,
    Remembered,
    recall,
    remember,
    timestamp,
)

HERE = str(Path(__file__).parent)  # for processes that make the same reports
START = datetime(2026, 5, 26, 8, 14, 22, 281_000, tzinfo=UTC)


def check(name, status="pass", detail="all is well", **evidence):
    """One result, as in the report."""
    return {
        "name": name,
        "status": status,
        "ok": status != "fail",
        "detail": detail,
        "fix": None if status == "pass" else "hearthnet init",
        "evidence": evidence,
        "duration_ms": 1.5,
    }


def report(number=0, *checks, program="0.3.1", **more):
    """A report made `number` minutes after the start."""
    ts = timestamp(START + timedelta(minutes=number))
    return {"ts": ts, "program": program, "source": "disk", "ok": True, "checks": list(checks), **more}


def lines_of(directory):
    """All saved reports, parsed strictly."""
    return [orjson.loads(line) for line in (directory / MEMORY_FILE).read_bytes().splitlines()]


def test_line_is_as_agreed_and_private(tmp_path):
    """A line has exactly the specified keys, and the file is private."""
    remember(tmp_path, report(0, check("disk_space", free=1), changes=[], note="not kept"))

    (line,) = lines_of(tmp_path)
    assert list(line) == ["version", "ts", "program", "source", "ok", "checks"]
    assert line == {**report(0, check("disk_space", free=1)), "version": 1}
    assert line["ts"] == "2026-05-26T08:14:22.281Z"
    assert (tmp_path / MEMORY_FILE).stat().st_mode & 0o777 == 0o600
    assert recall(tmp_path)[0].ts == START


def test_two_thousand_reports_stay_within_a_megabyte(tmp_path):
    """At least the newest half is kept in order, and the file never exceeds its bound."""
    checks = [check(f"check_{number}", detail="as it was " * 10) for number in range(14)]
    path = tmp_path / MEMORY_FILE
    sizes = []
    for number in range(2_000):
        remember(tmp_path, report(number, *checks))
        sizes.append(path.stat().st_size)

    kept = [memory.ts for memory in recall(tmp_path)]
    assert max(sizes) <= MAX_MEMORY_BYTES
    assert min(sizes[300:]) > 0.45 * MAX_MEMORY_BYTES
    assert len(lines_of(tmp_path)) == len(kept)  # no half a line anywhere
    assert kept == [START + timedelta(minutes=number) for number in range(2_000 - len(kept), 2_000)]
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [MEMORY_FILE]
    assert path.stat().st_mode & 0o777 == 0o600


def test_evidence_of_what_is_well_gives_way_first(tmp_path):
    """A line that is too long drops the evidence of passes; failures keep theirs."""
    remember(tmp_path, report(0, check("well", big="x" * 40_000), check("ill", "fail", free=3)))

    (line,) = lines_of(tmp_path)
    assert [item["evidence"] for item in line["checks"]] == [{}, {"free": 3}]


@pytest.mark.parametrize("count", [30, 2_000])
def test_line_is_bounded_whatever_is_in_it(tmp_path, count):
    """Long non-ASCII texts and very many checks fit into 32 KiB, with all failures."""
    many = [check(f"check_{number}", "pass", "ü" * 2_000, list=["y" * 900] * 30) for number in range(count)]
    remember(tmp_path, report(0, *many, check("last", "fail", "é" * 5_000, list=["z" * 900] * 60)))

    assert (tmp_path / MEMORY_FILE).stat().st_size <= MAX_JSON_LINE_BYTES
    (memory,) = recall(tmp_path)
    assert memory.checks["last"]["status"] == "fail"
    assert memory.checks["last"]["detail"].startswith("é")


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 512,
        b'{"version":1,"ts":"2026-05-26T08:14:22.281Z","pro',
        b"[]",
        b'{"ts":"yesterday","program":"1","checks":[]}',
        b'{"ts":"2026-05-26T08:14:22.281Z","program":"1","checks":[{"name":["a"],"status":"pass"}]}',
        b'{"ts":"2026-05-26T08:14:22.281Z","program":"1","checks":[{"name":"a","status":7}, 3]}',
        b"\xff\xfe\n\n\n",
    ],
)
def test_damage_costs_its_own_line_only(tmp_path, damage):
    """Unreadable lines are skipped, also a torn last line."""
    remember(tmp_path, report(0, check("a")))
    with (tmp_path / MEMORY_FILE).open("ab") as file:
        file.write(damage)
    remember(tmp_path, report(1, check("b")))

    assert [list(memory.checks) for memory in recall(tmp_path)] == [["a"], ["b"]]


def test_huge_foreign_file_is_read_from_its_end(tmp_path):
    """A far too large file is read with bounded memory, and the next report shrinks it."""
    path = tmp_path / MEMORY_FILE
    path.write_bytes(b"x" * 10 * MAX_MEMORY_BYTES + b"\n")
    remember(tmp_path, report(0, check("a")))

    assert path.stat().st_size < MAX_MEMORY_BYTES
    assert [list(memory.checks) for memory in recall(tmp_path)] == [["a"]]


def test_doctors_at_once_lose_nothing_of_each_other(tmp_path):
    """While two processes append and replace the file, the newest reports of both are kept."""
    script = f"""
import sys
sys.path.insert(0, {HERE!r})
from pathlib import Path
from test_report_file import check, remember, report
checks = [check(f"{{sys.argv[1]}}{{number}}", detail="x" * 1_500) for number in range(12)]
for number in range(400):
    remember(Path({str(tmp_path)!r}), report(number, *checks, program=sys.argv[1]))
"""
    # Its own lock wait is no part of this test: on a machine that stands still for seconds nothing may be lost either.
    script = script.replace(
        "checks = ", "import hearthnet.observability.reports.report_file as m; m.LOCK_WAIT_S = 60\nchecks = "
    )
    doctors = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("one", "two")]
    assert [doctor.wait(120) for doctor in doctors] == [0, 0]

    memory = recall(tmp_path)
    assert len(memory) == len(lines_of(tmp_path))
    newest = {name: [line.ts for line in memory if line.program == name] for name in ("one", "two")}
    assert len(newest["one"]) + len(newest["two"]) > 20
    for name, moments in newest.items():
        first = 400 - len(moments)
        assert moments == [START + timedelta(minutes=number) for number in range(first, 400)], name


def test_file_that_was_replaced_while_it_was_waited_for(tmp_path, monkeypatch):
    """A writer that gets the lock after the file was replaced writes to the new file."""
    path = tmp_path / MEMORY_FILE
    remember(tmp_path, report(0, check("a")))
    lock = doctor_memory._lock

    def replaced_meanwhile(fd, ends_at):
        monkeypatch.setattr(doctor_memory, "_lock", lock)
        replace_private(path, path.read_bytes())
        lock(fd, ends_at)

    monkeypatch.setattr(doctor_memory, "_lock", replaced_meanwhile)
    remember(tmp_path, report(1, check("b")))

    assert [list(memory.checks) for memory in recall(tmp_path)] == [["a"], ["b"]]


def test_stopped_doctor_does_not_stop_others(tmp_path, monkeypatch):
    """The wait for a lock is bounded; then the report is not saved, which is reported."""
    monkeypatch.setattr(doctor_memory, "LOCK_WAIT_S", 0.05)
    remember(tmp_path, report(0, check("a")))
    with (tmp_path / MEMORY_FILE).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another doctor"):
            remember(tmp_path, report(1, check("a")))

    assert len(recall(tmp_path)) == 1


def test_full_disk_leaves_no_half_a_line(tmp_path):
    """A line that does not fit on the disk is removed completely."""
    remember(tmp_path, report(0, check("a")))
    size = (tmp_path / MEMORY_FILE).stat().st_size
    script = f"""
import resource, sys
sys.path.insert(0, {HERE!r})
from pathlib import Path
from test_report_file import check, remember, report
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 50}, {size + 50}))
try:
    remember(Path({str(tmp_path)!r}), report(1, check("b")))
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert int(done.stdout) in (errno.ENOSPC, errno.EFBIG)
    assert (tmp_path / MEMORY_FILE).stat().st_size == size


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for another user")
def test_root_leaves_the_memory_to_the_nodes_user(tmp_path):
    """A file created or replaced by root belongs to the folder's owner."""
    os.chown(tmp_path, 12_345, 12_345)
    remember(tmp_path, report(0, check("a")))
    path = tmp_path / MEMORY_FILE
    assert path.stat().st_uid == 12_345

    with path.open("ab") as file:
        file.write(b"\n" * MAX_MEMORY_BYTES)
    remember(tmp_path, report(1, check("a")))
    assert path.stat().st_size < MAX_MEMORY_BYTES
    assert path.stat().st_uid == 12_345


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for another user")
@pytest.mark.parametrize("target", ["empty", "missing", "text"])
def test_root_follows_no_link_of_the_nodes_user(tmp_path, target):
    """It could lead to any file, which root would add to, or give to that user."""
    folder, elsewhere = tmp_path / "folder", tmp_path / target
    folder.mkdir()
    os.chown(folder, 12_345, 12_345)
    if target != "missing":
        elsewhere.write_text("" if target == "empty" else "text")
    (folder / MEMORY_FILE).symlink_to(elsewhere)
    with pytest.raises(OSError, match=MEMORY_FILE):
        remember(folder, report(0, check("a")))

    assert elsewhere.exists() is (target != "missing")
    assert target == "missing" or (elsewhere.stat().st_uid, elsewhere.read_text()) == (0, target.replace("empty", ""))


def past(*rows):
    """Saved reports of one check, given as `(minute, program, status)`."""
    return [
        Remembered(START + timedelta(minutes=minute), program, {"clock_sanity": check("clock_sanity", status)})
        for minute, program, status in rows
    ]


def test_streaks_join_equal_reports_and_know_what_was_before():
    """A streak has its first and last report, the count, and the version if that changed with the status."""
    memory = past((0, "1", "pass"), (5, "1", "pass"), (9, "2", "fail"), (12, "2", "fail"), (20, "2", "pass"))
    memory.insert(2, Remembered(START + timedelta(minutes=6), "1", {"other": check("other")}))

    found = [
        (row.status, (row.since - START).seconds // 60, (row.until - START).seconds // 60, row.reports, row.after)
        for row in streaks(memory, "clock_sanity")
    ]
    assert found == [("pass", 0, 5, 2, None), ("fail", 9, 12, 2, "1"), ("pass", 20, 20, 1, None)]
    assert streaks(memory, "never_run") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, "1", "pass"), (9, "2", "fail")], ("fail", 9, "pass", 0, "1")),
        ([(0, "1", "pass"), (9, "2", "fail"), (60, "3", "fail")], ("fail", 9, "pass", 0, "1")),
        ([(0, "1", "fail"), (9, "1", "fail")], ("fail", 0, None, None, None)),
        ([(0, "1", "warn"), (9, "1", "fail")], ("fail", 9, "warn", 0, None)),
        ([(0, "1", "fail"), (9, "1", "pass"), (70, "1", "pass")], ("pass", 9, "fail", 0, None)),
        ([(0, "1", "fail"), (9, "1", "pass"), (9 + 1_440, "1", "pass")], None),  # a day old: no news
        ([(0, "1", "fail")], None),  # never looked at before
        ([(0, "1", "skip"), (9, "2", "pass")], None),
        ([(0, "1", "pass"), (9, "2", "skip")], None),
        ([(0, "1", "pass"), (9, "2", "pass")], None),
    ],
)
def test_changes_say_since_when_and_after_what(rows, expected):
    """Problems are listed with their start, recoveries for a day, nothing else."""
    *memory, present = past(*rows)
    told = [
        (
            change.status,
            (change.since - START).seconds // 60,
            change.was,
            None if change.until is None else (change.until - START).seconds // 60,
            change.after,
        )
        for change in changes(memory, present)
    ]

    assert told == ([] if expected is None else [expected])


def test_failures_lead_the_changes():
    """Failures come first, recoveries last, whatever the order of checks."""
    states = {"a": "warn", "b": "pass", "c": "fail"}
    earlier = Remembered(START, "1", {name: check(name, "warn") for name in states})
    present = Remembered(START + timedelta(hours=1), "1", {name: check(name, now) for name, now in states.items()})

    assert [change.name for change in changes([earlier], present)] == ["c", "a", "b"]
