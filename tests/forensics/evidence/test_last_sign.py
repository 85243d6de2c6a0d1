"""What a box says of ages, where the wall clock was set while the run was under way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from hearthnet import get_recent
from hearthnet.config import ObservabilityConfig
from hearthnet.forensics.gather import gather
from hearthnet.forensics.main import main
from hearthnet.observability import telemetry

KILLED = """
import os, signal, sys, time
wall, wall_ns, offset = time.time, time.time_ns, [float(sys.argv[2])]
time.time = lambda: wall() + offset[0]
time.time_ns = lambda: wall_ns() + int(offset[0] * 1e9)
from hearthnet import get_logger, telemetry, trace
log = get_logger("app")
with telemetry.open(sys.argv[1], console="off") as opened:
    for number in range(20):
        log.warning("at work", extra={"number": number})
        with trace("work"):
            pass
        if number == 10:
            offset[0] += float(sys.argv[3])
    flying = trace("flying")
    flying.__enter__()
    os.kill(os.getpid(), signal.SIGKILL)
"""
SETTINGS = {
    "set back": (0, -1e9),
    "set back a little": (0, -300),
    "set right": (1 - time.time(), 1.7e9),
    "right": (0, 0),
}


@pytest.fixture(params=SETTINGS)
def killed(request, tmp_path):
    """A program that was killed in a trace that had just begun: the folder, and how long it ran at the most, in s."""
    began = time.monotonic()
    arguments = [str(tmp_path / "runs"), *map(str, SETTINGS[request.param])]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return tmp_path / "runs", time.monotonic() - began, request.param


def test_trace_in_flight_is_no_older_than_it_can_be(killed):
    """`at least 2 minutes old` was said of one that began a moment before, after the clock had been set back."""
    folder, lasted_s, _ = killed

    (flying,) = gather(folder).in_flight
    assert flying.capability == "flying"
    assert flying.age_ms <= lasted_s * 1e3
    with telemetry.open(ObservabilityConfig(data_dir=folder, log_dir=folder / "logs")):
        (interrupted,) = [record for record in get_recent(100) if record.capability == "flying"]
        assert interrupted.duration_ms <= lasted_s * 1e3


def test_run_did_not_last_for_decades(killed, capsys):
    """A machine without a battery begins in 1970, and has the time from the network a minute later."""
    folder, _, how = killed

    main([str(folder)])
    first = capsys.readouterr().out.splitlines()[1]
    assert (", for how long is not known: its clock was set meanwhile" in first) is (how == "set right")
    assert not first.endswith(" d")
