"""A HearthNet node: capabilities on a bus, and the observability layer that records what they did."""

__version__ = "0.2.0"
