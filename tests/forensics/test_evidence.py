"""What files can be like when somebody brings them: of a node that runs, copied without times, half of them missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from left_behind import fingerprints
from support import forkserver

from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.forensics.evidence import entries
from hearthnet.forensics.gather import gather
from hearthnet.forensics.tables import NEWEST_VERSION
from hearthnet.forensics.verdict import judge

# Records until it is killed.
BUSY = """
import sys, threading
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path(sys.argv[1]), log_dir=None, flush_interval_s=0.05)) as t:
    trace.new_trace("long.one")
    print("recording", flush=True)
    while not threading.Event().wait(0.0005):
        with trace.new_trace("a.b"), trace.span("step"):
            pass
"""


@contextmanager
def busy(folder):
    """A process that records, from when it does so until it is killed."""
    with forkserver.spawn([sys.executable, "-c", BUSY, folder], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "recording\n"
            yield process
        finally:
            process.kill()


def test_running_process_is_read_while_it_writes(tmp_path):
    """Each look finds a whole database and a run that is alive; once killed, it is not."""
    with busy(tmp_path) as process:
        for _ in range(3):
            case = gather(tmp_path, limit=50)
            assert (case.run.pid, case.run.is_alive) == (process.pid, True)
            assert judge(case).cause == "running"
            assert {source.state for source in case.sources if source.kind == "database"} == {"whole"}
            assert [flying.capability for flying in case.in_flight][:1] == ["long.one"]
        process.kill()
        process.wait()
        before = fingerprints(tmp_path)

        case = gather(tmp_path, limit=50)

    assert (case.run.is_alive, judge(case).cause) == (False, "killed")
    assert len(case.entries) == 50
    assert fingerprints(tmp_path) == before


def test_files_of_another_machine_do_not_tell_whether_it_runs(program, monkeypatch):
    """Its process numbers are not ours, even if one of ours has the same."""
    base = program(5)
    monkeypatch.setattr("hearthnet.forensics.evidence.runs.this_boot", lambda: "another")

    case = gather(base / "data")

    assert case.run.is_alive is None
    assert "running" in judge(case).alternatives


def test_missing_wal_is_told_unless_the_run_was_closed(program):
    """After a kill it holds the newest rows; after a clean stop there is none."""
    base = program(20)
    (base / "data" / "telemetry.db-wal").unlink()
    missing = [source for source in gather(base / "data").sources if source.state == "missing"]
    assert [source.kind for source in missing] == ["wal"]
    assert "lost" in missing[0].detail

    stopped = program(20, "stop")
    assert [source for source in gather(stopped / "data").sources if source.kind == "wal"] == []


def test_database_is_read_in_place_where_there_is_no_room_for_a_copy(program, monkeypatch):
    """Nothing is written beside it, and that the WAL was left out is said."""
    base = program(20)
    before = fingerprints(base)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("hearthnet.forensics.evidence.database.shutil.copyfile", full)
    case = gather(base / "data", limit=1_000)

    (database,) = [source for source in case.sources if source.kind == "database"]
    assert "without its WAL" in database.detail
    assert case.in_flight
    assert fingerprints(base) == before


def test_last_words_are_found_in_a_copy_without_times(program, tmp_path):
    """A copy has the time of copying: the name of a dated file tells its run, one without a date is of the newest."""
    base = program(3)
    first = gather(base / "data").run
    data = base / "data"
    (data / f"telemetry.{first.pid}.fault").write_text("Fatal Python error: Segmentation fault\n")
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert "Segmentation" in gather(tmp_path / "copy").run.fault

    (data / f"telemetry.{first.pid}.fault").rename(data / f"telemetry.{first.pid}.20990101T000000Z.fault")
    program(3)
    case = gather(data)
    assert case.run.fault is None
    assert "Segmentation" in next(run for run in case.runs if run.run_id == first.run_id).fault


def test_signs_do_not_depend_on_what_was_asked_for(program):
    """Neither a limit, nor a moment, nor another trace takes from a verdict what it rests on."""
    base = program(30)
    whole = gather(base / "data", limit=1_000)
    first = next(entry for entry in whole.entries if entry.kind == "trace")

    for case in (
        gather(base / "data", limit=0),
        gather(base / "data", since_us=2**60),
        gather(base / "data", around=first.trace_id, limit=2),
    ):
        assert [sign.text for sign in case.signs] == ["disk is slow", "last words"]
        assert case.errors == whole.errors
        assert case.slowest == whole.slowest
        assert judge(case) == judge(whole)


def test_trace_in_flight_can_be_looked_around(program):
    """It has no row yet, and stands at the end of its run."""
    base = program(10)
    (flying,) = gather(base / "data").in_flight

    case = gather(base / "data", around=flying.trace_id, limit=6)

    assert (case.entries[-1].kind, len(case.entries)) == ("end", 6)
    assert ("interrupted", flying.trace_id) in {(entry.status, entry.trace_id) for entry in case.entries}


def test_errors_of_a_lost_database_are_in_the_logs(program):
    """Without database and box the lines still tell what failed, and how often."""
    base = program(40)
    whole = gather(base / "data")
    (base / "data" / "telemetry.db").unlink()
    (base / "data" / "telemetry.db-wal").unlink()

    case = gather(base / "data", limit=1_000)

    assert [(group.text, group.count) for group in case.errors] == [(group.text, group.count) for group in whole.errors]
    assert sum(entry.kind == "trace" and entry.status != "interrupted" for entry in case.entries) == 40


@pytest.mark.parametrize("name", ["telemetry.db", "telemetry.9.box", "telemetry.9.fault", "doctor.jsonl"])
def test_pipe_in_the_place_of_a_file_is_left_alone(program, name):
    """To open one would wait for its other end."""
    base = program(3)
    (base / "data" / name).unlink(missing_ok=True)
    os.mkfifo(base / "data" / name)

    assert judge(gather(base / "data")).cause == "killed"


def test_reader_knows_every_migration(request):
    """One that adds columns must be looked at here as well: rows found page by page have no names."""
    migrations = request.config.rootpath / "migrations" / "telemetry"
    assert max(int(path.name[:4]) for path in migrations.glob("*.sql")) <= NEWEST_VERSION
    assert TRACE_RING_BUFFER == LOG_RING_BUFFER == entries._RING
