"""A file that is cut short under a running program is named as the cause of its bus error."""

from __future__ import annotations

import signal
import sys

import pytest
from support import forkserver

from hearthnet.config import ObservabilityConfig
from hearthnet.forensics.evidence.cut_short import cut_short, shortage_of
from hearthnet.forensics.gather import gather
from hearthnet.forensics.verdict import judge
from hearthnet.observability import telemetry
from hearthnet.observability.process.fault_file import FaultFile
from hearthnet.observability.records.box_file import Sizes, make, new_header

# Records, then cuts one of its files, and goes on.
CUT = """
import os, sqlite3, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.process.fault_file import FaultFile

base, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
data = base / "data"
config = ObservabilityConfig(data_dir=data, log_dir=base / "log", max_disk_mb=64)
with FaultFile(data), telemetry.open(config) as t:
    with trace.new_trace("llm.chat"):
        pass
    t.flush()
    reader = sqlite3.connect(data / "telemetry.db")
    reader.execute("SELECT count(*) FROM traces").fetchone()
    assert t._thread.pause(60)  # a round would notice the cut, and make the file whole
    (path,) = data.glob(name)
    os.truncate(path, size)
    reader.execute("SELECT count(*) FROM traces").fetchone()
    while True:
        with trace.new_trace("llm.chat"):
            get_logger("app").warning("more")
"""


@pytest.fixture
def cut_while_running(tmp_path):
    """Runs the program, which dies; returns the folder of its store."""

    def run(name: str, size: int):
        done = forkserver.run([sys.executable, "-c", CUT, tmp_path, name, str(size)])
        assert done.returncode == -signal.SIGBUS, done.stderr
        return tmp_path / "data"

    return run


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("telemetry.*.box2", 0, "has 0 of at least 8,192 bytes"),
        ("telemetry.*.box2", 8_192, "has 8,192 of "),
        ("telemetry.*.box2", 24_576, "has 24,576 of "),
        ("telemetry.db-shm", 0, "telemetry.db-shm has 0 bytes"),
    ],
)
def test_file_that_was_cut_is_named(cut_while_running, name, size, said):
    """At once, and after the next start, which makes all files whole again."""
    data = cut_while_running(name, size)
    case = gather(data)
    verdict = judge(case)
    assert (verdict.cause, verdict.confidence) == ("native_fault", "certain")
    assert said in verdict.evidence[1]
    if "box2" in name:
        (box,) = [source for source in case.sources if source.kind == "box"]
        assert box.state == "damaged"
        assert box.detail.startswith("cut short: ")

    settings = ObservabilityConfig(data_dir=data, log_dir=data.parent / "log", max_disk_mb=64)
    with FaultFile(data), telemetry.open(settings):
        pass
    assert shortage_of(data / "telemetry.db-shm") == ""
    later = judge(gather(data, run_id=case.run.run_id))
    assert later.evidence[1] == verdict.evidence[1]


def test_bus_error_of_another_file_says_what_it_may_be(tmp_path):
    """A library's own mapped file is none of ours; the store's files are whole."""
    (tmp_path / "data").mkdir(mode=0o700)
    body = (
        "import mmap, os\nfrom pathlib import Path\nfrom hearthnet.observability.process.fault_file import FaultFile\n"
    )
    body += f"path = Path({str(tmp_path / 'other')!r})\npath.write_bytes(bytes(8192))\nfile = path.open('r+b')\n"
    body += "held = mmap.mmap(file.fileno(), 8192)\nos.truncate(path, 0)\nheld[5000]"
    code = CUT.replace("(path,) = data.glob(name)", body.replace("\n", "\n    "))
    done = forkserver.run([sys.executable, "-c", code, tmp_path, "x", "0"])
    assert done.returncode == -signal.SIGBUS

    assert "none is too short now" in judge(gather(tmp_path / "data")).evidence[1]


def test_files_that_are_long_enough_are_not_named(tmp_path):
    """A living box, an index of several pages, a folder, a link to nothing, and other processes' boxes."""
    box = make(tmp_path / "telemetry.7.box2", new_header(1, "01RUN", "1", None, Sizes(4_096, 4_096)))
    (tmp_path / "telemetry.db-shm").write_bytes(bytes(65_536))
    (tmp_path / "telemetry.8.box2").write_bytes(b"")
    (tmp_path / "telemetry.7.1.1.box2").mkdir()
    (tmp_path / "telemetry.7.2.1.box2").symlink_to("nothing")
    assert cut_short(tmp_path, 7) == []

    (tmp_path / "telemetry.db-shm").write_bytes(bytes(40_000))
    (line,) = cut_short(tmp_path, 7)
    assert line == "Cut short: telemetry.db-shm has 40,000 bytes, and should have 32,768 or a multiple"
    assert len(cut_short(tmp_path, 8)) == 2
    assert box.fd >= 0
