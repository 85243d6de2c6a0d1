"""The doctor's machinery, and its checks against healthy and broken nodes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from hearthnet import checks
from hearthnet.bus.bus import CapabilityBus
from hearthnet.node import initialise
from hearthnet.observability import doctor, metrics, orphans, telemetry, trace
from hearthnet.observability.carry import carry
from hearthnet.observability.doctor import CheckResult
from hearthnet.services import echo


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Every check registered; what a test adds is gone after it."""
    monkeypatch.setattr(doctor, "_checks", {})
    checks.register_all()


@pytest.fixture
def node(config, free_port):
    """A freshly initialised node's settings and bus."""
    transport = config.transport.model_copy(update={"host": "127.0.0.1", "port": free_port})
    config = config.model_copy(update={"transport": transport})
    made = initialise(config, "home")
    bus = CapabilityBus(made.node_id)
    bus.register(echo.DESCRIPTOR, echo.echo)
    return config, bus


def test_doctor_all_pass_on_default_config(node):
    """On a fresh init every check is ok."""
    results = doctor.run_all(*node)

    assert [result.name for result in results] == doctor.names()
    assert len(results) == len(checks.ALL)
    assert [(result.name, result.detail) for result in results if not result.ok] == []


@pytest.mark.parametrize(("failures", "ok"), [(0, True), (19, True), (20, False), (30, False)])
def test_error_rate_is_read_from_sql(node, failures, ok):
    """Twenty failures in the last hundred traces are too many; the worst capability is named."""
    config, bus = node
    with telemetry.open(config.observability):
        for number in range(150):
            with trace.new_trace("bad.one" if number >= 150 - failures else "good.one") as started:
                if number >= 150 - failures:
                    started.fail("internal_error")

    result = doctor.run_one("recent_error_rate", config, bus)

    assert result.ok is ok
    assert (result.evidence["traces"], result.evidence["failed"]) == (100, failures)
    assert ("bad.one" in result.detail) == (failures > 0)


def test_too_few_traces_pass_and_say_so(node):
    """Two failures out of two traces are no rate."""
    config, bus = node
    with telemetry.open(config.observability):
        for _ in range(2):
            with trace.new_trace("a.b") as started:
                started.fail("internal_error")

    result = doctor.run_one("recent_error_rate", config, bus)

    assert result.ok
    assert "too few" in result.detail


def test_check_that_raises_is_a_finding(config):
    """A check that raises fails with its cause, and the others are unharmed."""

    def broken(config, bus):
        raise OSError("cable unplugged")

    doctor.register("broken", broken)
    results = {result.name: result for result in doctor.run_all(config, only=["broken", "disk_space"])}

    assert results["broken"].status == "fail"
    assert "OSError: cable unplugged" in results["broken"].detail
    assert results["disk_space"].ok


def test_check_that_hangs_is_reported_in_time(config):
    """A check that never returns is reported as such; the report is complete."""
    never = threading.Event()
    doctor.register("hanging", lambda config, bus: CheckResult("hanging", ok=never.wait(), detail=""))
    results = {result.name: result for result in doctor.run_all(config, only=["hanging", "disk_space"], deadline_s=0.3)}
    never.set()

    assert not results["hanging"].ok
    assert "no answer" in results["hanging"].detail
    assert results["disk_space"].ok


def test_unknown_check_is_an_error(config):
    """A name that no check has is told, not ignored."""
    with pytest.raises(KeyError):
        doctor.run_one("nonsense", config)
    with pytest.raises(KeyError):
        doctor.run_all(config, only=["nonsense"])


def test_orphan_spans_are_shown(node):
    """A span that found no trace is a warning with its count, its name and what to do; none is none."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    orphans.forget()
    with trace.new_trace("a.b"), trace.span("at home"):
        pass
    before = doctor.run_one("orphan_spans", *node)
    for name in ("lost", "late", "lost"):
        with trace.span(name):
            orphans.note(name)
    result = doctor.run_one("orphan_spans", *node)

    assert (before.status, before.evidence) == ("pass", {"count": 0})
    assert (result.status, result.ok) == ("warn", True)
    assert result.evidence == {"count": 3, "names": ["lost", "late"]}
    assert result.detail.startswith("3 span(s)")
    assert "lost, late" in result.detail
    assert "carry()" in result.fix


def test_orphan_of_a_trace_that_ended_is_shown(node):
    """A span that opens in what outlived its trace counts as well."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    with trace.new_trace("a.b"):
        late = carry(lambda: trace.span("late").__enter__().__exit__(None, None, None))
    late()

    assert doctor.run_one("orphan_spans", *node).evidence["count"] == 1


def test_orphans_that_nothing_counts_are_skipped(node):
    """Without a node, or without metrics, the check says that it cannot know."""
    config, bus = node
    assert "not running" in doctor.run_one("orphan_spans", config, None).detail

    with trace.span("alone"):
        pass
    result = doctor.run_one("orphan_spans", config, bus)
    assert (result.status, result.ok) == ("skip", True)
    assert "metrics are switched off" in result.detail


def test_names_of_orphans_are_few_and_clean():
    """The newest come first, each once; a flood keeps the last, and no name is longer or wilder than a name."""
    orphans.forget()
    for number in range(1_000):
        orphans.note(f"span {number}")
    orphans.note("x" * 100_000)
    orphans.note("\ud800")
    found = orphans.recent_names()

    assert found[2:4] == ["span 999", "span 998"]
    assert len(found) == 32
    assert all(len(name.encode()) <= 128 for name in found)
