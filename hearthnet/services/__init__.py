"""The built-in capabilities of a node."""
