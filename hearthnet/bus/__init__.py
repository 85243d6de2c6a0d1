"""The capability bus: registers a node's capabilities and handles all calls to them."""
