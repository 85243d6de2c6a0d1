"""`hearthnet telemetry` with the node up and down, on a terminal and in a script."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from support import forkserver
from support.terminal import on_terminal

SECRET = "Zq7-planted"


def rows_of(path, table="traces"):
    """Returns the number of rows of a table."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_running_node_is_read_and_copied_not_changed(node, tmp_path):
    """Info, snapshot, rebuild to a file and dry run work beside the node; commands that change the store fail."""
    for number in range(20):
        node.echo(f"{SECRET}{number}")
    node.wait_for_sql([(20,)], "SELECT count(*) FROM traces")

    told = json.loads(node.cli("telemetry", "info", "--json").stdout)
    assert told["rings"]["traces"]["rows"] == 20
    assert told["runs"]["running"] == 1
    assert [box["alive"] for box in told["boxes"]] == [True]
    made = json.loads(node.cli("telemetry", "snapshot", str(tmp_path / "copy.db"), "--json").stdout)
    assert made["rows"]["traces"] == rows_of(tmp_path / "copy.db") == 20
    rebuilt = json.loads(node.cli("telemetry", "rebuild", str(tmp_path / "new.db"), "--json").stdout)
    assert (rebuilt["rows"]["traces"], rebuilt["moved_to"]) == (20, None)
    dry = json.loads(node.cli("telemetry", "purge", "--all", "--dry-run", "--json").stdout)
    assert (dry["dry_run"], dry["traces"]) == (True, 20)
    for arguments in (["purge", "--all", "--yes"], ["rebuild", "--yes"]):
        refused = node.cli("telemetry", *arguments)
        assert refused.returncode == 1
        assert "stop the node first" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert node.sql("SELECT count(*) FROM traces") == [(20,)]


def test_purge_after_a_kill_leaves_the_logs_by_day(node):
    """After a kill, one capability is purged from the store, then the logs of the days printed."""
    for number in range(20):
        node.echo(f"{number}")
    node.wait_for_sql([(20,)], "SELECT count(*) FROM traces")
    node.echo("last")
    node.stop(signal.SIGKILL)
    purge = ("telemetry", "purge", "--capability", "experimental.echo")
    remarks = re.compile(
        r"the JSON logs of \d{4}-\d\d-\d\d are kept and may have lines of it\n"
        r"to erase them and everything older:\n  hearthnet (telemetry purge --older-than \S+)\n$"
    )

    dry = node.cli(*purge, "--dry-run").stdout
    assert re.search(r"not counted: records in 1 black box of killed runs\n", dry)
    assert remarks.search(dry)
    done = node.cli(*purge, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("erased 21 traces")
    left = [path for path in node.data_dir.glob("telemetry*") if path.is_file()]
    assert b'"experimental.echo"' not in b"".join(path.read_bytes() for path in left)
    advised = remarks.search(done.stdout)[1].split()
    assert node.cli(*advised, "--yes").returncode == 0
    assert list(node.log_dir.iterdir()) == []
    node.start()
    assert node.echo("again").status_code == 200


def test_rebuild_in_place_and_go_on(node):
    """A garbage database is replaced by a rebuilt one; the node continues with it."""
    for number in range(5):
        node.echo(str(number))
    node.stop()
    (node.data_dir / "telemetry.db").write_bytes(b"garbage" * 1_000)

    asked = node.cli("telemetry", "rebuild", stdin=subprocess.DEVNULL)
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    done = node.cli("telemetry", "rebuild", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 traces" in done.stdout
    assert "the old database is" in done.stdout
    node.start()
    node.echo("more")
    node.wait_for_sql([(6,)], "SELECT count(*) FROM traces")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info"], 1),
        (["snapshot", "copy.db"], 1),
        (["snapshot"], 2),
        (["rebuild"], 1),
        (["rebuild", "--force"], 2),
        (["purge"], 2),
        (["purge", "--all", "--trace", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"], 2),
        (["purge", "--older-than", "soon"], 2),
        (["purge", "--older-than", "999999999w"], 2),
        (["purge", "--trace", "x"], 2),
        (["purge", "--capability", "a.b@1.0"], 2),
        (["purge", "--all", "--yes"], 0),
        (["purge", "--older-than", "10m", "--dry-run"], 0),
        (["purge", "--older-than", "2026-01-01T10:00", "--dry-run"], 0),
    ],
)
def test_exit_codes_where_nothing_is_yet(stopped_node, tmp_path, arguments, code):
    """Each outcome has its exit code and is told on standard error alone; nothing is made."""
    done = stopped_node.cli("telemetry", *arguments, cwd=tmp_path)

    assert done.returncode == code, done.stderr
    assert bool(done.stderr) is (code != 0)
    assert "Traceback" not in done.stderr
    assert not (stopped_node.data_dir / "telemetry.db").exists()
    assert not (tmp_path / "copy.db").exists()


def test_full_disk_ends_with_5(node, tiny_disk):
    """A copy that does not fit fails with a hint, and leaves no file."""
    node.echo("x")
    node.stop()
    (tiny_disk / "filler").write_bytes(bytes(40 * 1024 * 1024 - 16 * 1024))
    for command in (["snapshot"], ["rebuild"]):
        done = node.cli("telemetry", *command, str(tiny_disk / "copy.db"))
        assert done.returncode == 5
        assert f"{tiny_disk / 'copy.db'} cannot be written: the disk is full" in done.stderr
        assert "hint: free some space" in done.stderr
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_purge_asks_on_a_terminal_and_shows_what(node):
    """The question shows the counts; declining changes nothing and exits with 2; agreeing erases."""
    node.echo("x")
    node.stop()
    code, sent, _ = on_terminal("telemetry", "purge", "--all", answer=b"n\n")
    assert code == 2
    assert re.search(r"to be erased: 1 trace, \d+ log records?, ", sent)
    assert rows_of(node.data_dir / "telemetry.db") == 1
    code, sent, _ = on_terminal("telemetry", "purge", "--all", answer=b"y\n")
    assert code == 0
    assert "erased 1 trace, " in sent
    assert rows_of(node.data_dir / "telemetry.db") == 0
    assert list(node.log_dir.iterdir()) == []


def test_info_fits_80_columns(node):
    """On a terminal only lines with a path are longer, and times are local."""
    node.echo("x")
    node.wait_for_sql([(1,)], "SELECT count(*) FROM traces")
    code, sent, _ = on_terminal("telemetry", "info")

    assert code == 0
    assert [line for line in sent.splitlines() if len(line) > 80 and str(node.data_dir) not in line] == []
    for name in ("database", "traces", "logs", "on disk", "free", "dropped", "runs", "wear", "black boxes"):
        assert re.search(rf"^{name} ", sent, re.MULTILINE)


def test_help_has_an_example(home):
    """Every command explains itself, with an example."""
    for command in ("", "info", "snapshot", "rebuild", "purge"):
        arguments = [sys.executable, "-m", "hearthnet", "telemetry", *command.split(), "--help"]
        done = forkserver.run(arguments, check=True)
        assert f"Example: hearthnet telemetry {command}".strip() in done.stdout
        assert max(len(line) for line in done.stdout.splitlines()) <= 80
