"""SIGKILL at random moments under load drops or duplicates no finished trace, and every trace in flight is named."""

from __future__ import annotations

import sys
from pathlib import Path

import kills
import orjson
import pytest
from support import forkserver
from support.longer import few

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", few(range(8), 0, 1))
def test_kill_loses_nothing(tmp_path, seed):
    """A run killed at a random moment has all of its traces after the next start, and names those in flight."""
    figures = kills.kill_once(tmp_path / "data", tmp_path / "truth", seed, within_s=0.7)

    assert figures["recorded"] > 0
    assert figures["lost"] == figures["doubled"] == 0


def test_kills_in_a_row_on_one_store_lose_nothing(tmp_path):
    """After five killed runs of one store, the order and content of each run survive the next."""
    for seed in range(5):
        kills.kill_once(tmp_path / "data", tmp_path / "truth", 100 + seed, within_s=0.3)


def test_the_check_can_fail(tmp_path):
    """If the truth claims one trace too many, the comparison reports it."""
    kills.kill_once(tmp_path / "data", tmp_path / "truth", 1, within_s=0.3)
    run_id = kills.last_run(tmp_path / "data", but="")
    run_id = kills.last_run(tmp_path / "data", but=run_id)
    content = (tmp_path / "truth").read_bytes()
    truth = [kills.SLOT.unpack_from(content, number * kills.SLOT.size) for number in range(kills.THREADS)]
    most, least, *rest = truth[0]
    with pytest.raises(AssertionError):
        kills.compare(tmp_path / "data", run_id, [(most + 2, least + 2, *rest), *truth[1:]])


@pytest.mark.long
def test_soak_prints_its_figures():
    """The soak runs by itself and prints one document."""
    script = ROOT / "tests" / "e2e" / "kills.py"
    done = forkserver.run([sys.executable, script, "--kills", "1", "--within-s", "0.2", "--json"], check=True)

    assert orjson.loads(done.stdout)["traces_lost"] == 0
