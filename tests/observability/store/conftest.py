"""Fixtures for tests of the store: a process that is killed, queries of the rows it left, and writers."""

from __future__ import annotations

import signal
import sqlite3
import sys
from contextlib import closing

import pytest
from support import forkserver
from support.writers import path, writers

from hearthnet.observability import telemetry
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.telemetry import DATABASE

__all__ = ["keep_within", "path", "query", "run_and_die", "writers"]

PRELUDE = """
import os, signal, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
config = ObservabilityConfig(data_dir=Path({data!r}), log_dir=None, flush_interval_s=60)
def record(count, capability="a.b"):
    for _ in range(count):
        with trace.new_trace(capability):
            pass
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run_and_die(observability):
    """Runs a script that may use `telemetry`, `trace`, `config`, `record` and `die`, and must end by SIGKILL."""

    def run(script: str) -> None:
        done = forkserver.run([sys.executable, "-c", PRELUDE.format(data=str(observability.data_dir)) + script])
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run


@pytest.fixture
def query(observability):
    """Runs a query as another process would."""

    def ask(sql, *values):
        with closing(sqlite3.connect(f"file:{observability.data_dir / DATABASE}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, values).fetchall()

    return ask


@pytest.fixture
def keep_within(monkeypatch):
    """Has telemetry keep within so many MB: fewer than the settings allow, so that a store is full sooner."""
    return lambda mb: monkeypatch.setattr(telemetry, "Budget", lambda _: Budget(mb))
