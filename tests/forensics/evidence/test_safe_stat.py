"""Files that are none, and folders that may not be entered: an answer comes, soon, and says what was not read."""

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
    """The folder of a program that was killed."""
    return program() / "data"


@pytest.fixture
def in_the_open(program):
    """Such a folder where everybody may enter its parents."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        yield program(base=Path(base)) / "data"


def states(case):
    """The state of each file that was looked at."""
    return {source.path.name: source.state for source in case.sources}


@pytest.mark.parametrize(
    "name", ["telemetry.db", "telemetry.db-wal", "telemetry.1.box", "telemetry.1.fault", "doctor.jsonl"]
)
def test_pipe_in_the_place_of_a_file_is_not_waited_for(left, name):
    """Neither when it is read nor when its digest is taken; what the others say is told all the same."""
    (left / name).unlink(missing_ok=True)
    os.mkfifo(left / name)

    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, left, "--json"], capture_output=True, timeout=60)

    assert done.returncode == main.EXIT_DIED, done.stderr
    assert b'"verdict": "killed"' in done.stdout


def test_folder_that_may_not_be_entered_or_listed_is_told(in_the_open, as_nobody, capsys):
    """It is an answer that names what is closed, and not the code of a node that died."""
    gather(in_the_open)  # by now all is imported that nobody may not be allowed to
    for mode in (0o700, 0o711):
        in_the_open.chmod(mode)
        with as_nobody():
            code = main.answer(main.Request(in_the_open), sys.stdout)
        told = capsys.readouterr()
        assert (code, "the folder cannot be listed" in told.out) == (main.EXIT_NOTHING, True)
        assert "as the user whose files they are" in told.err


def test_file_that_is_closed_is_not_called_whole(in_the_open, as_nobody):
    """What could not be read of the files of another user stands among what is not known."""
    (box,) = in_the_open.glob("telemetry.*.box")
    fault = box.with_suffix(".fault")
    fault.write_text("Fatal Python error: Segmentation fault\n")
    in_the_open.chmod(0o755)
    for path in in_the_open.iterdir():
        path.chmod(0o600 if path.name in (fault.name, "telemetry.db-wal") else 0o644)
    gather(in_the_open)  # by now all is imported that nobody may not be allowed to
    with as_nobody():
        case = gather(in_the_open)

    found = states(case)
    assert found["telemetry.db"] == "whole"
    assert found[fault.name] == found["telemetry.db-wal"] == "unreadable"
    assert "native_fault" in judge(case).alternatives


def test_without_room_for_a_copy_the_database_is_read_and_its_wal_said_to_be_missing(left, monkeypatch):
    """No place for temporary files is no reason to call the evidence unreadable."""

    def no_room(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_room)
    case = gather(left)

    assert (states(case)["telemetry.db"], states(case)["telemetry.db-wal"]) == ("whole", "unreadable")
    assert "telemetry.db-wal is unreadable" in judge(case).missing
    assert "read in place" in report(case, judge(case), colour=False, unicode=True, columns=300)
    assert document(case, judge(case))["sources"]


def test_page_never_takes_the_place_of_evidence(left, capsys):
    """Not even with --force, nor through a link; and where there is no page, no part of one is left."""
    before = (left / "telemetry.db").read_bytes()
    link = left.parent / "link.html"
    link.symlink_to(left / "telemetry.db")
    for target in (left / "telemetry.db", link):
        code = main.answer(main.Request(left, html=target, force=True), sys.stdout)
        assert (code, "is evidence" in capsys.readouterr().err) == (main.EXIT_NOTHING, True)
    assert (left / "telemetry.db").read_bytes() == before

    folder = left.parent / "folder.html"
    (folder / "x").mkdir(parents=True)
    assert main.answer(main.Request(left, html=folder, force=True), sys.stdout) == main.EXIT_NOTHING
    assert not list(left.parent.glob(".folder*"))


@pytest.mark.parametrize("columns", [60, 80])
def test_report_fits_its_columns(left, columns):
    """Each line of it, the verdict and the charts too."""
    case = gather(left)

    assert max(map(len, report(case, judge(case), colour=False, unicode=True, columns=columns).splitlines())) <= columns


def test_output_that_cannot_be_written_is_no_verdict(left):
    """A full disk, a closed output, a language without the letter: said, and never with the code of a death."""
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
