"""`hearthnet search` beside a running node, after it was killed, and with the full language on real records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from support import forkserver

COMMAND = [sys.executable, "-m", "hearthnet"]


def rows(node, *arguments):
    """What the command prints as JSON."""
    done = node.cli("search", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_call_is_found_before_and_after_its_commit(shared_node):
    """Also the one that just ended: the running node is asked. Each is found once."""
    for number in range(3):
        body = json.dumps({"input": {"text": f"{number}", "fail": "timeout"}})
        called = json.loads(shared_node.cli("call", "experimental.echo", "--json", "--body", body).stdout)
        found = rows(shared_node, f"trace:{called['trace_id']}", "result:timeout", "span:handle", "simulated")
        assert [row["trace_id"] for row in found] == [called["trace_id"]]
    shared_node.wait_for_sql([(3,)], "SELECT count(*) FROM traces WHERE result = 'timeout'")
    found = rows(shared_node, "result:timeout", "cap:experimental.*", "-result:ok")
    assert len({row["trace_id"] for row in found}) == len(found) == 3
    assert {row["program"] for row in found} == {"hearthnet"}


def test_store_of_a_killed_node_is_searched(node):
    """From disk; its SQL, too, by the other command."""
    node.echo("x")
    node.wait_for_sql([(1,)], "SELECT count(*) FROM traces")
    node.stop(signal.SIGKILL)
    assert [row["result"] for row in rows(node, "echo", "duration:<1h")] == ["ok"]
    assert rows(node, "--logs", "level:>=info", "node")

    sql = node.cli("search", "--sql", "echo", "-ошибка").stdout
    piped = node.cli("telemetry", "sql", "--json", "-", input=sql)
    assert [row["capability"] for row in json.loads(piped.stdout)] == ["experimental.echo"]


def test_reader_that_leaves_ends_it(shared_node):
    """As every command."""
    shared_node.echo("x")
    command = [*COMMAND, "search", "--logs", "-n", "1000"]
    home = {**os.environ, "HOME": str(shared_node.home)}
    with forkserver.spawn(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home, text=True) as process:
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
