"""`hearthnet trace bodies` with and without a running node."""

from __future__ import annotations

import json


def test_operator_looks_into_one_capability(node):
    """Only calls made while recording have bodies, in the trace and on disk; the log has the times."""
    node.echo("before all that")
    on = node.cli("trace", "bodies", "experimental.echo", "--for", "5m", "--json")
    assert json.loads(on.stdout)[0]["capability"] == "experimental.echo"
    node.echo("while it is on")
    listed = node.cli("trace", "bodies")
    assert listed.stdout.startswith("experimental.echo ")
    off = node.cli("trace", "bodies", "--off")
    assert (off.returncode, off.stdout) == (0, "")
    node.echo("after all that")

    newest, middle, oldest = json.loads(node.cli("trace", "recent", "--json").stdout)
    assert json.loads(middle["extras"]["request_body"])["input"]["text"] == "while it is on"
    assert "all that" not in str(newest) + str(oldest)
    said = [line["msg"] for line in node.log_lines() if "bodies" in line["msg"]]
    assert said == ["bodies are recorded", "bodies are no longer recorded"]


def test_invalid_arguments(node):
    """An unknown capability or an invalid duration gives one line and an exit code."""
    unknown = node.cli("trace", "bodies", "experimental.nothing")
    assert unknown.returncode == 1
    assert unknown.stderr == "error: the node reported: no such capability here\nhint: see: hearthnet caps\n"
    assert node.cli("trace", "bodies", "experimental.echo", "--for", "2h").returncode == 2
    assert node.cli("trace", "bodies", "experimental.echo", "--for", "soon").returncode == 2


def test_without_a_node_it_says_so(stopped_node):
    """Without a running node the command exits with 3."""
    done = stopped_node.cli("trace", "bodies", "experimental.echo")

    assert done.returncode == 3
    assert "hint: start it: hearthnet run" in done.stderr
