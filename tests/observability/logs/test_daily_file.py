"""The JSON log's files: parts within a day, a bound in bytes, several processes, wrong clocks, people with `rm`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import orjson
import pytest
from support.threads import at_once
from support.waiting import wait_until

from hearthnet.observability.logs import daily_file as logfile
from hearthnet.observability.logs.daily_file import DailyFile, log_paths

DAY_S = 86_400
NOON_S = 1_795_521_600.0  # 2026-11-24, UTC


def line(number: int, size: int = 1_000) -> bytes:
    """One JSON line of about so many bytes."""
    return b'{"n":%d,"x":"%b"}\n' % (number, b"y" * size)


def numbers(directory) -> list[int]:
    """What the lines of all files say, in the order of the files."""
    return [orjson.loads(raw)["n"] for path in log_paths(directory) for raw in path.read_bytes().splitlines()]


def total(directory) -> int:
    """The bytes of all files."""
    return sum(path.stat().st_size for path in log_paths(directory))


def test_day_goes_on_in_parts_and_the_oldest_go_first(tmp_path):
    """A storm of 20 MB into a bound of 4: at every look the bytes are within it, and the newest lines are all there."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=4_000_000)
    for number in range(20_000):
        file.write(line(number), NOON_S)
        if number % 500 == 0:
            assert total(tmp_path) <= 4_000_000

    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 20_000))
    assert len(kept) > 3_000
    assert file.dropped_lines == 0
    assert [path.name for path in log_paths(tmp_path)][-1].startswith("2026-11-24.")


def test_a_restart_goes_on_in_the_newest_part(tmp_path):
    """After parts were removed as the oldest, the next process appends to the newest one, never before it."""
    for life in range(3):
        file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=800_000)
        for number in range(life * 500, (life + 1) * 500):
            file.write(line(number), NOON_S)
    kept = numbers(tmp_path)

    assert kept == sorted(kept)
    assert kept[-1] == 1_499


def test_lower_limit_removes_at_once(tmp_path):
    """A bound that becomes smaller, as when a database is quarantined, is kept from that moment on."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=4_000_000)
    for number in range(3_000):
        file.write(line(number), NOON_S)
    file.limit(1_000_000)

    assert total(tmp_path) <= 1_000_000
    assert numbers(tmp_path)[-1] == 2_999


def test_processes_share_the_parts_without_a_torn_or_lost_line(tmp_path):
    """Three processes write across many part boundaries: each line is whole and there once."""
    script = f"""
import sys
from pathlib import Path
from hearthnet.observability.logs.daily_file import DailyFile
file = DailyFile(Path({str(tmp_path)!r}), clock=lambda: {NOON_S}, max_bytes=40_000_000)
for number in range(4000):
    file.write(b'{{"n":%d,"p":%d,"x":"%b"}}\\n' % (number, int(sys.argv[1]), b"y" * 1500), {NOON_S})
assert file.dropped_lines == 0
"""
    running = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]

    lines = [orjson.loads(raw) for path in log_paths(tmp_path) for raw in path.read_bytes().splitlines()]
    assert sorted((item["p"], item["n"]) for item in lines) == [(p, n) for p in range(3) for n in range(4_000)]
    assert len(log_paths(tmp_path)) > 2


def test_processes_write_lines_of_all_sizes_to_one_file(tmp_path):
    """Three processes, 2,000 lines each of 200 to 30,000 bytes, one file: each line is whole, once, and in order."""
    script = f"""
import random, sys
from pathlib import Path
from hearthnet.observability.logs.daily_file import DailyFile
file, process = DailyFile(Path({str(tmp_path)!r}), clock=lambda: {NOON_S}, max_bytes=4_000_000_000), int(sys.argv[1])
sizes = random.Random(process)
sys.stdin.read(1)  # all begin at once
for number in range(2000):
    text = b"%d" % process * sizes.randint(200, 30_000)
    file.write(b'{{"n":%d,"p":%d,"x":"%b"}}\\n' % (number, process, text), {NOON_S} + number / 1_000)
assert file.dropped_lines == 0
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(number)], stdin=subprocess.PIPE) for number in range(3)
    ]
    for process in running:
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0, 0, 0]

    (path,) = log_paths(tmp_path)
    lines = [orjson.loads(raw) for raw in path.read_bytes().splitlines()]
    assert len(lines) == 6_000
    for process in range(3):
        assert [item["n"] for item in lines if item["p"] == process] == list(range(2_000))
    assert all(item["x"] == str(item["p"]) * len(item["x"]) for item in lines)


def test_threads_write_through_midnight_without_losing_a_record(tmp_path):
    """Eight threads write on while the day ends: each record is there once, whole, and in order of its day."""
    midnight_s = NOON_S + DAY_S / 2
    ticks = itertools.count()  # the clock: a millisecond for each look at it; half of the records are of either day
    file = DailyFile(tmp_path, clock=lambda: midnight_s, max_bytes=400_000_000)

    def work(thread: int) -> None:
        for number in range(2_000):
            now_s = midnight_s + (next(ticks) - 8_000) / 1_000
            file.write(b'{"t":%d,"n":%d,"at":%f,"x":"%b"}\n' % (thread, number, now_s, b"y" * 300), now_s)

    at_once(work, range(8))

    yesterday, today = log_paths(tmp_path)
    assert [yesterday.name, today.name] == ["2026-11-24.log", "2026-11-25.log"]
    before, after = ([orjson.loads(raw) for raw in path.read_bytes().splitlines()] for path in (yesterday, today))
    assert file.dropped_lines == 0
    assert all(item["at"] < midnight_s for item in before)
    assert len(after) >= 8_000  # and those made just before midnight that came in just after it
    assert sorted((item["t"], item["n"]) for item in before + after) == [(t, n) for t in range(8) for n in range(2_000)]
    for thread in range(8):  # in the order in which each thread wrote
        assert [item["n"] for item in before + after if item["t"] == thread] == list(range(2_000))


def test_files_of_a_wrong_clock_are_the_first_to_go(tmp_path):
    """Files dated years ahead, which would never be the oldest, make room for the one that is being written."""
    for part in range(8):
        (tmp_path / (f"2036-01-01.{part}.log" if part else "2036-01-01.log")).write_bytes(b"x" * 500_000)
    file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=4_000_000)
    for number in range(2_000):
        file.write(line(number), NOON_S)
    ours = [path for path in log_paths(tmp_path) if path.name.startswith("2026")]

    assert sum(path.read_bytes().count(b"\n") for path in ours) == 2_000
    assert total(tmp_path) <= 4_000_000


def test_file_that_somebody_removed_is_made_again(tmp_path):
    """`rm` under a running node costs at most the lines of a second."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    for path in log_paths(tmp_path):
        path.unlink()
    file.write(line(2), NOON_S + 0.1)
    file.write(line(3), NOON_S + 1.2)

    assert numbers(tmp_path) == [3]


@pytest.mark.parametrize(("before_s", "after_s"), [(NOON_S, NOON_S + 3_650 * DAY_S), (60.0, NOON_S)])
def test_clock_that_steps_removes_nothing(tmp_path, before_s, after_s):
    """A clock that jumps by years, or is set after a boot in 1970, is no reason to remove what was logged."""
    now = [before_s]
    file = DailyFile(tmp_path, clock=lambda: now[0])
    file.write(line(1), now[0])
    now[0] = after_s
    file.write(line(2), now[0])

    assert sorted(numbers(tmp_path)) == [1, 2]


def test_forked_child_is_not_held_by_its_parents_lock(tmp_path):
    """A lock that a thread of the parent holds at the fork does not hold the child."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    with file._lock:
        child = os.fork()
        if child == 0:
            file.write(line(2), NOON_S + 5)  # looks at the file, which takes the lock
            os._exit(0)
        wait_until(lambda: os.waitpid(child, os.WNOHANG) != (0, 0))

    assert numbers(tmp_path) == [1, 2]


def test_folder_that_cannot_be_read_has_no_files(tmp_path):
    """Where the folder is missing or is none, there are no log files, and nothing raises."""
    (tmp_path / "file").write_text("")

    assert log_paths(tmp_path / "missing") == log_paths(tmp_path / "file") == []


def test_line_written_while_the_file_is_opened_does_not_wait(tmp_path, monkeypatch):
    """A signal handler, or a finalizer, logs while its own thread opens the day's file: both lines are there."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    make = logfile.make_private_dir

    def interrupted(path) -> None:
        monkeypatch.setattr(logfile, "make_private_dir", make)
        file.write(line(1), NOON_S)
        make(path)

    monkeypatch.setattr(logfile, "make_private_dir", interrupted)
    writing = threading.Thread(target=file.write, args=(line(2), NOON_S), daemon=True)
    writing.start()
    writing.join(10)

    assert not writing.is_alive()
    assert numbers(tmp_path) == [1, 2]
    assert file.dropped_lines == 0
