"""Process health is sampled as far as it is known, and kept in the black box, whatever fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability.process.vitals import Sampler, cgroup_limits
from hearthnet.observability.records import box_file
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header

MB = 1_000_000
NOTHING = Vitals(0)
LIMITED = """
import resource
from hearthnet.observability.process.vitals import Sampler
before = Sampler(None).sample(None)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 150_000_000, resource.RLIM_INFINITY))
print(before.memory_left_bytes, Sampler(None).sample(None).memory_left_bytes)
"""
on_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system tells nothing of this")


@pytest.fixture
def proc(tmp_path):
    """The files of a process of 40 pages, 10 of them in memory, on a machine with 900 MB left."""
    folder = tmp_path / "proc" / "self"
    (folder / "fd").mkdir(parents=True)
    (folder / "statm").write_text("40 10 3 1 0 5 0\n")
    (folder.parent / "meminfo").write_text("MemTotal: 1 kB\nMemAvailable:   900000 kB\nBuffers: 5 kB\n")
    return folder


def group(folder, limit, used, stat, names=("memory.max", "memory.current")) -> None:
    """A control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "memory.stat"), (limit, used, stat), strict=True):
        (folder / name).write_text(f"{content}\n")


@on_linux
def test_own_process_is_measured(tmp_path):
    """A real process has memory, descriptors that are counted one by one, and a disk."""
    sampler = Sampler(tmp_path)
    before = sampler.sample(0.5)
    with ExitStack() as files:
        for _ in range(100):
            files.enter_context(Path(os.devnull).open())
        after = sampler.sample(None)

    assert after.open_files - before.open_files == pytest.approx(100, abs=20)  # other threads open and close some
    assert before.rss_bytes > MB
    assert before.memory_left_bytes > 0
    assert 0 < before.disk_free_bytes <= shutil.disk_usage(tmp_path).total
    assert (before.loop_lag_s, after.loop_lag_s) == (0.5, None)
    assert before.ts_us <= after.ts_us


@on_linux
def test_limit_of_the_address_space_is_what_is_left():
    """Under RLIMIT_AS a process has less left than the machine."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)

    before, limited = map(int, done.stdout.split())
    assert limited <= 150 * MB
    assert limited <= before


def test_least_of_all_that_bounds_memory_counts(proc, tmp_path):
    """Of two versions of control groups and all levels above, the tightest; cached files are not in the way."""
    mounted = tmp_path / "cgroup"
    (proc / "cgroup").write_text("4:cpu,memory:/box/node\n0::/user/node\n")
    group(mounted / "user" / "node", "max", 1, "inactive_file 1\nactive_file 1")
    sampler = Sampler(None, proc, cgroup_limits(proc / "cgroup", mounted))
    assert sampler.sample(None).memory_left_bytes == 900_000 * 1_024

    group(mounted / "user", 700 * MB, 400 * MB, f"anon 5\ninactive_file {50 * MB}\nactive_file {50 * MB}")
    sampler = Sampler(None, proc, cgroup_limits(proc / "cgroup", mounted))
    assert sampler.sample(None).memory_left_bytes == 400 * MB

    v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    stat = f"inactive_file 7\ntotal_inactive_file {MB}\ntotal_active_file {MB}"
    group(mounted / "memory" / "box" / "node", 200 * MB, 150 * MB, stat, v1)
    group(mounted / "memory", 9_223_372_036_854_771_712, 1, "", v1)  # no limit
    sampler = Sampler(None, proc, cgroup_limits(proc / "cgroup", mounted))
    assert sampler.sample(None).memory_left_bytes == 52 * MB

    group(mounted / "user", 300 * MB, 400 * MB, "inactive_file 0\nactive_file 0")  # the limit was lowered
    assert sampler.sample(None).memory_left_bytes == 0


def test_path_of_the_host_in_a_container(proc, tmp_path):
    """If the group's path is not visible, the root of the mount bounds the process."""
    mounted = tmp_path / "cgroup"
    group(mounted, 100 * MB, 40 * MB, "inactive_file 0\nactive_file 0")
    for path in ("/docker/0123", "/../../elsewhere", "", "nonsense"):
        (proc / "cgroup").write_text(f"0::{path}\n:\n\n")
        sampler = Sampler(None, proc, cgroup_limits(proc / "cgroup", mounted))
        assert sampler.sample(None).memory_left_bytes == 60 * MB


def test_what_a_system_does_not_tell_is_none(tmp_path, proc):
    """Without /proc, with files that make no sense, without its folder, a sample still has what it can."""
    sampler = Sampler(tmp_path / "gone", tmp_path / "nothing")
    found = sampler.sample(1.5)
    assert replace(found, ts_us=0, load=None) == replace(NOTHING, loop_lag_s=1.5)

    shutil.rmtree(proc / "fd")
    (proc / "statm").write_text("")
    (proc.parent / "meminfo").write_text("MemAvailable: much\n")
    (proc / "cgroup").write_bytes(b"\xff\xfe")
    group(tmp_path / "odd", "12 monkeys", 1, "")
    found = Sampler(None, proc, [(tmp_path / "odd", ("memory.max", "memory.current", (b"a", b"b")))]).sample(None)
    assert replace(found, ts_us=0, load=None) == NOTHING

    (proc / "fd").mkdir()
    (proc.parent / "meminfo").write_text("MemTotal: 5 kB\n")
    assert Sampler(None, proc).sample(None).memory_left_bytes is None


@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_samples_are_kept_by_mappings_and_by_calls(tmp_path, monkeypatch, file_system):
    """Either way of writing a box has the samples, and a heartbeat with each."""
    monkeypatch.setattr(box_file, "_file_system", lambda _: file_system)
    path = tmp_path / "telemetry.1.box2"
    box = BlackBox(path, new_header(layout.NODE, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "1", None, Sizes(64_000, 64_000)))
    sample = Sampler(tmp_path).sample(0.25)
    box.note_vitals(sample)
    box.note_vitals(NOTHING)

    found = layout.read_box(path)
    assert astuple(found.vitals[0]) == pytest.approx(astuple(sample), abs=1e-4)
    assert found.vitals[1] == NOTHING
    assert found.heartbeat_ns > found.header.started_ns
    box.close(remove=False)
    box.note_vitals(sample)  # late: it goes nowhere
    assert len(layout.read_box(path).vitals) == 2
