"""Fixtures for tests of the checks: all checks registered, and a node."""

from __future__ import annotations

import threading

import pytest

from hearthnet import checks
from hearthnet.bus.bus import CapabilityBus
from hearthnet.node import initialise
from hearthnet.observability import doctor
from hearthnet.services import echo


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Registers all checks, and unregisters those that a test adds."""
    monkeypatch.setattr(doctor, "_checks", {})
    monkeypatch.setattr(doctor, "_is_standard_known", threading.Event())
    checks.register_all()


@pytest.fixture
def node(config, free_port):
    """The settings and bus of a new node."""
    transport = config.transport.model_copy(update={"host": "127.0.0.1", "port": free_port})
    config = config.model_copy(update={"transport": transport})
    made = initialise(config, "home")
    bus = CapabilityBus(made.node_id)
    bus.register(echo.DESCRIPTOR, echo.echo)
    return config, bus
