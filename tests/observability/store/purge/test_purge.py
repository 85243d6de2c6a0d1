"""A purge erases every byte of the selected records in all files, and no byte of others."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few
from support.waiting import PATIENCE_S

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import DiskFullError, StoreError
from hearthnet.forensics.box import boxes_in
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.purge.purge import Places, count, purge
from hearthnet.observability.store.purge.selection import Selection
from hearthnet.observability.store.recovery.quarantine import set_aside
from hearthnet.observability.telemetry import DATABASE
from hearthnet.observability.traces.propagation import carry

SECRET = "planted.Zq7"
PLANTS = [SECRET, "span-Zq7", "extra-Zq7", "message-Zq7", "traceback-Zq7", "torn-Zq7", "called-Zq7"]
log = get_logger("hearthnet.test")


def live(count=40):
    """Records a run with planted strings in every part of some traces, and others between; returns the planted ids."""
    planted = []
    for number in range(count):
        with trace.new_trace("innocent.work"), trace.span("step", kept=f"keep-{number}"):
            log.info("kept message", extra={"number": number})
        with trace.new_trace(SECRET) as started, trace.span("span-Zq7", text="extra-Zq7 " * (1 + number * 7 % 90)):
            planted.append(started.trace_id)
            log.info("message-Zq7", extra={"number": number})
            try:
                raise ValueError("traceback-Zq7")
            except ValueError:
                log.exception("it broke")
    return planted


def call_from_another_trace():
    """Records a trace of another capability that calls the planted one, and a log record that names it."""
    with trace.new_trace("innocent.caller"), trace.span("call", capability=SECRET, version="1.0"):
        log.info("called-Zq7")
    log.info("routed", extra={"capability": f"{SECRET}@1.0"})


@pytest.fixture
def places(observability):
    """Returns the paths and bounds of a store with these settings."""
    return Places(observability.data_dir / DATABASE, observability.log_dir, Budget(observability.max_disk_mb))


@pytest.fixture
def lived(observability, places, monkeypatch):
    """A store after a clean run; its ring has churned, so that pages were split, merged and freed."""
    monkeypatch.setattr(telemetry, "_CLOSE_TIMEOUT_S", PATIENCE_S)  # a busy disk leaves no box
    with telemetry.open(observability) as t:
        live()
        call_from_another_trace()
        assert t.flush()
    return places


def killed_run(observability):
    """Kills a recording process: leaves a box with planted strings, a trace in flight, a WAL, a torn line."""
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[3])!r}]
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
from hearthnet.observability.logs import messages
import test_purge
messages.ROWS_A_SECOND = 1_000
telemetry.open(ObservabilityConfig.model_validate({observability.model_dump(mode="json")!r})).start()
test_purge.live()
trace.new_trace(test_purge.SECRET)
os._exit(9)
"""
    assert forkserver.run([sys.executable, "-c", script]).returncode == 9
    torn = b'{"ts":"2026-01-01T00:00:00.000Z","msg":"torn-Zq7 %s\n' % SECRET.encode()
    newest = max(observability.log_dir.glob("*.log"))
    newest.write_bytes(newest.read_bytes() + torn)


def files_of(places):
    """Returns the bytes of every file."""
    found = [*places.store.parent.rglob("*"), *places.log_dir.rglob("*")]
    return {path.name: path.read_bytes() for path in found if path.is_file()}


def contents(places):
    """Returns the same without the files that a reader leaves: an index of the WAL, and an empty WAL."""
    return {name: content for name, content in files_of(places).items() if not name.endswith("-shm") and content}


def where(places, *strings):
    """Returns the files that contain one of the strings."""
    return {(name, text) for name, content in files_of(places).items() for text in strings if text.encode() in content}


def where_but_in_logs(places, *strings):
    """Returns the same without the JSON logs, which a purge by capability keeps."""
    return {(name, text) for name, text in where(places, *strings) if not is_log(name)}


def nothing(_):
    """Agrees to everything."""


def run(places, selection, agree=nothing):
    """Purges."""
    return purge(places, selection, agree=agree)


def is_log(name):
    """Returns True for a JSON log file."""
    return name.endswith(".log")


def ask(places, sql):
    """Returns all rows of a query."""
    with closing(sqlite3.connect(f"file:{places.store}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.usefixtures("unsampled")
def test_capability_leaves_no_byte_but_in_the_logs(lived, observability):
    """After a clean and a killed run, the capability is gone from database, WAL, box and callers; the rest stays."""
    killed_run(observability)
    box = boxes_in(lived.store.parent)[0]
    another_name = lived.store.parent.parent / "the-boxes-bytes"
    another_name.hardlink_to(box)
    assert {text for _, text in where_but_in_logs(lived, *PLANTS)} == set(PLANTS) - {"torn-Zq7"}
    logs = {name: content for name, content in files_of(lived).items() if is_log(name)}
    asked = []

    purged = run(lived, Selection(capability=SECRET), asked.append)

    assert where_but_in_logs(lived, *PLANTS) == set()
    assert not any(another_name.read_bytes())
    assert sorted(path.name for path in lived.store.parent.iterdir()) == [DATABASE, "telemetry.lock"]
    assert (purged.traces, purged.logs) == (40 + 40 + 1 + 1, 2 * 80 + 2)
    assert [item.traces for item in asked] == [82]
    assert ask(lived, "SELECT capability, count(*) FROM traces GROUP BY 1") == [("innocent.work", 80)]
    assert ask(lived, "SELECT count(*) FROM logs WHERE msg = 'kept message'") == [(80,)]
    assert {name: content for name, content in files_of(lived).items() if is_log(name)} == logs
    assert asked[0].days_left == purged.days_left == sorted(name.removesuffix(".log") for name in logs)


def test_days_whose_logs_hold_lines_are_named(observability, places):
    """Reports exactly the days whose log names the capability, or with a record of it."""
    with telemetry.open(observability):
        with trace.new_trace(SECRET):
            log.info("of it, by its id alone")
        log.info("last of this day")
    today = max(places.log_dir.iterdir())
    lines = [line for line in today.read_bytes().splitlines(keepends=True) if SECRET.encode() not in line]
    today.write_bytes(b"".join(lines))
    line = b'{"ts":"2026-01-%02dT00:00:00.000Z","level":"info","logger":"a","msg":"b","capability":"%s"}\n'
    (places.log_dir / "2026-01-02.log").write_bytes(line % (2, b"innocent.work"))
    (places.log_dir / "2026-01-03.1.log").write_bytes(line % (3, SECRET.encode()))
    (places.log_dir / "2026-01-03.log").write_bytes(line % (3, SECRET.encode()))
    expected = ["2026-01-03", today.stem]

    assert count(places, Selection(capability=SECRET)).days_left == expected
    assert run(places, Selection(capability=SECRET)).days_left == expected
    assert run(places, Selection(capability=SECRET)).days_left == ["2026-01-03"]
    assert count(places, Selection(everything=True)).days_left == []

    run(places, Selection(before_us=int(datetime(2026, 1, 4, tzinfo=UTC).timestamp() * 1e6)))
    assert list(places.log_dir.iterdir()) == [today]


def test_trace_leaves_no_byte(observability, places):
    """One trace is erased with its log records and those that name its id; its neighbours stay."""
    with telemetry.open(observability):
        planted = live()
        log.info("mentions another", extra={"request": planted[3]})

    purged = run(places, Selection(trace_id=planted[3]))

    assert (purged.traces, purged.logs, purged.log_lines) == (1, 3, 4)
    assert where(places, planted[3]) == set()
    assert where(places, planted[4]) != set()
    assert ask(places, "SELECT count(*) FROM traces") == [(79,)]


def test_everything_leaves_no_byte(lived, observability):
    """All rows, runs and log files are erased; an empty database with its reserve remains, and the next run uses it."""
    killed_run(observability)
    lived.store.with_name(f"{DATABASE}.corrupt-20260101T000000Z").write_text(SECRET)
    lived.store.with_name(f"{DATABASE}.corrupt-20260101T000000Z-wal").write_text(SECRET)
    lived.store.with_name(f"{DATABASE}.before-rebuild-20260101T000000Z").write_text(SECRET)
    lived.store.with_name(f"{DATABASE}.before-rebuild-20260101T000000Z-wal").write_text(SECRET)
    lived.store.with_name(f".{DATABASE}-killed").write_text(SECRET)

    purged = run(lived, Selection(everything=True))

    assert where(lived, *PLANTS, "innocent", "kept") == set()
    assert purged.runs == 2
    assert len(purged.quarantined) == 2
    assert list(lived.log_dir.iterdir()) == []
    assert ask(lived, "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM logs)") == [(0,)]
    assert abs(TELEMETRY.reserve_bytes - lived.store.stat().st_size) < 50_000
    assert lived.store.stat().st_blocks * 512 >= lived.store.stat().st_size
    with telemetry.open(observability), trace.new_trace("after.it"):
        assert trace.get_recent() == []
    assert ask(lived, "SELECT capability FROM traces") == [("after.it",)]


@pytest.mark.parametrize("seed", few([3, 14], 3))
def test_bytes_that_secure_delete_leaves_are_gone_too(places, seed):
    """After many deletions of rows of all sizes, a purge erases the bytes that rebalanced pages still had."""
    chance = random.Random(seed)
    with closing(open_database(places.store, TELEMETRY)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")  # the worst case: deleted rows leave their bytes
        connection.execute("PRAGMA synchronous = OFF")
        living = []
        for seq in range(1, 6_001):
            name = SECRET if chance.random() < 0.3 else "innocent.work"
            text = f"{name}-{seq:06d} " * chance.choice([1, 3, 10, 60, 200, 400])
            values = (seq, "r", seq, "t", None, name, None, 1, 1, 1.0, "ok", None, 0, f'["{text}"]', "{}")
            connection.execute(rows.TRACES.insert, values)
            living.append(seq)
            if len(living) > 1_500:
                connection.execute("DELETE FROM traces WHERE seq = ?", (living.pop(chance.randrange(40)),))
    # Each has its own trace; only the planted ones are named.
    with closing(sqlite3.connect(places.store)) as connection, connection:
        connection.execute("UPDATE traces SET trace_id = capability")
    places.log_dir.mkdir()
    assert SECRET.encode() in places.store.read_bytes()

    run(places, Selection(capability=SECRET))

    assert where(places, SECRET) == set()
    assert ask(places, "SELECT count(*) > 1000, count(DISTINCT capability) FROM traces") == [(1, 1)]
    assert ask(places, "PRAGMA integrity_check") == [("ok",)]


def test_older_than_takes_what_was_recorded_before(observability, places):
    """Rows, lines, gaps and ended runs from before are erased, and old files as a whole; later ones stay."""
    with telemetry.open(observability):
        live(10)
    old = places.log_dir / f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}.log"
    old.write_bytes(b"no line at all\n")
    middle = time.time_ns() // 1_000
    with telemetry.open(observability), trace.new_trace("after.it"):
        log.info("after it")

    purged = run(places, Selection(before_us=middle))

    assert where(places, *PLANTS, "kept") == set()
    assert not old.exists()
    assert (purged.traces, purged.logs, purged.runs, purged.log_lines) == (20, 30, 1, 51)
    assert ask(places, "SELECT capability FROM traces") == [("after.it",)]
    assert ask(places, "SELECT msg FROM logs") == [("after it",)]
    assert ask(places, "SELECT count(*) FROM runs") == [(1,)]


def test_count_changes_nothing(lived, observability):
    """Counting changes no file, and gives the figures of the purge that follows, except for boxes of ended runs."""
    lived.store.with_name(f"{DATABASE}.corrupt-20260101T000000Z").write_text("x")
    trace_id = ask(lived, "SELECT max(trace_id) FROM traces")[0][0]
    for selection in (Selection(trace_id=trace_id), Selection(capability=SECRET), Selection(everything=True)):
        before = contents(lived)
        found = count(lived, selection)
        assert contents(lived) == before
        assert found == run(lived, selection)
        assert found.traces > 0

    killed_run(observability)
    before = contents(lived)
    assert count(lived, Selection(capability=SECRET)).boxes in (1, 2)  # two where its box was growing at that moment
    assert contents(lived) == before
    assert run(lived, Selection(capability=SECRET)).boxes == 0


@pytest.mark.usefixtures("unsampled")
@pytest.mark.parametrize("steps", few([0, 5, 10, 20, 30, 35], 0, 20))
def test_killed_purge_leaves_a_whole_store(lived, steps):
    """If a purge is killed while it deletes or rewrites, other records are intact, and the next purge completes it."""
    script = f"""
import os, itertools
from pathlib import Path
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.purge import purge
steps = itertools.count()
opened = purge.open_database
def open_database(*arguments):
    connection = opened(*arguments)
    connection.set_progress_handler(lambda: next(steps) == {steps} and os._exit(9), 100)
    return connection
purge.open_database = open_database
places = purge.Places(Path({str(lived.store)!r}), Path({str(lived.log_dir)!r}), Budget(256))
purge.purge(places, purge.Selection(capability={SECRET!r}), agree=id)
print(next(steps))
"""
    done = forkserver.run([sys.executable, "-c", script])
    assert (done.returncode, done.stdout) == (9, "")

    assert ask(lived, "PRAGMA integrity_check") == [("ok",)]
    innocent = "SELECT (SELECT count(*) FROM traces WHERE capability = 'innocent.work'), count(*) FROM logs"
    assert ask(lived, f"{innocent} WHERE msg = 'kept message'") == [(40, 40)]
    run(lived, Selection(capability=SECRET))
    assert ask(lived, f"{innocent} WHERE msg = 'kept message'") == [(40, 40)]
    assert where_but_in_logs(lived, *PLANTS) == set()


def test_refusal_leaves_every_record(lived):
    """If the user declines, nothing is erased, and the lock is released."""

    def refuse(_):
        raise KeyboardInterrupt

    before = contents(lived)
    with pytest.raises(KeyboardInterrupt):
        run(lived, Selection(everything=True), refuse)
    assert contents(lived) == before
    lock = StoreLock(lived.store.parent)
    lock.acquire()
    lock.release()


def test_running_process_is_an_error(lived, observability):
    """A process that records into the store is detected by its box; nothing is changed."""
    with telemetry.open(observability), pytest.raises(StoreInUseError) as raised:
        run(lived, Selection(everything=True))
    assert "stop the node first" in raised.value.hint
    assert where(lived, SECRET) != set()


def test_living_secondary_process_is_named(lived, observability):
    """The box of a live process that records beside the node must not be purged."""
    lock = StoreLock(lived.store.parent)
    lock.acquire()
    script = f"""
import sys
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry
telemetry.open(ObservabilityConfig.model_validate({observability.model_dump(mode="json")!r})).start()
print("ready", flush=True)
sys.stdin.read()
"""
    with forkserver.spawn([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as secondary:
        assert secondary.stdout.readline() == b"ready\n"
        lock.release()
        try:
            with pytest.raises(StoreInUseError, match=f"process {secondary.pid} is recording"):
                run(lived, Selection(everything=True))
            assert where(lived, SECRET) != set()
        finally:
            secondary.send_signal(signal.SIGKILL)
    run(lived, Selection(everything=True))
    assert boxes_in(lived.store.parent) == []


@pytest.mark.usefixtures("unsampled")
def test_reader_that_pins_the_wal_is_an_error_and_the_next_purge_completes(lived):
    """While another process reads, the WAL still has deleted rows: an error, and the next purge completes it."""
    script = f"""
import sqlite3, sys
connection = sqlite3.connect("file:{lived.store}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM traces").fetchone()
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"ready\n"
        with pytest.raises(StoreError, match=rf"\({reader.pid}\) is reading"):
            run(lived, Selection(capability=SECRET))
        reader.stdin.close()
    assert ask(lived, f"SELECT count(*) FROM traces WHERE capability = '{SECRET}'") == [(0,)]
    run(lived, Selection(capability=SECRET))

    assert where_but_in_logs(lived, *PLANTS) == set()


@pytest.fixture
def on_full_disk(observability, tiny_disk):
    """A store of 2,000 traces with its logs, on a disk with 300 KB left."""
    settings = observability.model_copy(update={"data_dir": tiny_disk / "data", "log_dir": tiny_disk / "logs"})
    with telemetry.open(settings):
        live(1_000)
    with (tiny_disk / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(65_536)):
                continue
        file.truncate(file.tell() - 300_000)
    return Places(settings.data_dir / DATABASE, settings.log_dir, Budget(256))


@pytest.mark.usefixtures("unsampled")
def test_full_disk_is_an_error_and_the_next_purge_completes(on_full_disk, tiny_disk):
    """Without space for the remaining rows the purge fails; with space the next one leaves no byte."""
    with pytest.raises(DiskFullError):
        run(on_full_disk, Selection(capability=SECRET))
    (tiny_disk / "filler").unlink()
    run(on_full_disk, Selection(capability=SECRET))

    assert where_but_in_logs(on_full_disk, *PLANTS) == set()
    assert ask(on_full_disk, "PRAGMA integrity_check") == [("ok",)]
    assert ask(on_full_disk, "SELECT count(*) FROM traces") == [(1_000,)]


def test_everything_is_erased_on_a_full_disk(on_full_disk):
    """Steps that free space are first, so a full disk can be emptied."""
    run(on_full_disk, Selection(everything=True))

    assert where(on_full_disk, *PLANTS) == set()


def test_names_that_only_begin_alike_stay(observability, places):
    """A capability is matched by its whole name: `planted.Zq7.more` and `planted` stay."""
    with telemetry.open(observability):
        for name in (f"{SECRET}.more", "planted", SECRET):
            with trace.new_trace(name):
                log.info("working")
    run(places, Selection(capability=SECRET))

    assert ask(places, "SELECT capability FROM traces ORDER BY 1") == [("planted",), (f"{SECRET}.more",)]


def test_nothing_there_is_no_error(tmp_path):
    """Without database and logs there is nothing to do, and no database is created."""
    places = Places(tmp_path / "data" / DATABASE, tmp_path / "none", Budget(256))

    assert run(places, Selection(everything=True)).is_nothing
    assert not places.store.exists()


def test_damaged_database_is_salvaged_and_then_purged(lived):
    """A damaged store is moved aside and salvaged, as at a start; then the quarantine is deleted."""
    content = bytearray(lived.store.read_bytes())
    content[100:2_000] = b"\x01" * 1_900
    lived.store.write_bytes(content)

    run(lived, Selection(capability=SECRET))

    assert set_aside(lived.store) == []
    # Only the damaged database had the link between these records.
    assert where_but_in_logs(lived, *(text for text in PLANTS if text != "called-Zq7")) == set()


def test_trace_is_erased_without_what_came_after_it(observability, places):
    """Records of work that has outlived the trace are other requests' and stay, unless they name it themselves."""
    with telemetry.open(observability):
        with trace.new_trace("first.request") as first:
            log.info("own")
            carried = carry(log.info)
        with trace.new_trace("second.request"):
            carried("another's")
            carried("plain", extra={"n": 1})
            carried("mentions it", extra={"request": first.trace_id})
            carried(f"names {first.trace_id}")
    counted = count(places, Selection(trace_id=first.trace_id))

    purged = run(places, Selection(trace_id=first.trace_id))

    # A line more than rows: "done".
    assert (purged.traces, purged.logs, purged.log_lines) == (1, 3, 4)
    assert (counted.traces, counted.logs, counted.log_lines) == (1, 3, 4)
    assert ask(places, "SELECT msg FROM logs WHERE logger = 'hearthnet.test' ORDER BY seq") == [
        ("another's",),
        ("plain",),
    ]
    lines = b"".join(path.read_bytes() for path in places.log_dir.iterdir())
    assert (lines.count(b"another's"), lines.count(b"plain"), lines.count(b"own")) == (1, 1, 0)
    assert ask(places, "SELECT count(*) FROM traces") == [(1,)]
