"""The names that the package itself offers to programs: each is the one of its module, and none costs the others."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from support import forkserver, public_api

import hearthnet
from hearthnet.observability import tracing

INSTRUMENTS = ("logging", "metrics", "tracing")
PLACES = {
    "current_trace": "tracing", "fields": "logs.fields", "get_logger": "logging", "get_recent": "tracing",
    "span": "tracing", "trace": "tracing",
}  # fmt: skip


@pytest.mark.parametrize("name", hearthnet.__all__)
def test_name_is_that_of_its_module(name):
    """Whichever way it is imported."""
    place = import_module(f"hearthnet.observability.{PLACES.get(name, name)}")

    assert getattr(hearthnet, name) is (getattr(place, name) if name in PLACES else place)
    assert name in dir(hearthnet)


def test_other_names_are_none():
    """As of any module; its own modules are."""
    with pytest.raises(AttributeError, match="no attribute 'traces'"):
        _ = hearthnet.traces
    assert not hasattr(hearthnet, "__wrapped__")
    assert import_module("hearthnet.display") is hearthnet.display


def test_import_is_light():
    """The package imports nothing, and a program that logs and traces gets neither database nor settings."""
    script = "import sys, hearthnet; print(*sys.modules)"
    bare = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    script = "import sys; from hearthnet import fields, get_logger, span, trace; print(*sys.modules)"
    used = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert [name for name in bare if name.startswith("hearthnet")] == ["hearthnet"]
    assert not {"sqlite3", "aiosqlite", "pydantic", "asyncio", "click", "rich"} & set(used)


_COUNT_COMPILED = """
import logging, re, orjson
compiled, compile = [], re.compile
re.compile = lambda *arguments: compiled.append(arguments) or compile(*arguments)
from hearthnet.observability import get_logger, metrics, trace
at_import = len(compiled)
metrics.counter("of-a-name-with-dashes", "A count.")
print(at_import, len(compiled) > at_import)
"""


def test_instruments_compile_no_expression_when_they_are_imported():
    """Each costs tenths of a millisecond. A metric whose name the page cannot have needs one."""
    done = subprocess.run([sys.executable, "-c", _COUNT_COMPILED], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "True"]


def test_public_api_runs_as_it_is_typed(tmp_path):
    """The file whose types `scripts/check` checks is a program that works."""
    done = forkserver.run([sys.executable, public_api.__file__], cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "folder" / "telemetry.db").exists()
    assert (tmp_path / "data" / "telemetry.db").exists()


def test_public_api_is_type_checked():
    """Mypy's list has it."""
    root = Path(__file__).parent.parent
    assert '"tests/support/public_api.py"' in (root / "pyproject.toml").read_text("utf-8")


# Their settings, or another library's types, are imported for type checkers alone.
_FOR_CHECKERS = {"configure", "install_sinks", "new_trace", "write_textfile"}


@pytest.mark.parametrize("place", ["hearthnet", *(f"hearthnet.observability.{name}" for name in INSTRUMENTS)])
def test_annotations_of_functions_can_be_read(place):
    """Tools that read them at run time have no type checker's names: `typing` is not imported for these alone."""
    module = import_module(place)
    offered = [getattr(module, name) for name in module.__all__ if name not in _FOR_CHECKERS]
    functions = [one for one in offered if inspect.isfunction(one)]
    functions += [one.__init__ for one in (hearthnet.fields, hearthnet.trace, tracing.Span)]

    assert all("return" in get_type_hints(function) for function in functions)
