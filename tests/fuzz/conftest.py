"""The real node of the end-to-end tests."""

from support.nodes import node, shared_node, stopped_node

__all__ = ["node", "shared_node", "stopped_node"]
