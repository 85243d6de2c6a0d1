"""The name of the program that runs in this process, by which people tell the runs of one store apart."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Final

__all__ = ["MAX_PROGRAM_BYTES", "UNKNOWN", "program_name"]

UNKNOWN: Final = "python"  # interactive, from standard input, or `python -c`
MAX_PROGRAM_BYTES: Final = 64  # of the field in a black box
_NO_FILE: Final = ("", "-", "-c", "-m")  # the last while `python -m` is importing the module's package
_MAIN: Final = "__main__"


def program_name() -> str:
    """Returns the module that `python -m` runs, without `.__main__`, or else the file name of the script."""
    name = _module() or _file()
    # A file name may hold any byte; no sink could write one that is not UTF-8.
    clean = "".join(char if char.isprintable() else "?" for char in name)
    return clean.encode("utf-8", "replace")[:MAX_PROGRAM_BYTES].decode("utf-8", "ignore") or UNKNOWN


def _module() -> str:
    """Returns the name of the module that `python -m` runs; empty if it runs something else."""
    name = getattr(getattr(sys.modules.get(_MAIN), "__spec__", None), "name", None) or ""
    # A folder or zip file that is run has a specification too, of a module named __main__.
    return "" if name == _MAIN else str(name).removesuffix(f".{_MAIN}")


def _file() -> str:
    script = str(sys.argv[0]) if getattr(sys, "argv", None) else ""  # an embedded interpreter may have none
    path = PurePath(script)
    if path.stem == _MAIN:  # of a package, in a process that multiprocessing has started
        path = path.parent
    return UNKNOWN if script in _NO_FILE else path.name
