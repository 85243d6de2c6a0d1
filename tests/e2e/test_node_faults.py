"""A real node that is killed, or loses disk space, locks or files: it keeps serving and recovers."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress

import httpx
import pytest
from support import forkserver

from hearthnet.config import load, save

READER = """
import sqlite3
connection = sqlite3.connect({path!r}, isolation_level=None)
connection.execute({begin!r})
print(connection.execute("SELECT count(*) FROM traces").fetchone()[0], flush=True)
input()
"""


@pytest.fixture
def node_on_tiny_disk(stopped_node, tiny_disk):
    """A running node with its telemetry on its own small disk."""
    config = load()
    places = {"data_dir": tiny_disk / "data", "log_dir": tiny_disk / "logs", "max_disk_mb": 64}
    save(config.model_copy(update={"observability": config.observability.model_copy(update=places)}))
    stopped_node.data_dir, stopped_node.log_dir = places["data_dir"], places["log_dir"]
    stopped_node.start()
    yield stopped_node
    if stopped_node.process.poll() is None:
        stopped_node.stop(signal.SIGKILL)


def answers(node, count=20) -> None:
    """Makes that many successful calls in a row."""
    with httpx.Client(verify=False) as client:
        for number in range(count):
            assert node.echo(str(number), client).status_code == 200


def call_that_breaks_off(node) -> None:
    """A long call whose node is killed meanwhile."""
    with pytest.raises(httpx.HTTPError):
        node.echo("slow", delay_ms=30_000)


def test_killed_node_knows_what_it_was_doing(node):
    """After SIGKILL during a call, the next start recovers all records before the port opens, and reports them."""
    answers(node, 50)
    waiting = threading.Thread(target=call_that_breaks_off, args=(node,))
    waiting.start()
    while node.get("/status").json()["calls_in_flight"] != 1:
        node._wait_a_moment()
    node.stop(signal.SIGKILL)
    waiting.join()

    node.start()
    newest = node.get("/trace", params={"n": 100}).json()

    assert [item["result"] for item in newest] == ["interrupted"] + ["ok"] * 50
    assert newest[0]["capability"] == "experimental.echo"
    assert [(part["name"], part["status"]) for part in newest[0]["spans"]] == [("wait", "open")]
    assert node.sql("SELECT end_reason FROM runs ORDER BY started_us") == [("unclean",), (None,)]
    shown = node.cli("trace", "show", newest[0]["trace_id"])
    assert "interrupted" in shown.stdout
    listed = node.cli("trace", "recent", "5", "--result", "interrupted")
    assert newest[0]["trace_id"] in listed.stdout
    assert "1 call interrupted" in (node.home / "run.out").read_text()
    assert node.stop() == 0
    assert list(node.data_dir.glob("telemetry.*.box*")) == []


def test_node_answers_on_a_full_disk(node_on_tiny_disk, tiny_disk):
    """On a full disk calls are served, traces committed in place, pages served; afterwards all is healthy."""
    node = node_on_tiny_disk
    answers(node)
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)) == 1 << 16:
            pass
    answers(node, 60)
    assert node.get("/metrics").status_code == 200
    assert len(node.get("/trace", params={"n": 100}).json()) == 80
    node.wait_for_sql([(80,)], "SELECT count(*) FROM traces")
    filler.unlink()
    answers(node)
    node.wait_for_sql([(100,)], "SELECT count(*) FROM traces")
    assert node.stop() == 0


def test_node_answers_while_the_database_is_locked(node):
    """While another process holds the write lock, calls are served; their traces are stored afterwards."""
    answers(node, 5)
    with closing(sqlite3.connect(node.data_dir / "telemetry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answers(node, 50)
        assert len(node.get("/trace", params={"n": 100}).json()) == 55
        other.execute("ROLLBACK")
    node.wait_for_sql([(55,)], "SELECT count(*) FROM traces")


def test_node_answers_while_a_shell_pins_the_wal(node):
    """A reader in a transaction delays no call."""
    path = str(node.data_dir / "telemetry.db")
    command = [sys.executable, "-c", READER.format(path=path, begin="BEGIN")]
    with forkserver.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        reader.stdout.readline()
        answers(node, 50)
        node.wait_for_sql([(50,)], "SELECT count(*) FROM traces")
        reader.communicate("done\n")


def test_node_answers_when_its_data_folder_is_removed(node):
    """If the store's folder is removed, the node continues on a new store with all of this run's traces."""
    answers(node, 30)
    node.wait_for_sql([(30,)], "SELECT count(*) FROM traces")
    for path in node.data_dir.glob("telemetry*"):
        path.unlink()
    answers(node, 30)
    node.wait_a_while_for((node.data_dir / "telemetry.db").exists)
    node.wait_for_sql([(60,)], "SELECT count(*) FROM traces")
    assert node.stop() == 0


@pytest.mark.parametrize("content", [b"no database at all " * 500, b""], ids=["text", "empty"])
def test_node_starts_with_any_file_instead_of_the_database(stopped_node, content):
    """A garbage database is moved aside, and the node records."""
    (stopped_node.data_dir / "telemetry.db").write_bytes(content)
    stopped_node.start()
    answers(stopped_node, 3)
    stopped_node.wait_for_sql([(3,)], "SELECT count(*) FROM traces")


def test_second_process_commits_beside_the_node(node):
    """The records of a second program of the same store are in the database when it has ended."""
    script = f"""
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(ObservabilityConfig(data_dir=Path({str(node.data_dir)!r}), log_dir=None)) as t:
    print(t.error)
    for _ in range(7):
        with trace.new_trace("of.program"):
            pass
"""
    done = forkserver.run([sys.executable, "-c", script], check=True)
    assert done.stdout == "None\n"
    assert node.sql("SELECT count(*) FROM traces WHERE capability = 'of.program'") == [(7,)]
    assert node.stop() == 0
    node.start()
    assert node.sql("SELECT count(*) FROM traces WHERE capability = 'of.program'") == [(7,)]
    shutil.rmtree(node.log_dir)
    answers(node, 2)
