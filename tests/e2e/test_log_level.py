"""`hearthnet log level` against a real node: debug lines start, and stop by themselves."""

from __future__ import annotations

import json
import os
import signal
import socket

import httpx

BUS = "hearthnet.bus.bus"


def debug_lines(node) -> list[dict]:
    """Returns the debug lines of the log."""
    return [line for line in node.log_lines() if line["level"] == "debug"]


def messages(node) -> list[str]:
    """Returns the log's messages about levels."""
    return [line["msg"] for line in node.log_lines() if line["logger"] == "hearthnet.observability.logs.levels"]


def present(node) -> list[dict]:
    """Returns the changed levels from the JSON output."""
    done = node.cli("log", "level", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_debug_lines_come_and_stop_by_themselves(node):
    """At level info a call logs no debug line; for a second after the command it does; then no longer."""
    node.echo("before")
    assert debug_lines(node) == []

    def comes_within_a_second():
        changed = node.cli("log", "level", "bus=debug", "--for", "1s")
        assert (changed.returncode, changed.stdout.split()[:2]) == (0, ["hearthnet.bus", "debug"])
        node.echo("within")
        return debug_lines(node)

    # The second may be over before our call comes in: then once more.
    node.wait_a_while_for(comes_within_a_second, "no debug line came")
    assert {(line["logger"], line["msg"], line["capability"]) for line in debug_lines(node)} == {
        (BUS, "call admitted", "experimental.echo")
    }
    assert len(debug_lines(node)[0]["trace_id"]) == 26

    node.wait_a_while_for(lambda: messages(node)[-1] == "log level reverted", "the level did not revert")
    assert present(node) == []
    count = len(debug_lines(node))
    node.echo("after")
    assert len(debug_lines(node)) == count


def test_levels_are_listed_and_taken_back(node):
    """Without an argument the command lists changes, with --reset it reverts them; both also as JSON."""
    assert node.cli("log", "level").stderr == "every logger has its usual level\n"
    changed = json.loads(node.cli("log", "level", "hearthnet.bus=debug", "--json").stdout)
    assert [(item["logger"], item["level"], item["was"]) for item in changed] == [("hearthnet.bus", "debug", "info")]
    assert 590 < changed[0]["left_s"] <= 600
    node.cli("log", "level", "httpx=info", "--for", "2h")
    text = node.cli("log", "level").stdout.splitlines()
    assert [line.split()[:2] for line in text] == [["hearthnet.bus", "debug"], ["httpx", "info"]]
    assert text[0].endswith("then info")

    node.cli("log", "level", "bus", "--reset")
    assert [item["logger"] for item in present(node)] == ["httpx"]
    assert json.loads(node.cli("log", "level", "--reset", "--json").stdout) == []
    assert messages(node) == ["log level changed", "log level changed", "log level reverted", "log level reverted"]


NONSENSE = (
    (["bus=loud"], "levels are debug, info"),
    (["bus"], "example: bus=debug"),
    (["=debug"], "example: bus=debug"),
    (["bos=debug"], "near it: hearthnet.bus"),
    (["aiosqlite=debug"], "stays at warning"),
    (["bus=debug", "--for", "10 minutes"], "not a duration like 30s, 10m or 2h"),
    (["bus=debug", "--for", "25h"], "at most 24 hours"),
    (["bus=debug", "--for", "0"], "not a duration like"),
    (["bus=debug", "--reset"], "without a level"),
    (["bos", "--reset"], "near it: hearthnet.bus"),
)


def test_nonsense_is_a_usage_error(node):
    """An unknown logger, level or duration: exit code 2, a hint, nothing changed."""
    for arguments, told in NONSENSE:
        done = node.cli("log", "level", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert told in " ".join(done.stderr.split())

    assert present(node) == []


def test_options_of_reading_the_log_do_not_get_lost(stopped_node):
    """An option before `level` would have no effect and is refused; reading the log is unaffected."""
    refused = stopped_node.cli("log", "--json", "level")
    assert refused.returncode == 2
    assert "--json is for reading the log" in refused.stderr
    assert json.loads(stopped_node.cli("log", "-n", "3", "--level", "debug", "--json").stdout) == []


def test_no_node_is_exit_3(stopped_node):
    """Without a running node the exit code is 3."""
    for arguments in (["level"], ["level", "bus=debug"], ["level", "--reset"]):
        done = stopped_node.cli("log", *arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "hint: start it: hearthnet run" in done.stderr


def test_foreign_server_on_the_port_is_no_node(stopped_node, taken_port):
    """Another program on the port is not taken for our node, and gets no change request."""
    config = stopped_node.home / ".config" / "hearthnet" / "config.toml"
    config.write_text(config.read_text().replace(f"port = {stopped_node.port}", f"port = {taken_port}"))

    assert stopped_node.cli("log", "level", "bus=debug").returncode == 3


def test_browser_page_cannot_change_levels(node):
    """Over HTTP, a request with an Origin is refused, and so is one that is not JSON."""
    body = {"logger": "bus", "level": "debug"}
    url = f"{node.url}/control/log-level"

    assert httpx.post(url, json=body, headers={"Origin": "https://example.com"}).status_code == 403
    assert httpx.post(url, content=json.dumps(body), headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.get(url).json() == []


def test_libraries_are_quiet(node):
    """Start, call, invalid HTTP and stop leave no log line of a library, only ours."""
    node.echo()
    with socket.create_connection(("127.0.0.1", node.port)) as stranger:  # uvicorn would warn of it each time
        stranger.sendall(b"\x00nonsense\r\n\r\n")
        stranger.recv(1_000)
    assert node.stop() == 0
    lines = node.log_lines()

    assert [line for line in lines if not line["logger"].startswith("hearthnet")] == []
    assert [line["reason"] for line in lines if line["msg"] == "request refused"] == ["malformed"]
    assert (node.home / "run.out").read_text().count("Invalid HTTP") == 0


def test_crash_of_a_node_leaves_its_last_words(stopped_node):
    """A native fault leaves the stacks of all threads; the next start logs it once."""
    stopped_node.start()
    os.kill(stopped_node.process.pid, signal.SIGSEGV)
    assert stopped_node.process.wait(60) == -signal.SIGSEGV
    (path,) = stopped_node.data_dir.glob("telemetry.*.fault")
    assert path.read_text().startswith("Fatal Python error: Segmentation fault")

    stopped_node.start()
    assert stopped_node.stop() == 0
    (kept,) = stopped_node.data_dir.glob("telemetry.*.fault")
    stopped_node.start()
    assert stopped_node.stop() == 0
    told = [line for line in stopped_node.log_lines() if line["msg"] == "an earlier run was ended by a fault"]
    assert [(line["file"], line["reason"]) for line in told] == [(kept.name, "Fatal Python error: Segmentation fault")]
