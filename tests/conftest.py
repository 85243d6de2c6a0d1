"""Fixtures for all tests: a home of its own, instruments as after import, a telemetry store in a temporary folder."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from hearthnet.config import ObservabilityConfig, default_config, resolve_paths
from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics, tracing
from hearthnet.observability import recorder as recording
from hearthnet.observability.context import current


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home directory that nothing else uses; no test may touch the real one."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture(autouse=True)
def fresh_instruments():
    """Each test starts and ends with instruments as they are after import."""
    metrics.configure(SimpleNamespace(metrics_enabled=False))
    recording.install(None)
    yield
    node_logging.shutdown()
    metrics.configure(SimpleNamespace(metrics_enabled=False))
    recording.install(None)
    tracing.read_from(None)
    tracing.set_slow_ms(5_000.0)
    current.set(None)
    logging.getLogger("hearthnet").setLevel(logging.NOTSET)


@pytest.fixture
def observability(tmp_path) -> ObservabilityConfig:
    """Settings of a store in a temporary folder."""
    return ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "logs", flush_interval_s=0.05)


@pytest.fixture
def config(home):
    """A node's settings, paths in the temporary home, discovery and outside anchors off."""
    base = default_config()
    quiet = base.emergency.model_copy(update={"probe_targets": ()})
    return resolve_paths(base.model_copy(update={"emergency": quiet}))
