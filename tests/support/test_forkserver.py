"""A forked program is what a new interpreter would have been: its process, streams, environment and exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import forkserver

SAY = """
import json, os, sys
print(json.dumps([sys.argv[1:], __name__, os.getcwd(), os.environ.get("WHO"), sys.stdin.read(), os.getpid()]))
print("apart", file=sys.stderr)
sys.exit(7)
"""


def program(text: str, *arguments: str) -> list[str]:
    """The command of a program that stands in a string."""
    return [sys.executable, "-c", text, *arguments]


def test_program_is_the_same_by_fork_and_by_a_new_interpreter(tmp_path):
    """Arguments, folder, environment, input, both outputs and the exit code."""
    given = {"cwd": tmp_path, "env": {**os.environ, "WHO": "me"}, "input": "typed"}
    forked = forkserver.run(program(SAY, "a", "b"), **given)
    new = subprocess.run(program(SAY, "a", "b"), capture_output=True, text=True, **given)

    assert forked.stdout.rpartition(",")[0] == new.stdout.rpartition(",")[0]
    assert (forked.stderr, forked.returncode) == (new.stderr, new.returncode) == ("apart\n", 7)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("import sys; sys.exit('no')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(9)", 9),
        ("import os; os.abort()", -6),
    ],
)
def test_exit_code_is_that_of_the_program(text, code):
    """However it ends."""
    assert forkserver.run(program(text)).returncode == code


def test_signals_reach_the_program_and_it_is_reaped():
    """SIGINT is a KeyboardInterrupt there; a wait that is too short raises; afterwards the pid is gone."""
    text = "import signal; print('ready', flush=True); signal.pause()"
    with forkserver.spawn(program(text), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stderr.read()
        assert process.wait(60) == -signal.SIGINT
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_module_and_file_run_as_main(tmp_path):
    """`-m` and a path work as for the interpreter."""
    file = tmp_path / "said.py"
    file.write_text("import sys; print(__name__, sys.argv[1:])")

    assert forkserver.run([sys.executable, file, "x"]).stdout == "__main__ ['x']\n"
    assert forkserver.run([sys.executable, "-m", "hearthnet", "version"]).stdout.startswith("hearthnet ")


def test_what_the_interpreter_reads_gets_a_new_one():
    """Where PYTHONPATH or the locale is another, nothing is forked."""
    process = forkserver.spawn(program(""), env={**os.environ, "PYTHONHASHSEED": "1"})

    assert isinstance(process, subprocess.Popen)
    assert process.wait(60) == 0


def test_program_does_not_outlive_the_tests():
    """One whose end was not waited for is killed when they end, and does not keep them from it."""
    text = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from support import forkserver
print(forkserver.spawn([sys.executable, "-c", "import signal; signal.pause()"]).pid)
"""
    done = subprocess.run(program(text), capture_output=True, text=True, check=True, timeout=120)

    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
