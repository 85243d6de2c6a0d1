"""Pipes, closed folders and full disks: a report is still printed at once and says what was not read."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hearthnet.forensics import main
from hearthnet.forensics.gather import gather
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.text import report
from hearthnet.forensics.verdict import judge

SCRIPT = Path(__file__).parents[3] / "scripts" / "forensics.py"


@pytest.fixture
def left(program):
    """The folder of a killed program."""
    return program() / "data"


@pytest.fixture
def in_the_open(program):
    """The same folder below parents that every user may enter."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        yield program(base=Path(base)) / "data"


def states(case):
    """Returns the state of each source."""
    return {source.path.name: source.state for source in case.sources}


@pytest.mark.parametrize(
    "name", ["telemetry.db", "telemetry.db-wal", "telemetry.1.box", "telemetry.1.fault", "doctor.jsonl"]
)
def test_pipe_instead_of_a_file_does_not_block(left, name):
    """Neither reading nor hashing blocks, and the other files are reported as usual."""
    (left / name).unlink(missing_ok=True)
    os.mkfifo(left / name)

    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, left, "--json"], capture_output=True, timeout=60)

    assert done.returncode == main.EXIT_DIED, done.stderr
    assert b'"verdict": "killed"' in done.stdout


def test_folder_that_may_not_be_entered_or_listed_is_reported(in_the_open, as_nobody, capsys):
    """The report names what cannot be read, and the exit code is not that of a dead node."""
    gather(in_the_open)  # imports everything that the user nobody may not be allowed to read
    for mode in (0o700, 0o711):
        in_the_open.chmod(mode)
        with as_nobody():
            code = main.print_report(main.Request(in_the_open), sys.stdout)
        printed = capsys.readouterr()
        assert (code, "the folder cannot be listed" in printed.out) == (main.EXIT_NOTHING, True)
        assert "as the user who owns the files" in printed.err


def test_file_that_is_closed_is_not_called_whole(in_the_open, as_nobody):
    """Unreadable files of another user are listed as not known."""
    (box,) = in_the_open.glob("telemetry.*.box*")
    fault = box.with_suffix(".fault")
    fault.write_text("Fatal Python error: Segmentation fault\n")
    in_the_open.chmod(0o755)
    for path in in_the_open.iterdir():
        path.chmod(0o600 if path.name in (fault.name, "telemetry.db-wal") else 0o644)
    gather(in_the_open)  # imports everything that the user nobody may not be allowed to read
    with as_nobody():
        case = gather(in_the_open)

    found = states(case)
    assert found["telemetry.db"] == "whole"
    assert found[fault.name] == found["telemetry.db-wal"] == "unreadable"
    assert "native_fault" in judge(case).alternatives


def test_without_room_for_a_copy_the_database_is_read_and_its_wal_said_to_be_missing(left, monkeypatch):
    """Without space for temporary files the evidence is read in place."""

    def no_room(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_room)
    case = gather(left)

    assert (states(case)["telemetry.db"], states(case)["telemetry.db-wal"]) == ("whole", "unreadable")
    assert "telemetry.db-wal is unreadable" in judge(case).missing
    assert "read in place" in report(case, judge(case), colour=False, unicode=True, columns=300)
    assert document(case, judge(case))["sources"]


def test_page_never_overwrites_evidence(left, capsys):
    """Not with --force, nor through a link; and a failed page leaves no partial file."""
    before = (left / "telemetry.db").read_bytes()
    link = left.parent / "link.html"
    link.symlink_to(left / "telemetry.db")
    for target in (left / "telemetry.db", link):
        code = main.print_report(main.Request(left, html=target, force=True), sys.stdout)
        assert (code, "is evidence" in capsys.readouterr().err) == (main.EXIT_NOTHING, True)
    assert (left / "telemetry.db").read_bytes() == before

    folder = left.parent / "folder.html"
    (folder / "x").mkdir(parents=True)
    assert main.print_report(main.Request(left, html=folder, force=True), sys.stdout) == main.EXIT_NOTHING
    assert not list(left.parent.glob(".folder*"))


@pytest.mark.parametrize("columns", [60, 80])
def test_report_fits_its_columns(left, columns):
    """No line is wider than the terminal, verdict and charts included."""
    case = gather(left)

    assert max(map(len, report(case, judge(case), colour=False, unicode=True, columns=columns).splitlines())) <= columns


def test_output_that_cannot_be_written_is_no_verdict(left):
    """A full disk or closed output is reported, and never with the exit code of a dead node."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(left)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, b"cannot be written" in done.stderr) == (main.EXIT_NOTHING, True)
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, timeout=60)
    assert (closed.returncode, b"no standard output" in closed.stderr) == (main.EXIT_NOTHING, True)

    odd = left.rename(left.parent / "Jörg")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "300"}
    done = subprocess.run([sys.executable, "-S", SCRIPT, odd], capture_output=True, env=plain, timeout=60)
    assert (done.returncode, b"J\\xf6rg" in done.stdout) == (main.EXIT_DIED, True), done.stderr
