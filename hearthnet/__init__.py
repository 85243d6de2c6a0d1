"""A HearthNet node: capabilities on a bus, and the observability layer that remembers what they did."""

__version__ = "0.1.0"
