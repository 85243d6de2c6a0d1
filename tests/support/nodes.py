"""Fixtures of real nodes, for the folders whose conftest imports them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.ports import reserve_port
from support.running_node import RunningNode

from hearthnet.config import load, resolve_paths, save
from hearthnet.node import initialise


def make_node(home: Path, port: int) -> RunningNode:
    """A node that is initialised and configured for a port, not started; `home` is the present home."""
    config = load()
    made = initialise(resolve_paths(config), "home")
    save(
        config.model_copy(
            update={
                "community": config.community.model_copy(update={"community_id": made.manifest.community_id}),
                "transport": config.transport.model_copy(update={"host": "127.0.0.1", "port": port}),
                "emergency": config.emergency.model_copy(update={"probe_targets": ()}),
                "observability": config.observability.model_copy(update={"flush_interval_s": 0.2}),
            }
        )
    )
    return RunningNode(home, port)


def end(node: RunningNode) -> None:
    """Kills the node if it runs."""
    if node.process is not None and node.process.poll() is None:
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()


@pytest.fixture
def stopped_node(home, free_port):
    """A node that is initialised and configured for a free port, not started."""
    node = make_node(home, free_port)
    yield node
    end(node)


@pytest.fixture
def node(stopped_node):
    """A running node."""
    stopped_node.start()
    return stopped_node


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory):
    """A running node for those tests of a module that change nothing of it, and do not count what it did."""
    home = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        node = make_node(home, reserve_port())
        node.start()
    yield node
    end(node)
