"""Searches the store: a small language for traces and log records, the same on every surface.

`language` parses, `conditions` knows the fields, `query` compiles to SQL. `run` opens the database, `select` reads the
rows, `pending` adds traces that are not committed.
"""

from hearthnet.observability.store.search.conditions import TableName
from hearthnet.observability.store.search.query import Compiled, compile_query
from hearthnet.observability.store.search.run import run_query
from hearthnet.observability.store.search.select import Found, Order

__all__ = ["Compiled", "Found", "Order", "TableName", "compile_query", "run_query"]
