"""The JSON log's files: parts within a day, a bound in bytes, several processes, wrong clocks, people with a shell."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import orjson
import pytest
from support import forkserver
from support.daily_files import DAY_S, NOON_S, line, numbers, total
from support.threads import at_once
from support.waiting import wait_until

from hearthnet.observability.logs import daily_file as logfile
from hearthnet.observability.logs.daily_file import DailyFile, log_paths


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


def test_descriptor_is_closed_with_the_last_reference(tmp_path):
    """A program that opens telemetry again and again runs out of none."""
    file = DailyFile(tmp_path)
    file.write(line(1), time.time())
    descriptor = file._fd
    os.fstat(descriptor)
    del file
    gc.collect()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


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
file = DailyFile(Path({str(tmp_path)!r}), clock=lambda: {NOON_S}, max_bytes=20_000_000)
for number in range(2000):
    file.write(b'{{"n":%d,"p":%d,"x":"%b"}}\\n' % (number, int(sys.argv[1]), b"y" * 1500), {NOON_S})
assert file.dropped_lines == 0
"""
    running = [forkserver.spawn([sys.executable, "-c", script, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]

    lines = [orjson.loads(raw) for path in log_paths(tmp_path) for raw in path.read_bytes().splitlines()]
    assert sorted((item["p"], item["n"]) for item in lines) == [(p, n) for p in range(3) for n in range(2_000)]
    assert len(log_paths(tmp_path)) > 2


def test_processes_write_lines_of_all_sizes_to_one_file(tmp_path):
    """Three processes, 800 lines each of 200 to 30,000 bytes, one file: each line is whole, once, and in order."""
    script = f"""
import random, sys
from pathlib import Path
from hearthnet.observability.logs.daily_file import DailyFile
file, process = DailyFile(Path({str(tmp_path)!r}), clock=lambda: {NOON_S}, max_bytes=4_000_000_000), int(sys.argv[1])
sizes = random.Random(process)
sys.stdin.read(1)  # all begin at once
for number in range(800):
    text = b"%d" % process * sizes.randint(200, 30_000)
    file.write(b'{{"n":%d,"p":%d,"x":"%b"}}\\n' % (number, process, text), {NOON_S} + number / 1_000)
assert file.dropped_lines == 0
"""
    running = [
        forkserver.spawn([sys.executable, "-c", script, str(number)], stdin=subprocess.PIPE) for number in range(3)
    ]
    for process in running:
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0, 0, 0]

    (path,) = log_paths(tmp_path)
    lines = [orjson.loads(raw) for raw in path.read_bytes().splitlines()]
    assert len(lines) == 2_400
    for process in range(3):
        assert [item["n"] for item in lines if item["p"] == process] == list(range(800))
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


def test_file_that_somebody_removed_is_made_again(tmp_path):
    """`rm` under a running node costs at most the lines of a second."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    for path in log_paths(tmp_path):
        path.unlink()
    file.write(line(2), NOON_S + 0.1)
    file.write(line(3), NOON_S + 1.2)

    assert numbers(tmp_path) == [3]
    assert file.dropped_lines == 2  # since its last check; neither is in any file now


TODAY = "2026-11-24.log"


def rename(path):
    """`mv`, as a person does."""
    path.rename(f"{path}.1")


def rotate(path):
    """Rename and create, as logrotate does by default."""
    rename(path)
    path.touch(0o644)


def link_and_remove(path):
    """A hard-linked backup, then `rm`."""
    os.link(path, f"{path}.backup")
    path.unlink()


def replace(path):
    """Another file under its name, in one step, as an editor saves."""
    os.link(path, f"{path}.backup")
    fresh = path.with_suffix(".new")
    fresh.touch()
    fresh.replace(path)


def move_folder(path):
    """The whole folder is moved away."""
    path.parent.rename(path.parent.with_name("elsewhere"))


def link_back(path):
    """Moved elsewhere, with a link to it in its place."""
    rename(path)
    path.symlink_to(f"{path}.1")


def folder_instead(path):
    """A folder under its name."""
    rename(path)
    path.mkdir()


def pipe_instead(path):
    """A pipe that has no reader under its name."""
    rename(path)
    os.mkfifo(path)


def dangling_link_instead(path):
    """A link to nothing under its name."""
    rename(path)
    path.symlink_to("nowhere")


def socket_instead(path):
    """A socket under its name."""
    rename(path)
    # The path of a socket is limited to a hundred characters.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


REPLACED = [
    rename, rotate, link_and_remove, replace, move_folder, link_back, folder_instead, pipe_instead,
    dangling_link_instead, socket_instead,
]  # fmt: skip


@pytest.mark.parametrize("change", REPLACED)
def test_file_that_was_moved_or_replaced_is_made_again(tmp_path, change):
    """Whatever has happened to the day's file, a second later lines are in a private file that readers find."""
    file = DailyFile(tmp_path / "logs", clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    change(tmp_path / "logs" / TODAY)
    file.write(line(2), NOON_S + 0.1)
    file.write(line(3), NOON_S + 1.2)
    file.write(line(4), NOON_S + 1.3)

    assert numbers(tmp_path / "logs")[-2:] == [3, 4]
    assert file.dropped_lines == 0
    written = [raw for path in tmp_path.rglob("*") if path.is_file() for raw in path.read_bytes().splitlines()]
    assert {orjson.loads(raw)["n"] for raw in written} == {1, 2, 3, 4}
    assert stat.S_IMODE(log_paths(tmp_path / "logs")[-1].lstat().st_mode) == 0o600


def stray_file(name):
    """Makes a file of this name."""
    return lambda folder: (folder / name).write_bytes(b"")


STRAY = [
    *(stray_file(f"2026-11-24.{number}.log") for number in ("01", "007", "000", "0", "\u0663", "+1", "1_0", " 1")),
    *(stray_file(name) for name in ("2026-11-24.log.log", "\u0662026-11-24.log", "2026-11-24.log\n")),
    lambda folder: (folder / "2026-11-24.2.log").mkdir(),
    lambda folder: (folder / TODAY).mkdir(),
    lambda folder: os.mkfifo(folder / TODAY),
    lambda folder: os.mkfifo(folder / "2026-11-24.3.log"),
    lambda folder: (folder / TODAY).symlink_to("nowhere"),
    lambda folder: (folder / TODAY).symlink_to(TODAY),
    lambda folder: (folder / "2026-11-24.7.log").symlink_to(folder),
]


@pytest.mark.parametrize("make", STRAY)
def test_strange_names_are_not_in_the_way(tmp_path, make):
    """What lies in the folder costs no line, before the first line and after it; a reader does not wait for a pipe."""
    make(tmp_path)
    for life in range(2):
        file = DailyFile(tmp_path, clock=lambda: NOON_S)
        file.write(line(2 * life), NOON_S)
        file.write(line(2 * life + 1), NOON_S + 2)
        assert file.dropped_lines == 0

    assert numbers(tmp_path) == [0, 1, 2, 3]


def test_link_under_its_name_is_not_followed(tmp_path):
    """A link to a file elsewhere is left alone: lines go to the day's next file, the other keeps content and mode."""
    (tmp_path / "logs").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o644)
    (tmp_path / "logs" / TODAY).symlink_to(victim)
    DailyFile(tmp_path / "logs", clock=lambda: NOON_S).write(line(1), NOON_S)

    assert victim.read_bytes() == b""
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert (tmp_path / "logs" / "2026-11-24.1.log").read_bytes() == line(1)


def test_file_of_another_user_is_not_in_the_way(tmp_path, as_nobody):
    """What we may not write is passed over."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / TODAY).touch(0o600)
    folder.chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o011)
    with as_nobody():
        file = DailyFile(folder, clock=lambda: NOON_S)
        file.write(line(1), NOON_S)

    assert file.dropped_lines == 0
    assert (folder / "2026-11-24.1.log").read_bytes() == line(1)


def test_lines_of_a_removed_file_are_counted_at_the_end_too(tmp_path):
    """A program that ends within the second after a removal says what it lost."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    file.write(line(2), NOON_S + 1.5)
    (tmp_path / TODAY).unlink()
    file.write(line(3), NOON_S + 1.6)
    file.close()

    assert file.dropped_lines == 2  # the first was checked, and removed by whom it belongs to


def test_lines_of_a_removed_file_are_counted_at_midnight_too(tmp_path):
    """The next day's file takes its descriptor: what was written to it since its last check is gone."""
    file = DailyFile(tmp_path, clock=lambda: NOON_S)
    for number in (1, 2):
        file.write(line(number), NOON_S)
    next(iter(log_paths(tmp_path))).unlink()
    file.write(line(3), NOON_S + DAY_S)

    assert file.dropped_lines == 2
    assert numbers(tmp_path) == [3]


def test_line_after_closing_that_finds_no_folder_is_counted(tmp_path):
    """A file that cannot be opened again drops its lines, and says so."""
    file = DailyFile(tmp_path / "logs", clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    file.close()
    (tmp_path / "logs").rename(tmp_path / "away")
    (tmp_path / "logs").write_text("no folder")
    file.write(line(2), NOON_S)

    assert file.dropped_lines == 1


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


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o177, 0o777])
def test_file_is_private_whatever_the_umask(tmp_path, umask):
    """Neither open to others, nor closed to the next process of its owner."""
    before = os.umask(umask)
    try:
        DailyFile(tmp_path, clock=lambda: NOON_S).write(line(1), NOON_S)
    finally:
        os.umask(before)

    (path,) = log_paths(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_is_ready_for_the_lines_of_one_second(tmp_path):
    """They are appended without a check until 64 KiB are written; then, or in the next second, it is checked again."""
    file, second = DailyFile(tmp_path, clock=lambda: NOON_S), int(NOON_S)
    assert file.is_ready(second)
    (tmp_path / TODAY).unlink()
    written = 0
    while file.ready is second:
        file.append(line(written))
        written += 1
    assert 64 <= written <= 66
    assert file.is_ready(second)
    file.append(line(written))
    (tmp_path / TODAY).unlink()
    assert file.is_ready(second + 1)
    file.append(line(written + 1))

    assert numbers(tmp_path) == [written + 1]
    assert file.dropped_lines == written + 1


@pytest.mark.parametrize("day", [-1, 1])
def test_file_is_never_ready_for_lines_of_another_day(tmp_path, day):
    """Made just before midnight, or by a clock that was set: each is written with a check."""
    file, second = DailyFile(tmp_path, clock=lambda: NOON_S), int(NOON_S)
    file.write(line(1), NOON_S)
    is_ready = file.is_ready(second + day * DAY_S)
    file.write(line(2), NOON_S + day * DAY_S)

    assert is_ready == (day > 0)  # tomorrow's file has been begun then
    assert sorted(numbers(tmp_path)) == [1, 2]


def test_file_is_not_ready_while_the_disk_is_nearly_full(tmp_path):
    """Its caller decides what is written then; notable lines are."""
    file, second = DailyFile(tmp_path, clock=lambda: NOON_S), int(NOON_S)
    assert file.is_ready(second)
    file.is_shedding = True
    assert file.ready is None
    assert not file.is_ready(second)
    file.write(line(1), NOON_S)
    file.is_shedding = False

    assert file.is_ready(second)
    assert numbers(tmp_path) == [1]


def test_line_that_was_written_in_part_does_not_swallow_the_next(tmp_path, monkeypatch):
    """The file is not ready before the next one has begun on a line of its own."""
    file, second = DailyFile(tmp_path, clock=lambda: NOON_S), int(NOON_S)
    assert file.is_ready(second)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, content: write(fd, content[:7]))
        file.append(line(1))
    assert not file.is_ready(second)
    file.write(line(2), NOON_S)
    assert file.is_ready(second)
    file.append(line(3))

    assert (tmp_path / TODAY).read_bytes() == line(1)[:7] + b"\n" + line(2) + line(3)
    assert file.dropped_lines == 1


def test_closed_file_is_ready_again_once_it_is_opened(tmp_path):
    """A line after that is in it, and none is lost without a count."""
    file, second = DailyFile(tmp_path, clock=lambda: NOON_S), int(NOON_S)
    assert file.is_ready(second)
    file.close()
    assert file.ready is None
    assert file.is_ready(second)
    file.append(line(1))

    assert numbers(tmp_path) == [1]


def test_line_after_a_torn_one_begins_a_line_also_when_the_disk_was_full_in_between(tmp_path, monkeypatch):
    """A write that fails leaves the torn line as it is: the next that succeeds must not continue it."""
    file, write, left = DailyFile(tmp_path, clock=lambda: NOON_S), os.write, [1 << 20]

    def limited(fd, content):
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space")
        size, left[0] = min(left[0], len(content)), left[0] - min(left[0], len(content))
        return write(fd, content[:size])

    monkeypatch.setattr(os, "write", limited)
    file.write(b'{"n":0}\n', NOON_S)
    left[0] = 4
    for number in (b"1", b"2"):
        file.write(b'{"n":%b}\n' % number, NOON_S)
    left[0] = 1 << 20
    for number in (b"3", b"4"):
        file.write(b'{"n":%b}\n' % number, NOON_S)

    (path,) = tmp_path.glob("*.log")
    assert path.read_bytes() == b'{"n":0}\n{"n"\n{"n":3}\n{"n":4}\n'
    assert file.dropped_lines == 2


@pytest.mark.parametrize("is_taken", [False, True])
def test_descriptor_that_the_program_has_closed_is_left_to_it(tmp_path, is_taken):
    """As one does that becomes a daemon: a file of its own that has the number stays what it is, and stays open."""
    own = tmp_path / "own"
    file = DailyFile(tmp_path / "logs", clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    number = file._fd
    os.close(number)
    if is_taken:
        taken = os.open(own, os.O_RDWR | os.O_CREAT)
        assert taken == number
    for second in range(1, 4):
        file.write(line(1 + second), NOON_S + second)
    file.close()
    file.write(line(5), NOON_S + 4)
    file.close()
    del file

    assert numbers(tmp_path / "logs") == [1, 2, 3, 4, 5]
    if is_taken:
        os.write(taken, b"mine")
        os.close(taken)
        assert own.read_bytes() == b"mine"


def test_lines_that_a_closed_descriptor_may_have_lost_are_counted(tmp_path):
    """Within the second of the last check they may be in a file of the program's."""
    file = DailyFile(tmp_path / "logs", clock=lambda: NOON_S)
    file.write(line(1), NOON_S)
    os.close(file._fd)
    file.write(line(2), NOON_S)
    file.write(line(3), NOON_S + 1)

    assert numbers(tmp_path / "logs") == [1, 3]
    assert 1 <= file.dropped_lines <= 2
