"""Real nodes for the tests of this folder."""

from support.nodes import node, shared_node, stopped_node

__all__ = ["node", "shared_node", "stopped_node"]
