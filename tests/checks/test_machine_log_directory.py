"""The check of the log folder, healthy and broken."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from hearthnet.observability import doctor, get_logger
from hearthnet.observability import logging as node_logging


@pytest.fixture
def log_dir(config):
    """A log folder with one file, written by the logging itself."""
    node_logging.install_sinks(config.observability)
    get_logger("hearthnet.test").info("hello")
    return config.observability.log_dir


def check(node, *, from_disk=False):
    """Runs the check, in the running node or from disk."""
    config, bus = node
    return doctor.run_one("log_directory", config, None if from_disk else bus)


def test_log_that_is_written_passes_with_its_figures(node, log_dir):
    """Bytes, files and foreign files are counted; nothing is changed."""
    (log_dir / "notes.txt").write_text("x" * 1_000)
    before = {path: path.stat() for path in (log_dir, *log_dir.iterdir())}
    result = check(node)

    (ours,) = log_dir.glob("*.log")
    assert (result.status, result.fix) == ("pass", None)
    assert result.evidence == {
        "path": str(log_dir),
        "files": 1,
        "bytes": ours.stat().st_size,
        "foreign": 1,
        "newest": ours.name,
        "has_today": True,
    }
    assert {path: path.stat() for path in (log_dir, *log_dir.iterdir())} == before


def test_folder_that_is_not_there_yet_passes(node):
    """A node that never logged has no folder, and the check creates none."""
    result = check(node, from_disk=True)

    assert (result.status, result.detail) == ("pass", "nothing logged yet")
    assert not node[0].observability.log_dir.exists()


def test_file_instead_of_the_folder_fails(node):
    """A file instead of the folder, or of its parent, fails."""
    log_dir = node[0].observability.log_dir
    log_dir.parent.mkdir(parents=True)
    log_dir.write_text("")
    result = check(node)
    assert (result.status, result.fix) == ("fail", f"mv {log_dir} {log_dir}.old")

    log_dir.unlink()
    log_dir.parent.rmdir()
    log_dir.parent.write_text("")
    result = check(node)
    assert result.status == "fail"
    assert "is missing and cannot be created" in result.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_folder_or_file_without_the_right_to_write_fails(node, log_dir, mode):
    """A wrong mode is shown, and the fix corrects it."""
    (file,) = log_dir.glob("*.log")
    for path in (file, log_dir):
        path.chmod(mode)
        result = check(node)
        assert result.status == "fail"
        assert f"{path} cannot be written" in result.detail
        assert f"mode {mode:04o}" in result.detail
        subprocess.run(result.fix, shell=True, check=True)
        assert check(node).status == "pass"


def test_read_only_file_system_fails_for_root_too(node, tiny_disk):
    """A read-only file system is reported as such."""
    config, bus = node
    here = config.observability.model_copy(update={"log_dir": tiny_disk / "logs"})
    there = (config.model_copy(update={"observability": here}), bus)
    assert check(there).status == "pass"
    (tiny_disk / "away.log").write_text("")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)

    result = check(there)
    assert result.status == "fail"
    assert "the file system is read-only" in result.detail

    newest = config.observability.log_dir / "2026-01-02.log"
    newest.parent.mkdir(parents=True)
    newest.symlink_to(tiny_disk / "away.log")
    result = check(node)
    assert (result.status, result.evidence["newest"]) == ("fail", newest.name)
    assert result.detail == f"{newest} cannot be written: the file system is read-only"


def test_running_node_that_loses_lines_warns(node, log_dir, monkeypatch):
    """Dropped lines are counted in the running node; from disk they are unknown."""
    monkeypatch.setattr(node_logging, "dropped_lines", lambda: 3)

    result = check(node)
    assert (result.status, result.ok) == ("warn", True)
    assert result.detail == "3 lines could not be written to the log since the node started"
    assert check(node, from_disk=True).status == "pass"


def test_records_that_the_set_up_hid_warn(node, log_dir, monkeypatch):
    """Records that a level or `logging.disable` hides in the running node are counted there."""
    monkeypatch.setattr(node_logging, "missed_records", lambda: 1)

    result = check(node)
    assert (result.status, result.ok) == ("warn", True)
    assert result.detail == "the program's own set-up of logging kept 1 record from the log"


def test_removed_log_file_warns(node, log_dir):
    """A node whose log file is gone is distinguished from one that never logged."""
    shutil.rmtree(log_dir)
    log_dir.mkdir(mode=0o700)

    assert check(node).detail == "the node is running, but its log file is gone"
    assert check(node, from_disk=True).status == "pass"


def test_quiet_node_passes(node, log_dir):
    """The newest file may be of an earlier day."""
    (ours,) = log_dir.glob("*.log")
    ours.rename(log_dir / "2026-01-02.log")
    result = check(node)

    assert result.status == "pass"
    assert (result.evidence["newest"], result.evidence["has_today"]) == ("2026-01-02.log", False)
