"""`--data DIR`: the commands that read, on the store of any program."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hearthnet.cli.main import _run
from hearthnet.config import ObservabilityConfig
from hearthnet.forensics import box as layout
from hearthnet.locations import store_in
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store.writer import Writer

KILLED = """
import os, signal, sys
from hearthnet.config import ObservabilityConfig
from hearthnet.locations import store_in
from hearthnet.observability import get_logger, telemetry, trace

with telemetry.open(ObservabilityConfig(**store_in(sys.argv[1])._asdict())):
    with trace.new_trace("shop.order"):
        get_logger("shop").warning("paying", extra={"amount": 7})
    stuck = trace.new_trace("shop.mail")
    with trace.span("connect"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def refuse(path, **_):
    """Fails as in a folder that has become read-only."""
    raise OSError(errno.EROFS, "Read-only file system", str(path))


async def fails(*_, **__):
    """Commits nothing."""
    return False


@pytest.fixture
def store(tmp_path):
    """The store of a program that has ended, in one folder."""
    with telemetry.open(ObservabilityConfig(**store_in(tmp_path / "runs")._asdict())), trace.new_trace("shop.order"):
        get_logger("shop").warning("paying", extra={"amount": 7})
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["trace", "recent"], "shop.order"),
        (["trace", "last"], "shop.order"),
        (["trace", "show", "last"], "shop.order"),
        (["log"], "paying"),
        (["log", "--trace", "last"], "paying"),
        (["search", "--logs", "amount:7"], "paying"),
        (["search", "cap:shop.order"], "shop.order"),
        (["telemetry", "info"], "runs"),
        (["telemetry", "sql", "SELECT capability FROM traces"], "shop.order"),
        (["telemetry", "export"], "shop.order"),
        (["autopsy"], "CLEAN STOP"),
        (["doctor"], "pass last_run"),
    ],
)
@pytest.mark.parametrize("name", ["", "telemetry.db"])
def test_commands_read_the_store_of_a_program(store, capsys, home, command, shown, name):
    """By its folder or its database; nothing is made in the standard folders."""
    assert _run([*command, "--data", str(store / name)]) == 0
    assert shown in capsys.readouterr().out
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("rest", [[], ["recent"], ["last"], ["show", "last"]])
def test_option_before_the_command_of_a_trace(store, capsys, rest):
    """As one writes it first; alone it lists the newest."""
    for given in (["--data", str(store)], [f"--data={store}"]):
        assert _run(["trace", *given, *rest]) == 0
        assert "shop.order" in capsys.readouterr().out


def test_configuration_is_not_read(store, capsys, home):
    """A config.toml that cannot be used keeps nobody from another program's store."""
    broken = home / ".config" / "hearthnet" / "config.toml"
    broken.parent.mkdir(parents=True)
    broken.write_text("[nonsense")

    for command in (["trace", "recent"], ["log"], ["telemetry", "info"], ["autopsy"], ["doctor"]):
        assert _run([*command, "--data", str(store)]) == 0, command
    assert _run(["trace", "recent"]) == 1


def test_a_running_node_is_not_asked(store, capsys, home, taken_port):
    """These are files."""
    settings = home / ".config" / "hearthnet" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[transport]\nport = {taken_port}\n")

    assert _run(["trace", "recent", "--data", str(store), "--json"]) == 0

    assert [item["capability"] for item in json.loads(capsys.readouterr().out)] == ["shop.order"]


def test_program_that_was_killed(tmp_path, capsys):
    """Its autopsy says so, with what was in flight; the lists say where its last records are."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "runs")], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr

    assert _run(["autopsy", "--data", str(tmp_path / "runs")]) == 1
    told = capsys.readouterr().out
    assert told.startswith("KILLED")
    assert all(text in told for text in ("shop.order", "paying", "shop.mail", "in connect for"))
    for command in (["trace", "recent"], ["search", "shop"]):
        assert _run([*command, "--data", str(tmp_path / "runs")]) == 0
        note = capsys.readouterr().err
        assert "1 process ended uncleanly and has records in its black box" in " ".join(note.split())
        assert "hearthnet autopsy --data" in " ".join(note.split())
    assert _run(["doctor", "--data", str(tmp_path / "runs"), "--check", "last_run", "--json"]) == 0
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["fix"] == f"hearthnet autopsy --data {tmp_path / 'runs'}"

    with telemetry.open(ObservabilityConfig(**store_in(tmp_path / "runs")._asdict())):
        pass
    assert _run(["trace", "recent", "--data", str(tmp_path / "runs"), "--json"]) == 0
    seen = capsys.readouterr()
    assert [item["result"] for item in json.loads(seen.out)] == ["interrupted", "ok"]
    assert seen.err == ""


@pytest.mark.parametrize(
    ("is_committed", "said"), [(False, "1 process could not commit and has records in its black box"), (True, "")]
)
def test_process_that_ended_in_order_is_not_called_killed(tmp_path, capsys, monkeypatch, is_committed, said):
    """It may have left its box all the same: it could not commit, or could not remove the file."""
    with telemetry.open(ObservabilityConfig(**store_in(tmp_path / "runs")._asdict())) as opened:
        with trace.new_trace("shop.order"):
            pass
        assert opened.flush()
        if is_committed:
            monkeypatch.setattr(Path, "unlink", refuse)
        else:
            monkeypatch.setattr(Writer, "flush", fails)
            get_logger("shop").warning("paid")
    monkeypatch.undo()
    monkeypatch.setattr(layout, "is_alive", lambda _: False)  # this process has ended
    capsys.readouterr()

    assert _run(["trace", "recent", "--data", str(tmp_path / "runs")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert (said in told, "uncleanly" in told) == (True, False)
    assert bool(told) is not is_committed


@pytest.mark.parametrize("command", [["trace", "recent"], ["log"], ["search", "x"], ["doctor"], ["telemetry", "info"]])
def test_wrong_usage(tmp_path, capsys, command):
    """A folder that is not there, or is none; two stores at once."""
    config = tmp_path / "config.toml"
    config.write_text("")

    assert _run([*command, "--data", str(tmp_path / "missing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    for wrong in (str(config), "/dev/null"):
        assert _run([*command, "--data", wrong]) == 2
        assert "is no folder" in capsys.readouterr().err
    assert _run([*command, "--data", str(tmp_path), "--config", str(config)]) == 2
    assert "cannot be combined" in capsys.readouterr().err


def test_autopsy_takes_one_place(tmp_path, capsys):
    """The argument or the option."""
    assert _run(["autopsy", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "give one" in capsys.readouterr().err


def test_folder_without_a_store(tmp_path, capsys):
    """Is an error that names the file, and says what to do also of a program's store."""
    assert _run(["trace", "recent", "--data", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}/telemetry.db does not exist" in said
    assert "of a program, name the folder that it records in" in said


def test_report_of_the_doctor_is_not_saved(store):
    """In a folder of another program."""
    assert _run(["doctor", "--data", str(store)]) == 0
    assert [path.name for path in store.iterdir() if "doctor" in path.name] == []
