"""Real nodes for the tests of this folder."""

from __future__ import annotations

import os
import signal

import pytest
from running_node import RunningNode

from hearthnet.config import load, resolve_paths, save
from hearthnet.node import initialise


@pytest.fixture
def stopped_node(home, free_port):
    """A node that is initialised and configured for a free port, not started."""
    config = load()
    made = initialise(resolve_paths(config), "home")
    save(
        config.model_copy(
            update={
                "community": config.community.model_copy(update={"community_id": made.manifest.community_id}),
                "transport": config.transport.model_copy(update={"host": "127.0.0.1", "port": free_port}),
                "emergency": config.emergency.model_copy(update={"probe_targets": ()}),
                "observability": config.observability.model_copy(update={"flush_interval_s": 0.2}),
            }
        )
    )
    node = RunningNode(home, free_port)
    yield node
    if node.process is not None and node.process.poll() is None:
        os.kill(node.process.pid, signal.SIGKILL)
        node.process.wait()


@pytest.fixture
def node(stopped_node):
    """A running node."""
    stopped_node.start()
    return stopped_node
