"""Free space: figures as they might be, a real small file system, and the rate from the doctor's memory."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from hearthnet.checks.machine import MIN_FREE_BYTES, FileSystem, file_system_of, full_in_s, judge_disks
from hearthnet.observability import doctor
from hearthnet.observability.doctor_memory import MEMORY_FILE

NOW_S = 1_780_000_000.0
GB = 1_000_000_000
ROOMY = FileSystem("/", (), 100 * GB, 50 * GB, 1_000_000, 900_000, is_read_only=False)


def look(**changes):
    """What looks at a file system and finds these figures."""
    return lambda _: replace(ROOMY, **changes)


def remember(data_dir: Path, *rows: tuple[float, object], mount="/", total=ROOMY.total_bytes) -> None:
    """Writes reports of so many seconds ago, with so many bytes free, as the doctor does."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / MEMORY_FILE).open("ab") as file:
        for ago_s, free in rows:
            system = {"mount": mount, "total_bytes": total, "free_bytes": free}
            check = {"name": "disk_space", "status": "pass", "evidence": {"file_systems": [system]}}
            ts = datetime.fromtimestamp(NOW_S - ago_s, UTC).isoformat()
            file.write(orjson.dumps({"version": 1, "ts": ts, "program": "1", "checks": [check]}) + b"\n")


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "pass", "50.0 GB free at /"),
        ({"free_bytes": MIN_FREE_BYTES}, "pass", "1.0 GB free"),
        ({"free_bytes": MIN_FREE_BYTES - 1_000_000}, "fail", "999.0 MB free at /, for data_dir, log_dir"),
        ({"free_bytes": 0}, "fail", "0.0 MB free"),
        ({"free_inodes": 12}, "fail", "12 of 1000000 inodes free at /"),
        ({"total_inodes": 0, "free_inodes": 0}, "pass", "50.0 GB"),  # btrfs has no number of them
        ({"is_read_only": True}, "fail", "/ (data_dir, log_dir, blobs_dir, state_dir, keys_dir) is read-only"),
    ],
)
def test_figures_decide(config, changes, status, words):
    """Too few bytes, too few inodes and a read-only file system fail, each with its own fix."""
    result = judge_disks(config, look(**changes), NOW_S)

    assert (result.status, result.ok) == (status, status == "pass")
    assert words in result.detail
    assert (result.fix is not None) == (status == "fail")
    if status == "fail":
        wanted = "remount,rw" if changes.get("is_read_only") else "--inodes" if "free_inodes" in changes else "du -xh"
        assert wanted in result.fix


def test_small_file_system_fails_and_is_the_only_one_named(config, tiny_disk):
    """Of two real file systems each is measured once, and the full one is blamed."""
    (tiny_disk / "filler").write_bytes(b"x" * 30_000_000)
    observability = config.observability.model_copy(update={"log_dir": tiny_disk / "not made yet" / "logs"})
    result = doctor.run_one("disk_space", config.model_copy(update={"observability": observability}))

    systems = {system["mount"]: system for system in result.evidence["file_systems"]}
    small = systems.pop(str(tiny_disk))
    assert result.status == "fail"
    assert f"MB free at {tiny_disk}, for log_dir" in result.detail
    assert small["folders"] == ["log_dir"]
    assert 0 < small["free_bytes"] < 15_000_000
    ((_, rest),) = systems.items()
    assert rest["folders"] == ["data_dir", "blobs_dir", "state_dir", "keys_dir"]
    assert str(tiny_disk) in result.fix


def test_read_only_file_system_is_told(tiny_disk):
    """What the kernel mounted read-only is seen as that, with figures like any other."""
    assert not file_system_of(tiny_disk).is_read_only
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)

    seen = file_system_of(tiny_disk)

    assert seen.is_read_only
    assert (seen.mount, seen.total_bytes) == (str(tiny_disk), 41_943_040)


def test_disk_that_fills_up_is_a_warning_in_time(config):
    """A GB an hour with fifty left is full in two days; a tenth of it is a remark, and a disk that empties is none."""
    data_dir = config.observability.data_dir
    remember(data_dir, *((hour * 3_600, (50 + hour) * GB) for hour in (6, 5, 4, 3, 2, 1)))
    result = judge_disks(config, look(), NOW_S)

    assert (result.status, result.ok) == ("warn", True)
    assert "full in 50 h at the present rate" in result.detail
    assert result.evidence["file_systems"][0]["full_in_s"] == pytest.approx(50 * 3_600)
    assert "du -xh" in result.fix

    (data_dir / MEMORY_FILE).unlink()
    remember(data_dir, (36_000, 51 * GB))
    assert "(full in 21 days at the present rate)" in judge_disks(config, look(), NOW_S).detail
    (data_dir / MEMORY_FILE).unlink()
    remember(data_dir, (36_000, 49 * GB))
    assert judge_disks(config, look(), NOW_S).detail == "50.0 GB free at /"


def test_memory_that_says_nothing_gives_no_rate(config):
    """What is too new, too old, of the future, of another disk, or damaged, is left out; the rest still counts."""
    data_dir = config.observability.data_dir
    remember(data_dir, (599, 50 * GB), (2 * 86_400, 90 * GB), (-3_600, 10 * GB), (7_200, "much"), (7_200, None))
    remember(data_dir, (7_200, 90 * GB), mount="/elsewhere")
    remember(data_dir, (7_200, 90 * GB), total=64 * GB)
    with (data_dir / MEMORY_FILE).open("ab") as file:
        file.write(b'{"ts": "2026-0\n\0\xff\xfe\n[]\n{"ts": 5, "checks": {}}\nnull\n')
        file.write(b'{"ts":"2026-05-28T20:00:00Z","program":"1","checks":[{"name":"disk_space","status":"pass",')
        file.write(b'"evidence":{"file_systems":{"mount":"/"}}},{"name":"x","status":"pass"}]}\n')

    result = judge_disks(config, look(), NOW_S)
    assert (result.status, result.evidence["file_systems"][0]["full_in_s"]) == ("pass", None)

    remember(data_dir, (7_200, 52 * GB))
    left_s = judge_disks(config, look(), NOW_S).evidence["file_systems"][0]["full_in_s"]
    assert 165_000 < left_s <= 180_000


def test_one_large_file_that_came_and_went_decides_nothing():
    """The rate is that of most of the day, not of its worst hour."""
    steady = [(NOW_S - hour * 3_600, 50 * GB + hour * 1_000_000) for hour in range(1, 20)]
    steady[7] = (steady[7][0], 5 * GB)

    assert full_in_s(steady, NOW_S, 50 * GB) == pytest.approx(50_000 * 3_600, rel=0.01)
