"""Anything may be where our files belong: nothing hangs, nothing is written into it, and it is named."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few
from support.strange import STRANGE, plant

# At these there may be anything, and a node records as ever.
LEFTOVERS = (
    "telemetry.777.box2",
    "telemetry.777.box",
    "telemetry.777.box3",
    "telemetry.777.01HXR.box2-new",
    "telemetry.777.fault",
    "telemetry.777.20260101T000000Z.fault",
    "telemetry.db.corrupt-20260101T000000Z",
    "telemetry.db.corrupt-20260101T000000Z-wal",
    ".telemetry.db-abc",
    "doctor.jsonl",
)
SERVED_WITHOUT = ("telemetry.db", "telemetry.db-shm", "telemetry.db-journal", "telemetry.lock", "replays.bin")
COMMANDS = [
    line.split()
    for line in """
        telemetry info
        telemetry snapshot HOME/s.db
        telemetry sql SELECT(1)
        trace recent
        log
        status
        doctor
        doctor --bundle HOME/b.zip --yes
        autopsy
        telemetry rebuild HOME/r.db
        telemetry rebuild --yes
        telemetry purge --all --yes
        paths
        init --non-interactive
    """.strip().splitlines()
]
WITHIN_S = 30  # of a busy machine; what hangs does so for ever


def hearthnet(home: Path, *arguments: str):
    """Runs a command; one that hangs raises."""
    given = [part.replace("HOME", str(home)) for part in arguments]
    command = [sys.executable, "-m", "hearthnet", *given]
    return forkserver.run(command, env={**os.environ, "HOME": str(home)}, timeout=WITHIN_S)


def age(path: Path) -> None:
    """Makes a thing as old as a leftover: a young box may be about to be made."""
    os.utime(path, (1, 1), follow_symlinks=False)
    if path.is_symlink() and path.exists() and not str(path.readlink()).startswith("/dev/"):
        os.utime(path, (1, 1))


@pytest.mark.parametrize("kind", few([*STRANGE, "link to nothing"], "pipe", "folder"))
def test_leftovers_may_be_anything(stopped_node, kind):
    """A node starts beside them, records and stops; no command hangs or fails for them with a traceback."""
    for name in LEFTOVERS:
        age(plant(stopped_node.data_dir / name, kind))
    age(plant(stopped_node.log_dir / "2026-01-01.log", kind))
    age(plant(stopped_node.log_dir / ".2026-01-01.log-abc", kind))
    stopped_node.start()
    assert stopped_node.echo().status_code == 200
    assert stopped_node.stop() == 0
    assert stopped_node.sql("SELECT capability FROM traces") == [("experimental.echo",)]

    for arguments in COMMANDS:
        done = hearthnet(stopped_node.home, *arguments)
        assert "Traceback" not in done.stdout + done.stderr, arguments
        told = done.stderr + done.stdout
        assert done.returncode == 0 or "not a file" in told or "cannot be read" in told, (arguments, told)


def test_pipe_among_the_logs_is_named_by_those_who_read_all(stopped_node):
    """`log` shows the others and names it; a rebuild, which would lack its records, ends with what to do."""
    stopped_node.start()
    stopped_node.echo()
    stopped_node.stop()
    today = max(path.stem for path in stopped_node.log_dir.iterdir())
    pipe = plant(stopped_node.log_dir / f"{today}.7.log", "pipe")

    shown = hearthnet(stopped_node.home, "log")
    assert (shown.returncode, f"skipped {pipe}: it is a pipe, not a file\n") == (0, shown.stderr)
    assert len(shown.stdout.splitlines()) > 1
    refused = hearthnet(stopped_node.home, "telemetry", "rebuild", "--yes")
    assert refused.returncode == 1
    assert f"hint: move it aside: mv {pipe} {pipe}.aside" in refused.stderr
    report = hearthnet(stopped_node.home, "autopsy", "--json")
    assert "it is a pipe, not a file" in report.stdout


@pytest.mark.parametrize("kind", few([*STRANGE, "link to nothing"], "pipe", "link to a folder"))
@pytest.mark.parametrize("name", ["config", "key", "manifest"])
def test_what_a_node_needs_is_named(stopped_node, name, kind):
    """Without its settings, key or manifest there is no node: an error, and the command that moves the thing away."""
    community = next((stopped_node.home / ".local/share/hearthnet/communities").iterdir())
    path = {
        "config": stopped_node.home / ".config/hearthnet/config.toml",
        "key": stopped_node.home / ".local/share/hearthnet/keys/device.ed25519",
        "manifest": community / "manifest.json",
    }[name]
    plant(path, kind)

    for arguments in (["run"], ["status"], ["init", "--non-interactive"]):
        done = hearthnet(stopped_node.home, *arguments)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("error: ")
        assert "not a file" in done.stderr
        assert f"hint: move it aside: mv {path} {path}.aside" in done.stderr
    assert hearthnet(stopped_node.home, "doctor").returncode in (1, 2)


@pytest.mark.parametrize("kind", few(["pipe", "folder", "link to a device that is full"], "pipe"))
@pytest.mark.parametrize("name", SERVED_WITHOUT)
def test_node_serves_whatever_is_at_its_files(stopped_node, name, kind):
    """The database is moved aside; for another file it records in memory or goes without, says so, and serves."""
    folder = stopped_node.data_dir
    if name == "replays.bin":
        folder = next((folder / "communities").iterdir())
    path = plant(folder / name, kind)
    stopped_node.start()

    # Without a journal requests of the second of the start may be repeated ones.
    assert stopped_node.echo().status_code in ((200, 410) if name == "replays.bin" else (200,))
    assert hearthnet(stopped_node.home, "doctor").returncode in (0, 1)
    assert hearthnet(stopped_node.home, "telemetry", "info").returncode in (0, 1)
    assert stopped_node.stop() == 0
    said = (stopped_node.home / "run.out").read_text()
    logged = [f"{line['msg']} {line.get('error')} {line.get('reason')}" for line in stopped_node.log_lines()]
    if name == "telemetry.db":
        assert [file for file in folder.glob("telemetry.db.corrupt-*") if not file.is_file()] != []
        assert stopped_node.sql("SELECT count(*) FROM traces") == [(1,)]
    elif name == "telemetry.lock":
        assert any(f"{path} cannot be written" in line for line in logged)
        assert stopped_node.sql("SELECT count(*) FROM traces") == [(1,)]
    elif name == "replays.bin":
        assert any("replay journal cannot be read" in line for line in logged)
    else:
        assert f"telemetry in memory only: {path} cannot be used: it is a" in said


def test_program_killed_beside_a_pipe_is_recovered(stopped_node):
    """The box of a killed run is recovered, although another file, which sorts before it, is no box."""
    age(plant(stopped_node.data_dir / "telemetry.1.box2", "pipe"))
    stopped_node.start()
    stopped_node.echo()
    stopped_node.stop(signal.SIGKILL)
    stopped_node.start()

    stopped_node.wait_for_sql([("unclean",)], "SELECT end_reason FROM runs WHERE ended_us NOT NULL")
    assert stopped_node.sql("SELECT count(*) FROM traces") == [(1,)]
    assert stopped_node.stop() == 0
