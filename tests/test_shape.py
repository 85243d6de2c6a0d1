"""The shape of the code: small modules, small functions, documented packages, exports that are true."""

from __future__ import annotations

import ast
import importlib
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "hearthnet").rglob("*.py"))
MAX_MODULE_LINES = 400
MAX_BODY_LINES = 50
MEDIAN_BODY_LINES = 8
MAX_MOCKS = 10


def bodies(path: Path) -> list[tuple[str, int]]:
    """The functions of a file with the number of lines of their bodies, docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            found.append((node.name, lines))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_is_small(path):
    """No module passes 400 lines, no body 50."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_MODULE_LINES
    assert [(name, lines) for name, lines in bodies(path) if lines > MAX_BODY_LINES] == []


def test_functions_are_small_in_the_middle():
    """The median body has eight lines at most."""
    lines = [count for path in SOURCES for _, count in bodies(path)]

    assert statistics.median(lines) <= MEDIAN_BODY_LINES


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


def test_tests_use_real_things():
    """Mocks are nearly never used, and no test sleeps."""
    texts = {path: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)}

    assert sum(text.count("mock") for text in texts.values()) < MAX_MOCKS
    assert [path.name for path, text in texts.items() if "time.sleep(" in text] == []
