"""The API of OpenTelemetry as in a new process, with or without our provider."""

from __future__ import annotations

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.util._once import Once

from hearthnet.observability import otel, trace

__all__ = ["fresh_api", "installed", "newest", "spans_by_name"]


@pytest.fixture
def fresh_api(monkeypatch):
    """The API without a provider, which it takes only once in a process."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(api, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(context_api, "_RUNTIME_CONTEXT", context_api._RUNTIME_CONTEXT)  # put back at the end
    monkeypatch.delenv("OTEL_PYTHON_TRACER_PROVIDER", raising=False)
    return api


@pytest.fixture
def installed(fresh_api):
    """The API over our traces: a tracer."""
    assert otel.install()
    return fresh_api.get_tracer("tests")


def newest(n=1):
    """Returns the newest trace as its row has it; of `n` the oldest."""
    return trace.get_recent(n)[-1].as_dict()


def spans_by_name(row):
    """Returns the spans of a row by their names."""
    return {span["name"]: span for span in row["spans"]}
