"""The last words of a process: real processes that crash, are killed, or end cleanly."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest
from support import forkserver
from support.reading import log_lines

from hearthnet.observability import logging as node_logging
from hearthnet.observability.process import fault_file as faultfile
from hearthnet.observability.process.fault_file import MAX_KEPT, MAX_KEPT_BYTES, FaultFile, fault_paths, first_line
from hearthnet.observability.store.budget import disk_bytes

MINUTE_S = 60
SEGFAULT = "import ctypes\nctypes.string_at(0)"


@pytest.fixture
def data_dir(tmp_path):
    """Where the files lie."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def run_child(directory, body: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that has a fault file around its body."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    script = f"""
import os, signal, sys, threading
from pathlib import Path
from hearthnet.observability.process.fault_file import FaultFile
with FaultFile(Path({str(directory)!r})) as faults:
{indented}
"""
    if not flags:
        return forkserver.run([sys.executable, "-c", script])
    return subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, preexec_fn=no_core, timeout=60
    )


def no_core() -> None:
    """Has a crash leave no core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def leave(directory, pid: int, content: str, age_s: float) -> None:
    """A fault file of a process that is dead."""
    path = directory / f"telemetry.{pid}.fault"
    path.write_text(content)
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)


def names(directory) -> list[str]:
    """The fault files, oldest first."""
    return [path.name for path in fault_paths(directory)]


@pytest.fixture
def told(observability):
    """Logging is configured; returns what was logged at the time of asking."""
    node_logging.install_sinks(observability)

    return lambda: log_lines(observability.log_dir)


@pytest.mark.parametrize("crash", [SEGFAULT, "os.abort()", "os.kill(os.getpid(), signal.SIGFPE)"])
def test_crash_leaves_the_stacks_of_all_threads(data_dir, crash):
    """A process that died of a fault leaves the signal and the stack of each thread, readable by its owner alone."""
    waiting = "ready = threading.Event()\ndef wait_here():\n    ready.set()\n    threading.Event().wait()\n"
    start = "threading.Thread(target=wait_here, daemon=True).start()\nready.wait()\n"
    done = run_child(data_dir, waiting + start + crash)

    assert done.returncode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE)
    (path,) = fault_paths(data_dir)
    text = path.read_text()
    assert first_line(path).startswith("Fatal Python error: ")
    assert "Current thread" in text
    assert "in wait_here" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_clean_end_leaves_nothing(data_dir):
    """While the process runs the file is there, empty and named after it; afterwards it is gone."""
    done = run_child(data_dir, f"print(os.getpid(), faults.path, os.listdir({str(data_dir)!r}))")

    pid = int(done.stdout.split()[0])
    assert done.stdout == f"{pid} {data_dir / f'telemetry.{pid}.fault'} ['telemetry.{pid}.fault']\n"
    assert list(data_dir.iterdir()) == []


def test_exception_is_no_fault(data_dir):
    """A program that ends with a traceback leaves no file."""
    assert run_child(data_dir, "raise ValueError").returncode == 1
    assert list(data_dir.iterdir()) == []


def test_kill_leaves_an_empty_file_that_the_next_start_removes(data_dir):
    """SIGKILL leaves no words; the next process removes the empty file and says nothing about it."""
    run_child(data_dir, "os.kill(os.getpid(), signal.SIGKILL)")
    (left,) = fault_paths(data_dir)
    assert left.stat().st_size == 0

    run_child(data_dir, "pass")
    assert list(data_dir.iterdir()) == []


def test_what_a_dead_process_left_is_dated_and_told_once(data_dir, told):
    """The next start gives the words of the dead a name with their time, logs them, and then leaves them alone."""
    run_child(data_dir, SEGFAULT)
    (left,) = fault_paths(data_dir)
    content = left.read_bytes()
    for _ in range(2):
        with FaultFile(data_dir) as faults:
            faults.tell()
            faults.tell()

    kept = [path for path in fault_paths(data_dir) if path != faults.path]
    assert [path.read_bytes() for path in kept] == [content]
    assert kept[0].name.startswith(f"{left.stem}.2")
    assert [(line["level"], line["msg"], line["file"], line["reason"]) for line in told()] == [
        ("error", "an earlier run was ended by a fault", kept[0].name, "Fatal Python error: Segmentation fault")
    ]


def test_file_of_a_running_process_is_left_alone(data_dir):
    """A second process of the same folder takes the first one's empty file for no leftover."""
    second = "from pathlib import Path; from hearthnet.observability.process.fault_file import FaultFile; "
    second += f"FaultFile(Path({str(data_dir)!r})).open()"
    inner = f"""
import subprocess
subprocess.run([sys.executable, "-c", {second!r}], check=True)
assert faults.path.exists()
"""
    assert run_child(data_dir, inner).returncode == 0


def test_forked_child_does_not_take_the_file_away(data_dir):
    """A forked child that ends leaves its parent's file where it is."""
    inner = """
child = os.fork()
if child == 0:
    faults.close()
    os._exit(0)
os.waitpid(child, 0)
assert faults.path.exists()
"""
    done = run_child(data_dir, inner)
    assert (done.returncode, done.stderr) == (0, "")


def test_name_that_another_pid_namespace_has_is_not_taken(data_dir):
    """Where a process of the same number, elsewhere, holds the name, ours is another one."""
    inner = f"""
other = FaultFile(Path({str(data_dir)!r}))
import faulthandler
faulthandler.disable()
other.open()
assert other.path != faults.path and other.path.exists() and faults.path.exists()
other.close()
assert not other.path.exists() and faults.path.exists()
"""
    done = run_child(data_dir, inner)
    assert (done.returncode, done.stderr) == (0, "")


def test_crash_loop_is_bounded(data_dir):
    """Of many crashes the newest are kept, within a number, oldest first to go."""
    for number in range(20):
        leave(data_dir, 1_000_000 + number, f"Fatal Python error: {number}\n", (20 - number) * MINUTE_S)
    found = faultfile._adopt(data_dir)

    assert len(names(data_dir)) == len(found) == MAX_KEPT
    assert [first_line(path)[-2:] for path in fault_paths(data_dir)] == [str(number) for number in range(12, 20)]


def test_large_reports_are_bounded_in_bytes(data_dir):
    """Reports of a third of the bound: three are kept; one beyond it is cut behind its beginning, the cause."""
    for number in range(6):
        leave(data_dir, 1_000_000 + number, f"Fatal {number}\n" + "x" * (MAX_KEPT_BYTES // 3 - 20), (9 - number) * 60)
    faultfile._adopt(data_dir)
    assert [first_line(path) for path in fault_paths(data_dir)] == ["Fatal 3", "Fatal 4", "Fatal 5"]

    leave(data_dir, 2_000_000, "Fatal error: huge\n" + "x" * (2 * MAX_KEPT_BYTES), 0)
    faultfile._adopt(data_dir)
    assert [first_line(path) for path in fault_paths(data_dir)] == ["Fatal error: huge"]
    assert sum(disk_bytes(data_dir, None).values()) == MAX_KEPT_BYTES


def test_other_files_are_not_touched(data_dir):
    """Other files with similar names stay."""
    for name in ("telemetry.db", "telemetry.1.box", "telemetry.fault", "notes.fault", "telemetry.1.fault.bak"):
        (data_dir / name).write_text("")
    with FaultFile(data_dir):
        pass

    assert len(list(data_dir.iterdir())) == 5


def test_folder_that_cannot_be_made_is_told(tmp_path, told):
    """Where no file can be made the program runs on without, and the log says why."""
    (tmp_path / "file").write_text("")
    with FaultFile(tmp_path / "file" / "data") as faults:
        faults.tell()

    assert faults.path is None
    assert [(line["level"], line["msg"]) for line in told()] == [("warning", "there is no fault file")]
    assert "Not a directory" in told()[0]["error"]


def test_faulthandler_that_was_enabled_stays_theirs(data_dir):
    """With Python's own faulthandler enabled the stacks stay there, and there is no file of ours."""
    done = run_child(data_dir, SEGFAULT, "-X", "faulthandler")

    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert names(data_dir) == []


def test_report_that_is_no_text_is_read(data_dir):
    """The first line of any file is text; of a missing one it is empty."""
    (data_dir / "telemetry.1.fault").write_bytes(b"\xff\xfe" * 1_000)

    assert len(first_line(data_dir / "telemetry.1.fault")) <= 200
    assert first_line(data_dir / "telemetry.2.fault") == ""
