"""Evidence as users supply it: from a running node, copied without times, or incomplete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from support import forkserver
from support.left_behind import fingerprints
from support.waiting import wait_until

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
    """A process that records until it is killed."""
    with forkserver.spawn([sys.executable, "-c", BUSY, folder], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "recording\n"
            yield process
        finally:
            process.kill()


def test_running_process_is_read_while_it_writes(tmp_path):
    """While it runs, each reading finds an intact database and a live run; once killed, the run is not alive."""
    with busy(tmp_path) as process:
        for _ in range(3):
            case = gather(tmp_path, limit=50)
            assert (case.run.pid, case.run.is_alive) == (process.pid, True)
            assert judge(case).cause == "running"
            assert {source.state for source in case.sources if source.kind == "database"} == {"whole"}
            assert [flying.capability for flying in case.in_flight][:1] == ["long.one"]
        wait_until(lambda: len(gather(tmp_path, limit=50).entries) == 50)
        process.kill()
        process.wait()
        before = fingerprints(tmp_path)

        case = gather(tmp_path, limit=50)

    assert (case.run.is_alive, judge(case).cause) == (False, "killed")
    assert len(case.entries) == 50
    assert fingerprints(tmp_path) == before


def test_files_of_another_machine_do_not_tell_whether_it_runs(program, monkeypatch):
    """Pids of another machine are not compared with processes of this one."""
    base = program(5)
    monkeypatch.setattr("hearthnet.forensics.evidence.runs.this_boot", lambda: "another")

    case = gather(base / "data")

    assert case.run.is_alive is None
    assert "running" in judge(case).alternatives


def test_missing_wal_is_reported_unless_the_run_was_closed(program):
    """After a kill the WAL holds the newest rows; after a clean stop there is none."""
    base = program(20)
    (base / "data" / "telemetry.db-wal").unlink()
    missing = [source for source in gather(base / "data").sources if source.state == "missing"]
    assert [source.kind for source in missing] == ["wal"]
    assert "lost" in missing[0].detail

    stopped = program(20, "stop")
    assert [source for source in gather(stopped / "data").sources if source.kind == "wal"] == []


def test_database_is_read_in_place_where_there_is_no_room_for_a_copy(program, monkeypatch):
    """Nothing is written beside the database, and the report says that the WAL was not read."""
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
    """A fault file is matched by the time in its name, not its mtime; an undated one belongs to the newest run."""
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
    """Neither --limit nor --since nor --around changes the evidence of a verdict."""
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
    """A trace in flight has no row yet, and --around finds it at the end of its run."""
    base = program(10)
    (flying,) = gather(base / "data").in_flight

    case = gather(base / "data", around=flying.trace_id, limit=6)

    assert (case.entries[-1].kind, len(case.entries)) == ("end", 6)
    assert ("interrupted", flying.trace_id) in {(entry.status, entry.trace_id) for entry in case.entries}


def test_errors_of_a_lost_database_are_in_the_logs(program):
    """Without database and box the log lines still show what failed, and how often."""
    base = program(40)
    whole = gather(base / "data")
    (base / "data" / "telemetry.db").unlink()
    (base / "data" / "telemetry.db-wal").unlink()

    case = gather(base / "data", limit=1_000)

    assert [(group.text, group.count) for group in case.errors] == [(group.text, group.count) for group in whole.errors]
    assert sum(entry.kind == "trace" and entry.status != "interrupted" for entry in case.entries) == 40


@pytest.mark.parametrize("name", ["telemetry.db", "telemetry.9.box", "telemetry.9.fault", "doctor.jsonl"])
def test_pipe_instead_of_a_file_is_not_opened(program, name):
    """Opening a pipe would block."""
    base = program(3)
    (base / "data" / name).unlink(missing_ok=True)
    os.mkfifo(base / "data" / name)

    assert judge(gather(base / "data")).cause == "killed"


def test_reader_knows_every_migration(request):
    """A migration that adds columns must update the list here: carved rows have no column names."""
    migrations = request.config.rootpath / "migrations" / "telemetry"
    assert max(int(path.name[:4]) for path in migrations.glob("*.sql")) <= NEWEST_VERSION
    assert TRACE_RING_BUFFER == LOG_RING_BUFFER == entries._RING
