"""Boxes that recovery must leave alone, cannot read, or cannot remove."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import forkserver

from hearthnet.forensics import box as layout
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.store import pacer

NEVER = """
from hearthnet.observability.store.writer import Writer
async def never(self):
    return False
Writer.flush = never
"""


OPEN_AND_CLOSE = "with telemetry.open(config) as t:\n    pass\n"


def boxes(observability):
    """Returns the remaining box files."""
    return layout.boxes_in(observability.data_dir)


def test_box_of_a_living_process_is_never_touched(observability, query):
    """Starts and stops of the first process do not touch the box of a second one while that runs."""
    script = f"""
import sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
{NEVER}
config = ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None)
with telemetry.open(config) as t:
    for _ in range(7):
        with trace.new_trace("of.second"):
            pass
    trace.new_trace("open.in.second")
    print(t.error, flush=True)
    sys.stdin.read()
"""
    with telemetry.open(observability):
        second = forkserver.spawn(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert second.stdout.readline() == "None\n"
    path = observability.data_dir / f"telemetry.{second.pid}.box2"
    before = layout.read_box(path).traces
    with telemetry.open(observability):
        assert query("SELECT count(*) FROM traces") == [(0,)]
    assert layout.read_box(path).traces == before

    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    second.stdin.close()
    second.stdout.close()
    with telemetry.open(observability):
        pass
    assert query("SELECT capability, result, count(*) FROM traces GROUP BY 1 ORDER BY 1") == [
        ("of.second", "ok", 7),
        ("open.in.second", "interrupted", 1),
    ]
    assert query("SELECT pid, end_reason FROM runs WHERE pid = ?", second.pid) == [(second.pid, "unclean")]
    assert not path.exists()


def test_garbage_that_is_named_like_a_box_is_deleted_and_logged(observability, query):
    """A file that is no box does not stop recovery."""
    observability.data_dir.mkdir()
    (observability.data_dir / "telemetry.99.box").write_bytes(b"\xf5HN\xfa" * 5_000)
    (observability.data_dir / "telemetry.98.box").write_bytes(b"")
    with telemetry.open(observability):  # young files: another process may be about to make boxes of them
        assert len(boxes(observability)) == 3
    for path in boxes(observability):
        os.utime(path, (1, 1))
    with telemetry.open(observability) as t:
        assert t.error is None

    assert boxes(observability) == []
    messages = [path.read_text() for path in observability.log_dir.glob("*.log")]
    assert "".join(messages).count("a black box is too damaged to recover") == 2


def test_box_that_is_locked_is_alive(observability, query):
    """A box whose lock is held belongs to a live process, even if its pid is unknown in this pid namespace."""
    from dataclasses import replace

    observability.data_dir.mkdir(mode=0o700)
    header = new_header(layout.LIBRARY, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "1", None, Sizes(50_000, 10_000))
    box = BlackBox(observability.data_dir / "telemetry.1.box2", replace(header, pid=2**22 + 1))
    with telemetry.open(observability):
        assert box.is_in_place()
    box.close(remove=False)
    with telemetry.open(observability):
        assert not box.is_in_place()


@pytest.mark.parametrize(
    "hostile", [b"9" * 25, b"NaN", b"1e400", b'"\\ud800"'], ids=["huge", "nan", "infinite", "surrogate"]
)
def test_box_with_hostile_values_stops_nothing(observability, query, hostile):
    """If a box with valid checksums has values that no row can hold, its other records are recovered."""
    observability.data_dir.mkdir(mode=0o700)
    header = new_header(layout.NODE, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "1", None, Sizes(50_000, 10_000))
    box = BlackBox(observability.data_dir / "telemetry.1.box2", header)
    good = b'[1,"T",null,"a.b",null,1,1,0.5,"ok",null,0,[],{}]'
    for payload in (
        good,
        good.replace(b"{}", b'{"v":%b}' % hostile).replace(b"[1,", b"[2,"),
        good.replace(b"0.5", hostile),
    ):
        box._append(box.traces, payload)
    box.close(remove=False)
    with telemetry.open(observability) as t:
        assert t.error is None
        with trace.new_trace("a.b"):
            pass
        assert t.flush()

    assert 2 <= query("SELECT count(*) FROM traces")[0][0] <= 3


def test_box_that_cannot_be_removed_does_not_end_the_thread(observability, run_and_die, query, monkeypatch):
    """A recovered box that cannot be deleted is recovered repeatedly without effect; recording continues."""
    genuine, refused = Path.unlink, []

    def unlink(path, **named):
        if path == dead:
            refused.append(path)
            raise PermissionError(1, "Operation not permitted")
        genuine(path, **named)

    run_and_die("telemetry.open(config).start(); record(5, 'of.dead'); die()")
    (dead,) = boxes(observability)
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(pacer, "_HOUSEKEEPING_S", 0.1)
    recorded = 0
    with telemetry.open(observability) as t:
        while len(refused) < 5:
            with trace.new_trace("a.b"):
                recorded += 1
            assert t.flush()
        assert t.error is None

    assert query("SELECT capability, count(*) FROM traces GROUP BY 1") == [("a.b", recorded), ("of.dead", 5)]
    assert query("SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 1), ("unclean", 1)]
