"""Lists that are followed, interrupted, or of a node that has died, as a person at a terminal sees them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import forkserver
from support.terminal import on_terminal
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
HELLO = '{"input": {"text": "hello"}}'
SLOW = '{"input": {"text": "x", "delay_ms": 60000}}'


def following(*arguments):
    """Starts a command that goes on until it is interrupted."""
    command = [sys.executable, "-m", "hearthnet", *arguments]
    return forkserver.spawn(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process):
    """Presses Ctrl-C and returns the exit code and what was printed to standard error."""
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    said = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    return code, said


def test_traces_are_followed_across_commits_and_deaths(node):
    """Each trace is printed once, in the order of commits; also those of the node's next run."""
    node.echo("before")
    node.wait_for_sql([(1,)], "SELECT count(*) FROM traces")
    process = following("trace", "recent", "--follow", "--json", "--capability", "experimental.echo")
    assert json.loads(process.stdout.readline())["result"] == "ok"
    for number in range(3):
        node.echo(f"{number}", fail="timeout")
    assert [json.loads(process.stdout.readline())["result"] for _ in range(3)] == ["timeout"] * 3
    node.stop(signal.SIGKILL)
    node.start()
    node.echo("after")
    last = json.loads(process.stdout.readline())
    assert (last["result"], last["program"]) == ("ok", "hearthnet")
    assert interrupt(process) == (130, "")


def test_followed_traces_are_lines(node):
    """Without --json each trace is one line with time, id, capability, result and duration."""
    node.echo("x", fail="timeout")
    process = following("trace", "recent", "-f", "--failed")
    node.wait_for_sql([(1,)], "SELECT count(*) FROM traces")
    line = process.stdout.readline()
    assert line.split()[3:5] == ["experimental.echo", "timeout"]
    assert line.endswith(" ms hearthnet WireError: simulated failure\n")
    assert interrupt(process) == (130, "")


@pytest.mark.parametrize(
    "arguments",
    [["log", "-f", "-n", "1"], ["log", "-f", "-n", "1", "--json"], ["call", "experimental.echo", "--body", SLOW]],
    ids=" ".join,
)
def test_interruption_is_silent(node, arguments):
    """Ctrl-C ends what waits with 130, and says nothing."""
    node.echo("x")
    process = following(*arguments)
    if arguments[0] == "log":
        assert process.stdout.readline()
    else:
        wait_until(lambda: node.get("/status").json()["calls_in_flight"] == 1, "the call does not arrive")
    assert interrupt(process) == (130, "")


def test_call_prints_one_document(shared_node):
    """`--json` has the trace id and the result, of failed calls too; standard error has the hint as ever."""
    given = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
    called = shared_node.cli("call", "experimental.echo", "--json", "--trace-id", given.lower(), "--body", HELLO)
    assert json.loads(called.stdout) == {
        "trace_id": given, "result": "ok", "error": None, "response": {"text": "hello"},
    }  # fmt: skip
    failing = '{"input": {"text": "x", "fail": "partition"}}'
    failed = shared_node.cli("call", "experimental.echo", "--json", "--body", failing)
    document = json.loads(failed.stdout)
    assert (failed.returncode, document["result"], document["response"]) == (1, "partition", None)
    assert failed.stderr.endswith(f"hint: hearthnet trace show {document['trace_id']}\n")


@pytest.mark.parametrize("given", ["foo", "", "01HXR4", "81HXR4Z6W5S9E2JQ4Y0T7B3M1C", "01HXR4Z6W5S9E2JQ4Y0T7B3MIL"])
def test_trace_id_that_is_none_is_refused(shared_node, given):
    """It was replaced by another, silently."""
    done = shared_node.cli("call", "experimental.echo", "--trace-id", given, "--body", HELLO)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a trace id, which is a ULID of 26 characters" in done.stderr


def test_stream_is_json_already(shared_node):
    """`--stream --json` is refused."""
    assert shared_node.cli("call", "experimental.echo", "--stream", "--json", "--body", HELLO).returncode == 2


def test_last_is_the_call_that_just_ended(shared_node):
    """Also before it is committed: the running node is asked."""
    for _ in range(3):
        called = json.loads(shared_node.cli("call", "experimental.echo", "--json", "--body", HELLO).stdout)
        shown = json.loads(shared_node.cli("trace", "last", "--json").stdout)
        assert [item["trace_id"] for item in shown] == [called["trace_id"]]


def test_status_says_how_the_last_run_ended(node):
    """After a kill it names the command that finds out why; a call that was killed says so, too."""
    process = following("call", "experimental.echo", "--body", SLOW)
    wait_until(lambda: node.get("/status").json()["calls_in_flight"] == 1, "the call does not arrive")
    node.stop(signal.SIGKILL)
    assert process.wait(60) == 3
    assert process.stderr.read() == "error: the node ended during the call\nhint: why: hearthnet autopsy\n"
    process.stdout.close()
    process.stderr.close()
    killed = node.cli("status")
    assert "last run     did not stop cleanly: hearthnet autopsy\n" in killed.stdout
    assert f"full id      {node.keys.node_id}\n" in killed.stdout
    assert json.loads(node.cli("status", "--json").stdout)["last_run"] == "unclean"

    node.start()
    assert "last run" not in node.cli("status").stdout
    node.stop()
    assert json.loads(node.cli("status", "--json").stdout)["last_run"] == "clean"


def test_node_that_does_not_respond_is_no_dead_one(node):
    """A stopped process still holds its box."""
    node.process.send_signal(signal.SIGSTOP)
    try:
        # Its kernel accepts connections; another port stands for one that accepts none.
        config = node.home / "other.toml"
        config.write_text((node.home / ".config/hearthnet/config.toml").read_text().replace(f"{node.port}", "9"))
        shown = node.cli("status", "--config", str(config)).stdout
    finally:
        node.process.send_signal(signal.SIGCONT)
    assert "last run     still runs and does not respond: hearthnet doctor\n" in shown


def test_init_says_what_it_ignores(stopped_node):
    """The name and the profile of a node that exists are kept, and nothing is asked."""
    done = stopped_node.cli("init", "--name", "Other", "--profile", "spark")
    assert done.returncode == 0
    assert "note: --name 'Other' is ignored: this node's community is 'home'\n" in done.stderr
    assert "note: --profile spark is ignored: " in done.stderr
    assert stopped_node.cli("init", "--name", "home").stderr == ""
    code, text, _ = on_terminal("init", columns=200)
    assert (code, "Name of the community" in text) == (0, False)


def test_small_sizes_and_counts_are_readable(stopped_node):
    """Nothing that is there is shown as 0.0 MB, and one thing is singular."""
    stopped_node.start()
    stopped_node.echo("x")
    sql = ["telemetry", "sql", "SELECT capability, result FROM recent"]
    checks = ["doctor", "-v", "--check", "log_directory", "--check", "event_log_writable"]
    for arguments in (["status"], ["caps"], ["trace", "recent"], ["telemetry", "info"], sql, checks):
        shown = stopped_node.cli(*arguments).stdout
        assert " 0.0 MB" not in shown
        assert "(s)" not in shown
        assert [line for line in shown.splitlines() if line != line.rstrip()] == []


def test_forensics_takes_the_same_times_and_references(node):
    """With a bare interpreter, in the zone of the machine; JSON stays UTC."""
    node.echo("x")
    node.stop(signal.SIGKILL)
    script = [sys.executable, "-I", "-S", f"{ROOT}/scripts/forensics.py", str(node.data_dir)]

    def run(*arguments):
        zone = {"TZ": "Asia/Kolkata", "PATH": "/usr/bin:/bin"}
        return subprocess.run([*script, *arguments], capture_output=True, text=True, env=zone, timeout=60)

    text = run("--run", "last").stdout
    assert "+05:30, ran " in text
    assert "last seen at " in text
    assert "Z\n" not in text.partition("Timeline")[0]
    for arguments in (["--run", "-1"], ["--since", "1h"], ["--until", "16:30Z", "--since", "yesterday"]):
        assert run(*arguments).returncode == 1
    trace = json.loads(run("--json", "--around", "-1").stdout)
    assert any(entry["trace_id"] for entry in trace["timeline"])
    assert all("+05:30" not in line for line in trace["evidence"])
    assert run("--until", "1970-01-02").stdout.count("trace  ok") == 0
    for arguments, said in (
        (["--run", "-9"], "there is no run -9, only 1; known are 01"),
        (["--around", "-9"], "there is no trace -9, only 1"),
        (["--since", "nonsense"], "'nonsense' is not a time: use 90m"),
        (["--until", "25:00"], "'25:00' is not a time"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
