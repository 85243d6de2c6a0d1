"""One trace with what explains it, and the views around it: runs, holdings, calls in flight."""

from __future__ import annotations

import signal
import threading
from contextlib import closing

import httpx
import pytest
from support.nodes import node, stopped_node
from support.records import a_log, a_trace
from support.stores import put

from hearthnet.observability.store.query import flights, holdings, lives
from hearthnet.observability.store.query.one_trace import one_trace
from hearthnet.observability.store.query.shapes import bounded_summary
from hearthnet.observability.store.reader import Reader

__all__ = ["node", "stopped_node"]

SPANS = (
    b'[{"id": "a", "parent": null, "name": "step", "offset_ms": 0, "duration_ms": %d, "status": "ok", "extras": {}}]'
)


@pytest.fixture
def reader(tmp_path):
    """A reader of a store with a capability that was called thirty times, and a trace of two calls."""
    records = [a_trace(number, duration_ms=float(number), spans=SPANS % number) for number in range(1, 31)]
    records.append(a_trace(31, trace_id="T", capability="x.y", extras=b'{"truncated": 7}', spans=b"no json"))
    records.append(a_trace(32, trace_id="T", result="timeout", spans=SPANS % 99))
    put(tmp_path / "t.db", records, [a_log(40, trace_id="T"), a_log(41, trace_id="U")], [("run", "ed25519:x")])
    with closing(Reader(tmp_path / "t.db")) as made:
        yield made


def test_trace_with_its_records(reader):
    """Its log records, the other call of its id, and how long successful calls take; spans by name."""
    found = one_trace(reader, 32)

    assert [log["seq"] for log in found["logs"]] == [40]
    assert [other["seq"] for other in found["others"]] == [31]
    assert found["usual"] == {
        "count": 30, "p50_ms": 15.0, "p95_ms": 29.0, "spans": {"step": {"count": 30, "p50_ms": 15.0, "p95_ms": 29.0}},
    }  # fmt: skip
    assert (found["trace"]["program"], found["trace"]["spans"][0]["duration_ms"]) == ("prog", 99)


def test_damaged_spans_and_rare_capability(reader):
    """No spans instead of an error; quantiles of one call are none."""
    found = one_trace(reader, 31)

    assert (found["trace"]["spans"], found["trace"]["truncated_spans"], found["trace"]["span_count"]) == ([], 7, 0)
    assert found["usual"] == {"count": 1, "p50_ms": None, "p95_ms": None, "spans": {}}
    assert one_trace(reader, 99) is None


def test_long_extras_are_cut_in_lists():
    """As many fields as fit, and how many are missing."""
    row = {"notable": 1, "extras": {"a": 1, "long": "x" * 2_000, "b": 2}}

    assert bounded_summary(row) == {"notable": True, "extras": {"a": 1, "…": 2}}
    assert bounded_summary({"notable": 0, "extras": {"a": 1}}) == {"notable": False, "extras": {"a": 1}}


def test_holdings(reader, tmp_path):
    """Rows as the writer has counted them, bytes as they are, each with its bound."""
    found = holdings.holdings(reader, tmp_path, None, 256)

    assert (found["rings"]["traces"]["ordinary"], found["rings"]["logs"]["ordinary"]) == (32, 2)
    assert (found["rings"]["traces"]["oldest_us"], found["rings"]["traces"]["newest_us"]) == (1_000_000, 32_000_000)
    assert found["max_disk_bytes"] == 256_000_000
    assert set(found["disk"]) == {"database", "wal", "box", "logs"}
    assert all(part["bound"] >= part["bytes"] for part in found["disk"].values())
    assert holdings.ring_from_us(reader) == 0  # nothing is evicted: since the first run


def test_runs(tmp_path):
    """The node's newest run leads, however many programs began later."""
    put(tmp_path / "t.db", runs=[("n1", "ed25519:x"), ("n2", "ed25519:x"), ("c1", None)])
    with closing(Reader(tmp_path / "t.db")) as reader:
        assert lives.main_run(reader, {"n2"})["run_id"] == "n2"
        assert lives.main_run(reader, {"n2"})["is_alive"]
        assert [run["run_id"] for run in lives.newest_runs(reader, ())] == ["c1", "n2", "n1"]
        assert [run["run_id"] for run in lives.runs_between(reader, 0, 1, ())] == ["c1", "n2", "n1"]
        assert lives.run_row(reader, "none", ()) is None
        assert lives.last_dead_run(reader, of_node=True) is None


def test_calls_in_flight_of_living_and_dead(node):
    """A waiting call with its open span; after a kill the same, as old as it was; after the next start from its row."""

    def call():
        with pytest.raises(httpx.HTTPError):
            node.echo("wait", delay_ms=60_000)

    caller = threading.Thread(target=call)
    caller.start()
    node.wait_a_while_for(lambda: flights.flights(flights.boxes(node.data_dir)))
    (alive,) = flights.flights(flights.boxes(node.data_dir))
    node.wait_a_while_for(lambda: flights.flights(flights.boxes(node.data_dir))[0]["span"] == "wait")
    node.stop(signal.SIGKILL)
    caller.join()
    (dead,) = flights.flights(flights.boxes(node.data_dir))
    (again,) = flights.flights(flights.boxes(node.data_dir))
    node.start()
    with closing(Reader(node.data_dir / "telemetry.db")) as reader:
        (row,) = flights.interrupted(reader, dead["run_id"])
        last = lives.last_dead_run(reader, of_node=True)

    assert (alive["is_alive"], dead["is_alive"], dead["age_ms"]) == (True, False, again["age_ms"])
    assert {flight["trace_id"] for flight in (alive, dead, row)} == {alive["trace_id"]}
    assert {flight["span"] for flight in (dead, row)} == {"wait"}
    assert (last["run_id"], alive["program"], row["is_alive"]) == (dead["run_id"], "hearthnet", False)
