"""Real nodes for the tests of the page."""

from support.nodes import node, shared_node, stopped_node

__all__ = ["node", "shared_node", "stopped_node"]
