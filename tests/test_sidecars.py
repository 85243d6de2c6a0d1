"""Limits that SQLite calls an I/O error, or a file that cannot be opened."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
from support.limits import no_file_left

from hearthnet.database import store_error
from hearthnet.sidecars import because, has_no_file_left

LIMITED = """
import resource, signal, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
from hearthnet import get_logger, telemetry, trace
with telemetry.open(sys.argv[1], console="off") as opened:
    for number in range(40):
        for _ in range(100):
            with trace("work", text="x" * 300):
                pass
        if not opened.flush(0.2):
            break
    print(opened.error, "|", opened.error_text)
"""


def failure(code):
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_limit_of_file_sizes_is_named(tmp_path, limit):
    """At the start, for which the smaller is too small, and while the store grows: nothing is wrong with the disk."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "runs"), str(limit)], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert f"this process may write no file larger than {limit:,} bytes: ulimit -f" in done.stdout


def test_quota_is_named(tmp_path, monkeypatch):
    """It shows only where something is written."""

    def refuse(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    error = store_error(tmp_path / "telemetry.db", failure(sqlite3.SQLITE_IOERR_WRITE))
    assert error.message.endswith("cannot be used: disk I/O error (the disk quota of this user is used up)")


@pytest.mark.parametrize(("left", "said"), [(0, " (the disk has no inode left)"), (5, "")])
def test_missing_inodes_are_named(tmp_path, monkeypatch, left, said):
    """SQLite cannot open what it cannot make."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=10, f_favail=left))
    assert because(tmp_path / "telemetry.db", failure(sqlite3.SQLITE_CANTOPEN)) == said


def test_limit_of_open_files_is_named(tmp_path):
    """Also where the file is there, and all its owner needs is a descriptor."""
    path = tmp_path / "telemetry.db"
    error = failure(sqlite3.SQLITE_CANTOPEN)
    assert not has_no_file_left()
    with no_file_left():
        assert has_no_file_left()
        assert store_error(path, error).message.endswith("(this process may open no more files: ulimit -n)")
    assert because(path, error) == ""


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 10_000_000])
def test_disk_that_fails_is_no_limit(tmp_path, monkeypatch, limit):
    """Without a limit, far from it, and where even a look fails, SQLite's words come alone."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    (tmp_path / "telemetry.db").touch()

    assert because(tmp_path / "telemetry.db", failure(sqlite3.SQLITE_IOERR_READ)) == ""
    assert because(tmp_path / "gone" / "telemetry.db", failure(sqlite3.SQLITE_IOERR_READ)) == ""
    assert because(tmp_path / "telemetry.db", ValueError()) == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "telemetry.db"]
