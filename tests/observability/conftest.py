"""Fixtures for tests of instruments: metrics of a test's own."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest

from hearthnet.observability import metrics

ON = SimpleNamespace(metrics_enabled=True)

_numbers = count()


@pytest.fixture
def page():
    """Makes metrics of these labels, on the page."""
    metrics.configure(ON)
    made = []

    def declare(make, *labels):
        made.append(make(f"hearthnet_test_labels_{next(_numbers)}_total", "Test.", labels))
        return made[-1]

    yield declare
    for one in made:
        metrics._instruments.pop(one.declaration.key)


@pytest.fixture
def counter():
    """A fresh counter with two labels."""
    metrics.configure(ON)
    made = metrics.counter(f"hearthnet_test_labels_{next(_numbers)}_total", "Test.", ["kind", "size"])
    yield made
    metrics._instruments.pop(made.name.removesuffix("_total"))
