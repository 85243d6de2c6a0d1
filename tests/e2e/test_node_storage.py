"""A real node whose database opens well and cannot be written, or whose -shm, WAL or box is removed or cut."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import httpx
import pytest
from support import forkserver
from support.longer import few

READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
for line in sys.stdin:
    print(connection.execute("SELECT count(*) FROM traces").fetchone()[0], flush=True)
"""
COUNT = "SELECT count(*) FROM traces"


def calls(node, count=20) -> None:
    """Makes that many successful calls in a row."""
    with httpx.Client(verify=False) as client:
        for number in range(count):
            assert node.echo(str(number), client).status_code == 200


def change(node, script) -> None:
    """Runs statements on the database, as another program might."""
    with closing(sqlite3.connect(node.data_dir / "telemetry.db", timeout=10)) as connection:
        connection.executescript(script)


def restart(node) -> None:
    """A clean stop, and the next start."""
    assert node.stop() == 0
    node.start()


def store_check(node) -> dict:
    """The doctor's finding of the store."""
    done = node.cli("doctor", "--check", "telemetry_store", "--json")
    (result,) = json.loads(done.stdout)["checks"]
    return result


def test_renamed_column_costs_nothing(node):
    """Neither while the node runs nor over restarts: all calls have a row, the old database is kept."""
    calls(node, 3)
    node.wait_for_sql([(3,)], COUNT)
    change(node, "ALTER TABLE traces RENAME COLUMN error TO failure")
    calls(node, 10)
    node.wait_for_sql([(13,)], COUNT)
    restart(node)
    calls(node, 10)

    node.wait_for_sql([(23,)], COUNT)
    assert node.sql("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]
    assert "telemetry.db.corrupt-" in store_check(node)["detail"]


def test_node_tells_which_trigger_refuses_its_records(node):
    """The doctor of the running node names it, and its command has everything stored, also what came before a kill.

    How such a run ended is in its box.
    """
    calls(node, 3)
    node.wait_for_sql([(3,)], COUNT)
    change(node, "CREATE TRIGGER mine BEFORE INSERT ON traces BEGIN SELECT RAISE(ABORT, 'no thanks'); END")
    calls(node, 10)
    assert node.stop() == 0
    assert "last run     stopped cleanly\n" in node.cli("status").stdout
    assert "1, 0 ended uncleanly" in node.cli("telemetry", "info").stdout
    node.start()
    node.stop(signal.SIGKILL)
    assert "did not stop cleanly" in node.cli("status").stdout
    assert "2, 1 ended uncleanly" in node.cli("telemetry", "info").stdout
    node.start()
    calls(node, 10)
    result = store_check(node)
    assert "the trigger mine on traces: no thanks" in result["detail"]
    shown = node.cli("telemetry", "info")
    assert "trigger mine on traces, refuses records: no thanks" in shown.stdout
    subprocess.run(result["fix"], shell=True, check=True)

    node.wait_for_sql([(23 - 10,)], COUNT)
    restart(node)
    node.wait_for_sql([(23,)], COUNT)
    assert node.sql("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_removed_shm_keeps_no_reader_in_the_past(node, tmp_path):
    """With a reader that stays, the command line, a snapshot and the page show all calls; the doctor passes."""
    calls(node, 10)
    node.wait_for_sql([(10,)], COUNT)
    path = node.data_dir / "telemetry.db"
    path.with_name("telemetry.db-shm").unlink()
    command = [sys.executable, "-c", READER, str(path)]
    with forkserver.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "10\n"
        calls(node, 200)
        node.wait_for_sql([(210,)], COUNT)
        assert "210" in node.cli("telemetry", "sql", COUNT, "--csv").stdout
        copied = node.cli("telemetry", "snapshot", str(tmp_path / "copy.db"))
        assert copied.stdout.split(": ")[1].startswith("210 traces")
        assert ", the newest of 2" in copied.stdout
        reader.stdin.close()
    assert store_check(node)["status"] == "pass"
    assert node.stop() == 0


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
@pytest.mark.parametrize("is_stopped_first", few([True, False], False))
def test_cut_sidecar_costs_nothing(node, ending, is_stopped_first):
    """A WAL or -shm that is cut under the node is noticed at the next commit, or at the clean stop."""
    calls(node, 20)
    node.wait_for_sql([(20,)], COUNT)
    os.truncate(node.data_dir / f"telemetry.db{ending}", 0)
    if not is_stopped_first:
        calls(node, 20)
    restart(node)

    node.wait_for_sql([(20 if is_stopped_first else 40,)], COUNT)
    assert node.sql("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]
    assert node.sql("PRAGMA integrity_check") == [("ok",)]


def test_advice_of_the_doctor_costs_nothing(node):
    """Pages that are overwritten under a node: the doctor's advice, and a restart, leave all calls of this run."""
    calls(node, 20)
    node.wait_for_sql([(20,)], COUNT)
    with (node.data_dir / "telemetry.db-wal").open("r+b") as file:
        file.write(bytes(4_096 * 30))
    store_check(node)
    calls(node, 20)
    restart(node)

    node.wait_for_sql([(40,)], COUNT)


def test_kill_after_a_cut_wal_loses_nothing(node):
    """What the cut WAL had is in the box: the next start has it, after a kill that came before the next commit."""
    calls(node, 20)
    node.wait_for_sql([(20,)], COUNT)
    node.process.send_signal(signal.SIGSTOP)
    os.truncate(node.data_dir / "telemetry.db-wal", 0)
    node.stop(signal.SIGKILL)
    node.start()

    node.wait_for_sql([(20,)], COUNT)
    assert node.sql("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]
