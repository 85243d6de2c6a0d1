"""The command line as used by people and scripts: output and exit codes, with and without a running node."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from support import forkserver
from support.longer import few
from support.terminal import on_terminal

from hearthnet.config import default_path
from hearthnet.observability import get_logger, telemetry, trace

HELLO = '{"input": {"text": "hello"}}'


def test_first_hour_of_a_newcomer(node):
    """Call, list, show, log and SQL all show the same call under its id."""
    called = node.cli("call", "experimental.echo", "--body", HELLO)
    assert (called.returncode, json.loads(called.stdout), called.stderr) == (0, {"text": "hello"}, "")
    failed = node.cli("call", "experimental.echo@1.0", "--body", '{"input": {"text": "x", "fail": "timeout"}}')
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: timeout: simulated failure\nhint: hearthnet trace show ")

    # What was refused before it was a call has no trace to be shown.
    refused = node.cli("call", "experimental.echo", "--body", '{"inputs": {}}')
    assert refused.stderr.startswith("error: bad_request: the body must be an object with params and input\n")
    assert refused.stderr.endswith("\nhint: hearthnet call --help\n")

    listed = json.loads(node.cli("trace", "recent", "--json").stdout)
    assert [item["result"] for item in listed] == ["timeout", "ok"]
    trace_id = listed[1]["trace_id"]
    table = node.cli("trace", "recent").stdout
    assert trace_id in table
    assert "timeout" in table

    shown = node.cli("trace", "show", trace_id.lower()).stdout
    for name in ("find", "authorize", "validate", "admit", "handle", "check_answer"):
        assert re.search(rf"^{name} .*[█#].* ms", shown, re.MULTILINE)  # as the locale allows
    logged = json.loads(node.cli("log", "--trace", trace_id, "--json").stdout)
    assert [line["msg"] for line in logged] == ["done"]
    node.wait_for_sql(
        [("experimental.echo", "ok")], "SELECT capability, result FROM traces WHERE trace_id = ?", trace_id
    )
    assert len(node.sql("SELECT * FROM spans WHERE trace_id = ?", trace_id)) == 6


def test_call_streams_frame_by_frame(shared_node):
    """`--stream` prints one JSON line per frame; without it the frames are one array; an error exits with 1."""
    body = '{"input": {"text": "hi", "frames": 2}}'
    streamed = shared_node.cli("call", "experimental.echo", "--stream", "--body", body)
    assert [json.loads(line) for line in streamed.stdout.splitlines()] == [
        {"index": 0, "text": "hi"},
        {"index": 1, "text": "hi"},
    ]
    collected = shared_node.cli("call", "experimental.echo", "--body", "-", input=body)
    assert json.loads(collected.stdout) == [{"index": 0, "text": "hi"}, {"index": 1, "text": "hi"}]
    failing = shared_node.cli(
        "call", "experimental.echo", "--stream", "--body", '{"input": {"text": "hi", "frames": 1, "fail": "partition"}}'
    )
    assert failing.returncode == 1
    assert "partition" in failing.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["call", "experimental.nothing", "--body", HELLO], 1),
        (["call", "experimental.echo", "--body", '{"input": {}}'], 1),
        (["call", "experimental.echo", "--body", '{"input": {"text": "x", "fail": "unauthorized"}}'], 4),
        (["call", "experimental.echo", "--body", '{"input": {"text": "x", "fail": "revoked"}}'], 4),
        (["call", "experimental.echo", "--body", "not json"], 2),
        (["call", "experimental.echo", "--body", "[]"], 2),
        (["call"], 2),
        (["nonsense"], 2),
        (["trace", "show", "not-a-ulid"], 2),
        (["trace", "show", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"], 1),
        (["doctor", "--check", "nonsense"], 2),
        (["log", "--level", "loud"], 2),
        (["status"], 0),
        (["caps"], 0),
        (["version"], 0),
        (["paths", "telemetry"], 0),
    ],
)
def test_exit_codes(shared_node, arguments, code):
    """Each outcome has its specified exit code, and errors go to stderr only."""
    done = shared_node.cli(*arguments)

    assert done.returncode == code, done.stderr
    assert bool(done.stderr) is (code != 0)
    assert "Traceback" not in done.stderr


def test_without_a_node(stopped_node):
    """Commands work from disk if they can; the others exit with 3 and show how to start a node."""
    for arguments in (["call", "experimental.echo", "--body", HELLO], ["caps"]):
        done = stopped_node.cli(*arguments)
        assert done.returncode == 3
        assert "hint: start it: hearthnet run" in done.stderr
    status = json.loads(stopped_node.cli("status", "--json").stdout)
    assert (status["running"], status["event_log_size"], status["community"]) == (False, 1, "home")
    assert stopped_node.cli("log").returncode == 0
    assert json.loads(stopped_node.cli("log", "--json").stdout) == []
    nothing = stopped_node.cli("trace", "recent")
    assert nothing.returncode == 1
    assert "hint: start the node once" in nothing.stderr


def test_another_nodes_answers_are_not_ours(node, tmp_path):
    """Tools with a different home do not show this node's data."""
    config = default_path().read_text()
    other = {**os.environ, "HOME": str(tmp_path / "other")}
    (tmp_path / "other").mkdir()
    assert node.cli("init", "--non-interactive", env=other).returncode == 0
    strange = tmp_path / "strange.toml"
    strange.write_text("\n".join(line for line in config.splitlines() if not line.startswith("community_id")))

    assert node.cli("caps", "--config", str(strange), env=other).returncode == 3
    assert not json.loads(node.cli("status", "--json", "--config", str(strange), env=other).stdout)["running"]


def test_init_is_idempotent_and_private(home):
    """A second `init` keeps everything; key and settings files are private."""
    run = [sys.executable, "-m", "hearthnet", "init", "--json"]
    first = json.loads(forkserver.run([*run, "--name", "Maple Street"], check=True).stdout)
    second = json.loads(forkserver.run(run, check=True).stdout)

    assert first["name"] == second["name"] == "Maple Street"
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert first["node_id"] == second["node_id"] == first["community_id"]
    data = home / ".local" / "share" / "hearthnet"
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "keys" / "device.ed25519").stat().st_mode & 0o777 == 0o600
    assert default_path().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[transport]\nprot = 1\n", ["[transport] prot: no such setting", "known here: host, port"]),
        ("[transport]\nport = 'x'\n", ["[transport] port: 'x'"]),
        ("[transport\n", ["not valid TOML"]),
        ("[observability]\nlog_level = 'loud'\n", ["[observability] log_level: 'loud'"]),
        ("[observability]\nlog_dir = '${NOWHERE_SET}'\n", ["NOWHERE_SET", "export NOWHERE_SET"]),
    ],
)
def test_malformed_config_ends_run_with_one_line(stopped_node, text, expected):
    """An invalid setting is named with section, value and hint, with exit code 1; nothing is started."""
    default_path().write_text(text)
    done = stopped_node.cli("run")

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert all(part in done.stderr for part in expected)
    assert not stopped_node.data_dir.joinpath("telemetry.db").exists()


def test_missing_key_ends_run_with_a_hint(stopped_node):
    """Without its key the node does not start, and shows how to create one."""
    for path in (stopped_node.data_dir / "keys").iterdir():
        path.unlink()
    done = stopped_node.cli("run")

    assert done.returncode == 1
    assert "no device key" in done.stderr
    assert "hint: create one with: hearthnet init" in done.stderr


def test_help_everywhere_has_an_example(home):
    """Every command explains itself, with an example."""
    commands = ["init", "run", "status", "caps", "call", "trace recent", "trace show", "log", "doctor", "paths"]
    for command in commands:
        arguments = [sys.executable, "-m", "hearthnet", *command.split(), "--help"]
        done = forkserver.run(arguments, check=True)
        assert "Example: hearthnet" in done.stdout
        assert "\b" not in done.stdout


def test_reader_that_has_enough_is_no_error(node):
    """`hearthnet log | head -1` exits silently."""
    for number in range(50):
        node.echo(str(number))
    for arguments in ("log --json -f", "log", "trace recent"):
        piped = f"{sys.executable} -m hearthnet {arguments} | head -1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=30)
        assert done.stdout.splitlines()[-1] == "0"
        assert len(done.stdout.splitlines()) == 2
        assert done.stderr == ""


CLOSED = [
    f"{arguments} {closed}"
    for arguments in ("log", "doctor --check disk_space", "paths", "version")
    for closed in (">&-", "<&- >&- 2>&-")
]


@pytest.mark.parametrize("arguments", few(CLOSED, "log >&-", "doctor --check disk_space <&- >&- 2>&-"))
def test_closed_streams(stopped_node, arguments):
    """Commands work with closed standard streams, and no database gets their descriptors."""
    command = f"{sys.executable} -m hearthnet {arguments}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True)

    assert done.returncode == 0
    assert done.stderr.replace(f"no log files are in {stopped_node.log_dir} yet\n", "") == ""


def test_log_filters(stopped_node, observability):
    """Level, component and trace filter records; the newest come last."""
    settings = observability.model_copy(update={"log_dir": stopped_node.log_dir, "log_level": "debug"})
    with telemetry.open(settings):
        get_logger("hearthnet.bus.router").info("one")
        get_logger("hearthnet.busy").warning("two")
        with trace.new_trace("a.b") as started:
            get_logger("hearthnet.bus").error("three", extra={"evil": "\x1b[31mred\r\n"})

    def messages(*arguments):
        return [line["msg"] for line in json.loads(stopped_node.cli("log", "--json", *arguments).stdout)]

    assert messages() == ["one", "two", "three", "done"]
    assert messages("-n", "2") == ["three", "done"]
    assert messages("-n", "0") == []
    assert messages("--level", "warning") == ["two", "three"]
    assert messages("--component", "bus") == ["one", "three"]
    assert messages("--component", "hearthnet.bus.router") == ["one"]
    assert messages("--trace", started.trace_id) == ["three", "done"]
    text = stopped_node.cli("log").stdout
    assert "\x1b[31m" not in text
    assert "\\u001b[31mred\\r\\n" in text


def test_foreign_server_is_no_node(stopped_node, http_date_server):
    """Another program on the port is not taken for a node."""
    port = http_date_server(0).partition(":")[2]
    strange = default_path().read_text().replace(str(stopped_node.port), port)
    default_path().write_text(strange)

    assert stopped_node.cli("call", "experimental.echo", "--body", HELLO).returncode == 3
    assert stopped_node.cli("caps").returncode == 3


def test_nothing_recorded_reaches_the_terminal_raw(stopped_node, observability):
    """Control and reordering characters in records are escaped in tables, waterfalls and JSON."""
    evil = "x\x1b[31mEVIL\x9b31m\u202e"
    settings = observability.model_copy(update={"data_dir": stopped_node.data_dir})
    with telemetry.open(settings), trace.new_trace(f"{evil}@{evil}") as started, trace.span(evil, **{evil: evil}):
        started.fail("timeout", evil)
    for arguments in (["trace", "recent"], ["trace", "recent", "--json"], ["trace", "show", started.trace_id]):
        sent = on_terminal(*arguments).text
        assert not re.search("\x1b\\[31mEVIL|[\x80-\x9f\u202e]", sent)
        assert "EVIL" in sent


def test_log_follow_goes_on_across_days(stopped_node):
    """`--follow` shows new records, in today's file and in tomorrow's."""
    directory = stopped_node.log_dir
    directory.mkdir(parents=True)
    line = '{"ts":"2026-01-01T00:00:00.000Z","level":"info","logger":"hearthnet.x","msg":"%s"}\n'
    (directory / "2026-01-01.log").write_text(line % "before")
    command = [sys.executable, "-m", "hearthnet", "log", "--follow", "--json"]
    following = forkserver.spawn(command, stdout=subprocess.PIPE, text=True)
    try:
        assert json.loads(following.stdout.readline())["msg"] == "before"
        with (directory / "2026-01-01.log").open("a") as file:
            file.write(line % "same day")
        assert json.loads(following.stdout.readline())["msg"] == "same day"
        (directory / "2026-01-01.1.log").write_text(line % "same day, next file")
        assert json.loads(following.stdout.readline())["msg"] == "same day, next file"
        (directory / "2026-01-02.log").write_text(line % "next day")
        assert json.loads(following.stdout.readline())["msg"] == "next day"
    finally:
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130
        following.stdout.close()


def test_waterfall_fits_a_terminal_of_80_columns(node):
    """On an 80-column terminal no line is longer, and the only escape sequences are colours."""
    answer = node.echo("x", delay_ms=20)
    trace_id = answer.headers["X-HearthNet-Request-Id"]
    for arguments in (["trace", "show", trace_id], ["trace", "recent"], ["status"], ["doctor", "--list"], ["caps"]):
        code, output, _ = on_terminal(*arguments)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
        assert code == 0
        assert "\x1b" not in plain
        assert max(len(line) for line in plain.splitlines()) <= 80


def test_status_is_answered_to_this_machine_alone(shared_node):
    """The routes of the tools are served on loopback."""
    for path in ("/status", "/doctor?check=disk_space", "/trace"):
        assert shared_node.get(path).status_code == 200
    assert shared_node.get("/doctor?check=nonsense").status_code == 400


def test_status_after_a_kill_says_so(node):
    """Until the next start has recovered the box; after a clean stop there is nothing to say."""
    assert node.echo().status_code == 200
    node.stop(signal.SIGKILL)
    killed = node.cli("status")
    assert "did not stop cleanly: hearthnet autopsy" in killed.stdout
    assert json.loads(node.cli("status", "--json").stdout)["last_run"] == "unclean"
    (interrupted,) = node.sql("SELECT count(*) FROM errors WHERE result = 'interrupted' AND error IS NULL")
    assert interrupted == (0,)

    node.start()
    assert "not stop cleanly" not in node.cli("status").stdout
    assert node.stop() == 0
    assert "(not running)" in node.cli("status").stdout
    assert json.loads(node.cli("status", "--json").stdout)["last_run"] == "clean"


@pytest.mark.parametrize("arguments", few(["doctor --check disk_space", "doctor --list", "paths"], "paths"))
def test_output_that_does_not_fit_is_not_the_nodes_disk(stopped_node, arguments):
    """The disk of the output is the one that is full."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m hearthnet {arguments} >/dev/full"], stderr=subprocess.PIPE, text=True
    )

    assert done.returncode == 5
    assert "hint: write the output to a disk with free space" in done.stderr
    assert "hearthnet paths shows" not in done.stderr
