"""A node that does not respond is only to be killed if it is stuck."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.waiting import wait_until

from hearthnet.checks.probes import silence
from hearthnet.checks.probes.silence import explain_silence
from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.fixture
def box(tmp_path):
    """The box of a node, which is this process."""
    made = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", "n", Sizes(64_000, 64_000)))
    yield made
    made.close(remove=True)


def seen(lag_s, ago_s=0.0) -> Vitals:
    """A sample from so long ago."""
    return Vitals(int((time.time() - ago_s) * 1e6), loop_lag_s=lag_s)


def explained(tmp_path, host="0.0.0.0"):
    """Why this process does not respond."""
    return explain_silence(tmp_path, os.getpid(), host)


@pytest.mark.parametrize(
    ("lag_s", "ago_s", "words", "kills"),
    [
        (0.0, 0, "its event loop responds", False),
        (1.9, 0, "its event loop responds", False),
        (7.0, 0, "stuck for 7 s", True),
        (0.0, 900, "it has been stuck for ", True),  # not even the watchdog runs
        (None, 0, "nothing says", False),
    ],
)
def test_only_a_stuck_node_is_to_be_killed(box, tmp_path, monkeypatch, lag_s, ago_s, words, kills):
    """By its newest sample: of a loop that responds, the port is the reason."""
    monkeypatch.setattr(silence, "_FRESH_S", 600.0)  # however slow the machine
    box.note_vitals(seen(30.0))
    box.note_vitals(seen(lag_s, ago_s))
    found = explained(tmp_path)

    assert words in found.why
    assert (found.fix == f"kill -KILL {os.getpid()}") == kills


def test_node_without_samples_is_not_to_be_killed(box, tmp_path):
    """Nor one whose box is gone, or is another's, or is no box."""
    (tmp_path / "telemetry.2.box2").write_bytes(b"nonsense")
    assert explained(tmp_path).fix == "hearthnet log --level warning"
    box.note_vitals(seen(30.0))
    assert explain_silence(tmp_path, 1, "::").fix == "hearthnet log --level warning"
    assert explain_silence(tmp_path / "gone", os.getpid(), "::").fix == "hearthnet log --level warning"


@pytest.mark.parametrize(
    ("host", "is_told"), [("0.0.0.0", True), ("127.0.0.1", True), ("::", False), ("10.0.0.1", False)]
)
def test_machine_without_ipv4_loopback_is_told(box, tmp_path, monkeypatch, host, is_told):
    """A healthy node at 0.0.0.0 cannot be reached there."""
    monkeypatch.setattr(silence, "_has_loopback", lambda: False)
    box.note_vitals(seen(0.0))
    found = explained(tmp_path, host)

    assert ("no 127.0.0.1" in found.why) == is_told
    assert (found.fix == "sudo ip address add 127.0.0.1/8 dev lo") == is_told


def test_loopback_is_looked_for():
    """This machine has it; in a network namespace of its own it may be taken away."""
    assert silence._has_loopback()
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare, and root")
    body = "from hearthnet.checks.probes import silence; print(silence._has_loopback())"
    script = 'ip link set lo up; ip addr del 127.0.0.1/8 dev lo; exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "-n", "sh", "-c", script, sys.executable, body], capture_output=True, text=True)
    if "False" not in done.stdout:
        pytest.skip(f"127.0.0.1 cannot be taken away here: {done.stdout} {done.stderr.strip()}")


def test_stopped_process_is_to_be_continued(tmp_path):
    """It is neither stuck nor ill."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: silence._state_of(child.pid) == "T")
        found = explain_silence(tmp_path, child.pid, "::")
        os.kill(child.pid, signal.SIGKILL)

    assert found == ("it was stopped by a signal", f"kill -CONT {child.pid}")
    assert silence._state_of(2**22 + 1) == ""
