"""The real node of the end-to-end tests."""

from support.nodes import node, stopped_node

__all__ = ["node", "stopped_node"]
