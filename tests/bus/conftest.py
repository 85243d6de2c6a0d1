"""What tests of the bus have in common."""

from __future__ import annotations

import pytest
from support.capabilities import LEVELS, ME

from hearthnet.bus.bus import CapabilityBus


@pytest.fixture
def bus():
    """A bus with a node of each level."""
    return CapabilityBus(ME, LEVELS.get)
