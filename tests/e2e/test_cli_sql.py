"""`hearthnet telemetry sql` beside a running node, without one, and on a terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from benchmarks.sample import make_store
from support import forkserver
from support.terminal import on_terminal

HOSTILE = "char(27) || '[2J' || char(0x202e) || 'a'"
COMMAND = [sys.executable, "-m", "hearthnet", "telemetry", "sql"]


@pytest.fixture
def asked(stopped_node):
    """A stopped node with records; returns a function that runs the command."""
    make_store(stopped_node.data_dir / "telemetry.db")
    return lambda *arguments, **options: stopped_node.cli("telemetry", "sql", *arguments, **options)


def printed(*arguments):
    """Runs the command on an 80-column pseudo-terminal; returns exit code and output."""
    return on_terminal("telemetry", "sql", *arguments)[:2]


def test_running_node_is_asked_and_not_held_up(node):
    """Committed calls appear in all formats; the node continues writing."""
    for number in range(5):
        node.echo(str(number))
    node.wait_for_sql([(5,)], "SELECT count(*) FROM traces")
    sql = "SELECT capability, result, count(*) AS calls FROM recent GROUP BY 1, 2"

    table = node.cli("telemetry", "sql", sql)
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split() for line in table.stdout.splitlines()] == [
        ["capability", "result", "calls"],
        ["experimental.echo", "ok", "5"],
    ]
    told = node.cli("telemetry", "sql", "--json", "-", input=sql + ";\n")
    assert json.loads(told.stdout) == [{"capability": "experimental.echo", "result": "ok", "calls": 5}]
    refused = node.cli("telemetry", "sql", "DELETE FROM traces")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: not authorized\nhint: ")
    for number in range(5):
        node.echo(str(number))
    node.wait_for_sql([(10,)], "SELECT count(*) FROM traces")


def test_forms_keep_every_value(asked):
    """NULL, texts that look like NULL, blobs, repeated names and control characters are printed correctly."""
    sql = f"SELECT 1 AS a, 2.0 AS a, NULL AS n, '' AS e, 'x,\"y' AS q, x'ff00' AS b, {HOSTILE} AS h, '=1+1' AS f"

    told = asked("--json", sql)
    assert told.stdout.isascii()
    assert "\x1b" not in told.stdout
    assert json.loads(told.stdout) == [
        {"a": 1, "a_2": 2.0, "n": None, "e": "", "q": 'x,"y', "b": "ff00", "h": "\x1b[2J\u202ea", "f": "=1+1"}
    ]
    plain = forkserver.run([*COMMAND, "--csv", sql], check=True, text=False).stdout.decode()
    assert plain.count("\r\n") == plain.count("\n") == 2
    assert ',,"",' in plain
    rows = list(csv.reader(io.StringIO(plain, newline="")))
    assert rows[1] == ["1", "2.0", "", "", 'x,"y', "ff00", "\x1b[2J\u202ea", "=1+1"]
    table = asked(sql).stdout
    assert "\x1b" not in table
    assert table.splitlines()[1].split() == ["1", "2.0", "NULL", 'x,"y', "x'ff00'", "\\u001b[2J\\u202ea", "=1+1"]
    assert json.loads(asked("--json", "SELECT 1 WHERE 0").stdout) == []


def test_terminal_gets_a_hundred_rows(asked):
    """The row limit is reported; long values are folded, control characters escaped, and a wide row is complete."""
    code, sent = printed("SELECT seq, extras FROM recent")
    assert code == 0
    assert "only the first 100 rows shown: --limit shows more" in sent
    code, sent = printed("--limit", "0", f"SELECT {HOSTILE} AS h, replace(hex(zeroblob(100)), '0', 'z') AS long")
    assert code == 0
    assert "\\u001b[2J\\u202ea" in sent
    assert "[2J" not in sent.replace("\\u001b[2J", "")
    assert sent.count("z") == 200
    assert "more than" not in sent
    code, sent = printed("SELECT trace_id, capability, extras FROM recent LIMIT 1")
    assert re.search(r"^[0-9A-Z]{26} notes\.search ", sent, re.MULTILINE)
    code, sent = printed("SELECT *, replace(hex(zeroblob(20)), '0', '§') AS last FROM recent LIMIT 1")
    assert (code, sent.count("§")) == (0, 40)
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in sent.splitlines()]
    assert max(map(len, lines)) <= 80


def test_wide_rows_are_blocks_on_a_terminal(asked):
    """Where a table would have columns of few characters, each row is lines of name and value."""
    code, sent = printed("SELECT * FROM traces ORDER BY seq LIMIT 2")
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in sent.splitlines()]
    (first, second) = json.loads(asked("--json", "SELECT * FROM traces ORDER BY seq LIMIT 2").stdout)
    assert code == 0
    assert [line.split()[0] for line in lines if re.match("[a-z]", line)] == [*first, *second]
    for row in (first, second):
        assert f"trace_id        {row['trace_id']}" in lines
    assert lines.count("") == 1


def test_error_is_reported_in_two_lines(asked):
    """SQLite's message and one hint are printed, with control characters escaped."""
    done = asked("SELECT ts,\n       capabilty\n  FROM recent")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: no such column: capabilty",
        "hint: only one SELECT is allowed; hearthnet telemetry sql --list shows the tables and columns",
    ]
    done = asked("SELECT 1 \x1b[31m")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "specify either SQL or --list"),
        (["--list", "SELECT 1"], 2, "specify either SQL or --list"),
        (["--json", "--csv", "SELECT 1"], 2, "only one of --json and --csv"),
        (["--timeout", "0", "SELECT 1"], 2, "--timeout"),
        (["--timeout", "3600", "SELECT 1"], 2, "--timeout"),
        (["--db", "missing.db", "SELECT 1"], 2, "missing.db"),
        (["SELECT 1"], 1, "hint: start the node once"),
        (["--list"], 1, "hint: start the node once"),
    ],
)
def test_exit_codes_where_nothing_is_yet(stopped_node, arguments, code, told):
    """Each outcome has its exit code and is told on standard error alone; nothing is made."""
    done = stopped_node.cli("telemetry", "sql", *arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (stopped_node.data_dir / "telemetry.db").exists()


def test_copy_is_asked_and_explains_itself(asked, stopped_node, tmp_path):
    """A snapshot elsewhere can be queried; --list explains its columns as text and JSON."""
    copy = tmp_path / "copy.db"
    assert stopped_node.cli("telemetry", "snapshot", str(copy)).returncode == 0
    (stopped_node.data_dir / "telemetry.db").unlink()

    listed = asked("--db", str(copy), "--list").stdout
    assert "CREATE VIEW run_history (\n    -- One row per run, newest first: of the node, and of" in listed
    assert re.search(
        "^    lived_s, +-- seconds from its start to its end, or to its newest record$", listed, re.MULTILINE
    )
    assert "SELECT" not in listed
    told = json.loads(asked("--db", str(copy), "--list", "--json").stdout)
    assert {"run_history", "minutes", "traces"} <= {relation["name"] for relation in told}
    with closing(sqlite3.connect(":memory:")) as connection:
        for relation in sorted(told, key=lambda relation: relation["type"]):
            connection.execute(relation["sql"])
        assert connection.execute("SELECT count(*) FROM run_history").fetchone() == (0,)
    counted = asked("--db", str(copy), "--csv", "SELECT count(*) FROM runs").stdout
    assert counted.splitlines() == ["count(*)", "7"]
    (tmp_path / "text.db").write_text("no database" * 100)
    refused = asked("--db", str(tmp_path / "text.db"), "SELECT count(*) FROM runs")
    assert refused.returncode == 1
    assert "file is not a database" in refused.stderr


def test_sorting_takes_bounded_memory(asked):
    """A query that would sort gigabytes exits with 1 and a hint at once, and writes no file."""
    sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n ORDER BY randomblob(100000)"
    done = asked("--timeout", "60", sql)

    assert (done.returncode, done.stdout) == (1, "")
    assert "out of memory" in done.stderr
    assert "hint: fetch fewer rows" in done.stderr


def test_help_has_examples():
    """The help fits 80 columns."""
    done = forkserver.run([*COMMAND, "--help"], check=True)

    assert "Example: hearthnet telemetry sql --list" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_one_long_step_ends_in_time_too(asked):
    """Inside a function SQLite does not check the time; the read transaction ends all the same."""
    started = time.monotonic()
    done = asked("--timeout", "0.5", "SELECT instr(hex(zeroblob(30000000)), hex(zeroblob(1000000)) || '1')")

    assert (done.returncode, done.stdout) == (1, "")
    assert "takes longer than 0.5 s" in done.stderr
    assert time.monotonic() - started < 30  # it would take minutes
