"""A real node and short programs in one store: each question about the node is answered by the node's own runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import zipfile

import pytest
from support import forkserver

# What a cron job does: opens telemetry in the standard place, records, and ends.
CRON = """
from hearthnet.config import default_config, resolve_paths
from hearthnet.observability import get_logger, telemetry, trace

with telemetry.open(resolve_paths(default_config()).observability):
    for number in range(3):
        with trace.new_trace("cron.copy") as made:
            made.fail("timeout", f"no answer from host {number}")
    get_logger("cron").error("the copy failed")
"""


@pytest.fixture
def cron(node, tmp_path):
    """Runs a cron job with the node's store."""
    script = tmp_path / "cron.py"
    script.write_text(CRON)

    def run() -> None:
        done = forkserver.run([sys.executable, script], env={**os.environ, "HOME": str(node.home)})
        assert done.returncode == 0, done.stderr

    return run


def autopsy(node, *arguments):
    """Returns exit code and document of an autopsy."""
    done = node.cli("autopsy", "--json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_death_of_the_node_among_cron_jobs(node, cron):
    """Killed between two cron jobs, the node is what autopsy, doctor and info speak of; each job has its own place."""
    cron()
    assert node.echo("hello").status_code == 200
    assert autopsy(node)[1]["verdict"] == "running"
    node.stop(signal.SIGKILL)

    for job in (None, cron, cron):  # the first of them to end recovers the node's box
        if job is not None:
            job()
        code, found = autopsy(node)
        assert (code, found["verdict"], found["run"]["role"]) == (1, "killed", "node")
        assert found["run"]["pid"] == node.process.pid
        assert not [group for group in found["errors"] if group["name"].startswith("cron")]

    code, found = autopsy(node, "--program", "cron.py")
    assert (code, found["verdict"], found["run"]["program"], found["run"]["role"]) == (
        0, "clean_stop", "cron.py", "library",
    )  # fmt: skip
    assert autopsy(node, "--run", found["run"]["run_id"])[0] == 0
    assert node.cli("autopsy", "--program", "nightly.py").returncode == 2

    checks = {name: json.loads(node.cli("doctor", "--json", "--check", name).stdout)["checks"][0] for name in (
        "last_run", "recent_error_rate",
    )}  # fmt: skip
    assert checks["last_run"]["evidence"]["pid"] == node.process.pid
    assert checks["recent_error_rate"]["evidence"]["failed"] == 0
    runs = json.loads(node.cli("telemetry", "info", "--json").stdout)["runs"]
    assert (runs["count"], runs["unclean"], runs["of_other_programs"]) == (1, 1, 3)


def test_traces_of_all_programs_say_whose_they_are(node, cron):
    """`trace recent`, from the node and from disk: a column when there are several programs, in JSON always."""
    assert node.echo("hello").status_code == 200
    (own,) = node.get("/trace/recent", params={"n": 1}).json()
    alone = node.cli("trace", "recent").stdout.splitlines()[0]
    node.stop()
    cron()

    traces = json.loads(node.cli("trace", "recent", "--json").stdout)
    assert [(item["capability"], item["program"]) for item in traces][:3] == [("cron.copy", "cron.py")] * 3
    assert {item["program"] for item in traces if item["capability"] == "experimental.echo"} == {own["program"]}
    assert own["program"] not in (None, "cron.py")
    assert "program" not in alone
    assert "program" in node.cli("trace", "recent").stdout.splitlines()[0]
    of_cron = ("trace", "recent", "--program", "cron.py", "--json")
    assert len(json.loads(node.cli(*of_cron).stdout)) == 3
    shown = node.cli("trace", "show", traces[0]["trace_id"]).stdout
    assert "of cron.py" in shown

    node.start()
    assert len(json.loads(node.cli(*of_cron).stdout)) == 3


def test_bundle_of_a_running_node_has_its_fresh_failures(node, tmp_path):
    """Five calls that failed a moment ago, not committed perhaps, are in the bundle of the node that still runs."""
    for _ in range(5):
        failed = node.call({"params": {}, "input": {"text": "x", "fail": "timeout"}})
        assert failed.status_code != 200
    target = tmp_path / "bundle.zip"
    done = node.cli("doctor", "--bundle", str(target), "--yes")
    assert target.exists(), done.stderr

    with zipfile.ZipFile(target) as packed:
        parts = {name.rpartition("/")[2]: packed.read(name) for name in packed.namelist()}
    runs, calls, errors = (json.loads(parts[f"{name}.json"]) for name in ("runs", "calls", "errors"))
    assert (runs["present"]["verdict"], runs["present"]["is_alive"]) == ("running", True)
    assert "last" not in runs
    (echo,) = [item for item in calls["present"] if item["kind"] == "experimental.echo"]
    assert echo["results"]["timeout"] == 5
    assert sum(item["count"] for item in errors["present"] if item["kind"] == "trace") == 5
