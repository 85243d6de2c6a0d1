"""`hearthnet doctor` as run by people, cron jobs and containers: real processes and terminals, in every state."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import jsonschema
import pytest
from support import forkserver
from support.terminal import on_terminal

from hearthnet import checks
from hearthnet.cli import main
from hearthnet.observability.reports.report_file import MEMORY_FILE, recall

SCHEMA = json.loads(files("hearthnet").joinpath("schemas/doctor.json").read_text("utf-8"))
# Checks of a test's own, registered in a process that is else the command line as it is.
PLUGINS = """
import sys, threading
from pathlib import Path
from hearthnet.cli.main import main
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult

def hangs(config, bus):
    Path(sys.argv[1]).touch()
    threading.Event().wait()

def raises(config, bus):
    raise RuntimeError("as planned")

def looks(config, bus):
    return CheckResult("", ok=True, detail="seen")

doctor.register("hangs", hangs, deadline_s=float(sys.argv[2]))
for check in (raises, looks):
    doctor.register(check.__name__, check)
main(sys.argv[3:])
"""


def document_of(done: subprocess.CompletedProcess[str]) -> dict:
    """Parses the output: one JSON document that matches the schema and the exit code."""
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert done.stdout.count("\n") == 1
    assert document["ok"] == (done.returncode == 0)
    return document


def status_of(document: dict) -> dict[str, str]:
    """The status of each check."""
    return {item["name"]: item["status"] for item in document["checks"]}


def state_of(home) -> dict[str, tuple]:
    """All files with content and modification time, except the doctor's saved reports."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in home.rglob("*")
        if path.is_file()
        and path.name != MEMORY_FILE
        and not path.name.endswith("-shm")
        and not (path.name.endswith("-wal") and path.stat().st_size == 0)
    }


def in_this_process(capsys, *arguments: str) -> tuple[int, str, str]:
    """Runs the command line; returns exit code, stdout and stderr."""
    code = main._run(list(arguments))
    return code, *capsys.readouterr()


def shown(columns: int, *arguments: str, **environment: str) -> str:
    """Returns the command's output on a terminal of that width, without a spinner."""
    code, text, stderr = on_terminal(*arguments, columns=columns, stderr_apart=True, **environment)
    assert (code in (0, 1), stderr) == (True, "")
    return text


def test_node_up_and_down(node):
    """Healthy with and without a node, and the source is shown; --quiet prints nothing; each report is saved."""
    up = document_of(node.cli("doctor", "--json"))
    found = {item["name"]: item for item in up["checks"]}
    assert (up["version"], up["ok"], up["source"], up["pid"]) == (1, True, "node", node.process.pid)
    assert set(up["checks"][0]) == {"name", "status", "ok", "detail", "fix", "evidence", "duration_ms"}
    assert found["transport_port"]["status"] == "pass"
    assert found["at_least_one_capability"]["status"] == "pass"
    assert f"asked the node, pid {node.process.pid}\n" in node.cli("doctor", "--check", "keys_present").stdout
    assert node.stop() == 0

    down = node.cli("doctor", "--json")
    assert (document_of(down)["source"], status_of(document_of(down))["at_least_one_capability"]) == ("disk", "skip")
    quiet = node.cli("doctor", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert [len(report.checks) for report in recall(node.data_dir)] == [len(up["checks"]), 1, *[len(checks.ALL)] * 2]


def test_node_that_does_not_answer(node):
    """A hung node is a failure of its own; the rest is read from disk, all in time."""
    os.kill(node.process.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as both:
            waiting = both.submit(node.cli, "doctor", "--json")
            one = node.cli("doctor", "--check", "keys_present")
            done = waiting.result()
    finally:
        os.kill(node.process.pid, signal.SIGCONT)

    document = document_of(done)
    silent = document["checks"][0]
    assert (silent["name"], silent["status"], document["source"]) == ("node_answers", "fail", "disk")
    assert silent["fix"] == f"kill -CONT {node.process.pid}"
    assert document["pid"] == silent["evidence"]["pid"] == node.process.pid
    assert len(document["checks"]) == 1 + len(checks.ALL)
    assert one.returncode == 0  # what was asked for is well
    assert "did not respond within 3 s: read from the disk\n" in one.stdout


def test_failure_warning_and_their_exit_codes(stopped_node):
    """A warning passes except with --strict, a failure does not; both come first, with a fix."""
    aside = stopped_node.data_dir / "telemetry.db.corrupt-20260526T081422Z"
    aside.touch(mode=0o600)
    warned = stopped_node.cli("doctor", "--json", "--check", "telemetry_store")
    strict = stopped_node.cli("doctor", "--json", "--check", "telemetry_store", "--strict")
    assert (warned.returncode, status_of(document_of(warned))) == (0, {"telemetry_store": "warn"})
    assert (strict.returncode, document_of(strict)["strict"]) == (1, True)
    assert [report.checks["telemetry_store"]["status"] for report in recall(stopped_node.data_dir)] == ["warn"] * 2

    key = stopped_node.data_dir / "keys" / "device.ed25519"
    key.chmod(0o644)
    both = ["--check", "telemetry_store", "--check", "keys_present"]
    failed = stopped_node.cli("doctor", *both)
    lines = failed.stdout.splitlines()
    assert failed.returncode == 1
    assert lines[1].startswith("telemetry_store warning since ")
    assert [line.split()[1:3] for line in lines if line.startswith(("✘", "X", "!"))] == [
        ["fail", "keys_present"],
        ["warn", "telemetry_store"],
    ]
    assert f"       fix: chmod 600 {key}" in lines
    assert re.fullmatch(r"2 checks in \d+\.\d s: 1 failed, 1 warned, 0 passed, 0 skipped", lines[-1])
    news = document_of(stopped_node.cli("doctor", "--json", *both))["changes"]
    assert [change["name"] for change in news] == ["keys_present", "telemetry_store"]


def test_nothing_was_ever_set_up(home):
    """On a new machine the doctor shows how to begin, and creates nothing."""
    done = forkserver.run([sys.executable, "-m", "hearthnet", "doctor"])

    assert done.returncode == 1
    assert "fix: hearthnet init\n" in done.stdout
    assert done.stderr == ""
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("text", ["[transport\n", '[transport]\nport = "many"\n'])
def test_broken_settings_are_a_finding(stopped_node, home, text):
    """An invalid config.toml is a failed check with its cause, never a crash."""
    (home / ".config" / "hearthnet" / "config.toml").write_text(text)
    done = stopped_node.cli("doctor", "--json")

    document = document_of(done)
    assert (done.returncode, done.stderr, status_of(document)) == (1, "", {"config_file": "fail"})
    assert "config.toml" in document["checks"][0]["detail"]


def test_checks_that_hang_or_raise(stopped_node, tmp_path):
    """The report is complete and in time: one finding per check, whatever the others do."""
    names = ["--check", "hangs", "--check", "raises", "--check", "looks", "--check", "keys_present"]
    done = forkserver.run([sys.executable, "-c", PLUGINS, tmp_path / "begun", "1", "doctor", "--json", *names])

    document = document_of(done)
    found = {item["name"]: item for item in document["checks"]}
    assert done.returncode == 1
    assert {name: item["status"] for name, item in found.items()} == {
        "keys_present": "pass",
        "hangs": "fail",
        "raises": "fail",
        "looks": "pass",
    }
    assert "RuntimeError: as planned" in found["raises"]["detail"]
    assert document["duration_ms"] < 30_000
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--json"], []], ids=["json", "text"])
def test_doctor_that_fails_itself(stopped_node, arguments):
    """Exit code 2, one line on stderr, and stdout is one valid document or empty."""
    broken = """
import sys
from hearthnet.cli import main
from hearthnet.cli.doctor import run as doctor_run
def fails(*_, **__): raise ValueError("no such luck")
doctor_run.diagnose = fails
main.main(sys.argv[1:])
"""
    done = forkserver.run([sys.executable, "-c", broken, "doctor", *arguments])

    assert done.returncode == 2
    assert done.stderr.startswith("error: the doctor itself failed: ValueError: no such luck\nhint: ")
    assert "Traceback" not in done.stderr
    if arguments:
        assert document_of(done)["error"] == {"message": "ValueError: no such luck"}
    else:
        assert done.stdout == ""


def test_nothing_is_changed_but_the_memory(node, home):
    """The doctor changes no file's content or time; with --no-memory not even its saved reports."""
    node.echo()
    assert node.stop() == 0
    before = state_of(home)
    assert len(before) > 5
    node.cli("doctor", "--json", "--no-memory")
    assert not (node.data_dir / MEMORY_FILE).exists()
    node.cli("doctor", "--json")

    assert state_of(home) == before
    assert len(recall(node.data_dir)) == 1


def test_two_doctors_at_once(stopped_node):
    """Two doctors at once do not disturb each other, and both reports are saved."""
    command = [sys.executable, "-m", "hearthnet", "doctor", "--json"]
    with ThreadPoolExecutor() as both:
        for done in both.map(forkserver.run, [command] * 2):
            document_of(done)
            assert done.returncode == 0

    assert len(recall(stopped_node.data_dir)) == 2


def test_memory_that_cannot_be_kept_is_a_note(stopped_node):
    """A full disk, or an unusable reports file, does not affect the report."""

    def no_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    full = stopped_node.cli("doctor", "--json", "--check", "keys_present", preexec_fn=no_space)
    (stopped_node.data_dir / MEMORY_FILE).unlink()
    (stopped_node.data_dir / MEMORY_FILE).mkdir()
    blocked = stopped_node.cli("doctor", "--json", "--check", "keys_present")

    for done in (full, blocked):
        assert status_of(document_of(done)) == {"keys_present": "pass"}
        assert "note: this report is not saved: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_folder_that_may_only_be_read(stopped_node):
    """The doctor works without write permission."""
    stopped_node.data_dir.chmod(0o500)
    done = stopped_node.cli("doctor", "--json", "--check", "keys_present")
    stopped_node.data_dir.chmod(0o700)

    assert status_of(document_of(done)) == {"keys_present": "pass"}
    assert "note: this report is not saved: " in done.stderr


def test_history_of_a_check(stopped_node, capsys):
    """A check's streaks, newest first; a check without reports is reported as such; a recovery is shown."""
    key = stopped_node.data_dir / "keys" / "device.ed25519"
    code, told, _ = in_this_process(capsys, "doctor", "--history", "keys_present")
    assert (code, told.startswith("no report of keys_present is saved yet")) == (0, True)
    for mode in (0o600, 0o644, 0o644, 0o600):
        key.chmod(mode)
        _, recovered, _ = in_this_process(capsys, "doctor", "--check", "keys_present")

    _, told, _ = in_this_process(capsys, "doctor", "--history", "keys_present")
    listed = json.loads(in_this_process(capsys, "doctor", "--history", "keys_present", "--json")[1])
    streaks = [(streak["status"], streak["reports"]) for streak in listed["streaks"]]
    assert streaks == [("pass", 1), ("fail", 2), ("pass", 1)]
    assert (listed["version"], listed["name"], listed["reports"]) == (1, "keys_present", 4)
    assert told.startswith("keys_present: 4 reports\n")
    assert re.search(r"fail \S+ ?\S* to \S+ ?\S*, 2 times\n +\S+device.ed25519 has mode 0644", told)
    assert re.search(r"^keys_present healthy again since .*:\d\d, failing until .*:\d\d$", recovered, re.MULTILINE)


def test_names_lists_and_the_schema(stopped_node, capsys):
    """--list names each check; an unknown name is a usage error with suggestions; the schema is valid."""
    listed = json.loads(in_this_process(capsys, "doctor", "--list", "--json")[1])
    assert [item["name"] for item in listed] == [check.__name__ for check in checks.ALL]
    assert all(item["verifies"] for item in listed)
    assert len(in_this_process(capsys, "doctor", "--list")[1].splitlines()) == len(checks.ALL)
    for option in ("--check", "--history"):
        code, stdout, stderr = in_this_process(capsys, "doctor", "--json", option, "dsk_space")
        assert (code, stdout) == (2, "")
        assert "did you mean disk_space" in stderr

    assert json.loads(in_this_process(capsys, "doctor", "--schema")[1]) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    lie = {"version": 1, "ok": True, "checks": [{**document_check(), "ok": True, "status": "fail"}]}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(lie)


def document_check() -> dict:
    """A result as in a report."""
    return {"name": "a", "status": "pass", "ok": True, "detail": "", "fix": None, "evidence": {}, "duration_ms": 0}


def test_terminal_of_80_columns(stopped_node):
    """Only a fix or a path may be wider, on its own line; the report is readable without colour and Unicode."""
    key = stopped_node.data_dir / "keys" / "device.ed25519"
    key.chmod(0o644)
    fix = f"chmod 600 {key}"
    coloured = shown(80, "doctor", "--verbose")
    assert "\x1b[31m" in coloured
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", shown(60, "doctor", LANG="C.UTF-8"))
    assert "\x1b" not in narrow
    assert [line for line in narrow.splitlines() if len(line) > 60 and len(line.split()) > 1] == [fix]
    assert f"\n       {key}\n       has mode 0644\n" in narrow
    assert f"       fix:\n{fix}\n" in narrow
    assert "✘ fail keys_present\n" in narrow

    bare = shown(80, "doctor", NO_COLOR="1", LANG="C", LC_CTYPE="")
    assert bare.isascii()
    assert "\x1b" not in bare
    assert "X fail keys_present\n" in bare


def test_reader_that_leaves_and_person_who_interrupts(stopped_node, tmp_path):
    """A closed pipe and Ctrl-C end the doctor without a traceback."""
    command = [sys.executable, "-m", "hearthnet", "doctor"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with forkserver.spawn(command, **pipes) as leaving:
        leaving.stdout.close()
        assert leaving.wait(60) == 0
        assert leaving.stderr.read() == ""

    begun = tmp_path / "begun"
    # Its deadline is beyond the test's: else a slow machine would end the check before the signal comes.
    command = [sys.executable, "-c", PLUGINS, begun, "300", "doctor", "--check", "hangs"]
    with forkserver.spawn(command, **pipes) as hanging:
        stopped_node.process = hanging
        stopped_node.wait_a_while_for(begun.exists)
        hanging.send_signal(signal.SIGINT)
        assert hanging.wait(60) == 130
        assert (hanging.stdout.read(), hanging.stderr.read()) == ("", "")
