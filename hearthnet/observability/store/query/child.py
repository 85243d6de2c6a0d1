"""Runs one statement in a process of its own: the request on standard input and the result on standard output, as JSON.

For a node, whose own SQLite must not share its memory with a person's query, and which could not end a single long step
of it: the process can be killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.errors import HearthNetError, StoreError
from hearthnet.observability.store.query.children import Children
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError, ask

__all__ = ["ask_in_child", "main"]

_START_S: Final = 10.0  # for the interpreter of a busy Raspberry Pi to start
_NICE: Final = 5
_FEWER: Final = "fetch fewer rows (LIMIT, WHERE) or columns"
_KINDS: Final[dict[str, type[HearthNetError]]] = {
    kind.__name__: kind for kind in (QueryError, QueryLimitError, StoreError)
}


def ask_in_child(path: Path, sql: str, timeout_s: float, max_rows: int, children: Children) -> dict[str, Any]:
    """Returns `columns`, `rows`, `has_more` and `took_ms` of a statement.

    Args:
        path: the database.
        sql: the statement.
        timeout_s: limit in seconds, without the start of the process.
        max_rows: highest number of rows.
        children: among which the process runs: its owner may kill it.

    Raises:
        QueryError: raised as `ask` does.
        QueryLimitError: raised as `ask` does.
        StoreError: raised as `ask` does, or when no process can be started.
    """
    request = orjson.dumps({"path": os.fspath(path), "sql": sql, "timeout_s": timeout_s, "max_rows": max_rows})
    command = [sys.executable, "-P", "-m", "hearthnet.observability.store.query.child"]
    try:
        done = children.run(command, timeout_s + _START_S, request)
        done.check_returncode()
    except subprocess.TimeoutExpired as error:
        raise QueryLimitError(f"the query takes longer than {timeout_s:g} s", hint=_FEWER) from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise StoreError("the query could not be run", hint="hearthnet telemetry sql") from error
    found: dict[str, Any] = orjson.loads(done.stdout)
    if "error" in found:
        kind = _KINDS[found["error"]]
        raise kind(found["message"], hint=_FEWER if kind is QueryLimitError else found["hint"])
    return found


def main() -> None:
    """Runs the request on standard input."""
    os.nice(_NICE)
    request = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(orjson.dumps(_result(**request), default=_plain))


def _result(path: str, sql: str, timeout_s: float, max_rows: int) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        found = ask(Path(path), sql, timeout_s, max_rows)
    except (QueryError, QueryLimitError, StoreError) as error:
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        return {"error": kind, "message": error.message, "hint": error.hint}
    took_ms = round((time.perf_counter() - started) * 1_000, 3)
    return {"columns": found.columns, "rows": found.rows, "has_more": found.has_more, "took_ms": took_ms}


def _plain(value: object) -> str:
    """Returns a blob as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError


if __name__ == "__main__":
    main()
