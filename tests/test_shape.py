"""The shape of the code: small modules, small functions, documented packages, exports that are true."""

from __future__ import annotations

import ast
import importlib
import statistics
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import shape
import walks
from support import forkserver

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "hearthnet").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_MODULE_LINES = 600
MAX_BODY_LINES = 50
MEDIAN_BODY_LINES = 8
MAX_MOCKS = 10
# How often a file waits for a time, and why.
SLEEPERS = {
    "support/waiting.py": (3, "polls a condition; lets time pass where a test is about that"),
    "client/test_client.py": (1, "a server that trickles"),
    "e2e/kills.py": (3, "a soak that paces its load, and kills at random moments"),
    "e2e/leaky_node.py": (1, "a node that leaks on purpose, once a minute"),
    "e2e/mixed.py": (4, "a soak that paces its callers"),
    "e2e/siblings.py": (2, "a soak whose programs pace their load"),
    "e2e/test_attacks.py": (1, "looks for a reset"),
    "e2e/test_power_loss.py": (1, "paces a recording, so that it spans several commits"),
    "e2e/test_prometheus.py": (1, "paces the callers of a loaded node"),
    "e2e/lock.py": (1, "a soak that paces its load"),
    "forensics/test_gather_copies.py": (1, "a program that paces its load"),
    "observability/store/recovery/test_recover.py": (1, "a program whose trace must have an age"),
    "observability/process/test_watchdog.py": (1, "tasks that only have to be there"),
    "transport/connection/test_protocol.py": (
        4,
        "polls a condition; gives a listener time to accept",
    ),
}
# Folders of tests that run several modules at once, and files about what is no module.
BESIDE_THE_ROOMS = {
    "e2e": "real nodes: each runs all rooms",
    "fuzz": "one property of parsers of several rooms",
    "support": "what several tests need, and its own tests",
    "scripts": "the rooms of scripts/",
    "observability/store/test_views.py": "the views are SQL in migrations/",
    "test_docs.py": "the documentation",
    "test_docs_collector.py": "docs/opentelemetry.md",
    "test_docs_library.py": "the programs in the documentation of the library",
    "test_integrations.py": "docs/integrations.md",
    "test_layers.py": "imports between all modules",
    "test_packaging.py": "the wheel",
    "test_queries.py": "docs/queries.md",
    "test_repository.py": "licence, decisions, workflow",
    "test_shape.py": "the source itself",
}


@cache
def walk(name: str) -> list[str]:
    """The modules of a walk, from a process, which two tests compare."""
    return walks.walk(name, forkserver.run)


class Facts(NamedTuple):
    """What is counted in a file; its tree is not kept, because each garbage collection would go through all of them.

    Attributes:
        lines: of the file.
        bodies: the functions, with the number of lines of their bodies, docstrings not counted.
        rebindings: the number of `global` statements.
        has_fork_hook: whether it registers one.
    """

    lines: int
    bodies: list[tuple[str, int]]
    rebindings: int
    has_fork_hook: bool


@cache
def facts_of(path: Path) -> Facts:
    """Counts a file."""
    text = path.read_text("utf-8")
    bodies, rebindings = [], 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            bodies.append((node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0))
        rebindings += isinstance(node, ast.Global)
    return Facts(len(text.splitlines()), bodies, rebindings, "os.register_at_fork(" in text)


def test_modules_are_small():
    """No module passes 600 lines, no body 50."""
    facts = {path.relative_to(ROOT).as_posix(): facts_of(path) for path in SOURCES}

    assert {name: found.lines for name, found in facts.items() if found.lines > MAX_MODULE_LINES} == {}
    long = [(name, *body) for name, found in facts.items() for body in found.bodies if body[1] > MAX_BODY_LINES]
    assert long == []


def test_functions_are_small_in_the_middle():
    """The median body has eight lines at most."""
    lines = [count for path in SOURCES for _, count in facts_of(path).bodies]

    assert statistics.median(lines) <= MEDIAN_BODY_LINES


@pytest.mark.parametrize("name", [name for name in shape.GOALS if not name.startswith("walk: ")])
def test_count_of_the_source(name):
    """Folders, state, words, and the files of a column are within the goal, or the ceiling on the way to it."""
    assert shape.quick_counts()[name] <= shape.CEILINGS.get(name, shape.GOALS[name])


@pytest.mark.parametrize("name", walks.WALKS)
def test_walk_is_short(name):
    """What a reader must open to follow one thing through the house is within the goal, or the ceiling."""
    modules = walk(name)

    assert 3 < len(modules) <= shape.CEILINGS.get(f"walk: {name}", shape.GOALS[f"walk: {name}"]), modules


def test_log_call_within_another_walk_is_passed_not_entered():
    """The "done" line of a trace is a walk of its own, whose modules count there alone."""
    passing, entering = walk("trace to `trace show`"), walk("log record to row and line")

    assert walks.LOGGING in passing
    assert [module for module in passing if module.startswith("observability/logs/")] == []
    assert "observability/logs/daily_file.py" in entering


def test_a_ceiling_is_above_its_goal():
    """Where a goal is met, it is what holds."""
    assert {name for name, ceiling in shape.CEILINGS.items() if ceiling <= shape.GOALS[name]} == set()


def test_exports_are_true():
    """Every `__all__` names only what its module has."""
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.endswith("__main__"):
            continue
        loaded = importlib.import_module(module)
        missing = [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)]
        assert missing == [], module


def test_public_face_of_observability():
    """The package exports what its contract names, and nothing else."""
    import hearthnet.observability as package

    assert package.__all__ == ["doctor", "get_logger", "metrics", "trace"]
    assert package.trace.__name__ == "hearthnet.observability.tracing"


def is_beside_its_module(path: Path) -> bool:
    """Whether the folder that a test file mirrors has the module, or is the room, that its name begins with."""
    room = ROOT / "hearthnet" / path.parent.relative_to(ROOT / "tests")
    subjects = {module.stem for module in room.glob("*.py")} | {room.name}
    name = path.stem.removeprefix("test_")
    return room.is_dir() and any(f"{name}_".startswith(f"{subject}_") for subject in subjects)


def test_tests_mirror_the_rooms():
    """`hearthnet/bus/bus.py` is tested by `tests/bus/test_bus.py`, or by `test_bus_….py` beside it."""
    files = [path.relative_to(ROOT / "tests") for path in TESTS if path.name.startswith("test_")]
    listed = {path for path in files if {path.as_posix(), path.parts[0]} & BESIDE_THE_ROOMS.keys()}

    assert [
        path.as_posix() for path in files if path not in listed and not is_beside_its_module(ROOT / "tests" / path)
    ] == []
    assert {name for name in BESIDE_THE_ROOMS if not (ROOT / "tests" / name).exists()} == set()


def sleeps(tree: ast.AST) -> Iterator[int]:
    """The lines on which a program waits for a time instead of for a condition.

    These are calls of `sleep` but for `asyncio.sleep(0)`, which lets others run, and of `wait` on what was made in the
    same expression, or on a pause: nothing ever sets them.
    """
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and (node.args or node.keywords)):
            continue
        name = ast.unparse(node.func)
        if name.rpartition(".")[2] == "sleep":
            if ast.unparse(node) != "asyncio.sleep(0)":
                yield node.lineno
        elif name.endswith(("Event().wait", "pause.wait")):
            yield node.lineno


def programs_in(path: Path) -> Iterator[ast.AST]:
    """The file, and the programs that stand in it as strings."""
    text = path.read_text("utf-8")
    if "sleep" not in text and "wait" not in text:
        return
    tree = ast.parse(text)
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with suppress(SyntaxError):
                yield ast.parse(node.value)


def test_no_test_sleeps():
    """A test waits for a condition; what may wait for a time is listed, with the reason."""
    found = {
        path.relative_to(ROOT / "tests").as_posix(): sum(1 for tree in programs_in(path) for _ in sleeps(tree))
        for path in TESTS
        if path != Path(__file__)
    }

    assert {name: count for name, count in found.items() if count > SLEEPERS.get(name, (0, ""))[0]} == {}
    assert all(reason for _, reason in SLEEPERS.values())


def test_sleeps_are_found():
    """By any of their names."""
    text = """
time.sleep(1); sleep(0.1); asyncio.sleep(0.01); Event().wait(0.3); threading.Event().wait(timeout=1); pause.wait(PACE_S)
asyncio.sleep(0); Event().wait(); is_over.wait(5); process.wait(5)
"""
    assert list(sleeps(ast.parse(text))) == [2] * 6


def test_tests_use_real_things():
    """Mocks are nearly never used."""
    texts = [path.read_text("utf-8") for path in TESTS if path != Path(__file__)]

    assert sum(text.count("mock") for text in texts) < MAX_MOCKS


def test_state_is_in_one_object():
    """What is rebound at run time hangs on `runtime`, which has the one fork hook: a cache may be a module's own."""
    assert sum(facts_of(path).rebindings for path in SOURCES) <= 3
    assert [path.name for path in SOURCES if facts_of(path).has_fork_hook] == ["runtime.py"]
