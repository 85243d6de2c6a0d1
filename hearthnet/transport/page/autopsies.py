"""How runs ended: of each by its row, and, once it is asked for, by the autopsy, whose verdict does not change.

The autopsy copies the database and reads every file, which takes a second: it has a process of its own, one at a time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.errors import WireError
from hearthnet.forensics.model import CAUSES
from hearthnet.observability.store.query.children import Children

__all__ = ["Autopsies", "from_row"]

_WITHIN_S: Final = 120.0
_KEPT: Final = 256  # verdicts
_PROGRAM: Final = "import os, sys; os.nice(5); from hearthnet.forensics.main import main; sys.exit(main())"
_FOUND: Final = 2  # the first exit code that means that there is no report
_SHORT: Final = ("verdict", "summary", "confidence")
_PARTS: Final = (*_SHORT, "evidence", "alternatives", "missing")
_CLEAN: Final = "clean"


class Autopsies:
    """The verdicts on the runs of a store.

    Args:
        directory: of the store.
        log_dir: of the JSON logs; None: found beside the store.
        children: in which they run.
    """

    def __init__(self, directory: Path, log_dir: Path | None, children: Children) -> None:
        self._children = children
        self._directory = directory
        self._log_dir = log_dir
        self._kept: dict[str, dict[str, Any]] = {}
        self._one = threading.Lock()

    def short(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `verdict`, `summary` and `confidence`: None where only an autopsy could tell, and none was made."""
        known = self._kept.get(run["run_id"]) or from_row(run)
        return {name: known[name] for name in _SHORT}

    def whole(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the verdict with its evidence; of a dead run for the first time after a second or more.

        Raises:
            WireError: raised when the autopsy fails.
        """
        if run["is_alive"]:
            return from_row(run)
        with self._one:
            found = self._kept.get(run["run_id"])
            if found is None:
                found = self._made(run["run_id"])
                if run["end_reason"] is not None:  # else the next start still recovers its records
                    self._keep(run["run_id"], found)
        return found

    def _keep(self, run_id: str, found: dict[str, Any]) -> None:
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[run_id] = found

    def _made(self, run_id: str) -> dict[str, Any]:
        options = [f"--run={run_id}", "--json", "--limit=0"]
        if self._log_dir is not None:
            options.append(f"--log-dir={self._log_dir}")
        command = [sys.executable, "-P", "-c", _PROGRAM, *options, "--", str(self._directory)]
        try:
            done = self._children.run(command, _WITHIN_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failure() from error
        if done.returncode < 0 or done.returncode >= _FOUND:
            raise _failure()
        report = orjson.loads(done.stdout)
        return {name: report[name] for name in _PARTS}


def _failure() -> WireError:
    error = WireError("partition", "the autopsy of this run failed")
    error.hint = "hearthnet autopsy"
    return error


def from_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the row of a run says of its end."""
    cause = "running" if run["is_alive"] else "clean_stop" if run["end_reason"] == _CLEAN else None
    known = {"verdict": cause, "summary": cause and CAUSES[cause], "confidence": cause and "certain"}
    return {**known, "evidence": [], "alternatives": [], "missing": []}
