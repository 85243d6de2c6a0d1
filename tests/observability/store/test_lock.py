"""Processes that make boxes at once take turns, by a lock on the folder."""

from __future__ import annotations

import subprocess
import sys

from hearthnet.observability.store import lock
from hearthnet.observability.store.lock import turn_in

COUNTING = """
import sys
from pathlib import Path
from hearthnet.observability.store import lock
lock._TURN_S = 60.0  # on a busy machine one may well be stopped in its turn for longer than usual
folder = Path(sys.argv[1])
for _ in range(200):
    with lock.turn_in(folder):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def test_processes_take_turns(tmp_path):
    """Three processes that count in one file lose no count."""
    (tmp_path / "number").write_text("0")
    started = [subprocess.Popen([sys.executable, "-c", COUNTING, str(tmp_path)]) for _ in range(3)]

    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "600"


def test_one_that_stopped_in_its_turn_keeps_nobody_waiting_for_ever(tmp_path, monkeypatch):
    """Whoever has waited long enough goes ahead, and the next turn is as good as any."""
    monkeypatch.setattr(lock, "_TURN_S", 0.05)
    with turn_in(tmp_path), turn_in(tmp_path):
        pass
    with turn_in(tmp_path):
        pass


def test_folder_is_made(tmp_path):
    """The first process of a store finds no folder yet."""
    with turn_in(tmp_path / "data"):
        assert (tmp_path / "data").is_dir()
