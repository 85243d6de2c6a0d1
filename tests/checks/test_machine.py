"""The check of free space, with invented figures and a real small file system."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from hearthnet.checks.machine import MIN_FREE_BYTES, FileSystem, check_disks, file_system_of
from hearthnet.observability import doctor

GB = 1_000_000_000
ROOMY = FileSystem("/", (), 100 * GB, 50 * GB, 1_000_000, 900_000, is_read_only=False)


def look(**changes):
    """Returns a function that reports these figures for any folder."""
    return lambda _: replace(ROOMY, **changes)


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
    """Too few bytes, too few inodes and read-only fail, each with its own fix."""
    result = check_disks(config, look(**changes))

    assert (result.status, result.ok) == (status, status == "pass")
    assert words in result.detail
    assert (result.fix is not None) == (status == "fail")
    if status == "fail":
        wanted = "remount,rw" if changes.get("is_read_only") else "--inodes" if "free_inodes" in changes else "du -xh"
        assert wanted in result.fix


def test_small_file_system_fails_and_is_the_only_one_named(config, tiny_disk):
    """Two real file systems are each checked once, and only the full one fails."""
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


def test_read_only_file_system_is_reported(tiny_disk):
    """A read-only mount is recognised, with normal figures."""
    assert not file_system_of(tiny_disk).is_read_only
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)

    seen = file_system_of(tiny_disk)

    assert seen.is_read_only
    assert (seen.mount, seen.total_bytes) == (str(tiny_disk), 41_943_040)
