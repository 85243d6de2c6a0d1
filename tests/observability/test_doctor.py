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


def test_doctor_keys_missing(node):
    """`keys_present` fails when the key is missing, and says how to make one."""
    config, bus = node
    (config.identity.keys_dir / "device.ed25519").unlink()

    result = doctor.run_one("keys_present", config, bus)

    assert (result.ok, result.status, result.fix) == (False, "fail", "hearthnet init")
    assert not doctor.run_one("keys_loadable", config, bus).ok


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o400])
def test_key_that_others_may_read_fails(node, mode):
    """Any mode but 0600 fails, with the command that mends it."""
    config, bus = node
    path = config.identity.keys_dir / "device.ed25519"
    path.chmod(mode)

    result = doctor.run_one("keys_present", config, bus)

    assert not result.ok
    assert result.fix == f"chmod 600 {path}"
    assert result.evidence["mode"] == f"{mode:04o}"


def test_truncated_or_foreign_key_fails(node):
    """A key of the wrong length, or of which the public half is another's, fails."""
    config, bus = node
    (config.identity.keys_dir / "device.pub").write_bytes(b"\0" * 32)
    assert "not the public half" in doctor.run_one("keys_loadable", config, bus).detail

    (config.identity.keys_dir / "device.ed25519").write_bytes(b"short")
    assert "5 bytes" in doctor.run_one("keys_loadable", config, bus).detail


def test_tampered_manifest_fails(node):
    """A manifest that its root did not sign fails."""
    config, bus = node
    (path,) = config.community.state_dir.glob("*/manifest.json")
    path.write_text(path.read_text().replace('"home"', '"away"'))

    result = doctor.run_one("community_present", config, bus)

    assert not result.ok
    assert "not signed" in result.detail


def test_missing_or_foreign_event_log_fails(node):
    """An event log that is gone, or is no event log, fails."""
    config, bus = node
    (path,) = config.community.state_dir.glob("*/events.sqlite")
    path.write_text("not a database at all, but long enough to be read as a header of one" * 20)
    assert not doctor.run_one("event_log_writable", config, bus).ok

    path.unlink()
    assert doctor.run_one("event_log_writable", config, bus).fix == "hearthnet init"


def test_port_held_by_another_program_fails(node, taken_port):
    """A port that somebody else listens on fails and says so."""
    config, bus = node
    transport = config.transport.model_copy(update={"port": taken_port})
    config = config.model_copy(update={"transport": transport})

    result = doctor.run_one("transport_port", config, bus)

    assert not result.ok
    assert "another program" in result.detail


def test_bus_without_capabilities_fails(node):
    """An empty bus fails; a node that is not running is skipped."""
    config, bus = node

    assert not doctor.run_one("at_least_one_capability", config, CapabilityBus(bus.node_id)).ok
    assert doctor.run_one("at_least_one_capability", config, None).status == "skip"


def test_dead_backend_fails_and_none_is_skipped(node, free_port):
    """A configured backend that does not answer fails; no backend is no failure."""
    config, bus = node
    backend = {"name": "ollama", "url": f"http://127.0.0.1:{free_port}", "model": "tiny"}
    llm = type(config.llm)(backends=(backend,))

    assert doctor.run_one("llm_backend_reachable", config, bus).status == "skip"
    assert not doctor.run_one("llm_backend_reachable", config.model_copy(update={"llm": llm}), bus).ok


@pytest.mark.parametrize(("offset_s", "ok"), [(0, True), (120, False), (-120, False)])
def test_clock_is_compared_with_an_anchor(node, http_date_server, offset_s, ok):
    """A clock two minutes off an anchor's date fails either way; without an anchor it is skipped."""
    config, bus = node
    assert doctor.run_one("clock_sanity", config, bus).status == "skip"

    target = http_date_server(offset_s)
    emergency = config.emergency.model_copy(update={"probe_targets": (target,)})
    result = doctor.run_one("clock_sanity", config.model_copy(update={"emergency": emergency}), bus)

    assert result.ok is ok
    assert abs(result.evidence["offset_s"] + offset_s) < 5


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
