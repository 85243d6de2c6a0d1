"""The benchmark of the hot path: what it makes of its turns, what it says of losses, and real turns of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from benchmarks import hot, imports, memory
from benchmarks.__main__ import bench
from benchmarks.hot_contenders import OPERATIONS, Player
from benchmarks.memory_child import KINDS, PENDING
from benchmarks.report import Section, are_whole, as_json, as_table, count
from click.testing import CliRunner
from support.longer import few

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


CALLERS = ("hot_ns", "cold_ns", "hot_median_ns", "cold_median_ns", "wall_ns")


def turns(caller_ns: float, cpu_ns: float = 50_000, arrived: int = 16_000, expected: int = 16_000) -> list[dict]:
    """Three turns of a contender, the second twice as slow: the machine was busy."""
    rest = {"cpu_ns": cpu_ns, "expected": expected, "arrived": arrived}
    return [{**dict.fromkeys(CALLERS, times * caller_ns), **rest} for times in (1, 2, 1)]


def all_turns(name: str) -> dict[str, list[dict]]:
    """Turns of every contender of an operation that left what it should."""
    expected = 16_000 if OPERATIONS[name].is_kept else 0
    return {player: turns(12_345_678.9, 2.5, expected, expected) for player in OPERATIONS[name].players}


def grown(arrived: dict[str, int] = PENDING) -> dict:
    """A turn of the memory benchmark: 40 MB at first, 5 for the ring, 8 for traces, 4 for records."""
    sizes = {"open": 40e6, "ring": 45e6, "traces": 53e6, "full": 57e6}
    return {stage: dict.fromkeys(KINDS, size) for stage, size in sizes.items()} | {
        "expected": PENDING,
        "arrived": arrived,
    }


def child(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """One real turn."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.hot_child", *arguments], cwd=ROOT / "scripts", capture_output=True
    )


def test_ratios_are_taken_turn_by_turn():
    """A turn in which the machine was busy for both changes the ratio of neither."""
    found = {"ours": turns(5_000), "done": turns(9_000), "otel": turns(30_000), "logfire": turns(100_000)}

    section = hot.compare(OPERATIONS["trace"], found)

    first = section.lines[0]
    assert first.name == "no line, OpenTelemetry"
    assert first.ratio is not None
    assert (first.ratio.low, first.ratio.high) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    assert (count([section], True), count([section], False)) == (2, 2)


def test_cpu_time_is_told_but_has_no_aim():
    """A contender that is quick for its caller and slow behind the caller's back is seen."""
    found = {"ours": turns(5_000, cpu_ns=90_000), "otel": turns(30_000, cpu_ns=30_000)}

    section = hot.compare(OPERATIONS["span"], found)

    assert [line.name.strip() for line in section.lines] == ["OpenTelemetry", "cold", "CPU of all threads"]
    assert section.lines[2].ratio is not None
    assert section.lines[2].ratio.median == 3
    assert section.lines[2].met() is None


@pytest.mark.parametrize("loser", ["ours", "json_size"])
def test_a_loss_is_told_and_meets_no_aim(loser):
    """Whoever loses records, the line does not stand: quick is easy for those who write nothing."""
    found = all_turns("record")
    found["ours"] = turns(1.0)
    found[loser] = turns(1.0, arrived=15_999)

    section = hot.compare(OPERATIONS["record"], found)

    assert section.lines[0].met() is False
    assert not are_whole([section])
    assert "expected 16,000, arrived 15,999: NOT ALL" in as_table({}, False, [section])


def test_what_should_have_been_kept_out_is_a_loss_too():
    """A debug record that got through the level shows that something else was measured."""
    found = {"ours": turns(90, expected=0, arrived=3), "stdlib": turns(90, expected=0, arrived=0)}

    section = hot.compare(OPERATIONS["debug"], found)

    assert not are_whole([section])
    assert section.notes[-1] == "ours: expected 0, arrived 3: NOT ALL"


def test_a_missing_library_is_told():
    """Its lines are left out, the others stand."""
    found = all_turns("trace")
    del found["logfire"]

    section = hot.compare(OPERATIONS["trace"], found)

    assert "Logfire is not installed: its lines are left out" in section.notes
    assert [line.name for line in section.lines if "Logfire" in line.name] == []
    assert len(section.lines) == 12


@pytest.mark.parametrize("library", ["no_such_library", "no_such_library.sdk"])
def test_a_player_knows_that_its_library_is_missing(library):
    """Neither a missing module nor a missing package around it raises."""
    assert not Player("peer", ("hot_ours", "Traces"), (), library).is_installed()
    assert Player("ours", ("hot_ours", "Traces")).is_installed()


def starts(**spent):
    """The CPU milliseconds of each command, the interpreter's 10 included; 30 where nothing else is said."""
    names = ["bare", *imports._FLOORS, *imports._MEASURED]
    return {name: spent.get(name, [10.0, 12.0, 10.0] if name == "bare" else [30.0, 30.0, 30.0]) for name in names}


def test_starts_are_compared_without_the_interpreter():
    """What every process needs is in neither part of a ratio; the median and the least are both told."""
    found = starts(paths=[90.0, 50.0, 60.0], status=[30.0, 30.0, 30.0])

    section = imports.compare(found)
    lines = {line.name: line for line in section.lines}

    paths = lines["paths / import click, rich"]
    assert (paths.ratio.low, paths.ratio.median, paths.ratio.high) == (2.0, 2.5, 4.0)
    assert paths.met() is False
    assert lines["log / import click, rich"].met() is True
    assert "paths 2.00" in section.notes[0]


def test_a_floor_lost_in_noise_is_not_divided_by():
    """A start that came out faster than the bare interpreter's gives no ratio."""
    section = imports.compare(starts(**{"import click, rich": [9.5, 30.0, 30.0]}))
    lines = {line.name: line for line in section.lines}

    assert lines["paths / import click, rich"].ratio is None
    assert lines["hearthnet --help / import click"].ratio.median == 1.0


def test_memory_is_what_was_added():
    """The process itself does not count against the aim, and is told."""
    section = memory.compare([grown()], [])

    both, ring, traces = section.lines[:3]
    assert (both.measured.median, ring.measured.median, traces.measured.median) == (17, 5, 8)
    assert both.met() is True
    assert "OpenTelemetry is not installed: its figures are left out" in section.notes


def test_memory_of_buffers_that_were_not_full_meets_no_aim():
    """Less memory for fewer records is no merit."""
    section = memory.compare([grown(), grown({"trace": 20_000, "log": 9_000})], [])

    assert section.lines[0].met() is False
    assert section.notes[-1] == "pending: 20,000 traces and 9,000 records: NOT ALL"


def test_the_table_fits_a_terminal():
    """No line passes 100 columns, whatever the figures."""
    sections = [hot.compare(operation, all_turns(name)) for name, operation in OPERATIONS.items()]
    sections.append(memory.compare([grown()], []))
    sections[0].notes.append("a note that somebody made longer than any terminal " * 4)

    table = as_table({"libraries": "one 1.0, " * 30}, True, sections)

    assert max(map(len, table.splitlines())) <= 100


def test_json_says_which_benchmark_and_what_is_whole():
    """A program can tell a figure that stands from one that does not."""
    found = all_turns("span")
    found["otel"] = turns(1.0, arrived=0)

    document = orjson.loads(as_json("hot", {}, False, [hot.compare(OPERATIONS["span"], found)]))

    assert document["benchmark"] == "hot"
    assert [line["is_whole"] for line in document["sections"][0]["lines"]] == [False] * 3 + [True] * 3


def test_a_loss_is_the_exit_code(monkeypatch):
    """A script that runs the benchmark notices that nothing was measured."""
    found = all_turns("record") | {"ours": turns(1.0, arrived=0)}
    lossy: list[Section] = [hot.compare(OPERATIONS["record"], found)]
    monkeypatch.setattr(hot, "run", lambda wanted, is_quick: ({}, lossy))

    result = CliRunner().invoke(bench, ["hot", "--only", "record"])

    assert result.exit_code == 1
    assert "NOT ALL that was made has arrived" in result.output


def test_only_takes_the_names_of_parts():
    """A part that is not there is a usage error that names those that are."""
    result = CliRunner().invoke(bench, ["hot", "--only", "everything"])

    assert result.exit_code == 2
    assert all(name in result.output for name in hot.PARTS)


def test_every_part_is_documented():
    """The page on benchmarks has a row for each part."""
    assert [name for name in hot.PARTS if f"| {name} |" not in DOCS] == []


@pytest.mark.parametrize(
    ("operation", "player"), few([("trace", "done"), ("record", "ours"), ("counter", "ours")], "record")
)
def test_a_turn_of_ours_leaves_all_that_it_made(operation, player, tmp_path):
    """Each trace and record of a real turn is in the database and in the JSON log, each inc in the metrics."""
    done = child(operation, player, "1", str(tmp_path))

    assert done.returncode == 0, done.stderr.decode()
    result = orjson.loads(done.stdout)
    assert result["expected"] == 10_000 + 2 * OPERATIONS[operation].calls
    assert result["arrived"] == result["expected"]
    assert min(result[figure] for figure in CALLERS) > 0


def test_a_turn_without_a_store_fails(tmp_path):
    """Telemetry that is kept in memory alone is not what is to be measured."""
    (tmp_path / "data").write_text("no folder")

    done = child("trace", "ours", "1", str(tmp_path))

    assert done.returncode != 0
    assert b"there is no store" in done.stderr
