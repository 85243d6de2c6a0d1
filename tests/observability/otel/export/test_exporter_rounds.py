"""One round of the exporter after the other, and its end: with a real store, the writer's part by hand."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing

import pytest
from support.exported import cursors, put, traces
from support.otlp import Response, receiving
from support.waiting import wait_until

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import StoreError
from hearthnet.observability import telemetry, trace
from hearthnet.observability.otel.export import delivery
from hearthnet.observability.otel.export import exporter as exporting
from hearthnet.observability.otel.export.exporter import Exporter
from hearthnet.observability.otel.export.settings import read
from hearthnet.observability.otel.export.status import LOCK_FILE, read_status
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.store.cursors import Cursors
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.merge import transaction
from hearthnet.observability.store.thread import StoreThread


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The environment names no endpoint; a round follows the other at once."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(exporting, "_ROUND_S", 0.02)
    monkeypatch.setattr(delivery, "_FIRST_WAIT_S", 0.02)


@pytest.fixture
def receiver():
    """A receiver that takes everything."""
    with receiving() as made:
        yield made


class Rig:
    """An exporter and the writer's part of it.

    Attributes:
        exporter: not started: a test calls its rounds.
        commit: commits the moves, as the writer does.
    """

    def __init__(self, settings, url, variables=None):
        self.path = settings.data_dir / "telemetry.db"
        self.cursors = Cursors()
        self.exporter = Exporter(self.path, read(url, variables or {}), self.cursors, self.commit, "run", 0.01)

    def commit(self):
        """Commits what the exporter has moved."""
        with closing(open_database(self.path, TELEMETRY)) as connection, transaction(connection) as state:
            moves = self.cursors.applied(state)
        self.cursors.confirm(moves)

    def rounds(self, count):
        """Makes rounds, in this thread."""
        for _ in range(count):
            self.exporter._round()

    def close(self):
        """Ends it."""
        self.exporter._finish()
        self.exporter.release()


@pytest.fixture
def rig(observability, receiver):
    """Makes a rig; ends it."""
    made = []

    def make(**options):
        made.append(Rig(observability, receiver.url, **options))
        made[-1].exporter._prepare()
        return made[-1]

    yield make
    for one in made:
        one.close()


def is_free(settings):
    """Whether another process could export."""
    lock = StoreLock(settings.data_dir, LOCK_FILE)
    try:
        lock.acquire()
    except StoreInUseError:
        return False
    lock.release()
    return True


BEGUN = {"otlp_traces": 0, "otlp_logs": 0}


def test_commit_between_two_looks_sends_nothing_twice(observability, receiver, rig, monkeypatch):
    """The cursor in the database is read, and then the writer commits the moves: the batch is known as sent."""
    put(observability, traces(3), **BEGUN)
    made = rig()
    made.rounds(1)
    real = exporting.unsent.state

    def state(reader):
        found = real(reader)
        made.commit()
        return found

    monkeypatch.setattr(exporting.unsent, "state", state)
    made.rounds(3)

    assert receiver.names == ["t.1", "t.2", "t.3"]


def test_unexpected_error_ends_nothing(observability, receiver, rig, monkeypatch, logged):
    """It is told once, and tried again ever more slowly; what comes then is sent."""
    put(observability, traces(3), **BEGUN)
    made = rig()
    real = exporting.unsent.state
    monkeypatch.setattr(exporting.unsent, "state", lambda reader: 1 / 0)
    made.rounds(3)
    waits_s = made.exporter._wait_s()
    error = read_status(observability.data_dir)["error"]
    monkeypatch.setattr(exporting.unsent, "state", real)
    made.rounds(1)

    assert (receiver.names, error) == (["t.1", "t.2", "t.3"], "an unexpected error, see the log")
    assert waits_s > 2 * made.exporter._round_s
    assert [record.getMessage() for record in logged].count("telemetry cannot be exported now") == 1
    assert read_status(observability.data_dir)["error"] is None


def test_next_round_comes_before_the_ring_has_turned(observability, rig, monkeypatch):
    """Where rows come fast; while the backend is away it comes no sooner for that."""
    put(observability, traces(3), **BEGUN)
    made = rig()
    made.exporter._round_s = 60.0
    made.rounds(2)  # all are sent
    (route, line), *_ = made.exporter._lines
    idle = made.exporter._wait_s()
    monkeypatch.setattr(route.pace, "due_s", lambda rows: rows / 5_000)
    busy = made.exporter._wait_s()
    made.exporter._oldest_us["traces"], line.ready_at = 1, time.monotonic() + 30.0
    away = made.exporter._wait_s()

    assert (idle, busy) == (60.0, exporting._MANY / 5_000)
    assert away > 20.0


def test_signal_that_was_switched_off_is_no_loss(observability, receiver, rig):
    """Of its table no losses are told; switched on again it goes on where it was."""
    put(observability, traces(3), otlp_traces=2, otlp_logs=0, otlp_traces_lost=5)
    made = rig(variables={"OTEL_TRACES_EXPORTER": "none"})
    made.rounds(2)
    made.commit()
    assert receiver.requests == []
    assert cursors(observability) == {"otlp.traces": ~2, "otlp.traces.lost": 0, "otlp.logs": 3}
    made.close()
    made = rig()
    made.rounds(2)
    made.commit()

    assert receiver.names == ["t.3"]
    assert cursors(observability)["otlp.traces"] == 3


@pytest.mark.parametrize("status", [200, 400])
def test_abandoned_thread_sends_nothing_more(observability, receiver, status):
    """Its request was open when the program went on without it: it keeps the lock until that ends, and no longer."""
    put(observability, traces(8), **BEGUN)
    receiver.gate = threading.Event()
    receiver.respond = lambda request: Response(status, stores=True)
    made = Rig(observability, receiver.url)
    made.exporter.start()
    wait_until(lambda: receiver.requests)
    made.exporter.stop(0.0)
    made.exporter.release()
    assert not is_free(observability)
    receiver.gate.set()
    made.exporter._thread.join(30.0)

    assert is_free(observability)
    assert len(receiver.requests) == 1
    assert made.exporter._reader._connection is None
    assert not made.cursors.has_moves


def test_lock_is_kept_until_the_last_cursor_is_committed(observability, receiver, monkeypatch):
    """Siblings that are stopped together would send the last batch once more."""
    seen = []
    real = StoreThread.stop

    def stop(self, timeout_s):
        seen.append(is_free(observability))
        real(self, timeout_s)

    monkeypatch.setattr(StoreThread, "stop", stop)
    with telemetry.open(observability.model_copy(update={"otlp_endpoint": receiver.url})), trace.new_trace("a.b"):
        pass

    assert receiver.names == ["a.b"]
    assert seen == [False]
    assert is_free(observability)


def test_end_takes_two_seconds_whatever_hangs(observability, receiver, monkeypatch):
    """The database is locked and the backend does not respond: flush, export and writer share the time."""
    now = [0.0]
    limits = []
    monkeypatch.setattr(telemetry, "monotonic", lambda: now[0])

    def hang(_, within_s):
        limits.append(within_s)
        now[0] += within_s

    recording = telemetry.open(observability.model_copy(update={"otlp_endpoint": receiver.url}))
    recording.start()
    with monkeypatch.context() as patch:
        patch.setattr(StoreThread, "flush", hang)
        patch.setattr(Exporter, "stop", hang)
        patch.setattr(StoreThread, "stop", hang)
        recording.close()
    recording._exporter.stop(30.0)
    recording._thread.stop(30.0)
    recording._exporter.release()

    assert limits == [0.5, 0.5, 1.0]


def reasons(logged):
    """What our own records say: old versions of httpx log what they load."""
    return [record.reason for record in logged if record.name.startswith("hearthnet.")]


def test_lock_that_cannot_be_taken_is_told(observability, receiver, rig, monkeypatch, logged):
    """A file system without locks: once, and in the status. While another process exports nothing is said."""
    put(observability, traces(3), **BEGUN)
    made = rig()

    def acquire(self):
        raise raised

    monkeypatch.setattr(StoreLock, "acquire", acquire)
    raised = StoreInUseError("another process")
    made.rounds(2)
    assert reasons(logged) == []
    raised = StoreError("no locks here")
    made.rounds(3)

    assert reasons(logged) == ["no locks here"]
    assert read_status(observability.data_dir)["error"] == "no locks here"


def test_no_thread_is_no_reason_to_fail(observability, receiver, monkeypatch):
    """Where there are no more threads the program records on, without an export."""

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Exporter, "start", start)
    with telemetry.open(observability.model_copy(update={"otlp_endpoint": receiver.url})) as recording:
        with trace.new_trace("a.b"):
            pass
        assert recording.flush()

    assert [found.capability for found in trace.get_recent()] == ["a.b"]
    assert receiver.requests == []


def test_secrets_are_known_before_anything_is_exported(observability, receiver, monkeypatch):
    """The exporter's thread has not begun, and a line that shows the token alone is redacted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%209f2K-x81")
    monkeypatch.setattr(Exporter, "start", lambda self: None)
    monkeypatch.setattr(Exporter, "stop", lambda self, within_s: None)
    with telemetry.open(observability.model_copy(update={"otlp_endpoint": receiver.url})):
        assert "9f2K-x81" not in scrub("the backend said 9f2K-x81")
