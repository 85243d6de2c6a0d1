"""Which run the doctor judges, as store and boxes show it; how runs end in full is told by the tests of its checks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import StoreError
from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Run
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.recovery import run_ends
from hearthnet.observability.store.recovery.run_ends import died, end_us, read_case

NO_PID = 2**22 + 1


@pytest.fixture
def database(tmp_path):
    """An empty telemetry.db."""
    with closing(open_database(tmp_path / "telemetry.db", TELEMETRY._replace(reserve_bytes=0))) as connection:
        yield connection


@pytest.mark.parametrize(
    ("run", "us"), [(Run("r", 1, 3, last_seen_us=2), 3), (Run("r", 1, last_seen_us=2), 2), (Run("r", 1), 1)]
)
def test_end_is_the_latest_that_is_known(run, us):
    """Its end, or when it was last known alive, or at least its start."""
    assert end_us(run) == us


@pytest.mark.parametrize(("reason", "is_death"), [(rows.CLEAN, False), (rows.UNCLEAN, True), (None, True)])
def test_run_died_unless_it_ended_cleanly(reason, is_death):
    """A run without an end was never closed."""
    assert died(Run("r", 1, end_reason=reason)) == is_death


@pytest.mark.parametrize(
    ("is_locked", "is_alive"), [(True, True), (True, False), (False, True), (False, False)], ids=str
)
def test_run_is_judged_once_its_process_has_ended(database, tmp_path, is_locked, is_alive):
    """A lock shows a process of another container, pid and start one whose file system knows no locks."""
    header = new_header(layout.NODE, "run", "1", "me", Sizes(8_000, 8_000, 4))
    header = header if is_alive else replace(header, pid=NO_PID)
    database.execute(rows.INSERT_RUN, ("run", "me", "1", header.pid, header.boot_id, 1_000, "x.py", "node"))
    box = BlackBox(tmp_path / "telemetry.9.box2", header)
    slot = box.begin("01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "in.flight", 1_000, header.started_ns)
    content = box.path.read_bytes()
    box.end(slot)
    if not is_locked:
        box.close(remove=True)
        box.path.write_bytes(content)
    case = read_case(tmp_path / "telemetry.db")
    if is_locked:
        box.close(remove=True)

    is_over = not is_locked and not is_alive
    assert (None if case.run is None else case.run.run_id) == ("run" if is_over else None)
    assert [entry.capability for entry in case.in_flight] == ["in.flight"] * is_over


def test_run_that_the_caller_knows_to_be_alive_is_not_judged(database, tmp_path):
    """A node asks about the runs before its own, which may have no box; the one before that is judged."""
    for run_id in ("before", "own"):
        database.execute(rows.INSERT_RUN, (run_id, "me", "1", NO_PID, "another boot", 1_000, "x.py", "node"))

    assert read_case(tmp_path / "telemetry.db").run.run_id == "own"
    assert read_case(tmp_path / "telemetry.db", {"own"}).run.run_id == "before"


def dead_box(tmp_path, pid, logs):
    """The box of a run whose process has ended, with these log records."""
    header = replace(new_header(layout.NODE, f"run-{pid}", "1", "me", Sizes(8_000, 8_000, 4)), pid=NO_PID)
    box = BlackBox(tmp_path / f"telemetry.{pid}.box2", header)
    slot = box.begin("01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "in.flight", 1_000, header.started_ns)
    for number in logs:
        box.append_log(a_log(number, header.run_id, level="error"))
    content = box.path.read_bytes()
    box.end(slot)
    box.close(remove=True)
    box.path.write_bytes(content)
    return header


def test_each_sign_is_told_once_and_the_newest_are_kept(database, tmp_path, monkeypatch):
    """A box has records that are committed as well; those of store and box together have one bound."""
    header = dead_box(tmp_path, 7, range(2, 6))
    database.execute(rows.INSERT_RUN, (header.run_id, "me", "1", NO_PID, header.boot_id, 1_000, "x.py", "node"))
    merge(database, [a_log(number, header.run_id, level="error") for number in range(1, 4)])

    assert [entry.number for entry in read_case(tmp_path / "telemetry.db").signs] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(run_ends, "_MAX_SIGNS", 2)
    assert [entry.number for entry in read_case(tmp_path / "telemetry.db").signs] == [4, 5]


def test_box_that_is_none_hides_no_other(database, tmp_path):
    """Half a file, from a disk that was full: the boxes behind it are read."""
    (tmp_path / "telemetry.1.box2").write_bytes(b"\0" * 4_096)
    for pid in (7, 8):
        header = dead_box(tmp_path, pid, ())
        database.execute(rows.INSERT_RUN, (header.run_id, "me", "1", NO_PID, header.boot_id, 1_000, "x.py", "node"))
    (tmp_path / "telemetry.9.box2").write_bytes(b"")

    assert len(read_case(tmp_path / "telemetry.db").in_flight) == 2


def test_box_that_is_recovered_meanwhile_hides_no_other(database, tmp_path, monkeypatch):
    """A starting process removes it between the list and the look into it."""
    for pid in (7, 8):
        header = dead_box(tmp_path, pid, ())
        database.execute(rows.INSERT_RUN, (header.run_id, "me", "1", NO_PID, header.boot_id, 1_000, "x.py", "node"))
    real = layout.read_box

    def read_box(path):
        if path.name == "telemetry.7.box2":
            path.unlink()
        return real(path)

    monkeypatch.setattr(layout, "read_box", read_box)

    assert len(read_case(tmp_path / "telemetry.db").in_flight) == 1


def test_store_that_cannot_be_read_is_an_error_of_ours(database, tmp_path):
    """Which names the file, and what to do about it."""
    database.execute("DROP TABLE logs")

    with pytest.raises(StoreError, match=r"telemetry\.db"):
        read_case(tmp_path / "telemetry.db")


def test_records_of_a_run_without_a_row_make_no_run(database, tmp_path):
    """Only damage costs a run its row: then it is for the autopsy, which infers runs from their records."""
    merge(database, [a_trace(1, "elsewhere")])
    database.execute(rows.INSERT_RUN, ("run", None, "1", NO_PID, "another boot", 1_000, "x.py", "library"))

    assert [run.run_id for run in read_case(tmp_path / "telemetry.db").runs] == ["run"]
