"""Gathering evidence: all of it is read and merged without duplicates, damage is reported, nothing is changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import forkserver
from support.left_behind import fingerprints
from support.strange import plant

from hearthnet.database import connect_read_only
from hearthnet.forensics.evidence.entries import fingerprint, from_line, from_log
from hearthnet.forensics.gather import gather
from hearthnet.forensics.tables import COLUMNS
from hearthnet.forensics.timeline import ended_us
from hearthnet.forensics.verdict import judge
from hearthnet.moments import iso
from hearthnet.observability.store.recovery.run_ends import read_case


def states(case):
    """Returns the state of each source, by kind."""
    return {source.kind: source.state for source in case.sources}


def test_killed_run_is_read_from_database_wal_and_box(program):
    """Every trace appears once, the open one with its span; the evidence is unchanged."""
    base = program(40)
    before = fingerprints(base)

    case = gather(base / "data", limit=1_000)

    assert fingerprints(base) == before
    traces = [entry for entry in case.entries if entry.kind == "trace" and entry.status != "interrupted"]
    assert len(traces) == 40
    assert [entry.number for entry in traces] == sorted({entry.number for entry in traces})
    assert {entry.source for entry in traces} == {"database", "box"}  # half of them were committed
    (flying,) = case.in_flight
    assert (flying.capability, flying.span) == ("rag.query", "embed")
    assert flying.age_ms >= flying.span_age_ms >= 0
    assert states(case) == {"database": "whole", "wal": "whole", "box": "whole", "log": "whole"}


def test_records_and_lines_are_one_moment_each(program):
    """A record in store, box and JSON log appears in the timeline once, with its fields."""
    case = gather(program(4) / "data", limit=1_000)

    said = [entry for entry in case.entries if entry.name == "app.work"]
    assert [entry.text for entry in said] == ["disk is slow", "last words"]
    assert said[0].extras["path"] == "/dev/x"
    assert case.entries[0].kind == "start"


def test_errors_are_grouped_and_counted(program):
    """Failures that differ only in a number form one group with its first and last time."""
    case = gather(program(40) / "data")

    group = next(group for group in case.errors if group.kind == "trace")
    assert (group.count, group.name) == (4, "llm.chat")
    assert group.first_us < group.last_us
    assert group.text.startswith("timeout: no answer after")
    assert (sum(minute.traces for minute in case.minutes), sum(minute.failed for minute in case.minutes)) == (40, 4)


def test_run_that_a_later_one_took_in_is_judged_the_same(program):
    """After the next start has recovered the box, verdict and traces in flight are the same."""
    base = program(20)
    before = gather(base / "data")
    program(5, "stop")

    after = gather(base / "data", run_id=before.run.run_id)

    assert judge(after).cause == judge(before).cause == "killed"
    assert not after.run.has_box
    assert [(flying.trace_id, flying.capability, flying.span) for flying in after.in_flight] == [
        (flying.trace_id, flying.capability, flying.span) for flying in before.in_flight
    ]
    newest = gather(base / "data")
    assert (judge(newest).cause, judge(newest).confidence) == ("clean_stop", "certain")
    assert [run.end_reason for run in newest.runs] == ["clean", "unclean"]


@pytest.mark.parametrize("lost", ["telemetry.db-shm", "telemetry.db-wal", "telemetry.db"])
def test_missing_file_costs_what_was_in_it(program, lost):
    """Without -shm nothing is missing; without WAL or database the box still has the end."""
    base = program(40)
    (base / "data" / lost).unlink()

    case = gather(base / "data", limit=1_000)

    found = sum(entry.kind == "trace" and entry.status != "interrupted" for entry in case.entries)
    assert found == 40 if lost.endswith("-shm") else 19 <= found <= 40
    assert case.in_flight
    assert judge(case).cause == "killed"


def test_read_only_folder_is_enough(program):
    """Evidence on a read-only medium can be read by another user."""
    base = program(10)
    for path in [*base.rglob("*"), base]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = fingerprints(base)
    try:
        case = gather(base / "data")
        assert judge(case).cause == "killed"
        assert fingerprints(base) == before
    finally:
        for path in [base, *base.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_pages_overwritten_with_noise_cost_what_is_on_them(program):
    """All rows outside the damaged pages are read; the damage is reported, and the log fills the gap."""
    base = program(4_000, "stop")
    path = base / "data" / "telemetry.db"
    content = bytearray(path.read_bytes())
    chance = random.Random(7)
    pages = [at for at in range(0, len(content), 4096) if content.count(b"llm.chat", at, at + 4096) > 3]
    for at in chance.sample(pages, 12):
        content[at : at + 4096] = chance.randbytes(4096)
    path.write_bytes(content)

    case = gather(base / "data", limit=20_000)

    assert states(case)["database"] == "damaged"
    detail = next(source.detail for source in case.sources if source.kind == "database")
    assert "traces" in detail
    found = Counter(entry.source for entry in case.entries if entry.kind == "trace")
    assert 3_700 < found["database"] < 4_000  # twelve pages hold about 150
    assert found.total() == 4_001  # the last was still open when the program stopped
    assert case.run is not None


@pytest.mark.parametrize(
    ("content", "state"),
    [(b"", "empty"), (b"\0" * 8192, "damaged"), (b"my shopping list", "foreign"), (None, "missing")],
)
def test_file_that_is_not_a_database_is_reported(tmp_path, content, state):
    """Its state is reported; there is no run and no exception."""
    path = tmp_path / "telemetry.db"
    if content is not None:
        path.write_bytes(content)

    case = gather(path)

    assert (case.run, states(case)) == (None, {"database": state})
    assert judge(case).cause == "unknown"


def test_schema_with_a_flipped_bit_costs_no_row(program):
    """SQLite cites it in words that are no text; the rows are carved from their pages."""
    base = program(40, "stop")
    path = base / "data" / "telemetry.db"
    content = bytearray(path.read_bytes())
    content[content.index(b"CREATE TABLE traces") + len("CREATE T")] ^= 0x80
    path.write_bytes(content)

    case = gather(base / "data")

    assert states(case)["database"] == "damaged"
    assert sum(entry.kind == "trace" and entry.source == "database" for entry in case.entries) >= 40


def test_database_of_another_program_or_a_newer_one(program, tmp_path):
    """A foreign database is not read; a newer one is read by the columns it still has."""
    other = tmp_path / "other"
    other.mkdir()
    with closing(sqlite3.connect(other / "telemetry.db")) as db:
        db.execute("CREATE TABLE traces (a)")
        db.commit()
    assert states(gather(other)) == {"database": "foreign"}

    base = program(8, "stop", tmp_path / "newer")
    with closing(sqlite3.connect(base / "data" / "telemetry.db")) as db:
        for (view,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            db.execute(f"DROP VIEW {view}")
        db.execute("ALTER TABLE logs DROP COLUMN exc")
        db.execute("ALTER TABLE traces ADD COLUMN mood TEXT")
        db.execute("PRAGMA user_version = 99")
    case = gather(base / "data")
    assert states(case)["database"] == "newer"
    assert judge(case).cause == "clean_stop"
    assert sum(entry.kind == "trace" for entry in case.entries) == 9  # with the one that was open at the stop


def test_run_and_trace_can_be_named(program):
    """A run is chosen by the beginning of its id; the error for an unknown one lists the known runs."""
    base = program(30)
    case = gather(base / "data", limit=1_000)
    middle = [entry for entry in case.entries if entry.kind == "trace"][15]

    around = gather(base / "data", around=middle.trace_id.lower())
    assert middle.trace_id in {entry.trace_id for entry in around.entries}
    assert gather(base / "data", run_id=case.run.run_id[:10]).run == case.run
    with pytest.raises(ValueError, match=case.run.run_id):
        gather(base / "data", run_id="01NOBODY")
    with pytest.raises(ValueError, match="no trace"):
        gather(base / "data", around="01NOBODY")
    assert gather(base / "data", since_us=case.run.last_seen_us + 10**9).entries == []


def test_run_and_trace_can_be_named_by_their_place(program):
    """Runs count that ended, traces those of the run; a place that there is not is an error."""
    base = program(6)
    program(4, "stop")
    newest = gather(base / "data", limit=1_000)
    ends = [run.end_reason for run in newest.runs]
    assert gather(base / "data", run_id="last").run == gather(base / "data", run_id="-1").run == newest.run
    before = gather(base / "data", run_id="-2", around="LAST", limit=1_000)
    assert (before.run, ends) == (newest.runs[1], ["clean", "unclean"])
    last = [e for e in newest.entries if e.kind == "trace" and e.run_id == before.run.run_id][-1]
    assert last.trace_id in {entry.trace_id for entry in before.entries}
    for wanted, said in (
        ({"run_id": "-3"}, "there is no run -3, only 2"),
        ({"around": "-99"}, "there is no trace -99"),
        ({"around": "0"}, "more than one trace id"),
    ):
        with pytest.raises(ValueError, match=said):
            gather(base / "data", **wanted)


def test_entries_end_before_until(program):
    """As `since`, it compares when entries ended."""
    base = program(6)
    whole = gather(base / "data", limit=1_000).entries
    until_us = ended_us(whole[len(whole) // 2])
    kept = gather(base / "data", limit=1_000, until_us=until_us).entries
    assert [ended_us(entry) for entry in kept] == [ended_us(entry) for entry in whole if ended_us(entry) < until_us]
    assert gather(base / "data", until_us=0).entries == []


def test_last_words_belong_to_the_run_of_that_time(program):
    """A fault file is matched by pid and time; a torn last report of the doctor is skipped."""
    base = program(4)
    data = base / "data"
    pid = gather(data).run.pid
    (data / f"telemetry.{pid}.fault").write_text("Fatal Python error: Segmentation fault\n")
    (data / f"telemetry.{pid}.20200101T000000Z.fault").write_text("Fatal Python error: Bus error\n")
    os.utime(data / f"telemetry.{pid}.20200101T000000Z.fault", (1_577_836_800,) * 2)
    check = {"name": "clock_sanity", "status": "fail", "detail": "x"}
    (data / "doctor.jsonl").write_text(
        json.dumps({"ts": "2100-01-01T00:00:00Z", "checks": [check]}) + '\n{"checks": [{"na'
    )

    case = gather(data)

    assert "Segmentation" in case.run.fault
    assert judge(case).cause == "native_fault"
    assert case.findings == [check]


def test_errors_that_differ_in_ids_share_a_fingerprint():
    """Numbers, ids, paths and quoted words do not change a fingerprint; other words do."""
    one = fingerprint("log", "a", "no file '/a/b' for 01HXR4Z6W5S9E2JQ4Y0T7B3M1C after 3.5 s at 0xdeadbeef")
    two = fingerprint("log", "a", "no file '/c/d' for 01HXR4Z6W5S9E2JQ4Y0T7B3M2D after 12 s at 0x1")

    assert one == two
    assert one != fingerprint("log", "a", "no folder '/a/b' for 01HXR4Z6W5S9E2JQ4Y0T7B3M1C after 3.5 s at 0xdeadbeef")
    assert one != fingerprint("log", "b", "no file '/a/b' for 01HXR4Z6W5S9E2JQ4Y0T7B3M1C after 3.5 s at 0xdeadbeef")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """The files of a killed store for tests to damage; large ones are cut to their used part."""
    from support.left_behind import PROGRAM

    base = tmp_path_factory.mktemp("evidence")
    import sys

    forkserver.run([sys.executable, "-c", PROGRAM, base, "40", "kill"])
    return base


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_no_byte_in_the_files_makes_it_raise(evidence, tmp_path_factory, data):
    """Flipped, cut or overwritten bytes anywhere: there is a verdict each time."""
    base = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(evidence, base, dirs_exist_ok=True)
    for path in [*base.glob("data/telemetry.db"), *base.glob("data/*.box2"), *base.glob("log/*.log")]:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(data.draw(st.integers(0, 6))):
                file.seek(data.draw(st.integers(0, max(0, min(size, 300_000) - 1))))
                file.write(data.draw(st.binary(max_size=64)))
            if data.draw(st.booleans()):
                file.truncate(data.draw(st.integers(0, min(size, 300_000))))

    judge(gather(base / "data", limit=1_000))
    shutil.rmtree(base)


def test_last_sign_of_life_is_not_before_any_record(program):
    """A call that began after the last heartbeat, and a record after that: the run was last seen no earlier."""
    case = gather(program(4) / "data", limit=1_000)

    own = [entry for entry in case.entries if entry.run_id == case.run.run_id]
    assert own[-1].kind == "end"
    assert {"interrupted", "warning"} <= {entry.status for entry in own}
    assert own[-1].ts_us == case.run.last_seen_us
    assert max(entry.ts_us for entry in own) == case.run.last_seen_us


def test_start_of_a_call_in_flight_is_a_sign_of_life(tmp_path):
    """Without a heartbeat and records, of a process that was killed in its first call."""
    script = """
import os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path(sys.argv[1]), log_dir=None)) as t:
    t.flush()
    trace.new_trace("rag.query")
    os.kill(os.getpid(), 9)
"""
    assert forkserver.run([sys.executable, "-c", script, tmp_path]).returncode == -9
    case = gather(tmp_path)
    (flying,) = case.in_flight

    assert case.run.last_seen_us >= flying.started_us > case.run.started_us


def test_program_is_chosen_by_its_name(tmp_path):
    """Of several programs in one store that has no node, the last that ended, or the one that is named."""
    script = """
import sys
from pathlib import Path
sys.argv[0] = sys.argv[2]
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path(sys.argv[1]), log_dir=None)):
    with trace.new_trace("a.b"):
        pass
"""
    for name in ("first.py", "/x/second.py"):
        forkserver.run([sys.executable, "-c", script, tmp_path, name], check=True)

    assert gather(tmp_path).run.program == "second.py"
    assert gather(tmp_path, program="first.py").run.program == "first.py"
    with pytest.raises(ValueError, match=r"known programs: second\.py, first\.py"):
        gather(tmp_path, program="third.py")


def test_killed_program_is_chosen_before_its_workers(tmp_path):
    """Its worker started after it, and ended in order; the doctor has the same run as autopsy."""
    script = """
import multiprocessing, os, sys
from hearthnet.observability import telemetry
from hearthnet.observability.logging import get_logger
with telemetry.open(sys.argv[1], console="off") as t:
    worker = multiprocessing.get_context("fork").Process(target=get_logger("app").info, args=("worked",))
    worker.start()
    worker.join()
    get_logger("app").info("joined")  # a sign of life: the sampler's may be older than the worker
    os.write(1, t.run_id.encode())
    os.kill(os.getpid(), 9)
"""
    found = forkserver.run([sys.executable, "-c", script, tmp_path])
    case = gather(tmp_path)

    assert sorted(str(run.end_reason) for run in case.runs) == ["None", "clean"]
    assert case.run.run_id == read_case(tmp_path / "telemetry.db").run.run_id == found.stdout
    assert judge(case).cause == "killed"


def report_of(data, moment_us, name):
    """Adds a report of the doctor."""
    ts = datetime.fromtimestamp(moment_us / 1e6, tz=UTC).isoformat()
    checks = [{"name": name, "status": "fail", "detail": name}]
    with (data / "doctor.jsonl").open("a") as file:
        file.write(json.dumps({"version": 1, "ts": ts, "program": "1", "checks": checks}) + "\n")


def test_findings_are_those_of_the_run(program):
    """A report of a later run says nothing of this one; one before it neither; one after its end does."""
    first = gather(program(1) / "data").run
    data = program(1) / "data"
    second = gather(data).run
    assert second.run_id != first.run_id
    ended_us = first.last_seen_us
    for moment_us, name in (
        (first.started_us - 60_000_000, "before"),
        (ended_us, "during"),
        (ended_us + 1, "after"),
        (second.started_us + 1, "of the second"),
    ):
        report_of(data, moment_us, name)
    with (data / "doctor.jsonl").open("a") as file:
        file.write('{"checks": [], "ts": 5}\n{"checks": []}\n{"checks": 1, "ts": "x"}\nnonsense\n')

    case = gather(data, run_id=first.run_id)
    assert [found["name"] for found in case.findings] == ["after"]
    assert case.findings_at.startswith("20")
    assert [found["name"] for found in gather(data, run_id=second.run_id).findings] == ["of the second"]

    (data / "doctor.jsonl").unlink()
    report_of(data, first.started_us - 1, "before")
    assert (gather(data, run_id=first.run_id).findings, gather(data, run_id=first.run_id).findings_at) == ([], None)


def test_slowest_are_slowest_first(program):
    """Whatever their order in the store."""
    case = gather(program(40) / "data")

    durations = [entry.duration_ms for entry in case.slowest]
    assert len(durations) == 10
    assert durations == sorted(durations, reverse=True)


def test_end_of_a_long_traceback_is_kept():
    """Its last line has the error."""
    exc = "Traceback (most recent call last):\n" + '  File "a.py", line 1, in f\n' * 400 + "KeyError: 'model'"
    line = {"ts": "2026-05-26T08:14:22.281Z", "level": "error", "logger": "x", "msg": "uncaught exception", "exc": exc}
    row = {**dict.fromkeys(COLUMNS["logs"]), "ts_us": 1, "exc": exc}

    for entry in (from_line(line), from_log(row)):
        assert entry.exc.endswith("KeyError: 'model'")
        assert len(entry.exc) <= 4_000


@pytest.mark.parametrize("name", ["telemetry.db", "telemetry.db.corrupt-x", "telemetry.7.fault"])
def test_what_is_no_file_is_named_by_its_kind(tmp_path, name):
    """A database, one that was moved aside, and a fault file; none of them is opened."""
    path = plant(tmp_path / name, "pipe")

    (source,) = [item for item in gather(tmp_path).sources if item.path == path]
    assert source.detail == "it is a pipe, not a file"


# With a heartbeat that is later than every record and sample, when a call has not ended. `kill`: it is killed then.
BEATING = """
import os, sys, time
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.forensics.model import Vitals
from hearthnet.observability import telemetry, trace
from hearthnet.observability.runtime import runtime
base = Path(sys.argv[1])
with telemetry.open(ObservabilityConfig(data_dir=base / "data", log_dir=base / "log")) as t:
    if sys.argv[2] == "kill":
        with trace.new_trace("llm.chat"):
            pass
        runtime.recorder.box.note_vitals(Vitals(time.time_ns() // 1_000))
        trace.new_trace("rag.query")
        t.flush()
        runtime.recorder.box.note_alive()
        os.kill(os.getpid(), 9)
"""


def test_last_sign_is_the_same_after_the_next_start(tmp_path):
    """What was known of a killed run before its box was recovered is known after, everywhere."""
    data = tmp_path / "data"
    assert forkserver.run([sys.executable, "-c", BEATING, tmp_path, "kill"]).returncode == -9
    before = gather(data)
    killed = before.run
    assert (read_case(data / "telemetry.db").run.last_seen_us, killed.vitals[-1].ts_us < killed.last_seen_us) == (
        killed.last_seen_us,
        True,
    )
    forkserver.run([sys.executable, "-c", BEATING, tmp_path, "stop"], check=True)

    after = gather(data, run_id=killed.run_id)
    assert (after.run.has_box, after.run.end_reason) == (False, "unclean")
    assert after.run.last_seen_us == killed.last_seen_us
    assert after.in_flight == before.in_flight
    with closing(connect_read_only(data / "telemetry.db")) as connection:
        ((ended,),) = connection.execute("SELECT ended FROM run_history WHERE end_reason = 'unclean'")
    assert ended == iso(killed.last_seen_us)
    for case in (before, after):
        (flying,) = [entry for entry in case.entries if entry.status == "interrupted"]
        (end,) = [entry for entry in case.entries if (entry.kind, entry.run_id) == ("end", killed.run_id)]
        assert ended_us(flying) == ended_us(end) == killed.last_seen_us


# Has the first trace wait for its commit while another program records and ends.
WAITING = """
import os, subprocess, sys
from pathlib import Path
sys.argv[0] = sys.argv[2]
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path(sys.argv[1]), log_dir=Path(sys.argv[1]), flush_interval_s=60)):
    with trace.new_trace(f"{sys.argv[2]}.first"):
        pass
    if sys.argv[2] == "slow":
        subprocess.run([sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1], "quick"], check=True)
    with trace.new_trace(f"{sys.argv[2]}.last"):
        pass
"""


def test_records_of_programs_are_in_the_order_of_time(tmp_path):
    """Not in that of their commits, which may be half a minute late."""
    forkserver.run(
        [sys.executable, "-c", WAITING, tmp_path, "slow"], env={**os.environ, "PROGRAM": WAITING}, check=True
    )
    case = gather(tmp_path, program="slow")

    names = [entry.name for entry in case.entries if entry.kind == "trace"]
    assert names == ["slow.first", "quick.first", "quick.last", "slow.last"]
