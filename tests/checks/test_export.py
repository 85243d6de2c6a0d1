"""The check of the export: what keeps telemetry from its backend, and since when."""

from __future__ import annotations

from contextlib import closing, nullcontext

import pytest
from support.otlp import Response, receiving
from support.ports import reserve_port
from support.records import a_trace
from support.stores import put
from support.waiting import wait_until

from hearthnet.cli.telemetry.text import _export_lines, info_lines
from hearthnet.constants import DATABASE, SALVAGE
from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import doctor, telemetry, trace
from hearthnet.observability.otel.export import delivery, exporter
from hearthnet.observability.otel.export.status import read_status, write_status
from hearthnet.observability.store.query.info import info
from hearthnet.observability.store.rows import now_us


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks at the store at once, and saves at once."""
    monkeypatch.setattr(exporter, "_ROUND_S", 0.02)
    monkeypatch.setattr(exporter, "_IDLE_S", 0.02)
    monkeypatch.setattr(delivery, "_FIRST_WAIT_S", 0.02)


def with_endpoint(config, url):
    """Settings with an endpoint."""
    return config.model_copy(
        update={
            "observability": config.observability.model_copy(update={"otlp_endpoint": url, "flush_interval_s": 0.05})
        }
    )


def check(config):
    """The finding, however slow the machine."""
    return doctor.run_one("telemetry_export", config, None, deadline_s=60)


def record(*names):
    """Records a trace for each name."""
    for name in names:
        with trace.new_trace(name):
            pass


def test_nothing_is_set(config):
    """Is a skip."""
    assert check(config).status == "skip"


def test_damaged_store_is_the_matter_of_another_check(config):
    """Where nothing is to be sent, there is one finding of it, not two."""
    config.observability.data_dir.mkdir(parents=True, exist_ok=True)
    (config.observability.data_dir / DATABASE).write_bytes(b"x" * 4_096)

    assert check(config).status == "skip"
    found = check(with_endpoint(config, "http://127.0.0.1:4318"))
    assert (found.status, found.fix) == ("fail", SALVAGE)


def test_all_is_sent(config):
    """Is a pass, and `telemetry info` says so."""
    with receiving() as receiver:
        config = with_endpoint(config, receiver.url)
        with telemetry.open(config.observability):
            record("a.b")
            wait_until(lambda: receiver.names and check(config).detail == "all is sent")
            shown = dict(info_lines({**info(config.observability.data_dir / "telemetry.db", config.observability),
                                     "export_status": read_status(config.observability.data_dir)}))  # fmt: skip

    assert shown["export"] == "traces: all sent"
    assert check(config).evidence["endpoints"]["traces"] == f"{receiver.url}/v1/traces"


@pytest.mark.parametrize(
    ("response", "said"), [(Response(401), "HTTP 401; the settings are at fault"), (Response(503), "HTTP 503")]
)
def test_backend_that_does_not_take_it(config, response, said):
    """Is a failure with the words of the last response, and what waits."""
    with receiving() as receiver:
        receiver.respond = lambda request: response
        config = with_endpoint(config, receiver.url)
        with telemetry.open(config.observability):
            record("a.b")
            wait_until(lambda: "traces" in read_status(config.observability.data_dir).get("troubles", {}))
            found = check(config)

    assert (found.ok, found.status) == (False, "fail")
    assert "traces have not been taken for" in found.detail
    assert said in found.detail
    assert "1 trace to be sent" in found.detail


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("localhost:4318", "fail", "no http or https URL"),
        ("http://127.0.0.1:4317", "warn", "4318"),
        ("http://127.0.0.1:1", "pass", "no process exports"),
    ],
)
def test_settings(config, url, status, said):
    """That cannot be meant are found without any process that exports."""
    found = check(with_endpoint(config, url))

    assert (found.status, said in found.detail) == (status, True)


def test_package_that_is_missing(config, monkeypatch):
    """Is a failure with the command that installs it."""
    monkeypatch.setattr("hearthnet.checks.export.find_spec", lambda name: None if "proto" in name else object())
    found = check(with_endpoint(config, "http://127.0.0.1:1"))

    assert (found.status, found.fix) == ("fail", "pip install 'hearthnet[otlp]'")


def test_rows_that_were_lost_unsent(config):
    """Are a warning, until the backend has been told."""
    path = config.observability.data_dir / "telemetry.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path)
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("INSERT INTO state VALUES ('otlp.traces', 0), ('otlp.traces.lost', 5)")
    found = check(with_endpoint(config, f"http://127.0.0.1:{reserve_port()}"))

    assert (found.status, found.detail) == ("warn", "5 traces evicted before the backend took them")


def test_trouble_of_a_process_that_has_ended(config):
    """Is over with it."""
    config.observability.data_dir.mkdir(parents=True, exist_ok=True)
    write_status(config.observability.data_dir, {"updated_us": 1, "troubles": {"traces": {"words": "x"}}})

    assert check(with_endpoint(config, "http://127.0.0.1:1")).status == "pass"


@pytest.mark.parametrize(
    "odd",
    [
        {"troubles": ["x"]},
        {"troubles": {"traces": "x"}, "counts": 3},
        {"troubles": {"traces": {"since_us": "x", "words": 1}}, "error": {"a": 1}},
        {"updated_us": "x", "troubles": {"traces": {"since_us": 2**62}}},
    ],
)
def test_status_that_was_changed(config, odd):
    """Breaks neither the check nor `telemetry info`."""
    config.observability.data_dir.mkdir(parents=True, exist_ok=True)
    write_status(config.observability.data_dir, {"updated_us": now_us(), **odd})

    assert "itself failed" not in check(with_endpoint(config, "http://127.0.0.1:1")).detail
    assert check(with_endpoint(config, "http://127.0.0.1:1")).status != "error"
    found = read_status(config.observability.data_dir)
    progress = {"traces": {"lost": 0, "unsent": 0, "oldest": None}}
    assert next(name for name, _ in _export_lines(progress, found)) == "export"


def test_status_of_a_clock_that_was_ahead(config):
    """Is no sign of life."""
    config.observability.data_dir.mkdir(parents=True, exist_ok=True)
    write_status(config.observability.data_dir, {"updated_us": now_us() + 10**12})

    assert check(with_endpoint(config, "http://127.0.0.1:1")).detail == "no process exports at present"


@pytest.mark.parametrize(("is_recording", "status"), [(True, "warn"), (False, "pass")])
def test_endpoint_to_which_nothing_is_sent_while_a_process_records(config, is_recording, status):
    """As after an endpoint was set without a restart: what waits for long is no sign of health."""
    path = config.observability.data_dir / "telemetry.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, [a_trace(1, started_us=now_us() - 3_600_000_000)])
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("INSERT INTO state VALUES ('otlp.traces', 0)")
    with telemetry.open(config.observability) if is_recording else nullcontext():
        found = check(with_endpoint(config, "http://127.0.0.1:1"))

    assert found.status == status
    assert ("is recording, but none exports" in found.detail) == is_recording
