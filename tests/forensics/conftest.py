"""Fixtures: the store of a real program that recorded with the real recorder and was killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import forkserver
from support.left_behind import PROGRAM


@pytest.fixture
def program(tmp_path):
    """Runs the program in its own folder and returns the folder. `last`: kill or stop."""

    def run(calls: int = 40, last: str = "kill", base: Path = tmp_path) -> Path:
        done = forkserver.run([sys.executable, "-c", PROGRAM, base, str(calls), last])
        assert done.returncode == (-9 if last == "kill" else 0), done.stderr
        return base

    return run
