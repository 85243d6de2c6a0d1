"""The floors of the house: a file imports from lower floors, or from its own without a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hearthnet"

# The most specific prefix counts.
FLOORS = {
    "hearthnet": 0,
    "hearthnet.constants": 0,
    "hearthnet.errors": 0,
    "hearthnet.files": 0,
    "hearthnet.display": 0,
    "hearthnet.config": 1,
    "hearthnet.config_file": 1,
    "hearthnet.locations": 1,
    "hearthnet.config_sections": 1,
    "hearthnet.settings": 1,
    "hearthnet.database": 1,
    "hearthnet.forensics": 1,
    "hearthnet.observability.redaction": 1,
    "hearthnet.observability.records": 1,
    "hearthnet.observability.runtime": 1,
    "hearthnet.observability": 2,
    "hearthnet.identity": 2,
    "hearthnet.events": 3,
    "hearthnet.observability.store": 3,
    "hearthnet.observability.otel": 3,
    "hearthnet.observability.pytest_plugin": 3,
    "hearthnet.observability.telemetry": 3,
    "hearthnet.bus": 4,
    "hearthnet.services": 4,
    "hearthnet.transport": 5,
    "hearthnet.checks": 6,
    "hearthnet.client": 6,
    "hearthnet.notify": 6,
    "hearthnet.service": 6,
    "hearthnet.node": 6,
    "hearthnet.page": 6,
    "hearthnet.tools": 6,
    "hearthnet.cli": 7,
    "hearthnet.__main__": 7,
}
# The package's own file offers the instruments what stands higher, each imported by the call that needs it.
OFFERS = {"hearthnet.checks", "hearthnet.observability.store.recent", "hearthnet.observability.telemetry"}
REASON = (
    "what stands higher composes what stands lower; the other way round, instruments would drag the store, "
    "the bus or the command line into every module that logs a line"
)
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "util"}
# What every module imports must cost every module nothing.
HEAVY = {
    "aiosqlite", "asyncio", "click", "cryptography", "fastapi", "httpx", "opentelemetry", "prometheus_client",
    "pydantic", "rich", "sqlite3", "starlette", "ulid", "uvicorn",
}  # fmt: skip


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int:
    """The floor of the longest prefix that has one."""
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def is_for_typing(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def imports_of(path: Path, *, is_with_types: bool = False) -> set[str]:
    """The modules of ours that a file imports: at run time, or also for its types."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if is_for_typing(node) and not is_with_types:
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("hearthnet"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hearthnet"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module or "")
    return found


def test_modules_import_from_their_floor_or_below():
    """No file reaches up; the package's own file does so for what it offers, late."""
    too_high = {
        f"{module} (floor {floor_of(module)}) imports {name}"
        for module, path in MODULES.items()
        for name in imports_of(path)
        if floor_of(name) > floor_of(module) and not (module == "hearthnet.observability" and name in OFFERS)
    }

    assert too_high == set(), REASON


def test_no_circles():
    """Within a floor imports have an order, those for types too.

    The packages' own files are left out: they offer what is higher, late, and name it for their types. `doctor`, whose
    checks take a bus, is so by the spec.
    """
    offering = {"hearthnet", "hearthnet.observability"}
    graph = {
        module: imports_of(path, is_with_types=True) - {*offering, module}
        for module, path in MODULES.items()
        if module not in offering
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {error.args[1]}")


def test_only_composers_join_bus_and_store():
    """The node, its checks, its routes and its tools join the parts; nothing else knows both bus and store."""
    joined = {
        module
        for module, path in MODULES.items()
        if any(name.startswith("hearthnet.bus") for name in imports_of(path))
        and any(name.startswith("hearthnet.observability.store") for name in imports_of(path))
    }

    assert joined <= {"hearthnet.checks.telemetry", "hearthnet.node", "hearthnet.transport.api.routes"}


def test_sql_lives_where_it_may():
    """Statements stand in the store, the event log, and the module that opens databases."""
    words = ("SELECT ", "INSERT INTO ", "DELETE FROM ", "UPDATE ")
    users = {module for module, path in MODULES.items() if any(word in path.read_text("utf-8") for word in words)}
    users = {module for module in users if not module.startswith("hearthnet.observability.store.")}

    assert users <= {
        "hearthnet.cli.paths",  # an example in its help
        "hearthnet.cli.telemetry.sql",  # examples in its help
        "hearthnet.database",
        "hearthnet.events.event_log",
        "hearthnet.forensics.evidence.database",
        "hearthnet.observability.telemetry",
    }


def test_no_drawers():
    """No module or folder is named after nothing in particular."""
    names = {part for module in MODULES for part in module.split(".")}

    assert not names & FORBIDDEN_NAMES


def test_instruments_are_light():
    """Importing everything that `hearthnet.observability` exports brings none of the heavy libraries."""
    script = "import sys; from hearthnet.observability import *; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert HEAVY.isdisjoint(done.stdout.split())


def test_importing_the_instruments_compiles_and_reads_little():
    """What finds secrets is compiled where logging is configured, and files are handled by what opens them."""
    script = "import sys; from hearthnet.observability import get_logger, metrics, trace; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    later = {"display", "files", "observability.redaction.shapes", "observability.redaction.values"}
    assert {f"hearthnet.{name}" for name in later}.isdisjoint(done.stdout.split())


def test_instruments_import_little_of_the_standard_library():
    """Beyond logging and orjson four modules; `typing` alone would take as long as a fifth of ours."""
    script = (
        "import sys, logging, orjson; before = set(sys.modules)\n"
        "from hearthnet import fields\n"
        "from hearthnet.observability import get_logger, metrics, trace\n"
        "print(' '.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    public = {name for name in done.stdout.split() if not name.startswith(("_", "hearthnet"))}
    assert public <= {"contextvars", "gc", "math", "struct", "zlib"}
    assert "typing" not in done.stdout.split()


def test_help_is_light():
    """`hearthnet --help` imports no command, no framework and no store."""
    script = "import sys\nfrom hearthnet.cli.main import _run\n_run(['--help'])\nprint('\\n', ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = done.stdout.rpartition("\n ")[2].split()
    assert (HEAVY - {"click", "asyncio"}).isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("hearthnet.")] == [
        "hearthnet.cli",
        "hearthnet.cli.output",
        "hearthnet.errors",
        "hearthnet.cli.main",
    ]
