"""Datasette on a store: its metadata, with the cookbook as canned queries, and the command that starts it.

Datasette opens a database with `mode=ro` and fetches all rows of a query at once, within a second: so it neither blocks
the writer of a live store nor keeps its WAL from being reset. With `--immutable` SQLite would ignore the WAL.

All users of a machine reach its ports. So the metadata let in root alone, which is the browser with the link that
Datasette prints; it works once.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hearthnet.errors import HearthNetError, MissingExtraError
from hearthnet.observability.store.query.relations import questions

__all__ = ["arguments", "find_program", "free_port", "metadata"]

_SUPPORTED: Final = re.compile(r"version 0\.(6[5-9]|[7-9]\d)")  # 1.0 takes permissions from another file
_VERSION_TIMEOUT_S: Final = 60.0  # the first start of a Python program on a slow card
_ONLY_ROOT: Final = {"id": "root"}


def metadata(name: str) -> dict[str, Any]:
    """Returns the metadata for Datasette; `name` is that of the database, its file's without an ending."""
    queries = {
        _slug(question["title"]): {"title": f"{number}. {question['title']}", "sql": question["sql"]}
        for number, question in enumerate(questions(), 1)
    }
    return {
        "title": "HearthNet telemetry",
        "description": "Traces, log records and runs. The queries are explained in docs/queries.md. Times are UTC.",
        "allow": _ONLY_ROOT,
        "databases": {name: {"queries": queries, "tables": {view: {"sort_desc": "seq"} for view in _BY_SEQ}}},
    }


_BY_SEQ: Final = ("traces", "logs", "gaps", "recent", "errors", "timeline")


def _slug(title: str) -> str:
    """Returns a title as a part of a URL: "What failed in the last hour?" is `what_failed_in_the_last_hour`."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def find_program() -> str:
    """Returns the path of Datasette: the one beside this Python, else the first in PATH.

    Raises:
        MissingExtraError: raised when there is none.
        HearthNetError: raised when its version would ignore that only root is let in.
    """
    beside = Path(sys.executable).with_name("datasette")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("datasette")
    if found is None:
        raise MissingExtraError("datasette", "browse")
    done = subprocess.run(  # noqa: S603
        [found, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
    )
    if not _SUPPORTED.search(done.stdout):
        version = done.stdout.strip() or "without a version"
        raise HearthNetError(f"{found} is {version}, not 0.65 or newer below 1.0", hint="pip install 'datasette<1'")
    return found


def free_port() -> int:
    """Returns a port of this machine that is free now: Datasette would print its link with a 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def arguments(program: str, store: Path, metadata_fd: int, port: int) -> list[str]:
    """Returns the command that serves a store to this machine; the metadata are read from a descriptor."""
    return [
        program, "serve", os.fspath(store), "--metadata", f"/dev/fd/{metadata_fd}", "--root",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
