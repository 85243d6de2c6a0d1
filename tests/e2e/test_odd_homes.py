"""A node in an odd home: a path that is no UTF-8, an odd umask; every command works, and every file is private."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few
from support.running_node import RunningNode

COMMANDS = [
    line.split()
    for line in """
        paths
        paths --json
        status
        status --json
        caps
        caps --json
        doctor
        doctor --json
        doctor --fix --yes
        doctor --check telemetry_store --verbose
        doctor --bundle HOME/b.zip --yes
        log
        log --json
        trace recent
        telemetry info
        telemetry info --json
        telemetry snapshot HOME/s.db
        telemetry snapshot HOME/s.db --json --force
        telemetry rebuild HOME/r.db
        autopsy
        autopsy --json
        autopsy --html HOME/a.html
        init --json
    """.strip().splitlines()
]
# Sets a umask, then is a command.
UNDER_UMASK = """
import os, sys
os.umask(int(sys.argv.pop(1), 8))
from hearthnet.cli.main import main
main(sys.argv[1:])
"""


def hearthnet(home: Path, *arguments: str, **more: str):
    """Runs a command in a home, and gives its outputs as bytes."""
    given = [part.replace("HOME", str(home)) for part in arguments]
    environment = {**os.environ, "HOME": str(home), **more}
    return forkserver.run([sys.executable, "-m", "hearthnet", *given], env=environment, text=False)


def prepare(home: Path, port: int) -> RunningNode:
    """Makes a node of that home ready to start on a port."""
    assert hearthnet(home, "init", "--non-interactive").returncode == 0
    return configure(home, port)


def configure(home: Path, port: int) -> RunningNode:
    """Gives the node of that home a port, and the outside world no part."""
    settings = home / ".config/hearthnet/config.toml"
    text = re.sub(r"\n#?port = \d+", f"\nport = {port}", settings.read_text(), count=1)
    settings.write_text(re.sub(r"#?probe_targets = \[[^]]*\]", "probe_targets = []", text))
    return RunningNode(home, port)


def run_all(node: RunningNode) -> None:
    """Runs each command; none fails, and what is JSON is read by a strict reader."""
    for arguments in COMMANDS:
        done = hearthnet(node.home, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        if "--json" in arguments and arguments[0] != "log":
            json.loads(done.stdout.decode("utf-8", "strict"))


NAMES = [b"caf\xe9", b"\xff\xfe", b"a\xf0\x9f\x92 \xed\xa0\x80", "ü ☃".encode()]


@pytest.mark.parametrize("name", few(NAMES, NAMES[2]), ids=repr)
def test_home_of_any_bytes(tmp_path, free_port, monkeypatch, name):
    """The node serves and records; each command shows the odd characters replaced, the files have the true path."""
    home = tmp_path / os.fsdecode(name)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    node = prepare(home, free_port)
    node.start()
    try:
        assert node.echo().status_code == 200
        run_all(node)
        assert node.stop() == 0
    finally:
        node.process.kill()
    telemetry = hearthnet(home, "paths", "telemetry").stdout.removesuffix(b"\n")  # as a shell gets it
    assert Path(os.fsdecode(telemetry)) == node.data_dir / "telemetry.db"
    run = [arguments for arguments in COMMANDS if arguments[0] != "caps"]
    assert [arguments for arguments in run if hearthnet(home, *arguments, *_again(arguments)).returncode] == []
    assert node.sql("SELECT end_reason FROM runs") == [("clean",)]
    assert {path.name for path in home.iterdir()} >= {"b.zip", "s.db", "r.db", "a.html"}


def _again(arguments: list[str]) -> list[str]:
    return ["--force"] if any("HOME/" in part for part in arguments) and "--force" not in arguments else []


def test_single_folders_of_any_bytes(home, tmp_path):
    """Also where only one folder, the settings or the copy has such a name, or the command is run in one."""
    odd = tmp_path / os.fsdecode(b"n\xe4chster")
    odd.mkdir()
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        (own := home / variable).mkdir()
        for arguments in (["init", "--non-interactive"], ["doctor", "--check", "keys_present"], ["paths", "--json"]):
            done = hearthnet(own, *arguments, **{variable: str(odd / variable)})
            assert done.returncode == 0, (variable, arguments, done.stderr)
    settings = odd / "other.toml"
    settings.write_text("[observability")
    done = hearthnet(home, "status", "--config", str(settings))
    assert done.returncode == 1
    assert rb"n\udce4chster" in done.stderr


@pytest.mark.parametrize("umask", few(["000", "177", "277", "777"], "777"))
def test_files_are_private_whatever_the_umask(home, free_port, umask):
    """Folders 0700, files 0600, the public key 0644: of `init`, a run, and every command that writes a file."""
    command = [sys.executable, "-c", UNDER_UMASK, umask]
    assert forkserver.run([*command, "init", "--non-interactive"]).returncode == 0
    node = configure(home, free_port)
    node.command = [*command, "run"]
    node.start()
    assert node.echo().status_code == 200
    for arguments in COMMANDS:
        given = [part.replace("HOME", str(home)) for part in arguments]
        done = forkserver.run([*command, *given])
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert node.stop() == 0

    exempt = {"run.out", "device.pub"}  # the first is the test's own
    modes = {path: path.stat().st_mode & 0o7777 for path in home.rglob("*") if path.name not in exempt}
    odd = {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)}
    assert {path: mode for path, mode in odd.items() if path.suffix != ".log"} == {}
    assert (home / ".local/share/hearthnet/keys/device.pub").stat().st_mode & 0o7777 == 0o644
