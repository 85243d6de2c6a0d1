"""Carving a damaged database: all rows are found but those on damaged pages."""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import forkserver
from support.left_behind import fingerprints

from hearthnet.forensics.evidence.carving import carve
from hearthnet.forensics.gather import gather
from hearthnet.forensics.verdict import judge

PAGE = 4_096
TRACES = 600
# A ring with short rows, rows with overflow pages, and rows only in the WAL.
PROGRAM = """
import os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path(sys.argv[1]), log_dir=None)) as t:
    for number in range(600):
        with trace.new_trace("a.b") as made, trace.span("step", n=number):
            if number % 10 == 0:
                made.extras.update({f"part{part}": "x" * 1_500 for part in range(4)})
    get_logger("app").error("disk is slow", extra={"n": 1})
    assert t.flush()
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
"""


def leave(folder, last):
    """Runs a program that records into a folder and ends as given."""
    done = forkserver.run([sys.executable, "-c", PROGRAM, folder, last])
    assert done.returncode == (-9 if last == "kill" else 0), done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A store whose rows are in its WAL."""
    return leave(tmp_path_factory.mktemp("killed"), "kill")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A closed store without free pages, so that damage hits rows."""
    folder = leave(tmp_path_factory.mktemp("packed"), "stop")
    with closing(sqlite3.connect(folder / "telemetry.db")) as db:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def rows_by_sqlite(path, table):
    """Returns the rows that SQLite reads from a copy, by rowid."""
    with closing(sqlite3.connect(path)) as db:
        key = "rowid, run_id" if table == "runs" else "seq, NULL"
        return {number: (first, *rest) for number, first, _, *rest in db.execute(f"SELECT {key}, * FROM {table}")}


def pages_with(content, words):
    """Returns the offsets of pages that contain a text several times: leaves with rows."""
    return [at for at in range(PAGE, len(content), PAGE) if content.count(words, at, at + PAGE) > 3]


@pytest.mark.parametrize("table", ["traces", "logs", "runs"])
def test_every_row_is_found_as_sqlite_has_it(killed, tmp_path, table):
    """Short rows, rows over several pages and rows of the WAL are found with equal values, and no others."""
    shutil.copytree(killed, tmp_path / "copy")

    found = carve(killed / "telemetry.db", killed / "telemetry.db-wal")[table]

    assert found == rows_by_sqlite(tmp_path / "copy" / "telemetry.db", table)
    assert len(found) == {"traces": TRACES, "logs": 1, "runs": 1}[table]


def test_deleted_rows_stay_deleted(packed, tmp_path):
    """Rows on free pages are not carved: deleted rows stay deleted."""
    path = shutil.copy(packed / "telemetry.db", tmp_path / "telemetry.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM traces WHERE seq < 400")
        db.commit()
        left = {seq for (seq,) in db.execute("SELECT seq FROM traces")}
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    assert set(carve(tmp_path / "telemetry.db")["traces"]) == left


@pytest.mark.parametrize("where", ["first page", "root of traces", "both"])
def test_damage_above_the_rows_costs_none_of_them(packed, tmp_path, where):
    """Without the schema and the B-tree roots all rows are found, and the run can be judged."""
    content = bytearray((packed / "telemetry.db").read_bytes())
    with closing(sqlite3.connect(f"file:{packed / 'telemetry.db'}?mode=ro", uri=True)) as db:
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    hit = {"first page": [1], "root of traces": [roots["traces"]], "both": [1, roots["traces"]]}[where]
    for number in hit:
        content[(number - 1) * PAGE : number * PAGE] = random.Random(number).randbytes(PAGE)
    (tmp_path / "telemetry.db").write_bytes(content)
    before = fingerprints(tmp_path)

    case = gather(tmp_path, limit=2_000)

    assert sum(entry.kind == "trace" for entry in case.entries) == TRACES
    (source,) = [source for source in case.sources if source.kind == "database"]
    assert source.state == "damaged"
    assert "carved" in source.detail
    assert judge(case).cause == "clean_stop"
    assert fingerprints(tmp_path) == before


def test_records_without_a_row_of_their_run_are_of_one_all_the_same(packed, tmp_path):
    """Without the page of `runs` a run is inferred from its records; how it ended is unknown."""
    content = bytearray((packed / "telemetry.db").read_bytes())
    with closing(sqlite3.connect(f"file:{packed / 'telemetry.db'}?mode=ro", uri=True)) as db:
        ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'runs'")
        ((run_id,),) = db.execute("SELECT run_id FROM runs")
    content[(root - 1) * PAGE : root * PAGE] = random.Random(1).randbytes(PAGE)
    (tmp_path / "telemetry.db").write_bytes(content)

    case = gather(tmp_path, limit=2_000)

    assert (case.run.run_id, case.run.end_reason) == (run_id, None)
    assert sum(entry.kind == "trace" for entry in case.entries) == TRACES
    assert judge(case).confidence == "possible"


def test_noise_on_leaves_costs_what_lies_on_them(packed, tmp_path):
    """With a third of the leaf pages overwritten, all rows of the others are found."""
    content = bytearray((packed / "telemetry.db").read_bytes())
    chance = random.Random(5)
    leaves = pages_with(content, b"a.b")
    hit = set(chance.sample(leaves, len(leaves) // 3))
    for at in hit:
        content[at : at + PAGE] = chance.randbytes(PAGE)
    (tmp_path / "telemetry.db").write_bytes(content)
    whole = carve(packed / "telemetry.db")["traces"]
    alone = bytes(content)

    case = gather(tmp_path, limit=2_000)

    found = {entry.trace_id for entry in case.entries if entry.kind == "trace"}
    assert found == {values[2] for values in whole.values() if values[2].encode() in alone}
    assert TRACES * 0.5 < len(found) < TRACES


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_byte_makes_it_raise(packed, tmp_path_factory, data):
    """Random bytes in leaf pages and in the header, and a truncated file: rows or none, and no exception."""
    content = bytearray((packed / "telemetry.db").read_bytes()[: 40 * PAGE])
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=16))
        content[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("noise") / "telemetry.db"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])

    found = carve(path, path)

    assert set(found) == {"traces", "logs", "gaps", "runs"}
