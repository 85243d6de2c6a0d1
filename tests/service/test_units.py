"""The units: systemd takes them, whatever the paths are, and they have what they promise."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs_of import script

from hearthnet.errors import HearthNetError
from hearthnet.forensics.verdict import RESTART_LOOP_RUNS, RESTART_LOOP_US
from hearthnet.notify.kept import UNIT_FOLDER
from hearthnet.service.units import DOCTOR, NODE, TIMER, Layout, is_as_written, listed, units_of, value_of, words

ODD = "a b%c$d'e\"f\\g;#é"
ODD_PROGRAM = "a b%c$d;#é"  # systemd refuses quotes and backslashes in the path of a program


# Settings that take from a user's processes what a program's set-user-ID bit would give them (systemd.exec(5)).
NO_NEW_PRIVILEGES = {
    "NoNewPrivileges", "DynamicUser", "LockPersonality", "MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock",
    "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RestrictAddressFamilies",
    "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter",
    "SystemCallLog", "PrivateUsers",
}  # fmt: skip


def layout(tmp_path, **changes):
    """The layout of a node in a folder, as of a service of the machine."""
    folder = tmp_path.parent / ODD_PROGRAM
    folder.mkdir(exist_ok=True)
    program = folder / f"hearthnet-{len(list(folder.iterdir()))}"
    program.symlink_to(sys.executable)
    given = {
        "program": (str(program),), "config": None, "environment_file": tmp_path / "environment",
        "folders": [tmp_path / "data", tmp_path / "log"], "host": "0.0.0.0", "port": 7080, "user": "hearthnet",
        "home": tmp_path, "variables": (),
    }  # fmt: skip
    return Layout(**{**given, **changes})


@pytest.fixture
def odd(tmp_path):
    """A folder with everything in its name that could end a word."""
    path = tmp_path / ODD
    path.mkdir()
    return path


CASES = {
    "machine": {},
    "low port": {"port": 80, "host": "192.0.2.1"},
    "user": {"user": None, "variables": [("XDG_DATA_HOME", f"/x/{ODD}")]},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_systemd_takes_the_units(odd, tmp_path, changes, monkeypatch):
    """`systemd-analyze verify` has nothing to say, not even a warning."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    made = layout(odd, config=odd / "config.toml", **changes)
    units = tmp_path / "units"
    units.mkdir()
    for name, text in units_of(made).items():
        (units / name).write_text(text, "utf-8")
    scope = ["--user"] if made.user is None else ["--system"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", *scope, "--man=no", "verify", *map(str, sorted(units.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", [ODD, "plain", "", "a\nb", "a\tb", "%", "$x", "\\", '"'])
def test_words_are_read_as_they_were(text):
    """Quoting like that of a shell, and `%%` for specifiers."""
    assert [word.replace("%%", "%").replace("\\n", "\n").replace("\\t", "\t") for word in shlex.split(words(text))] == [
        text
    ]


def test_path_that_no_unit_can_hold_is_refused(tmp_path):
    """It is not UTF-8, or has a line end where a line is the value."""
    with pytest.raises(HearthNetError, match="not UTF-8"):
        words("\udcff")
    with pytest.raises(HearthNetError, match="no unit can hold"):
        units_of(layout(tmp_path, environment_file=Path("/a\nb/environment")))


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\\b", "a\nb"])
def test_program_that_systemd_would_not_start_is_refused(tmp_path, name):
    """Before the unit is written."""
    with pytest.raises(HearthNetError, match="systemd starts no program"):
        units_of(layout(tmp_path, program=(f"/srv/{name}/hearthnet",)))


def test_node_is_watched_and_restarted(tmp_path):
    """Often enough for the doctor's check to see a loop before systemd gives up."""
    node = units_of(layout(tmp_path))[NODE]

    assert value_of(node, "Type") == "notify"
    assert int(value_of(node, "WatchdogSec")) >= 30
    assert value_of(node, "Restart") == "on-failure"
    assert int(value_of(node, "StartLimitIntervalSec")) * 1_000_000 == RESTART_LOOP_US
    assert int(value_of(node, "StartLimitBurst")) > RESTART_LOOP_RUNS
    assert int(value_of(node, "StartLimitBurst")) * int(value_of(node, "RestartSec")) < RESTART_LOOP_US / 1e6
    assert value_of(node, "OnFailure") == DOCTOR


def test_machine_service_can_write_its_folders_alone(tmp_path):
    """And starts only when their disk is there."""
    node = units_of(layout(Path(tmp_path), folders=[Path("/srv/a b"), Path("/srv/c%d")]))[NODE]

    assert value_of(node, "ProtectSystem") == "strict"
    assert listed(node, "ReadWritePaths") == ["/srv/a b", "/srv/c%d"]
    assert listed(node, "RequiresMountsFor") == ["/srv/a b", "/srv/c%d"]
    assert value_of(node, "User") == "hearthnet"
    assert value_of(node, "CapabilityBoundingSet") == ""


@pytest.mark.parametrize(
    ("where", "home", "temporary"),
    [("/srv/node", "yes", "yes"), ("/home/me", "read-only", "yes"), ("/tmp/node", "yes", None)],
)
def test_what_the_node_uses_is_not_hidden_from_it(where, home, temporary):
    """A program or data in a home, or in the folder for temporary files."""
    path = Path(where)
    made = Layout((f"{where}/hearthnet",), None, path / "environment", [path / "data"], "", 7080, "hearthnet", path)
    node = units_of(made)[NODE]

    assert (value_of(node, "ProtectHome"), value_of(node, "PrivateTmp")) == (home, temporary)


def test_low_port_needs_one_right(tmp_path):
    """And no other is given."""
    node = units_of(layout(tmp_path, port=443))[NODE]

    assert value_of(node, "AmbientCapabilities") == value_of(node, "CapabilityBoundingSet") == "CAP_NET_BIND_SERVICE"


@pytest.mark.parametrize(
    ("host", "waits"), [("0.0.0.0", False), ("127.0.0.1", False), ("::", False), ("192.0.2.1", True)]
)
def test_one_address_must_be_there(tmp_path, host, waits):
    """A node that listens on all of them need not wait for the network."""
    node = units_of(layout(tmp_path, host=host))[NODE]

    assert ("network-online.target" in node) is waits


def test_user_service_needs_no_namespaces(tmp_path):
    """Many systems do not give them to users, and the unit would not start."""
    node = units_of(layout(tmp_path, user=None))[NODE]

    assert value_of(node, "WantedBy") == "default.target"
    for name in ("User", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "CapabilityBoundingSet"):
        assert value_of(node, name) is None


def test_doctor_is_started_by_its_timer(tmp_path):
    """Neither a failed check nor a reboot is a failed unit; sendmail may need rights that the node does not."""
    units = units_of(layout(tmp_path))

    assert value_of(units[DOCTOR], "ExecStart").endswith("doctor --quiet --notify")
    assert value_of(units[DOCTOR], "SuccessExitStatus") == "1 SIGTERM"
    names = {line.partition("=")[0] for line in units[DOCTOR].splitlines()}
    assert names.isdisjoint(NO_NEW_PRIVILEGES)
    assert value_of(units[TIMER], "OnUnitInactiveSec") == "15min"


def test_edited_unit_is_recognised(tmp_path):
    """By any change, in any line."""
    text = units_of(layout(tmp_path))[NODE]

    assert is_as_written(text)
    for edited in (
        text + "\n",
        text.replace("WatchdogSec=60", "WatchdogSec=0"),
        text.partition("\n")[2],
        "",
        "# x\n" + text,
    ):
        assert not is_as_written(edited)


@pytest.mark.parametrize(
    ("result", "is_told"), [("success", False), ("timeout", True), ("exit-code", True), ("", True)]
)
def test_doctor_that_could_not_run_is_told_of(tmp_path, result, is_told):
    """Once systemd has ended it, whatever is in the paths."""
    folder = tmp_path / ODD
    folder.mkdir()
    program = script(folder / "hearthnet", f"printf '%s\\n' \"$@\" > '{tmp_path}/got'")
    odd_program = tmp_path / ODD_PROGRAM
    odd_program.symlink_to(program)
    doctor = units_of(layout(tmp_path, program=(str(odd_program),), config=folder / "config.toml"))[DOCTOR]
    command = [word.replace("%%", "%") for word in shlex.split(value_of(doctor, "ExecStopPost").removeprefix(":"))]
    subprocess.run(command, env={**os.environ, "SERVICE_RESULT": result}, check=True)

    expected = ["doctor", "--notify", "--failed", "--config", str(folder / "config.toml")]
    assert (tmp_path / "got").exists() is is_told
    assert not is_told or (tmp_path / "got").read_text().splitlines() == expected


def test_doctor_has_a_folder_that_outlives_its_runs(tmp_path):
    """For what was told while the data folder cannot be written; the notifier knows its path."""
    doctor = units_of(layout(tmp_path))[DOCTOR]

    assert f"/run/{value_of(doctor, 'RuntimeDirectory')}" == str(UNIT_FOLDER)
    assert (value_of(doctor, "RuntimeDirectoryMode"), value_of(doctor, "RuntimeDirectoryPreserve")) == ("0700", "yes")


@pytest.mark.parametrize(("user", "exposure"), [("hearthnet", 2.0), (None, 6.5)])
def test_exposure_of_the_node_is_as_documented(tmp_path, user, exposure):
    """By systemd's own score, of 0 to 10."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    srv = Path("/srv/n")
    path = tmp_path / NODE
    made = layout(tmp_path, user=user, home=srv, folders=[srv], program=("/usr/bin/env",), environment_file=srv)
    path.write_text(units_of(made)[NODE], "utf-8")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={int(exposure * 10)}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SYSTEMD_PAGER": ""})

    assert done.returncode == 0, done.stdout[-200:] + done.stderr
