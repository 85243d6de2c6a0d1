"""Merging sources into one timeline: by number first, then by neighbour, then by time, without duplicates."""

from __future__ import annotations

from dataclasses import replace

from hearthnet.forensics.model import Entry, Run
from hearthnet.forensics.timeline import timeline, with_runs

S = 1_000_000
T0 = 1_800_000_000 * S
RUN = Run("01RUN", T0, T0 + 100 * S, "clean", pid=7, is_alive=False)


def record(seq, second, text, run_id="01RUN"):
    """Returns a log record of the store."""
    return Entry(T0 + int(second * S), "log", "info", "x.y", text, run_id, seq)


def line(second, text):
    """Returns a line of the JSON log: the same without number and run."""
    return replace(record(None, second, text, None), source="log")


def trace(seq, second, trace_id, ms=5.0, source="database"):
    """Returns a trace from its row, or from the line written at its end."""
    run_id = "01RUN" if seq else None
    return Entry(T0 + int(second * S), "trace", "ok", "a.b", "", run_id, seq, trace_id, ms, source)


def texts(entries):
    """Returns the texts of entries in order."""
    return [entry.text or entry.trace_id for entry in entries]


def test_number_goes_before_the_clock():
    """Setting the clock during a run does not change the order of numbered records."""
    records = [record(1, 1, "a"), record(2, 5_000, "b"), record(3, -5_000, "c"), record(4, 2, "d")]

    assert texts(timeline(records, [], [RUN], set())) == ["the run starts", "a", "b", "c", "d", "the run ends"]


def test_line_without_a_record_stays_with_its_neighbours():
    """A line is placed by its neighbours that have records, not by a clock that was set."""
    records = [record(1, 1, "a"), record(2, -5_000, "b"), record(3, -4_999, "c")]
    lines = [line(1, "a"), line(2, "debug 1"), line(-5_000, "b"), line(-4_999.5, "debug 2"), line(-4_999, "c")]

    assert texts(timeline(records, lines, [], set())) == ["a", "debug 1", "b", "debug 2", "c"]


def test_line_before_any_neighbour_is_placed_by_its_time():
    """Without a neighbour only its time is known."""
    records = [record(1, 1, "a"), record(2, 3, "b")]

    assert texts(timeline(records, [line(2, "alone"), line(0.5, "first")], [], set())) == ["first", "a", "alone", "b"]


def test_each_record_stands_for_one_line():
    """Of three equal lines and two records one line is left; a trace's done line matches its row."""
    records = [record(1, 1, "a"), record(2, 1, "a"), trace(3, 2, "01T"), trace(4, 3, "01T", 6.0)]
    lines = [line(1, "a")] * 3 + [trace(None, 2, "01T", source="log"), trace(None, 4, "01U", source="log")]

    merged = timeline(records, lines, [], set())

    assert texts(merged) == ["a", "a", "a", "01T", "01T", "01U"]
    assert [entry.source for entry in merged].count("log") == 2


def test_numbers_of_another_process_are_its_own():
    """A second process numbers its own records: both are merged by time, each in its own order."""
    other = Run("01OTHER", T0 + S, pid=8, last_seen_us=T0 + 4 * S)
    records = [
        record(1, 1.5, "theirs 1", "01OTHER"), record(2, 3.5, "theirs 2", "01OTHER"),
        record(901, 1, "ours 1"), record(902, 2, "ours 2"), record(903, 5, "ours 3"),
    ]  # fmt: skip

    merged = timeline(records, [], [RUN, other], {"01OTHER"})

    assert [entry.text for entry in merged if entry.kind == "log"] == [
        "ours 1", "theirs 1", "ours 2", "theirs 2", "ours 3",
    ]  # fmt: skip


def test_starts_and_ends_embrace_their_run():
    """A run without an end ends when it was last seen, a live one has no end; no rows are needed."""
    dead = Run("01DEAD", T0 - 50 * S, end_reason=None, last_seen_us=T0 - 40 * S, is_alive=False)
    alive = Run("01ALIVE", T0 + 200 * S, is_alive=True)
    silent = Run("01SILENT", T0 - 90 * S, T0 - 80 * S, "clean")
    records = [record(1, -45, "a", "01DEAD"), record(2, 1, "b"), record(3, 210, "c", "01ALIVE")]

    merged = timeline(records, [], [alive, RUN, dead, silent], set())

    assert [(entry.kind, entry.run_id) for entry in merged] == [
        ("start", "01SILENT"), ("end", "01SILENT"), ("start", "01DEAD"), ("log", "01DEAD"), ("end", "01DEAD"),
        ("start", "01RUN"), ("log", "01RUN"), ("end", "01RUN"), ("start", "01ALIVE"), ("log", "01ALIVE"),
    ]  # fmt: skip
    assert [entry.status for entry in merged if entry.kind == "end"] == ["clean", "no end", "clean"]


def test_line_is_of_the_run_that_began_last_before_it():
    """A line belongs to the last run before it unless that ended long before; before the first run to none."""
    later = Run("01LATER", T0 + 500 * S)
    lines = [line(-1, "before"), line(50, "in it"), line(101, "closing"), line(300, "between"), line(501, "later")]

    assert [entry.run_id for entry in with_runs(lines, [later, RUN])] == [None, "01RUN", "01RUN", None, "01LATER"]


def test_line_beside_several_programs():
    """A cron job that has ended takes no lines of the node; with two running, it is not known whose a line is."""
    node = Run("01NODE", T0, role="node", program="hearthnet", is_alive=True)
    job = Run("01JOB", T0 + 50 * S, T0 + 60 * S, "clean", program="job.py", role="library")
    killed = Run(
        "01KILLED", T0 + 90 * S, end_reason="unclean", last_seen_us=T0 + 95 * S, program="x.py", role="library"
    )
    lines = [line(second, "said") for second in (40, 55, 80, 92, 110)]

    assert [entry.run_id for entry in with_runs(lines, [killed, job, node])] == [
        "01NODE", None, "01NODE", None, "01NODE",
    ]  # fmt: skip


def test_line_behind_a_record_of_another_program_is_placed_by_time():
    """So each run starts and ends once, whoever's lines the log has in between."""
    other = Run("01OTHER", T0 + S, T0 + 3 * S, "clean", pid=8, program="cron.py")
    records = [record(1, 1, "a"), record(2, 2, "theirs", "01OTHER")]
    lines = [line(1, "a"), line(2, "theirs"), replace(line(4, "ours, not stored"), run_id="01RUN")]

    found = texts(timeline(records, lines, [RUN, other], {"01OTHER"}))
    assert sorted(found) == sorted(
        ["the run starts", "a", "the run starts", "theirs", "the run ends", "ours, not stored", "the run ends"]
    )
    assert found.index("theirs") < found.index("ours, not stored")
