"""A database rebuilt from the JSON logs has the records of the lines, in order and within bounds."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from dataclasses import replace

import orjson
import pytest
from support import forkserver
from support.reading import log_lines

from hearthnet import files
from hearthnet.database import TELEMETRY
from hearthnet.errors import DiskFullError, StoreError
from hearthnet.forensics import box as layout
from hearthnet.forensics.box import boxes_in
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.recovery import quarantine
from hearthnet.observability.store.recovery import rebuild as recovery_rebuild
from hearthnet.observability.store.recovery.log_line import time_of
from hearthnet.observability.store.recovery.quarantine import quarantined, set_aside
from hearthnet.observability.store.recovery.rebuild import Leftovers, log_bytes, rebuild, rebuild_in_place
from hearthnet.observability.telemetry import DATABASE

SLOW_MS = 5_000.0


def ask(path, sql, *values):
    """Returns all rows of a query."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def nothing(*_):
    """Accepts any progress, and agrees to everything."""


def line(msg="working", ts="2026-03-01T10:00:00.000Z", **fields):
    """Returns a line of the log."""
    values = {"ts": ts, "level": "info", "logger": "hearthnet.x", "msg": msg, **fields}
    return orjson.dumps(values) + b"\n"


def done(ms=1.5, result="ok", level="info", **fields):
    """Returns the line of a trace that ended."""
    named = {"capability": "a.b", "result": result, "ms": ms, **fields}
    return line("done", level=level, logger="hearthnet.trace", **{"trace_id": new_trace_id(), **named})


def write(directory, *lines, name="2026-03-01.log"):
    """Writes a log file."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(b"".join(lines))


@pytest.fixture
def lived(observability):
    """A store and its logs after a run with all kinds of records."""
    log = get_logger("hearthnet.test")
    with telemetry.open(observability):
        for number in range(20):
            with trace.new_trace("llm.chat@1.0") as started, trace.span("step"):
                log.info("working", extra={"number": number, "nested": {"a": [1, 2]}})
                if number == 7:
                    started.fail("timeout", "too slow")
        log.warning("look", extra={"ü": "ä\n\u202e"})
        try:
            raise ValueError("planted")
        except ValueError:
            log.exception("broken")
    return observability.data_dir / DATABASE


@pytest.mark.usefixtures("unsampled")
def test_rebuilt_rows_are_those_that_were_recorded(lived, observability, tmp_path):
    """Every value of a line equals the original row: times to the millisecond, ids, extras, tracebacks, class."""
    made = rebuild(observability.log_dir, lived, tmp_path / "new.db", SLOW_MS, progress=nothing)

    columns = "ts_us / 1000, level, logger, msg, trace_id, span_id, notable, repeats, extras, exc"
    logs = f"SELECT {columns} FROM logs ORDER BY seq"
    assert ask(made.path, logs) == ask(lived, logs)
    traces = "SELECT trace_id, capability, duration_ms, result, error, notable FROM traces ORDER BY seq"
    assert ask(made.path, traces) == ask(lived, traces)
    started = "SELECT started_us FROM traces ORDER BY seq"
    pairs = list(zip(ask(made.path, started), ask(lived, started), strict=True))
    # A line has the time at which it is written: on a busy machine well after the end of its trace.
    assert min(new - old for (new,), (old,) in pairs) >= -1_000
    done = [entry for entry in log_lines(observability.log_dir) if entry["msg"] == "done"]
    assert [new for ((new,), _) in pairs] == [time_of(entry) - int(entry["ms"] * 1_000) for entry in done]
    assert (made.skipped, made.rows["traces"], made.rows["logs"]) == (0, 20, 22)
    assert ask(made.path, "SELECT DISTINCT spans, extras, version FROM traces") == [("[]", "{}", None)]
    assert ask(made.path, "SELECT run_id, end_reason, ended_us >= started_us FROM runs") == [
        (made.run_id, "rebuilt", 1)
    ]
    assert ask(made.path, "PRAGMA application_id") == [(TELEMETRY.application_id,)]
    assert ask(made.path, "PRAGMA user_version") == ask(lived, "PRAGMA user_version")
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("*new.db*")] == ["new.db"]


def test_lines_that_are_not_ours_are_counted_not_taken(tmp_path):
    """Garbage of any kind costs only its own line; the bounds of a row hold."""
    garbage = [
        b"\xff\xfe\n", b"{\n", b"[]\n", b"null\n", b'"text"\n', b'{"msg":"no more"}\n', b"[" * 5_000 + b"\n",
        line(level="loud"), line(ts="yesterday"), line(ts=5), line(ts="2026-03-01T10:00:00"), line(msg=5),
        line(logger=None), done(ms="long"), done(ms=-1), done(ms=True), done(trace_id="x"), done(capability=7),
    ]  # fmt: skip
    large = line(
        "m" * 30_000, big="x" * 20_000, exc="t" * 20_000, deep={"a": {"b": [{}] * 500}}, n=2.0**70, trace_id="no"
    )
    write(tmp_path / "logs", line("first"), *garbage, large, done(capability="c" * 300), line("last", span_id=3)[:-1])

    made = rebuild(tmp_path / "logs", tmp_path / "none.db", tmp_path / "new.db", SLOW_MS, progress=nothing)

    assert made.skipped == len(garbage)
    assert made.lines == len(garbage) + 4
    assert [row[0][:5] for row in ask(made.path, "SELECT msg FROM logs ORDER BY seq")] == ["first", "mmmmm", "last"]
    sizes = ask(made.path, "SELECT length(msg) + length(extras) + length(ifnull(exc, '')) FROM logs")
    assert max(sizes) < (4_096,)
    assert ask(made.path, "SELECT count(*) FROM logs WHERE trace_id IS NOT NULL OR span_id IS NOT NULL") == [(0,)]
    assert ask(made.path, "SELECT length(capability) FROM traces") <= [(64,)]


def test_ring_rules_hold_and_memory_is_bounded(tmp_path):
    """Of 40,000 lines the newest stay, and early notable ones within their share; numbers rise with the lines."""
    early = [done(result="timeout", level="warning") for _ in range(3_000)]
    write(tmp_path / "logs", *early, name="2026-02-01.log")
    write(tmp_path / "logs", *(done(ms=SLOW_MS if n == 0 else 1) for n in range(20_000)), name="2026-02-02.log")
    write(tmp_path / "logs", *(line(str(n)) for n in range(20_000)), name="2026-02-02.1.log")
    read = []
    made = rebuild(tmp_path / "logs", tmp_path / "none.db", tmp_path / "new.db", SLOW_MS, progress=read.append)

    assert (made.rows["traces"], made.rows["logs"]) == (10_000, 10_000)
    assert ask(made.path, "SELECT sum(notable), sum(result = 'timeout') FROM traces") == [(2_000, 1_999)]
    assert ask(made.path, "SELECT min(seq), max(seq) FROM logs") == [(33_001, 43_000)]
    assert ask(made.path, "SELECT msg FROM logs ORDER BY seq DESC LIMIT 2") == [("19999",), ("19998",)]
    assert sum(read) == log_bytes(tmp_path / "logs")
    assert log_bytes(None) == 0


def test_nothing_is_written_without_logs_or_over_an_existing_file(lived, observability, tmp_path):
    """No logs, an existing file, and the store itself are errors, and change nothing."""
    target = tmp_path / "new.db"
    with pytest.raises(StoreError, match="no log files"):
        rebuild(tmp_path / "none", lived, target, SLOW_MS, progress=nothing)
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists already"):
        rebuild(observability.log_dir, lived, target, SLOW_MS, progress=nothing)
    with pytest.raises(StoreError, match="belongs to the store"):
        rebuild(observability.log_dir, lived, lived, SLOW_MS, force=True, progress=nothing)

    assert target.read_bytes() == b"precious"
    rebuild(observability.log_dir, lived, target, SLOW_MS, force=True, progress=nothing)
    assert ask(target, "SELECT count(*) FROM traces") == [(20,)]


@pytest.mark.parametrize("in_place", [False, True])
def test_new_database_is_closed_before_it_gets_its_name(tmp_path, monkeypatch, in_place):
    """Whoever opens it then meets no locks of the rebuild's, and no -wal beside it."""
    opened, open_database = [], recovery_rebuild.open_database
    monkeypatch.setattr(
        recovery_rebuild, "open_database", lambda *how: opened.append(open_database(*how)) or opened[-1]
    )
    write(tmp_path / "logs", line())
    (tmp_path / "store").mkdir()
    store = tmp_path / "store" / DATABASE
    if in_place:
        rebuild_in_place(tmp_path / "logs", store, SLOW_MS, agree=nothing, progress=nothing)
    else:
        rebuild(tmp_path / "logs", store, tmp_path / "new.db", SLOW_MS, progress=nothing)

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_rebuilt_database_is_one_file_without_holes(tmp_path):
    """What the ring pushed out while it was filled takes no space, and no -wal is needed to read it."""
    write(tmp_path / "logs", *(line("x" * 500 + str(number)) for number in range(15_000)))
    made = rebuild(tmp_path / "logs", tmp_path / "none.db", tmp_path / "new.db", SLOW_MS, progress=nothing)

    assert ask(made.path, "SELECT freelist_count FROM pragma_freelist_count()") == [(0,)]
    assert [path.name for path in tmp_path.glob("new.db*")] == ["new.db"]
    assert made.bytes == made.path.stat().st_size


@pytest.mark.parametrize(("error", "is_read"), [(FileNotFoundError(), True), (OSError(5, "Input/output error"), False)])
def test_log_file_that_cannot_be_read_is_an_error_unless_it_is_gone(tmp_path, monkeypatch, error, is_read):
    """A running node deletes old ones; of any other failure nothing is left."""
    write(tmp_path / "logs", line("old"), name="2026-02-01.log")
    write(tmp_path / "logs", line("new"), name="2026-02-02.log")
    genuine = files.open_file

    def refuse(path):
        if path.name == "2026-02-01.log":
            raise error
        return genuine(path)

    monkeypatch.setattr(recovery_rebuild, "open_file", refuse)
    target = tmp_path / "new.db"
    if is_read:
        rebuild(tmp_path / "logs", tmp_path / "none.db", target, SLOW_MS, progress=nothing)
        assert ask(target, "SELECT msg FROM logs") == [("new",)]
    else:
        with pytest.raises(StoreError, match=r"2026-02-01\.log cannot be read: Input/output error"):
            rebuild(tmp_path / "logs", tmp_path / "none.db", target, SLOW_MS, progress=nothing)
        assert list(tmp_path.glob("new.db*")) == []


def test_folder_that_is_named_like_a_log_file_is_named(tmp_path):
    """It is not passed over: whoever rebuilds wants all that was logged. The hint says what to do."""
    write(tmp_path / "logs", line("old"), name="2026-02-01.log")
    (tmp_path / "logs" / "2026-02-02.log").mkdir()
    with pytest.raises(StoreError, match=r"2026-02-02\.log cannot be read") as refused:
        rebuild(tmp_path / "logs", tmp_path / "none.db", tmp_path / "new.db", SLOW_MS, progress=nothing)

    assert "2026-02-02.log" in refused.value.hint
    assert list(tmp_path.glob("new.db*")) == []


def test_database_that_fails_on_the_way_leaves_the_old_one(lived, observability, monkeypatch):
    """In SQLite's words; the old one is where it was, and the lock is free."""
    before = lived.read_bytes()

    def refuse(_):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(recovery_rebuild, "count_rows", refuse)
        with pytest.raises(StoreError, match="disk I/O error"):
            rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)
    assert (lived.read_bytes(), quarantined(lived)) == (before, [])

    assert rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing).moved_to


def test_full_disk_leaves_nothing(lived, observability, tiny_disk):
    """A database that does not fit is a disk-full error, and no part of it remains."""
    (tiny_disk / "filler").write_bytes(bytes(40 * 1024 * 1024 - 96 * 1024))

    with pytest.raises(DiskFullError):
        rebuild(observability.log_dir, lived, tiny_disk / "new.db", SLOW_MS, progress=nothing)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_in_place_moves_the_old_one_aside_and_a_node_continues_the_new_one(lived, observability):
    """The old database is kept; the new one has its reserve, and the next run continues its numbers."""
    before = ask(lived, "SELECT count(*) FROM spans")
    made = rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)

    assert (set_aside(lived), quarantined(lived)) == ([made.moved_to], [])
    assert ".before-rebuild-" in made.moved_to.name
    assert ask(made.moved_to, "SELECT count(*) FROM spans") == before
    assert ask(lived, "SELECT count(*) FROM traces") == [(20,)]
    assert made.bytes == lived.stat().st_size >= TELEMETRY.reserve_bytes
    with telemetry.open(observability), trace.new_trace("after.it"):
        assert len(trace.get_recent(100)) == 20
    assert ask(lived, "SELECT capability FROM traces ORDER BY seq DESC LIMIT 1") == [("after.it",)]
    assert ask(lived, "SELECT count(*) FROM runs WHERE end_reason = 'unclean'") == [(0,)]


def test_what_was_rebuilt_is_not_removed_by_what_follows(lived, observability, monkeypatch):
    """The first one is the only copy of its spans: a second rebuild, a start, and a damaged database leave it."""
    spans = ask(lived, "SELECT count(*) FROM spans")
    first = rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing).moved_to
    monkeypatch.setattr(quarantine.time, "strftime", lambda *_: "20990101T000000Z")
    second = rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing).moved_to
    lived.write_bytes(b"garbage" * 1_000)
    with telemetry.open(observability):
        pass
    quarantine.keep_within(lived, 0)

    assert set_aside(lived) == [first, second]
    assert ask(first, "SELECT count(*) FROM spans") == spans
    assert quarantined(lived) == []


def test_damaged_database_is_replaced(lived, observability):
    """The database is garbage, the logs are good: the case that rebuilding is for."""
    lived.write_bytes(b"garbage" * 1_000)
    made = rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)

    assert made.moved_to.read_bytes() == b"garbage" * 1_000
    assert ask(lived, "SELECT count(*) FROM logs") == [(22,)]


def test_refusal_leaves_everything(lived, observability):
    """If the user declines, or a process is running, database and folder are unchanged, and the lock is free."""

    def refuse():
        raise KeyboardInterrupt

    before = lived.read_bytes(), sorted(lived.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=refuse, progress=nothing)
    assert (lived.read_bytes(), sorted(lived.parent.iterdir())) == before

    with telemetry.open(observability), pytest.raises(StoreInUseError):
        rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)
    assert quarantined(lived) == []


def test_rebuild_waits_for_nobody_who_keeps_house(lived, observability):
    """Another process recovers, purges or rebuilds at this moment: that is an error, and everything stays."""
    before = lived.read_bytes()
    other = StoreLock(lived.parent)
    other.acquire()
    with pytest.raises(StoreInUseError):
        rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)
    assert lived.read_bytes() == before

    other.release()
    assert rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing).moved_to
    other.acquire()  # it is free again
    other.release()


@pytest.mark.usefixtures("unsampled")
def test_box_of_a_killed_run_is_recovered_once(lived, observability):
    """A killed run's traces are recovered with spans from its box, not from lines as well; the box is deleted."""
    script = f"""
import os
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.logs import messages
messages.ROWS_A_SECOND = 1_000
telemetry.open(ObservabilityConfig.model_validate({observability.model_dump(mode="json")!r})).start()
for _ in range(30):
    with trace.new_trace("killed.run"), trace.span("inside"):
        get_logger("hearthnet.test").info("in the box")
trace.new_trace("in.flight")
os._exit(9)
"""
    assert forkserver.run([sys.executable, "-c", script]).returncode == 9
    assert len(boxes_in(lived.parent)) == 1

    made = rebuild_in_place(observability.log_dir, lived, SLOW_MS, agree=nothing, progress=nothing)

    assert made.rows["traces"] == ask(lived, "SELECT count(*) FROM traces")[0][0]
    found = ask(
        lived,
        "SELECT count(*), count(DISTINCT trace_id), sum(spans <> '[]') FROM traces WHERE capability = ?",
        "killed.run",
    )
    assert found == [(30, 30, 30)]
    assert ask(lived, "SELECT count(*) FROM logs WHERE msg = 'in the box'") == [(30,)]
    assert ask(lived, "SELECT result FROM traces WHERE capability = 'in.flight'") == [("interrupted",)]
    assert boxes_in(lived.parent) == []
    assert ask(lived, "SELECT count(*) FROM gaps") == [(0,)]


def test_box_that_is_gone_already_is_removed(tmp_path):
    """By hand, say, between the look for boxes and the end of a rebuild."""
    header = replace(new_header(layout.NODE, "run", "1", "me", Sizes(8_000, 8_000, 4)), pid=2**22 + 1)
    box = BlackBox(tmp_path / "telemetry.9.box2", header)
    content = box.path.read_bytes()
    box.close(remove=True)
    box.path.write_bytes(content)
    leftovers = Leftovers(tmp_path)
    box.path.unlink()
    leftovers.remove()

    assert boxes_in(tmp_path) == []
