"""Real nodes, and a browser that looks at one, for the tests of the page."""

from support.browser import browser, open_tab, page_node, shared_tab, tab
from support.nodes import node, shared_node, stopped_node

__all__ = [
    "browser", "node", "open_tab", "page_node", "shared_node", "shared_tab", "stopped_node", "tab",
]  # fmt: skip
