"""A store that a real program left behind: recorded by the recorder itself, and killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from left_behind import PROGRAM


@pytest.fixture
def program(tmp_path):
    """Runs the program in a folder of its own; returns that folder. `last`: kill, or stop."""

    def run(calls: int = 40, last: str = "kill", base: Path = tmp_path) -> Path:
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(base), str(calls), last], capture_output=True)
        assert done.returncode == (-9 if last == "kill" else 0), done.stderr.decode()
        return base

    return run
