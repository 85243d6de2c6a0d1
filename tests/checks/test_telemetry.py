"""The checks of recorded calls and of orphan spans."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import pytest

from hearthnet.errors import HTTP_STATUS, WireError
from hearthnet.observability import doctor, metrics, telemetry, trace
from hearthnet.observability.records.results import CALLERS_ERRORS
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.traces.propagation import carry
from hearthnet.observability.traces.span import orphans, recent_orphans

RESULTS = ("ok", "ok", "ok", "cancelled", "timeout", "internal_error", "interrupted")
BY_HAND = (
    "SELECT capability, count(*), sum(result NOT IN ('ok', 'cancelled')) FROM"
    " (SELECT capability, result FROM traces ORDER BY seq DESC LIMIT 100) GROUP BY capability"
)


def rate(config, bus=None):
    """The finding, however slow the machine."""
    return doctor.run_one("recent_error_rate", config, bus, deadline_s=60)


def record(capability, result="ok", message=None):
    """A call that ended so."""
    with trace.new_trace(capability) as made:
        if result != "ok":
            made.fail(result, message)


def by_hand(path) -> Counter:
    """Calls and failures by capability, from a manual query."""
    if shutil.which("sqlite3"):
        done = subprocess.run(["sqlite3", "-readonly", path, BY_HAND], capture_output=True, text=True, check=True)
        rows = [line.split("|") for line in done.stdout.splitlines()]
    else:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute(BY_HAND).fetchall()
    return {capability: (int(count), int(failed)) for capability, count, failed in rows}


@pytest.mark.parametrize(("failures", "ok"), [(0, True), (19, True), (20, False), (30, False)])
def test_error_rate_is_read_from_sql(node, failures, ok):
    """Twenty failures in the last hundred traces fail; the worst capability and the error are named."""
    config, bus = node
    with telemetry.open(config.observability):
        for number in range(150):
            if number >= 150 - failures:
                record("bad.one", "timeout", f"no answer after {number} s")
            else:
                record("good.one")
    result = rate(config, bus)

    assert (result.ok, result.status) == (ok, "pass" if ok else "fail")
    assert (result.evidence["traces"], result.evidence["failed"], result.evidence["rate"]) == (
        100,
        failures,
        failures / 100,
    )
    assert result.detail.startswith(f"{failures} of the last 100 failed ({failures}%)")
    if failures:
        assert f": bad.one ({failures} of {failures}); with timeout: no answer after ? s ({failures})" in result.detail
        assert result.evidence["worst"] == [{"capability": "bad.one", "count": failures, "failed": failures}]
        assert len(result.evidence["trace_ids"]) == 3
    assert (result.fix is None) == ok


def test_error_rate_agrees_with_sql_by_hand(config):
    """For random calls, the doctor's counts equal a manual query's; cancelled is not a failure, interrupted is."""
    chance = random.Random(5)
    path = config.observability.data_dir / telemetry.DATABASE
    for _ in range(5):
        with telemetry.open(config.observability):
            for number in range(chance.randrange(20, 150)):
                message = chance.choice((None, f"no answer after {number} s"))
                record(f"app.part{chance.randrange(5)}", chance.choice(RESULTS), message)
        found, wanted = rate(config).evidence, by_hand(path)

        assert found["traces"] == sum(count for count, _ in wanted.values())
        assert found["failed"] == sum(failed for _, failed in wanted.values())
        worst = {item["capability"]: (item["count"], item["failed"]) for item in found["worst"]}
        assert worst == {capability: numbers for capability, numbers in wanted.items() if numbers[1]}
        assert sum(item["count"] for item in found["errors"]) == found["failed"]


@pytest.mark.parametrize(("results", "ok"), [(["internal_error"], False), (["ok"], True), (["timeout"] * 9, False)])
def test_few_calls_count_as_well(node, results, ok):
    """All of them failed, or none: that is a rate. Nothing recorded is none."""
    config, bus = node
    assert rate(config, bus).detail == "nothing recorded yet"
    with telemetry.open(config.observability):
        for result in results:
            record("a.b", result)

    assert rate(config, bus).ok == ok


MISTAKES = (
    "bad_request", "schema_mismatch", "invalid_signature", "unauthorized", "revoked", "not_found", "expired",
    "rate_limited",
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_callers_are_shown_beside_the_rate(node, mistake):
    """A node whose callers make mistakes is healthy; one that fails is not, however many mistakes there are."""
    config, bus = node
    with telemetry.open(config.observability):
        for _ in range(30):
            record("a.b", mistake)
        record("a.b")
    found = rate(config, bus)
    assert (found.status, found.evidence["failed"]) == ("pass", 0)
    assert found.evidence["callers_errors"] == {mistake: 30}
    assert found.detail == (
        f"0 of the last 1 failed (0%); besides, 30 calls failed by the caller's own error: {mistake} (30)"
    )

    with telemetry.open(config.observability):
        record("a.b", "internal_error")
    found = rate(config, bus)
    assert (found.ok, found.evidence["rate"]) == (False, 0.5)


@pytest.mark.parametrize("failure", ["timeout", "internal_error", "capacity_exceeded", "not_implemented", "partition"])
def test_failures_of_the_node_count(node, failure):
    """Every other code is the node's."""
    config, bus = node
    with telemetry.open(config.observability):
        record("a.b", failure)
    assert not rate(config, bus).ok


def test_every_code_is_the_callers_or_the_nodes():
    """A new code must be decided upon."""
    assert set(MISTAKES) == CALLERS_ERRORS
    own = {"timeout", "internal_error", "capacity_exceeded", "not_implemented", "partition"}
    assert CALLERS_ERRORS | own == set(HTTP_STATUS)


async def test_failure_that_the_caller_asked_for_does_not_count(node):
    """The echo service fails on request, and a caller may allow less time than the capability needs."""
    config, bus = node
    with telemetry.open(config.observability):
        for body in ({"fail": "timeout"}, {"fail": "internal_error"}):
            with pytest.raises(WireError):
                await bus.call("experimental.echo", "1.0", {"input": {"text": "x", **body}})
    found = rate(config, bus)

    assert (found.ok, found.evidence["failed"], found.evidence["callers_errors"].keys()) == (
        True, 0, {"timeout", "internal_error"},
    )  # fmt: skip


def test_running_node_counts_what_is_not_committed(node):
    """In the node, uncommitted calls count too, each once."""
    config, bus = node
    slow = config.observability.model_copy(update={"flush_interval_s": 60})
    config = config.model_copy(update={"observability": slow})
    with telemetry.open(slow) as opened:
        for _ in range(20):
            record("a.b")
        assert opened.flush()
        for _ in range(10):
            record("c.d", "timeout")
            record("a.b")
        result = rate(config, bus)

    assert (result.evidence["traces"], result.evidence["failed"]) == (40, 10)
    assert result.evidence["errors"] == [{"error": "timeout", "count": 10}]
    assert (result.status, rate(config).evidence["traces"]) == ("fail", 40)


def test_node_that_keeps_its_calls_in_memory(node):
    """If another process writes the store, the node's own calls count."""
    config, bus = node
    holder = StoreLock(config.observability.data_dir)
    holder.acquire()
    try:
        with telemetry.open(config.observability):
            for number in range(150):
                record("a.b", "timeout" if number >= 120 else "ok")
            result = rate(config, bus)
    finally:
        holder.release()

    assert (result.status, result.evidence["traces"], result.evidence["failed"]) == ("fail", 100, 30)


def test_rate_of_a_store_that_cannot_be_read(config):
    """A damaged store is skipped here and reported by its own check."""
    path = config.observability.data_dir / telemetry.DATABASE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 1_000)
    result = rate(config)

    assert (result.status, result.ok) == ("skip", True)
    assert "telemetry_store" in result.detail


def test_orphan_spans_are_shown(node):
    """Orphan spans are a warning with count, names and fix; none passes."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    orphans.clear()
    with trace.new_trace("a.b"), trace.span("at home"):
        pass
    before = doctor.run_one("orphan_spans", *node)
    for name in ("lost", "late", "lost"):
        with trace.span(name):
            orphans.append(name)
    result = doctor.run_one("orphan_spans", *node)

    assert (before.status, before.evidence) == ("pass", {"count": 0})
    assert (result.status, result.ok) == ("warn", True)
    assert result.evidence == {"count": 3, "names": ["lost", "late"]}
    assert result.detail.startswith("3 spans")
    assert "lost, late" in result.detail
    assert "carry()" in result.fix


def test_orphan_of_a_trace_that_ended_is_shown(node):
    """A span opened after its trace has ended counts too."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    with trace.new_trace("a.b"):
        late = carry(lambda: trace.span("late").__enter__().__exit__(None, None, None))
    late()

    assert doctor.run_one("orphan_spans", *node).evidence["count"] == 1


def test_orphans_that_nothing_counts_are_skipped(node):
    """Without a node, or without metrics, the check is skipped."""
    config, bus = node
    assert "not running" in doctor.run_one("orphan_spans", config, None).detail

    with trace.span("alone"):
        pass
    result = doctor.run_one("orphan_spans", config, bus)
    assert (result.status, result.ok) == ("skip", True)
    assert "metrics are disabled" in result.detail


def test_names_of_orphans_are_few_and_clean():
    """Names are listed newest first, each once, bounded in number, length and characters."""
    orphans.clear()
    for number in range(1_000):
        orphans.append(f"span {number}")
    orphans.append("x" * 100_000)
    orphans.append("\ud800")
    found = recent_orphans()

    assert found[2:4] == ["span 999", "span 998"]
    assert len(found) == 32
    assert all(len(name.encode()) <= 128 for name in found)


def test_error_rate_is_that_of_the_node(node):
    """A cron job that fails a hundred times does not make the node ill; in a store without a node all count."""
    config, bus = node
    with telemetry.open(config.observability):
        for _ in range(100):
            record("cron.copy", "timeout")
    assert rate(config).evidence["failed"] == 100

    with telemetry.open(config.observability, node_id=bus.node_id):
        for _ in range(12):
            record("good.one")
        assert rate(config, bus).ok
    with telemetry.open(config.observability):
        for _ in range(100):
            record("cron.copy", "timeout")

    found = rate(config)
    assert (found.ok, found.evidence["traces"], found.evidence["failed"]) == (True, 12, 0)
