"""The check of free space, with invented figures and a real small file system."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hearthnet.checks import machine, store
from hearthnet.checks.machine import MIN_FREE_BYTES, FileSystem, check_disks, file_system_of, out_of_space
from hearthnet.files import mount_of
from hearthnet.observability import doctor, telemetry

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


def mounts(path, *rows):
    """A table of mounts: points and types, in the order of mounting."""
    table = path / "mountinfo"
    lines = [f"{n} 1 8:1 / {point} rw,relatime shared:1 - {kind} /dev/sda1 rw" for n, (point, kind) in enumerate(rows)]
    table.write_text("\n".join(lines))
    return table


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ("/", "ext4")),
        ("/srv/node/data", ("/srv/node", "tmpfs")),  # the later of two at one point hides the earlier
        ("/srv/nodes", ("/", "ext4")),
        ("/media/my stick/a", ("/media/my stick", "vfat")),
        ("/médias/x", ("/médias", "btrfs")),
    ],
)
def test_mount_is_the_deepest_and_the_last(tmp_path, path, expected):
    """Names with spaces and other letters are read as they are."""
    table = mounts(
        tmp_path, ("/", "ext4"), ("/srv/node", "ext4"), ("/srv/node", "tmpfs"), ("/media/my\\040stick", "vfat"),
        ("/médias", "btrfs"),
    )  # fmt: skip

    assert mount_of(Path(path), table) == (Path(expected[0]), expected[1])


def test_system_without_a_table_of_mounts(tmp_path):
    """Then the device numbers tell, as far as they do."""
    assert mount_of(tmp_path, tmp_path / "none") is None


def test_read_only_bind_mount_is_named_itself(config, tiny_disk):
    """It has the device number of the file system that it is a part of, which is not read-only."""
    part, bound = tiny_disk / "part", tiny_disk / "bound"
    part.mkdir()
    bound.mkdir()
    subprocess.run(["mount", "--bind", str(part), str(bound)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(bound)], check=True)
        observability = config.observability.model_copy(update={"data_dir": bound})
        result = doctor.run_one("disk_space", config.model_copy(update={"observability": observability}))
        space = out_of_space(bound)
    finally:
        subprocess.run(["umount", str(bound)], check=True)

    assert f"{bound} (data_dir) is read-only" in result.detail
    assert result.fix.endswith(f"mount -o remount,rw {bound}")
    assert space == (f"{bound} is read-only", result.fix)


@pytest.fixture
def few_inodes(tiny_disk):
    """A file system on which no file can be created, with space for millions of bytes."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=40", str(tiny_disk)], check=True)
    (tiny_disk / "data").mkdir(mode=0o700)
    (tiny_disk / "logs").mkdir(mode=0o700)

    def use_up() -> None:
        with suppress(OSError):
            for number in range(100):
                (tiny_disk / f"file{number}").touch()

    return tiny_disk, use_up


def test_inodes_that_are_used_up_are_the_reason_given(node, few_inodes):
    """Neither a mode nor a byte is missing: the log folder, the event log and the store say so, with the fix for it."""
    config, bus = node
    disk, use_up = few_inodes
    places = {"data_dir": disk / "data", "log_dir": disk / "logs"}
    state = disk / "state"
    shutil.copytree(config.community.state_dir, state)
    config = config.model_copy(
        update={
            "observability": config.observability.model_copy(update=places),
            "community": config.community.model_copy(update={"state_dir": state}),
        }
    )
    use_up()
    with telemetry.open(config.observability):
        found = {
            name: doctor.run_one(name, config, bus, deadline_s=60)
            for name in ("event_log_writable", "telemetry_store", "log_directory", "disk_space")
        }

    for name, result in found.items():
        assert result.status == "fail", (name, result.detail)
        assert "inodes" in result.detail, (name, result.detail)
        assert result.fix == f"sudo du -x --inodes --max-depth=3 {disk} | sort -n | tail -n 20", name


def test_disk_with_space_is_no_reason(tmp_path):
    """Then something else is."""
    assert out_of_space(tmp_path) is None
    with pytest.raises(OSError, match="No such file"):
        out_of_space(tmp_path / "gone")


def test_store_at_its_own_limit_is_not_told_as_a_full_disk(tmp_path):
    """SQLite has one error for both."""
    path = tmp_path / "telemetry.db"

    why, fix = store._why_not("disk_full", path)
    assert "its disk is not" in why
    assert fix == "hearthnet telemetry info"
    assert store._why_not("locked", path)[1].startswith("fuser")
    assert store._why_not("disk_full", tmp_path / "gone" / "telemetry.db")[1].startswith("df -h")


@pytest.mark.parametrize(("others", "is_taken"), [([], True), (["syslog"], False), (["2026-11-30.log"], True)])
def test_folder_of_others_is_not_to_be_taken_over(tmp_path, monkeypatch, others, is_taken):
    """To make all of /var/log the node's would break other programs."""
    folder = tmp_path / "logs"
    folder.mkdir(mode=0o755)
    for name in others:
        (folder / name).touch()

    monkeypatch.setattr(machine.os, "geteuid", lambda: 65_534)
    fix = machine._fix_access(folder)
    assert ("chown -R" in fix) == is_taken
    assert ("log_dir" in fix) != is_taken
