"""Logging, metrics, tracing and self-diagnostics for every module of a node that does I/O.

Importing this is light: no database driver, web framework or metrics library comes with it.
"""

from hearthnet.observability import doctor, metrics
from hearthnet.observability import tracing as trace
from hearthnet.observability.logging import get_logger

__all__ = ["doctor", "get_logger", "metrics", "trace"]
