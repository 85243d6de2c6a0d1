"""`hearthnet service`, with a systemctl that stands in for the one of a running systemd."""

from __future__ import annotations

import os
import pwd
import stat

import orjson
import pytest
from support.programs_of import script

from hearthnet.cli.main import _run
from hearthnet.config import default_path
from hearthnet.service import manager
from hearthnet.service.units import DOCTOR, NODE, TIMER, is_as_written


@pytest.fixture
def node(capsys):
    """A node that is set up."""
    assert _run(["init", "--non-interactive"]) == 0
    capsys.readouterr()


@pytest.fixture
def units(home):
    """The folder of this user's units."""
    return home / ".config" / "systemd" / "user"


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemd that takes every command; returns those that it got."""
    state = tmp_path / "state"
    program = f'echo "$@" >> "{tmp_path}/calls"\ncase "$*" in *show\\ *) cat "{state}" 2>/dev/null;; esac\nexit 0'
    script(tmp_path / "systemctl", program)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(manager, "BOOTED", tmp_path)
    monkeypatch.setattr(manager, "LINGER", tmp_path)

    def calls():
        path = tmp_path / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        asked = [line.replace("--no-pager --user ", "") for line in found]
        return [line for line in asked if not line.startswith("show")]

    calls.state = state
    return calls


def service(*arguments):
    """Runs the command for this user's service."""
    return _run(["service", *arguments, "--user"])


def test_install_shows_writes_and_starts(node, units, systemctl, capsys):
    """The whole text is shown before; the files are readable by all, and the node is enabled."""
    assert service("install", "--yes") == 0
    out, err = capsys.readouterr()

    assert f"{units / NODE}: to be written" in out
    assert "Type=notify" in out
    assert "loginctl enable-linger" in err
    for name in (NODE, DOCTOR, TIMER):
        assert is_as_written((units / name).read_text("utf-8"))
        assert stat.S_IMODE((units / name).stat().st_mode) == 0o644
    assert systemctl() == ["daemon-reload", f"enable {NODE} {TIMER}", f"restart {NODE} {TIMER}"]


def test_dry_run_changes_nothing_and_needs_no_systemd(node, units, capsys, monkeypatch):
    """It shows what would be written."""
    monkeypatch.setenv("PATH", "")
    assert service("install", "--dry-run", "--json") == 0
    document = orjson.loads(capsys.readouterr().out)

    assert [unit["state"] for unit in document["units"]] == ["new"] * 3
    assert "ExecStart=" in document["units"][0]["text"]
    assert not units.exists()


def test_nothing_is_written_without_agreement(node, units, systemctl, capsys):
    """Nobody can be asked where there is no terminal."""
    assert service("install") == 2
    assert "--yes" in capsys.readouterr().err
    assert not units.exists()


def test_second_install_shows_the_difference(node, units, systemctl, capsys):
    """After an update, or when a setting has changed; without one there is none."""
    service("install", "--yes")
    capsys.readouterr()
    assert service("install", "--yes") == 0
    assert capsys.readouterr().out.count("unchanged") == 3
    before = (units / NODE).read_text("utf-8")
    (units / NODE).write_text(marked(before.partition("\n")[2].replace("WatchdogSec=60", "WatchdogSec=30")), "utf-8")

    assert service("install", "--yes") == 0
    out = capsys.readouterr().out
    assert "-WatchdogSec=30\n+WatchdogSec=60" in out
    assert (units / NODE).read_text("utf-8") == before


def marked(text):
    """A unit as an earlier version would have written it."""
    from hearthnet.service import units as module

    return module._marked(text)


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_unit_that_was_edited_is_left_alone(node, units, systemctl, capsys, verb):
    """Unless it is to be lost: then a copy is kept."""
    service("install", "--yes")
    edited = (units / NODE).read_text("utf-8") + "Environment=X=1\n"
    (units / NODE).write_text(edited, "utf-8")

    assert service(verb, "--yes") == 1
    assert (units / NODE).read_text("utf-8") == edited
    assert (units / TIMER).exists()
    assert "systemctl edit hearthnet" in capsys.readouterr().err
    assert service(verb, "--yes", "--force") == 0
    (copy,) = units.glob(f"{NODE}.edited-*")
    assert copy.read_text("utf-8") == edited


def test_masked_unit_is_an_administrators_decision(node, units, systemctl, capsys):
    """A link to /dev/null is not written through."""
    units.mkdir(parents=True)
    (units / NODE).symlink_to("/dev/null")

    assert service("install", "--yes") == 1
    assert (units / NODE).is_symlink()
    assert "edited by hand" in capsys.readouterr().err


def test_uninstall_keeps_all_data_and_says_where(node, units, systemctl, capsys):
    """And is no error when there is nothing to remove."""
    service("install", "--yes")
    capsys.readouterr()
    assert service("uninstall", "--yes", "--json") == 0
    document = orjson.loads(capsys.readouterr().out)

    assert list(units.iterdir()) == []
    assert default_path().exists()
    assert document["kept"][0].endswith("/hearthnet")
    assert systemctl()[-2:] == [f"disable --now {NODE} {DOCTOR} {TIMER}", "daemon-reload"]
    assert service("uninstall") == 0
    assert capsys.readouterr().out.count("not installed") == 3


def test_machine_without_systemd_is_told_so(node, units, capsys, tmp_path, monkeypatch):
    """With what to do instead."""
    monkeypatch.setattr(manager, "BOOTED", tmp_path / "missing")
    assert service("install", "--yes") == 1
    assert "not started by systemd" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert service("install", "--yes") == 1
    assert "hint: see what would be written" in capsys.readouterr().err
    assert not units.exists()
    assert service("install", "--yes", "--no-start") == 0  # an image that is started later
    assert (units / NODE).exists()


def test_node_that_is_not_set_up_is_an_error(systemctl, capsys):
    """`hearthnet init` comes first."""
    assert service("install", "--yes") == 1
    assert "hint: hearthnet init" in capsys.readouterr().err


def test_low_port_needs_the_machine(node, systemctl, capsys):
    """A user's service cannot have it."""
    assert _run(["config", "set", "transport.port", "80"]) == 0
    assert service("install", "--yes") == 1
    assert "cannot listen on port 80" in capsys.readouterr().err


def test_node_that_runs_by_hand_is_not_started_twice(node, units, systemctl, capsys, monkeypatch):
    """Its port would be in use."""
    monkeypatch.setattr("hearthnet.cli.service.change.live_nodes", lambda folder: [4_711])
    assert service("install", "--yes") == 1
    assert "hint: stop it first: kill 4711" in capsys.readouterr().err
    systemctl.state.write_text("MainPID=4711\n")
    assert service("install", "--yes") == 0


def test_failure_of_systemd_is_shown(node, systemctl, tmp_path, capsys):
    """With the command that tells more."""
    script(tmp_path / "systemctl", 'case "$*" in *restart*) echo "Job failed." >&2; exit 1;; esac')
    assert service("install", "--yes") == 1
    err = capsys.readouterr().err
    assert "systemctl restart failed: Job failed." in err
    assert "hint: journalctl --user -u hearthnet -n 30" in err


def test_variables_that_the_service_lacks_are_named(node, systemctl, capsys, monkeypatch):
    """A service has not those of a shell."""
    monkeypatch.setenv("NTFY_URL", "https://ntfy.example.org/x")
    _run(["config", "set", "doctor.webhook", "${NTFY_URL}"])
    service("install", "--yes")
    assert "the service has no NTFY_URL: write NAME=value into" in capsys.readouterr().err
    (default_path().parent / "environment").write_text("# mine\nNTFY_URL=https://ntfy.example.org/x\n")
    service("install", "--yes")
    assert "NTFY_URL" not in capsys.readouterr().err


def test_status_says_whether_it_runs(node, units, systemctl, capsys):
    """Exit code 0 when active, 3 when not, or not installed."""
    assert service("status") == 3
    assert "not installed: hearthnet service install" in capsys.readouterr().out
    service("install", "--yes")
    capsys.readouterr()
    systemctl.state.write_text(
        "ActiveState=active\nSubState=running\nMainPID=4711\nNRestarts=2\nUnitFileState=enabled\n"
        "StatusText=serving on port 7080\n"
    )

    assert service("status") == 0
    out = capsys.readouterr().out
    assert "active (running), pid 4711, restarted 2 times, starts by itself" in out
    assert "serving on port 7080" in out
    systemctl.state.write_text("ActiveState=failed\nSubState=failed\nResult=watchdog\n")
    assert service("status") == 3
    assert "failed (failed), watchdog" in capsys.readouterr().out


def test_status_knows_units_of_other_settings(node, units, systemctl, capsys):
    """And edited ones."""
    service("install", "--yes")
    (units / TIMER).write_text("[Timer]\n", "utf-8")
    (units / NODE).write_text(marked("[Service]\n"), "utf-8")
    capsys.readouterr()
    service("status", "--json")
    document = orjson.loads(capsys.readouterr().out)

    assert [(unit["edited"], unit["current"]) for unit in document["units"]] == [
        (False, False), (False, True), (True, False),
    ]  # fmt: skip


def test_machine_service_is_refused_without_root(node, capsys, as_nobody):
    """Before anything else."""
    with as_nobody():
        assert _run(["service", "install", "--system", "--yes"]) == 1
    assert "needs root" in capsys.readouterr().err


def test_user_who_runs_it_must_exist_and_not_be_root(capsys):
    """With the command that makes one."""
    assert _run(["service", "install", "--system", "--dry-run", "--run-as", "no-such-user"]) == 1
    assert "useradd --system" in capsys.readouterr().err
    assert _run(["service", "install", "--system", "--dry-run", "--run-as", "root"]) == 1
    assert "not run as root" in capsys.readouterr().err
    assert _run(["service", "install", "--user", "--dry-run", "--run-as", "root"]) == 2


def test_user_who_cannot_start_the_program_is_told_so(tmp_path, capsys, monkeypatch):
    """As with an installation in root's home."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    program = script(tmp_path / "hearthnet", "exit 0")
    program.chmod(0o700)
    monkeypatch.setattr("hearthnet.service.layout.own_program", lambda: (str(program),))

    assert _run(["service", "install", "--system", "--dry-run", "--run-as", "nobody"]) == 1
    assert f"user nobody cannot use {program}: " in capsys.readouterr().err


def test_machine_service_has_the_paths_of_its_user(tmp_path, capsys, monkeypatch):
    """Its settings are read as that user, with that user's home."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    account = pwd.getpwnam("nobody")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "device.ed25519").touch()
    rows = {
        "identity.keys_dir": str(keys), "community.state_dir": "/srv/n/c", "file.blobs_dir": "/srv/n/blobs",
        "observability.data_dir": "/srv/n", "observability.log_dir": "/srv/log",
        "transport.host": "::", "transport.port": 80,
    }  # fmt: skip
    shown = {"file": "/srv/n/config.toml", "settings": [{"key": key, "value": value} for key, value in rows.items()]}
    monkeypatch.setattr("hearthnet.service.layout._ask", lambda *_: shown)
    assert _run(["service", "install", "--system", "--dry-run", "--run-as", "nobody", "--json"]) == 0
    text = orjson.loads(capsys.readouterr().out)["units"][0]["text"]

    assert f"ReadWritePaths={keys} /srv/n /srv/log" in text
    assert f"User={account.pw_name}" in text
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in text
    # Not one in the user's folder: systemd reads it as root, and a link there could lead to any file.
    assert "EnvironmentFile=-/etc/hearthnet/nobody.env\n" in text


ME = pwd.getpwuid(os.geteuid())


def asked(tmp_path, monkeypatch, body):
    """Installs for this user, with a program that runs this; returns the exit code."""
    program = script(tmp_path / "hearthnet", body)
    monkeypatch.setattr("hearthnet.service.layout._account", lambda name: ME)
    monkeypatch.setattr("hearthnet.service.layout.own_program", lambda: (str(program),))
    monkeypatch.setattr("hearthnet.service.layout.MACHINE_FOLDER", tmp_path / "etc")
    return _run(["service", "install", "--system", "--dry-run"])


def test_variables_of_the_machines_file_are_those_of_the_service(tmp_path, capsys, monkeypatch):
    """The settings are read with them, as by the service; a missing one is named with its file."""
    body = (
        '[ "$NTFY_URL" = "https://x y" ] || { echo "error: f: the environment has no NTFY_URL" >&2; exit 1; }; echo {}'
    )
    assert asked(tmp_path, monkeypatch, body) == 1
    err = capsys.readouterr().err
    assert "the service would have no NTFY_URL" in err
    assert (
        f"hint: write NTFY_URL=value into {tmp_path}/etc/{ME.pw_name}.env, which root alone may read (mode 0600)" in err
    )
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / f"{ME.pw_name}.env").write_text("# mine\n;X=1\n\nNTFY_URL = 'https://x y'\n")

    assert asked(tmp_path, monkeypatch, body) == 1
    assert "it prints no settings" in capsys.readouterr().err


def test_folder_of_a_variable_is_that_of_the_service(tmp_path, capsys, monkeypatch):
    """`config show` prints `${NAME}`: no folder of that name may be made, and systemd would not start the node."""
    (tmp_path / "device.ed25519").touch()
    paths = ("identity.keys_dir", "community.state_dir", "file.blobs_dir", "observability.log_dir")
    rows = dict.fromkeys(paths, str(tmp_path)) | {
        "observability.data_dir": "${DISK}/${NAME}", "transport.host": "::", "transport.port": "80${PORT}",
    }  # fmt: skip
    shown = {"file": "/srv/config.toml", "settings": [{"key": key, "value": value} for key, value in rows.items()]}
    (tmp_path / "etc").mkdir()
    variables = tmp_path / "etc" / f"{ME.pw_name}.env"
    variables.write_text("DISK=/mnt/disk\nNAME=node\nPORT=80\n")

    assert asked(tmp_path, monkeypatch, f"echo '{orjson.dumps(shown).decode()}'") == 0
    out = capsys.readouterr().out
    assert f"ReadWritePaths={tmp_path} /mnt/disk/node\n" in out

    variables.write_text("DISK=disk\nNAME=node\nPORT=80\n")
    assert asked(tmp_path, monkeypatch, f"echo '{orjson.dumps(shown).decode()}'") == 1
    assert "it prints no settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "printed",
    ['{"settings": 1}', "[]", '{"settings": [{"key": "x"}]}', '{"file": "/x", "settings": [], "port": []}', "null"],
)
def test_program_that_prints_something_else_is_refused(tmp_path, capsys, monkeypatch, printed):
    """What another user's program says is not trusted to have a form."""
    assert asked(tmp_path, monkeypatch, f"echo '{printed}'") == 1
    assert f"user {ME.pw_name} cannot use" in capsys.readouterr().err


def test_keys_that_others_can_read_are_named(node, home, systemctl, capsys):
    """Those of the service, in its file of variables."""
    path = home / ".config" / "hearthnet" / "environment"
    path.write_text("KEY=1\n")
    path.chmod(0o644)
    service("install", "--yes")
    assert f"hint: other users can read the service's keys: chmod 600 {path}" in capsys.readouterr().err
    path.chmod(0o600)
    service("install", "--yes")
    assert "can read" not in capsys.readouterr().err


def test_variables_that_settings_name_are_missing_too(node, systemctl, capsys):
    """As the token's of a webhook."""
    _run(["config", "set", "doctor.webhook_token_env", "NTFY_TOKEN"])
    service("install", "--yes")
    assert "the service has no NTFY_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("home_of", [None, "rel"])
@pytest.mark.parametrize("command", [["service", "status"], ["service", "install", "--dry-run"], ["paths"]])
def test_user_without_a_home_is_told_so(monkeypatch, capsys, home_of, command):
    """As one that a container has made up: no account, and HOME missing or not absolute."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    monkeypatch.delenv("HOME")
    if home_of is not None:
        monkeypatch.setenv("HOME", home_of)

    assert _run(command) != 0
    assert "error: this user has no home folder\nhint: set HOME to an absolute path" in capsys.readouterr().err


def test_user_without_an_account_has_no_service(node, monkeypatch, capsys):
    """But can have a node."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert service("install", "--dry-run") == 1
    assert "has no account on this machine" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could write there")
@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_root_writes_no_units_into_the_home_of_another(node, home, units, systemctl, capsys, verb):
    """A link there could lead it to the machine's own."""
    units.mkdir(parents=True)
    (units / TIMER).write_text("")
    os.chown(home, 65_534, 65_534)

    assert service(verb, "--yes", "--force") == 1
    assert f"error: {home} belongs to another user, 65534" in capsys.readouterr().err
    assert [path.name for path in units.iterdir()] == [TIMER]


def test_program_of_another_user_has_no_terminal_of_roots(tmp_path, capsys, monkeypatch):
    """It could type into it."""
    asked(tmp_path, monkeypatch, "[ $(ps -o sid= $$) -eq $$ ] && echo '{}' || echo 'error: same' >&2")
    assert "it prints no settings" in capsys.readouterr().err
