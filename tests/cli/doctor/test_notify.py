"""`hearthnet doctor --notify`: from the checks to the channels, through the settings and the options."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest
from support.programs_of import script

from hearthnet.cli.doctor.ask import Findings
from hearthnet.cli.doctor.notify import Notice, as_told
from hearthnet.cli.main import _run
from hearthnet.config import default_path, load, resolve_paths


@pytest.fixture
def node(capsys):
    """A node that is set up, and the path of its key."""
    assert _run(["init", "--non-interactive"]) == 0
    assert _run(["config", "get", "identity.keys_dir"]) == 0
    folder = capsys.readouterr().out.splitlines()[-1]
    return f"{folder}/device.ed25519"


@pytest.fixture
def told(tmp_path):
    """A command that keeps what it is told, and what it was told."""
    program = script(tmp_path / "tell", f'cat >> "{tmp_path}/got"')

    def read():
        path = tmp_path / "got"
        lines = path.read_text().splitlines() if path.exists() else []
        return [change["status"] for line in lines for change in orjson.loads(line)["changes"]]

    return str(program), read


def doctor(*arguments):
    """Runs one check, with an exit code that tells how it went."""
    return _run(["doctor", "--check", "keys_present", "--quiet", *arguments])


def chmod(path, mode):
    """Makes the key readable by others, or private."""
    Path(path).chmod(mode)


def test_change_is_told_once_and_its_end_too(node, told, capsys):
    """By the command in config.toml; the exit code is that of the checks."""
    program, read = told
    assert _run(["config", "set", "doctor.command", orjson.dumps([program]).decode()]) == 0
    chmod(node, 0o644)
    codes = [doctor("--notify") for _ in range(3)]
    chmod(node, 0o600)
    codes += [doctor("--notify") for _ in range(3)]

    assert codes == [1, 1, 1, 0, 0, 0]
    assert read() == ["fail", "pass"]
    assert "note" not in capsys.readouterr().err


def test_option_names_a_channel(node, told):
    """Without `--notify`, and without settings."""
    program, read = told
    chmod(node, 0o644)

    assert doctor("--notify-command", program) == 1
    assert read() == ["fail"]


def test_channel_that_fails_is_said_and_tried_again(node, capsys):
    """The exit code tells a program; no address is printed."""
    chmod(node, 0o644)
    away = ["--notify-webhook", "http://127.0.0.1:1/s3cret-topic"]
    assert doctor(*away) == 1
    said = capsys.readouterr().err
    chmod(node, 0o600)
    assert doctor(*away) == 1

    assert said == "note: webhook at 127.0.0.1: connection refused; 1 change will be sent with the next run\n"
    assert "s3cret" not in capsys.readouterr().err


def test_without_a_channel_nothing_is_told_and_that_is_said(node, capsys):
    """Not with `--quiet`, as in a unit, whose settings may come later."""
    assert doctor("--notify") == 0
    assert capsys.readouterr().err == ""
    assert _run(["doctor", "--check", "keys_present", "--notify"]) == 0
    assert capsys.readouterr().err.startswith("note: no channel is set: hearthnet config set doctor.webhook URL")


def test_test_message_needs_a_channel_and_says_what_became_of_it(node, told, tmp_path, capsys):
    """`--notify --test` runs no check."""
    program, read = told
    assert _run(["doctor", "--notify", "--test"]) == 2
    assert _run(["doctor", "--test"]) == 2
    capsys.readouterr()

    assert _run(["doctor", "--notify-command", program, "--test"]) == 0
    assert capsys.readouterr().out == "command tell: sent\n"
    failing = script(tmp_path / "fail", "echo no network >&2; exit 3")
    assert _run(["doctor", "--notify-command", str(failing), "--test", "--json"]) == 1
    assert orjson.loads(capsys.readouterr().out) == [
        {"channel": "command fail", "ok": False, "error": "it ended with 3: no network"}
    ]
    assert read() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--notify-webhook", "ftp://example.org/s3cret"],
        ["--notify-mail", "me@example.org\nBcc: all@example.org"],
        ["--notify-mail", "-oQ/tmp"],
        ["--notify-command", "'"],
        ["--notify", "--fix"],
    ],
)
def test_option_that_cannot_be_is_refused(node, arguments, capsys):
    """As its setting would be, without quoting an address."""
    assert _run(["doctor", *arguments]) == 2
    assert "s3cret" not in capsys.readouterr().err


def test_settings_that_cannot_be_used_are_told_to_a_channel_of_an_option(node, told):
    """Those of the file are unknown then."""
    program, read = told
    default_path().write_text("[transport]\nprot = 1\n")

    assert _run(["doctor", "--quiet", "--notify-command", program]) == 1
    assert read() == ["fail"]


def test_settings_that_cannot_be_used_are_told_to_their_own_channels(node, told):
    """If those can be read."""
    program, read = told
    assert _run(["config", "set", "doctor.command", orjson.dumps([program]).decode()]) == 0
    text = default_path().read_text().replace("#port = 7080", 'port = "none"')
    assert 'port = "none"' in text
    default_path().write_text(text)

    _run(["doctor", "--quiet", "--notify"])
    assert "fail" in read()


def test_doctor_that_fails_itself_is_told_of(node, told, monkeypatch, capsys):
    """Once, and that it runs again; the exit code is still that of a failed doctor."""
    program, read = told
    with monkeypatch.context() as broken:
        broken.setattr("hearthnet.cli.doctor.run.diagnose", lambda *_, **__: {}["password=hunter2hunter2"])
        codes = [doctor("--notify-command", program) for _ in range(2)]
    codes += [doctor("--notify-command", program) for _ in range(2)]

    assert codes == [2, 2, 0, 0]
    assert read() == ["fail", "pass"]
    assert "hunter2" not in (Path(program).parent / "got").read_text()


@pytest.mark.parametrize(
    ("result", "status", "reason"),
    [
        ("timeout", "TERM", "it did not end in time"),
        ("signal", "SEGV", "it was ended by SEGV"),
        ("exit-code", "203\r\nBcc: x", "it ended with 203 Bcc: x"),
        ("oom-kill", "KILL", "the machine had no memory for it"),
        ("nonsense", "", "it could not be started"),
    ],
)
def test_run_that_was_ended_is_told_of(node, told, monkeypatch, result, status, reason):
    """By the unit, which has systemd's reason; the next two runs that end well are told of as one."""
    program, read = told
    monkeypatch.setenv("SERVICE_RESULT", result)
    monkeypatch.setenv("EXIT_STATUS", status)
    codes = [_run(["doctor", "--notify-command", program, "--failed"]) for _ in range(2)]
    got = orjson.loads((Path(program).parent / "got").read_text())
    codes += [doctor("--notify-command", program) for _ in range(2)]

    assert codes == [0, 0, 0, 0]
    assert got["changes"][0]["detail"] == f"the doctor could not run: {reason}"
    assert read() == ["fail", "pass"]
    assert _run(["doctor", "--failed"]) == 2


def test_missing_data_folder_is_told_of(node, told, home, capsys):
    """As when its disk is not mounted: where the state is kept meanwhile is said."""
    program, read = told
    (home / ".local/share/hearthnet").rename(home / "elsewhere")
    codes = [doctor("--notify-command", program) for _ in range(2)]

    assert codes == [1, 1]
    assert read() == ["fail"]
    assert not (home / ".local/share/hearthnet").exists()
    err = capsys.readouterr().err
    assert (
        f"note: the state of the messages cannot be kept in {home}/.local/share/hearthnet: No such file or directory; "
        in err
    )
    assert f"until the next boot it is in {home}/hearthnet-doctor" in err


def test_state_that_can_be_kept_nowhere_is_said(node, told, home, capsys, monkeypatch):
    """And counts as a failure, for it is told again."""
    program, _ = told
    monkeypatch.setattr("hearthnet.notify.kept._places", lambda: iter(()))
    (home / ".local/share/hearthnet/doctor-notify.json").mkdir()

    assert doctor("--notify-command", program) == 1
    assert "; they will be sent again\n" in capsys.readouterr().err


def test_node_that_responds_again_is_well_again():
    """No check says so, because only its silence is found."""
    found = Findings([], "", source="node")

    assert [result["name"] for result in as_told(found)] == ["doctor", "node_answers"]
    assert [result["name"] for result in as_told(Findings([], ""))] == ["doctor"]


def test_token_that_is_missing_is_an_error_before_anything_is_sent(node, capsys, monkeypatch):
    """Of `config check`, of a test, and of a run."""
    monkeypatch.delenv("NTFY_TOKEN", raising=False)
    assert _run(["config", "set", "doctor.webhook", "http://127.0.0.1:1/topic"]) == 0
    assert _run(["config", "set", "doctor.webhook_token_env", "NTFY_TOKEN"]) == 0
    capsys.readouterr()

    assert _run(["config", "check"]) == 1
    err = capsys.readouterr().err
    assert "webhook_token_env: the environment has no NTFY_TOKEN" in err
    assert "hint: export it" in err
    assert _run(["doctor", "--notify", "--test"]) == 1
    assert "failed: webhook_token_env: the environment has no NTFY_TOKEN" in capsys.readouterr().out
    chmod(node, 0o644)
    assert doctor("--notify") == 1
    assert "has no NTFY_TOKEN; 1 change will be sent with the next run" in capsys.readouterr().err
    monkeypatch.setenv("NTFY_TOKEN", "t0ken-of-ntfy")
    assert _run(["config", "check"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run the command of another user as root")
@pytest.mark.parametrize("is_broken", [False, True])
def test_root_runs_no_command_of_another_user(node, told, capsys, is_broken):
    """Who may write that user's settings would be root."""
    program, read = told
    assert _run(["config", "set", "doctor.command", orjson.dumps([program]).decode()]) == 0
    if is_broken:
        default_path().write_text(default_path().read_text() + "[nonsense]\n")
    os.chown(default_path(), 65_534, 65_534)
    chmod(node, 0o644)
    capsys.readouterr()

    assert doctor("--notify") == 1
    assert read() == []
    assert "note: doctor.command is not run by root" in capsys.readouterr().err
    assert doctor("--notify-command", program) == 1
    assert read() == ["fail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_runs_no_command_from_a_folder_of_another_user(node, told, capsys):
    """Who may replace the file could do so before it is read, and put root's own back before its owner is looked up."""
    program, read = told
    assert _run(["config", "set", "doctor.command", orjson.dumps([program]).decode()]) == 0
    os.chown(default_path().parent, 65_534, 65_534)
    chmod(node, 0o644)

    assert doctor("--notify") == 1
    assert read() == []
    assert "note: doctor.command is not run by root" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "tokens"),
    [
        ("https://ntfy.example.org/other", ["tk_1", "tk_1"]),
        ("https://ping.example.net/x", ["tk_1", None]),
        ("http://ntfy.example.org/other", ["tk_1", None]),
        ("https://ntfy.example.org:8443/other", ["tk_1", None]),
    ],
)
def test_token_is_sent_to_its_own_server_alone(node, monkeypatch, url, tokens):
    """An option may name any other."""
    monkeypatch.setenv("NTFY_TOKEN", "tk_1")
    assert _run(["config", "set", "doctor.webhook", "https://ntfy.example.org/mine"]) == 0
    assert _run(["config", "set", "doctor.webhook_token_env", "NTFY_TOKEN"]) == 0

    notice = Notice.of_options(resolve_paths(load()), is_wanted=True, webhook=url, command=None, mail=None)

    assert [channel.token for channel in notice.channels] == tokens
