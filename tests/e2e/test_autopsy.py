"""`hearthnet autopsy` on this node's files: after a kill, while it runs, after a stop, and without files."""

from __future__ import annotations

import json
import os
import signal
from importlib.resources import files

import jsonschema

SCHEMA = json.loads(files("hearthnet").joinpath("schemas/autopsy.json").read_text("utf-8"))


def document_of(done) -> dict:
    """Returns the document on stdout, checked against the schema."""
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def test_autopsy_of_a_real_node(node):
    """Running, killed within a call, started again, stopped: verdict and exit code each time."""
    for number in range(12):
        assert node.echo(f"hello {number}").status_code == 200
    running = node.cli("autopsy", "--json")
    assert (running.returncode, document_of(running)["verdict"]) == (0, "running")

    node.stop(signal.SIGKILL)
    killed = node.cli("autopsy", "--json")
    found = document_of(killed)
    assert (killed.returncode, found["verdict"], found["confidence"]) == (1, "killed", "likely")
    printed = node.cli("autopsy", env={**os.environ, "NO_COLOR": "1"})
    assert printed.stdout.startswith("KILLED")
    assert "experimental.echo" in printed.stdout

    node.start()
    assert node.stop() == 0
    stopped = node.cli("autopsy", "--json")
    assert (stopped.returncode, document_of(stopped)["verdict"]) == (0, "clean_stop")
    before = node.cli("autopsy", "--json", "--run", found["run"]["run_id"][:20])
    assert (before.returncode, document_of(before)["verdict"]) == (1, "killed")


def test_autopsy_without_files_or_settings(stopped_node, tmp_path):
    """Without files: one line, a hint, and exit code 2."""
    done = stopped_node.cli("autopsy")
    assert done.returncode == 2
    assert "hint:" in done.stderr
    (tmp_path / "broken.toml").write_text("[transport\n")
    broken = stopped_node.cli("autopsy", "--config", str(tmp_path / "broken.toml"))
    assert (broken.returncode, "Traceback" in broken.stderr) == (2, False)
    assert stopped_node.cli("autopsy", "--since", "soon").returncode == 2
