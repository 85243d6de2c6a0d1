"""Simulated power cuts: a process's disk operations are recorded, cut off anywhere, and the store is opened again.

A disk keeps what was synced. Of the writes since a file's last sync it may keep any: all of a write, nothing, or
some of its sectors, in any combination. Names are created and removed in order and become durable with any sync, as
on a journaling file system. Shared memory, black boxes and the lock do not survive and are not carried over.
No store survives a disk that lies about syncs; the simulated one can lie, which proves that the check detects losses.

Run by itself, this file is the recording process: its arguments are the data folder and the recording.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from support import vfs
from support.longer import few
from support.vfs import Entry, Kind

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
from hearthnet.observability.telemetry import DATABASE

pytestmark = pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE)

SEED = 20_261_124
INTERVAL_S = 0.2
TRACES = 900
PARTS = 4  # makes a trace 5 KB: the WAL is checkpointed and reset several times
BURST = 5
PACE_S = 0.008
SECTOR = 512
EARLY_CUTS, LATE_CUTS, LYING_CUTS = 10, 20, 40
TURNS = 4  # that may be late
SLACK_S = 0.02  # between a record's turn in the writer and its first byte to the disk


# --- the process that loses power


def record_under_vfs(data_dir: Path, recording: Path) -> None:
    """Records numbered traces for a second and a half, and marks which are recorded and which committed."""
    config = ObservabilityConfig(data_dir=data_dir, log_dir=None, flush_interval_s=INTERVAL_S)
    with vfs.installed() as disk, disk.recording(recording):
        with telemetry.open(config) as t:
            assert t.error is None, t.error
            with closing(sqlite3.connect(f"file:{data_dir / DATABASE}?mode=ro", uri=True)) as reader:
                record_traces(disk, t, reader)
        disk.mark(b"committed %d" % TRACES)


def record_traces(disk: vfs.Disk, t: telemetry.Telemetry, reader: sqlite3.Connection) -> None:
    """Flushes explicitly in the first half; in the second the store keeps its own pace."""
    pause = threading.Event()
    for number in range(1, TRACES + 1):
        with trace.new_trace(f"power.t{number}"):
            for part in range(PARTS):
                with trace.span(f"part{part}", text=f"{number}." * 300):
                    pass
        disk.mark(b"recorded %d" % number)
        if number % BURST:
            continue
        if number % 60 == 0 and number <= TRACES // 2 and t.flush():
            disk.mark(b"committed %d" % number)
        elif number % 15 == 0:
            disk.mark(b"committed %d" % max(numbers_in(reader), default=0))
        pause.wait(PACE_S)


def numbers_in(connection: sqlite3.Connection) -> list[int]:
    """Returns the numbers of the stored traces."""
    found = connection.execute("SELECT capability FROM traces").fetchall()
    return [int(capability.removeprefix("power.t")) for (capability,) in found]


# --- the disk


@dataclass
class StoredFile:
    """A file's synced content, and the operations since."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Entry] = field(default_factory=list)

    def settle(self) -> None:
        """Makes all operations durable."""
        for entry in self.pending:
            put(self.content, entry)
        self.pending.clear()

    def survivor(self, rng: random.Random) -> bytearray:
        """Returns content that a power cut may leave."""
        content = bytearray(self.content)
        odds = rng.choice((0.0, 0.5, 0.9, 1.0))
        for entry in self.pending:
            if rng.random() < odds:
                put(content, entry)
            elif entry.kind is Kind.WRITE and odds and rng.random() < 0.5:
                for sector in sectors(entry):
                    if rng.random() < 0.5:
                        put(content, sector)
            elif entry.kind is Kind.WRITE and rng.random() < 0.5:  # its length reached the disk, its data did not
                content.extend(bytes(max(0, entry.offset + len(entry.data) - len(content))))
        return content


def put(content: bytearray, entry: Entry) -> None:
    """Applies an entry to `content`."""
    if entry.kind is Kind.TRUNCATE:
        del content[entry.offset :]
    content.extend(bytes(max(0, entry.offset - len(content))))
    content[entry.offset : entry.offset + len(entry.data)] = entry.data


def sectors(entry: Entry) -> Iterator[Entry]:
    """Splits a write into the parts that a disk writes atomically."""
    start = entry.offset
    end = entry.offset + len(entry.data)
    while start < end:
        stop = min(end, start - start % SECTOR + SECTOR)
        data = entry.data[start - entry.offset : stop - entry.offset]
        yield entry._replace(offset=start, data=data)
        start = stop


class Disk:
    """Files and names as recorded; a lying disk does not sync the data of the given files."""

    def __init__(self, lies_about: Callable[[str], bool] = lambda _: False) -> None:
        self._lies_about = lies_about
        self._files: dict[int, StoredFile] = {}
        self._paths: dict[int, str] = {}
        self._names: dict[str, int | None] = {}
        self._pending_names: list[tuple[str, int | None]] = []

    def apply(self, entry: Entry) -> None:
        """Applies the next entry of the recording."""
        if entry.kind is Kind.OPEN:
            name = self._paths[entry.file] = Path(os.fsdecode(entry.data)).name
            if entry.file not in self._files:
                self._files[entry.file] = StoredFile()
                self._pending_names.append((name, entry.file))
        elif entry.kind in (Kind.WRITE, Kind.TRUNCATE):
            self._files[entry.file].pending.append(entry)
        elif entry.kind is Kind.DELETE:
            self._pending_names.append((self._paths[entry.file], None))
        elif entry.kind is Kind.SYNC:
            self._sync(entry.file)

    def _sync(self, number: int) -> None:
        self._names.update(self._pending_names)
        self._pending_names.clear()
        if not self._lies_about(self._paths[number]):
            self._files[number].settle()

    def save(self, folder: Path, rng: random.Random) -> None:
        """Writes files into `folder` that a power cut at this moment may leave."""
        folder.mkdir(mode=0o700)
        names = {**self._names, **dict(self._pending_names[: rng.randint(0, len(self._pending_names))])}
        for name, number in names.items():
            if name and number is not None:
                content = self._files[number].survivor(rng)
                if name.endswith("-wal") and rng.random() < 0.5:  # preallocated, not by SQLite
                    content.extend(bytes(max(0, 4_000_000 - len(content))))
                write_sparse(folder / name, content)


def write_sparse(path: Path, content: bytearray) -> None:
    """Writes a file with holes instead of zeros."""
    step = 65_536
    zeros = bytes(step)
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), step):
            part = content[start : start + step]
            if part != zeros[: len(part)]:
                file.seek(start)
                file.write(part)


# --- the check


@dataclass
class Expected:
    """The state of the recording at the moment of a cut.

    Attributes:
        recorded: when each trace was recorded, by its number, counted from one.
        committed: the highest number that was known to be committed.
        at_ns: when the power went.
    """

    recorded: list[int] = field(default_factory=list)
    committed: int = 0
    at_ns: int = 0

    def follow(self, entry: Entry) -> None:
        """Applies the next entry of the recording."""
        self.at_ns = entry.at_ns
        if entry.kind is Kind.MARK:
            what, number = entry.data.split()
            if what == b"recorded":
                self.recorded.append(entry.at_ns)
            else:
                self.committed = max(self.committed, int(number))

    def due(self, allowed_s: float) -> int:
        """Returns how many traces are old enough that they must be stored, committed or not."""
        return sum(at_ns <= self.at_ns - allowed_s * 1e9 for at_ns in self.recorded)


@dataclass
class Outcome:
    """The result of a cut."""

    cut: int
    problems: list[str]
    lost: int = 0
    lost_s: float = 0.0


def allowed_s(entries: list[Entry]) -> float:
    """Returns how long a record may wait: the interval, plus the worst time of a commit on this machine.

    A batch is some turns of two threads on its way to the disk, and each may have to wait for a processor.
    """
    wals = {entry.file for entry in entries if entry.kind is Kind.OPEN and entry.data.endswith(b"-wal")}
    writing = [entry for entry in entries if entry.file in wals and entry.kind in (Kind.WRITE, Kind.SYNC)]
    slowest_commit = begun = 0
    for entry in writing:
        begun = begun or entry.at_ns
        if entry.kind is Kind.SYNC:
            slowest_commit, begun = max(slowest_commit, entry.at_ns - begun), 0
    recorded = [entry.at_ns for entry in entries if entry.data.startswith(b"recorded")][TRACES // 2 :]
    longest_stall = max(later - earlier for earlier, later in pairwise(recorded))
    return INTERVAL_S + SLACK_S + (slowest_commit + TURNS * longest_stall) / 1e9


def choose_cuts(entries: list[Entry], rng: random.Random, early: int, late: int) -> list[int]:
    """Returns moments of the recording: random ones, and those around syncs, creations and removals."""
    first = next(index for index, entry in enumerate(entries) if entry.data == b"recorded 1")
    chosen: set[int] = set()
    for start, stop, count in ((0, first, early), (first, len(entries), late)):
        turns = [
            index
            for index in range(start, stop)
            if any(entry.kind not in (Kind.WRITE, Kind.MARK) for entry in entries[max(start, index - 1) : index + 1])
        ]
        chosen.update(rng.sample(turns, min(count // 2, len(turns))))
        chosen.update(rng.sample(range(start, stop), count - count // 2))
    return sorted(chosen)


def cut_power(entries: list[Entry], cuts: list[int], disk: Disk, folder: Path, rng: random.Random) -> Iterator[Outcome]:
    """Cuts the power before each of these entries, and checks what is left."""
    expected = Expected()
    allowed = allowed_s(entries)
    for index, entry in enumerate(entries):
        if index in cuts:
            image = folder / f"cut{index}"
            disk.save(image, rng)
            outcome = examine(index, image, expected, allowed)
            if not outcome.problems:
                shutil.rmtree(image)  # otherwise keep it as evidence
            yield outcome
        disk.apply(entry)
        expected.follow(entry)


def examine(cut: int, image: Path, expected: Expected, allowed: float) -> Outcome:
    """Opens the files of a cut as the next start does, and compares them with what must be there."""
    path = image / DATABASE
    before = path.stat().st_ino if path.exists() else None
    with telemetry.open(ObservabilityConfig(data_dir=image, log_dir=None)) as t:
        if t.error is not None:
            return Outcome(cut, [f"it cannot be opened: {t.error}"])
    if before is not None and path.stat().st_ino != before:
        return Outcome(cut, ["it was taken for damaged and moved aside"])
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        stored = numbers_in(connection)
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    problems = [] if verdict == "ok" else [f"integrity check: {verdict}"]
    found = set(stored)
    if len(found) != len(stored):
        problems.append("traces are there twice")
    first_missing = next(number for number in range(1, TRACES + 2) if number not in found)
    problems += [
        f"trace {first_missing} is lost, {what}"
        for what, number in (("and was committed", expected.committed), ("and was due", expected.due(allowed)))
        if first_missing <= number
    ]
    recorded = expected.recorded
    lost_s = (expected.at_ns - recorded[first_missing - 1]) / 1e9 if first_missing <= len(recorded) else 0.0
    return Outcome(cut, problems, len(set(range(1, len(recorded) + 1)) - found), lost_s)


# --- the tests


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[Entry]:
    """The disk operations of a process that records traces, from an empty folder to its clean end."""
    folder = tmp_path_factory.mktemp("power")
    return make_recording(folder)


def make_recording(folder: Path) -> list[Entry]:
    """Runs the recording process."""
    recording = folder / "recording"
    arguments = [sys.executable, __file__, str(folder / "data"), str(recording)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HOME": str(folder)}
    subprocess.run(arguments, env=environment, check=True, timeout=60)
    return vfs.read_recording(recording)


def test_recording_has_all_that_a_store_does(entries):
    """The recording covers the creation of the store, dozens of commits, checkpoints under load, and WAL resets."""
    paths = {entry.file: Path(os.fsdecode(entry.data)).name for entry in entries if entry.kind is Kind.OPEN}
    first = next(index for index, entry in enumerate(entries) if entry.data == b"recorded 1")
    last = next(index for index, entry in enumerate(entries) if entry.data == b"recorded %d" % TRACES)
    running = [(entry.kind, paths.get(entry.file), entry.offset) for entry in entries[first:last]]

    assert set(paths.values()) == {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal"}
    assert running.count((Kind.SYNC, f"{DATABASE}-wal", 0)) >= 10
    assert running.count((Kind.SYNC, DATABASE, 0)) >= 1
    assert running.count((Kind.WRITE, f"{DATABASE}-wal", 0)) >= 1
    assert any(entry.data.startswith(b"committed") and entry.data > b"committed 0" for entry in entries[first:last])


@pytest.mark.parametrize("times", few([1, 3], 1))
def test_power_loss_costs_one_interval_at_most(entries, tmp_path, times):
    """Wherever the power fails, the store opens intact, with all traces committed or older than the flush interval."""
    rng = random.Random(SEED)
    cuts = choose_cuts(entries, rng, times * EARLY_CUTS, times * LATE_CUTS)

    outcomes = list(cut_power(entries, cuts, Disk(), tmp_path, rng))

    lost, lost_s = max(outcome.lost for outcome in outcomes), max(outcome.lost_s for outcome in outcomes)
    print(f"{len(outcomes)} cuts: at most {lost} traces lost, {lost_s:.3f} s of {allowed_s(entries):.3f} s allowed")
    assert [outcome for outcome in outcomes if outcome.problems] == []


@pytest.mark.parametrize("suffix", ["", "-wal"], ids=["all files", "the WAL"])
def test_disk_that_does_not_sync_is_found_out(entries, tmp_path, suffix):
    """The same check detects a disk that claims to have synced all files, or only the WAL, and has not."""
    rng = random.Random(SEED)
    cuts = choose_cuts(entries, rng, 0, LYING_CUTS)

    outcomes = cut_power(entries, cuts, Disk(lambda name: name.endswith(suffix)), tmp_path, rng)

    assert any(outcome.problems for outcome in outcomes)


if __name__ == "__main__":
    record_under_vfs(Path(sys.argv[1]), Path(sys.argv[2]))
