"""Searches the store: a small language for traces and log records, the same on every surface.

`language` parses, `conditions` knows the fields, `query` compiles to SQL, `run` runs it.
"""

from hearthnet.observability.store.search.query import Compiled, compile_query
from hearthnet.observability.store.search.run import Found, run_query

__all__ = ["Compiled", "Found", "compile_query", "run_query"]
