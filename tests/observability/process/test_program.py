"""The name of the program: of a script, a module, a command, and of what has none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hearthnet.observability.process.program import MAX_PROGRAM_BYTES, UNKNOWN, program_name

SOURCE = "from hearthnet.observability.process.program import program_name\nprint(program_name())\n"


@pytest.fixture
def run(tmp_path):
    """Runs Python with these arguments in a folder of its own and returns what it printed."""

    def run(*arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, input=given, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run


def test_script(run, tmp_path):
    """A script is known by its file name, wherever it is."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "cron.py").write_text(SOURCE)

    assert run("jobs/cron.py") == "cron.py"


def test_module(run, tmp_path):
    """`python -m` gives the module; that of a package is the package."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__main__.py").write_text(SOURCE)
    (tmp_path / "shop" / "till.py").write_text(SOURCE)
    (tmp_path / "alone.py").write_text(SOURCE)

    assert [run("-m", name) for name in ("shop", "shop.till", "alone")] == ["shop", "shop.till", "alone"]
    assert run("shop") == "shop"  # the folder itself


def test_no_file(run):
    """`python -c` and standard input have no name."""
    assert [run("-c", SOURCE), run("-", given=SOURCE), run(given=SOURCE)] == [UNKNOWN] * 3


def test_process_that_multiprocessing_has_started(monkeypatch):
    """It has its parent's arguments and no specification: the package is in the path."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/site-packages/shop/__main__.py", "--workers", "2"])

    assert program_name() == "shop"


@pytest.mark.parametrize("argv", [[], [""], ["."], None])
def test_program_without_arguments(monkeypatch, argv):
    """An embedded interpreter may have no arguments at all."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    if argv is None:
        monkeypatch.delattr(sys, "argv")
    else:
        monkeypatch.setattr(sys, "argv", argv)

    assert program_name() == UNKNOWN


def test_hostile_name(monkeypatch):
    """Bytes that are not text, control characters, and any length: it fits its field and can be printed."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", [os.fsdecode(b"/x/a\xff\x1b[2J\n" + "ä".encode() * 60)])
    name = program_name()

    assert name.startswith("a??[2J?ä")
    assert name.isprintable()
    assert len(name.encode()) <= MAX_PROGRAM_BYTES
