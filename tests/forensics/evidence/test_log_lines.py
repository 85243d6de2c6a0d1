"""Reading JSON logs: a time window in bounded memory, and torn lines as far as possible."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest

from hearthnet.forensics.evidence.log_lines import find_log_dir, read_lines

S = 1_000_000
NOON = 1_779_796_800 * S  # 2026-05-26T12:00:00Z
ALWAYS = (0, 2**62)


def raw(second, msg="hello", level="info", logger="x.y", **fields):
    """Returns a line as a node writes it."""
    ts = f"2026-05-26T12:{second // 60:02d}:{second % 60:02d}.000Z"
    named = {"ts": ts, "level": level, "logger": logger, "msg": msg, **fields}
    return json.dumps(named, separators=(",", ":")).encode() + b"\n"


def write(folder, *lines, name="2026-05-26.log"):
    """Writes a daily log file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"".join(lines))
    return folder


def test_newest_of_the_window_are_kept_in_their_order(tmp_path):
    """The newest lines of the window are read, across the parts of a day, and no others."""
    write(tmp_path, *(raw(second, f"m{second}") for second in range(10)))
    write(tmp_path, *(raw(second, f"m{second}") for second in range(10, 20)), name="2026-05-26.1.log")
    write(tmp_path, raw(3, "other day"), name="2026-05-20.log")

    found = read_lines(tmp_path, (NOON + 2 * S, NOON + 11 * S), (NOON, NOON), 3)

    assert [entry.text for entry in found.entries] == ["m9", "m10", "m11"]
    assert [source.path.name for source in found.sources] == ["2026-05-26.log", "2026-05-26.1.log"]
    assert read_lines(tmp_path, ALWAYS, ALWAYS, 0).entries == []


def test_warnings_of_the_run_are_kept_whatever_the_window(tmp_path):
    """Warnings and errors of the run are kept whatever the window and limit."""
    last = raw(50, "done", "warning", "hearthnet.trace", trace_id="01T", capability="a.b", result="timeout", ms=7.5)
    lines = [raw(1, "disk is slow", "error"), *(raw(2, "chatter") for _ in range(50)), last]
    write(tmp_path, *lines)

    found = read_lines(tmp_path, (NOON + 2 * S, NOON + 2 * S), (NOON, NOON + 60 * S), 1)

    assert [entry.text for entry in found.entries] == ["chatter"]
    error, failed = found.notable
    assert (error.kind, error.status, error.text) == ("log", "error", "disk is slow")
    assert (failed.kind, failed.status, failed.name, failed.duration_ms) == ("trace", "timeout", "a.b", 7.5)
    assert failed.ts_us == NOON + 50 * S - 7_500


@pytest.mark.parametrize(
    ("torn", "texts"),
    [
        (raw(1, "cut", n=5)[:-4] + raw(2, "next"), ["cut", "next"]),  # the disk filled up, then had room again
        (raw(1, "cut", n=5)[:-4] + b"\n" + raw(2, "next"), ["cut", "next"]),
        (b"\0" * 700 + raw(2, "next"), ["next"]),  # a block that the power cut left empty
        (raw(1, "whole") + raw(2, "lost")[:40], ["whole"]),  # cut within its head
        (b'{"ts":"2026-05-26T12:00:01.000Z","level":' + b"[" * 5_000 + b"\n" + raw(2, "next"), ["next"]),
        (raw(1, "first") + b"no line of ours\n" + raw(3, "third"), ["first", "third"]),
    ],
)
def test_torn_line_gives_what_it_still_says(tmp_path, torn, texts):
    """The start of a torn line and the intact line after it are read; the file counts as damaged."""
    write(tmp_path, torn)

    found = read_lines(tmp_path, ALWAYS, ALWAYS, 10)

    assert [entry.text for entry in found.entries] == texts
    assert found.sources[0].state == "damaged"
    assert "torn" in found.sources[0].detail
    assert all(entry.extras.get("torn") for entry in found.entries if entry.text == "cut")


def test_large_log_takes_little_memory(tmp_path):
    """Reading two hundred lines of ten megabytes takes little memory, even with an endless line."""
    line = raw(5, "x" * 400)
    write(tmp_path, *([line] * (6_000_000 // len(line))), b"y" * 4_000_000)

    tracemalloc.start()
    found = read_lines(tmp_path, ALWAYS, ALWAYS, 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(found.entries) == 200
    assert peak < 4_000_000


def test_only_daily_logs_are_read(tmp_path):
    """A pipe with a log's name would block a reader; files with other names are skipped."""
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(data / "2026-05-26.log")
    assert find_log_dir(data) is None
    write(tmp_path / "logs", raw(1))
    (tmp_path / "logs" / "notes.log").write_text("mine")

    assert find_log_dir(data) == data / "../logs"
    assert [source.path.name for source in read_lines(tmp_path / "logs", ALWAYS, ALWAYS, 5).sources] == [
        "2026-05-26.log"
    ]
