"""Real nodes die in every possible way, and the verdict over their files is right, or admits that it is not certain.

The evidence must not change, and calls in flight are listed with their open span.
"""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from support.longer import few

from hearthnet.checks.runs import last_run, restart_loop
from hearthnet.config import load, resolve_paths, save
from hearthnet.forensics.box import HEADER_BYTES, boxes_in, read_header
from hearthnet.forensics.gather import gather
from hearthnet.forensics.model import Case, Verdict
from hearthnet.forensics.verdict import judge

DYING = [sys.executable, str(Path(__file__).with_name("dying_node.py"))]


def call(node, body, capability="experimental.echo") -> None:
    """Makes a call that may never get a response, in its own thread."""

    def send():
        with suppress(httpx.HTTPError):
            node.call(body, capability=capability)

    threading.Thread(target=send, daemon=True).start()


def case_of(node, **wanted) -> Case:
    """Returns the case of the node's files."""
    return gather(node.data_dir, log_dir=node.log_dir, **wanted)


def wait_until_in_flight(node, capability, span) -> None:
    """Waits until a call is in flight, in that span."""
    node.wait_a_while_for(
        lambda: (capability, span) in {(found.capability, found.span) for found in case_of(node).in_flight}
    )


def evidence_of(node) -> dict[str, tuple]:
    """Returns content, time and mode of every file of the node, which must not change."""
    found = {}
    for path in [*sorted(node.data_dir.rglob("*")), *sorted(node.log_dir.rglob("*"))]:
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        found[str(path)] = (digest, status.st_mtime_ns, status.st_mode, status.st_size)
    return found


def autopsy(node) -> tuple[Case, Verdict]:
    """Returns case and verdict of a dead node, and checks that no file changed."""
    before = evidence_of(node)
    case = case_of(node)
    verdict = judge(case)
    assert evidence_of(node) == before
    return case, verdict


def next_start(node, run_id) -> tuple[Case, Verdict]:
    """Returns case and verdict of the same run after the next one has recovered its box and stopped cleanly."""
    node.start()
    assert node.stop() == 0
    case = case_of(node, run_id=run_id)
    assert not case.run.has_box
    return case, judge(case)


@pytest.fixture
def dying(stopped_node):
    """A node with a capability that makes it die."""
    stopped_node.command = DYING
    stopped_node.start()
    return stopped_node


@pytest.mark.parametrize(
    ("way", "exit_code", "cause", "confidence"),
    few(
        [
            ("segv", -signal.SIGSEGV, "native_fault", "certain"),
            ("abort", -signal.SIGABRT, "native_fault", "certain"),
            ("exit", 3, "killed", "likely"),
            ("kill", -signal.SIGKILL, "killed", "likely"),
        ],
        "segv",
        "kill",
    ),
)
def test_death_without_an_end(dying, way, exit_code, cause, confidence):
    """A fault is certain and has its location; kill and exit look alike. The next start changes no verdict."""
    call(dying, {"params": {}, "input": {"text": "x", "delay_ms": 60_000}})
    wait_until_in_flight(dying, "experimental.echo", "wait")
    if way == "kill":
        dying.process.kill()
    else:
        call(dying, {"params": {}, "input": {"way": way}}, "experimental.die")
    assert dying.process.wait(30) == exit_code

    case, verdict = autopsy(dying)

    assert (verdict.cause, verdict.confidence) == (cause, confidence)
    flying = {(found.capability, found.span) for found in case.in_flight}
    assert ("experimental.echo", "wait") in flying
    assert way == "kill" or ("experimental.die", f"die_by_{way}") in flying
    assert cause != "native_fault" or any("dying_node.py" in line for line in verdict.evidence)
    # The kernel rules it out, where its counters or its log can be read.
    is_ruled_out = case.run.kernel is not None and case.run.kernel.confidence == "none"
    assert cause != "killed" or ("out_of_memory" in verdict.alternatives) != is_ruled_out
    assert case.run.vitals
    later, again = next_start(dying, case.run.run_id)
    assert (again.cause, again.confidence) == (cause, confidence)
    assert {(found.capability, found.span) for found in later.in_flight} == flying
    assert later.run.vitals == case.run.vitals
    assert (later.run.kernel is None) == (case.run.kernel is None)


@pytest.mark.parametrize(
    ("way", "cause", "said"), [("raise", "exception", "KeyError"), ("memory", "out_of_memory", "MemoryError")]
)
def test_death_by_an_exception(dying, way, cause, said):
    """The store is closed cleanly and the exception is named; a MemoryError makes memory the cause."""
    call(dying, {"params": {}, "input": {"way": way}}, "experimental.die")
    assert dying.process.wait(30) == 1

    case, verdict = autopsy(dying)

    assert verdict.cause == cause
    assert verdict.confidence in ("certain", "likely")
    assert any(said in line for line in verdict.evidence)
    assert case.run.end_reason == "clean"


def test_stop_in_order_twice(node):
    """SIGTERM is a certain clean stop without calls in flight; so is the next."""
    for _ in range(2):
        assert node.echo().status_code == 200
        assert node.stop() == 0
        case, verdict = autopsy(node)
        assert (verdict.cause, verdict.confidence, case.in_flight) == ("clean_stop", "certain", [])
        node.start()
    assert judge(case_of(node, run_id=case_of(node).runs[0].run_id)).cause == "running"
    assert case_of(node).run.end_reason == "clean"  # the newest run that has ended


def test_loop_that_is_stuck_and_killed(dying):
    """The watchdog's record is in the box, with its location, although the loop never ran again."""
    call(dying, {"params": {}, "input": {"way": "block"}}, "experimental.die")
    dying.wait_a_while_for(lambda: any(entry.text == "event loop stuck" for entry in case_of(dying).signs))
    assert judge(case_of(dying)).cause == "running"
    dying.process.kill()
    dying.process.wait()

    case, verdict = autopsy(dying)

    assert (verdict.cause, verdict.confidence) == ("loop_stuck", "likely")
    assert any("wait" in line for line in verdict.evidence)
    assert ("experimental.die", "die_by_block") in {(found.capability, found.span) for found in case.in_flight}
    _, again = next_start(dying, case.run.run_id)
    assert again.cause == "loop_stuck"


def test_death_with_a_full_disk(tiny_disk, stopped_node):
    """Records that could not be stored point to the disk; a kill is listed as an alternative."""
    config = load()
    settings = config.observability.model_copy(update={"data_dir": tiny_disk, "max_disk_mb": 64})
    path = save(config.model_copy(update={"observability": settings}), stopped_node.home / "disk.toml")
    stopped_node.data_dir = tiny_disk
    stopped_node.command = [*stopped_node.command, "--config", str(path)]
    stopped_node.start()
    with suppress(OSError), (tiny_disk / "ballast").open("wb") as file:
        while True:
            file.write(b"x" * 4096)
    stopped_node.wait_a_while_for(lambda: _is_full(stopped_node))
    stopped_node.process.kill()
    stopped_node.process.wait()

    _, verdict = autopsy(stopped_node)

    assert verdict.cause in ("disk_full", "killed")
    assert {"disk_full", "killed"} <= {verdict.cause, *verdict.alternatives}


def _is_full(node) -> bool:
    """Returns True once the node's vitals show a full disk."""
    assert node.echo("x" * 1000).status_code == 200
    run = case_of(node).runs[0]
    return bool(run.vitals) and run.vitals[-1].disk_free_bytes < 1_000_000


def test_machine_that_went_down(node):
    """Another boot at the next start: likely a power loss; a kill before is an alternative."""
    assert node.echo().status_code == 200
    node.process.kill()
    node.process.wait()
    case = case_of(node)
    (path,) = boxes_in(node.data_dir)
    content = bytearray(path.read_bytes())
    header = read_header(bytes(content[:HEADER_BYTES]))
    packed = type(header)(**{**{name: getattr(header, name) for name in header.__slots__}, "boot_id": "0" * 36}).pack()
    content[: len(packed)] = packed
    path.write_bytes(content)
    with closing(sqlite3.connect(node.data_dir / "telemetry.db")) as db, db:
        db.execute("UPDATE runs SET boot_id = ?", ("0" * 36,))

    _, verdict = next_start(node, case.run.run_id)

    assert (verdict.cause, verdict.confidence) == ("power_loss", "likely")
    assert "killed" in verdict.alternatives


def test_node_that_dies_again_and_again(node):
    """The fourth kill in a row is a restart loop, for the doctor too, which gives the same cause for the last run."""
    for _ in range(3):
        node.process.kill()
        node.process.wait()
        node.start()
    node.process.kill()
    node.process.wait()

    _, verdict = autopsy(node)

    assert verdict.cause == "restart_loop"
    assert verdict.evidence[0].startswith("4 runs in a row")
    config = resolve_paths(load())
    found = restart_loop(config, None)
    assert (found.status, "4" in found.detail) == ("fail", True)
    assert last_run(config, None).status == "warn"


def test_every_way_was_tried():
    """The ways to die in the program are those tested here."""
    text = Path(__file__).read_text()
    source = Path(DYING[1]).read_text()
    ways = [line.split('"')[1] for line in source.splitlines() if line.startswith('    "')]
    assert ways
    assert all(f'"{way}"' in text for way in ways)
