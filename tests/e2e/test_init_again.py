"""`init` can be repeated after any failure: each of its files is whole, or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few

from hearthnet.identity.keys import KeyPair

# Is `init`, with a bound on the bytes of each file that it writes.
BOUNDED = """
import resource, sys
from hearthnet.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
main(["init", "--non-interactive"])
"""
# Is `init`, killed at its n-th call of a function of `os`.
KILLED = """
import os, signal, sys
from hearthnet.cli.main import main
name, left = sys.argv[1], int(sys.argv[2])
really = getattr(os, name)

def killing(*arguments, **named):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return really(*arguments, **named)

setattr(os, name, killing)
main(["init", "--non-interactive"])
"""
SETTINGS = ".config/hearthnet/config.toml"
KEYS = ".local/share/hearthnet/keys"


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of ours in a home."""
    return forkserver.run([sys.executable, *command], env={**os.environ, "HOME": str(home)})


def init_well(home: Path) -> None:
    """Repeats `init`, and checks that all is there: a pair of keys, a community, settings, no leftovers of ours."""
    done = run(home, "-m", "hearthnet", "init", "--non-interactive")

    assert (done.returncode, done.stderr) == (0, "")
    assert KeyPair.load(home / KEYS).public_bytes == (home / KEYS / "device.pub").read_bytes()
    assert (home / SETTINGS).stat().st_size > 100
    checks = ["keys_present", "keys_loadable", "community_present", "event_log_writable", "config_file"]
    options = [part for name in checks for part in ("--check", name)]
    report = run(home, "-m", "hearthnet", "doctor", *options)
    assert report.returncode == 0, report.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KB; needs the right to mount one."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k,mode=700", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("free_kb", few([0, 4, 8, 12, 16, 24, 40, 64], 0, 12, 24))
def test_init_after_a_full_disk(small_disk, free_kb):
    """However little space there was: what could not be written is not there by half."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes((200 - free_kb) * 1024))
    failed = run(small_disk, "-m", "hearthnet", "init", "--non-interactive")
    assert failed.returncode in (0, 5)
    assert "hint: write the output" not in failed.stderr
    filler.unlink()

    init_well(small_disk)


@pytest.mark.parametrize("limit", few([0, 16, 31, 32, 100, 4_096, 20_000], 0, 31, 4_096))
def test_init_after_a_write_that_failed(home, limit):
    """Wherever within a file writing ended."""
    failed = run(home, "-c", BOUNDED, str(limit))
    assert failed.returncode != 0
    assert [path for path in (home / KEYS).glob("*") if path.stat().st_size < 32] == []

    init_well(home)


@pytest.mark.parametrize(("name", "count"), [("link", 0), ("link", 1), ("fsync", 0), ("fsync", 1), ("fsync", 3)])
def test_init_after_a_kill(home, name, count):
    """Before the key has its name, between the two keys, before the manifest has its own: the next one goes on."""
    assert run(home, "-c", KILLED, name, str(count)).returncode == -9
    private = home / KEYS / "device.ed25519"
    key = private.read_bytes() if private.exists() else None

    init_well(home)
    assert key in (None, private.read_bytes())


def test_init_on_a_read_only_disk_finds_what_is_there(home):
    """It writes nothing when nothing is missing."""
    run(home, "-m", "hearthnet", "init", "--non-interactive")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    done = run(home, "-m", "hearthnet", "init", "--non-interactive")

    assert done.stdout.startswith("found community")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_empty_key_of_an_init_that_failed_before(home):
    """Earlier versions left one: the hint says how to go on if there never was a key."""
    (home / KEYS).mkdir(parents=True)
    (home / KEYS / "device.ed25519").touch(mode=0o600)
    done = run(home, "-m", "hearthnet", "init", "--non-interactive")

    assert done.returncode == 1
    assert f"if `hearthnet init` never succeeded: rm {home / KEYS}/device.ed25519, and repeat it" in done.stderr
