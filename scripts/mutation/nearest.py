"""Which tests may notice the change of a line: those that run it."""

from __future__ import annotations

import ast
from typing import NamedTuple

__all__ = ["Runs", "Test", "lines_of", "nearest"]


class Test(NamedTuple):
    """How long a test took, the lines that it ran of each module, and whether other processes may have run more."""

    name: str
    seconds: float
    lines: dict[str, list[int]]
    starts_processes: bool


class Runs(NamedTuple):
    """What tests did, and the lines of each module that ran before the first of them: on import."""

    tests: list[Test]
    on_import: dict[str, list[int]]


def nearest(runs: Runs, module: str, source: str, line: int) -> list[Test]:
    """Returns the tests that may notice a change of this line, those that run it first, the quickest of them first.

    Others may notice it only if it runs on import, or in a process that they start.
    """
    own = lines_of(source, line)
    is_on_import = not own.isdisjoint(runs.on_import.get(module, ()))
    running = {test.name for test in runs.tests if not own.isdisjoint(test.lines.get(module, ()))}
    may = [test for test in runs.tests if is_on_import or test.name in running or test.starts_processes]
    return sorted(may, key=lambda test: (test.name not in running, module not in test.lines, test.seconds))


def lines_of(source: str, line: int) -> frozenset[int]:
    """Returns the lines of the statement around this one: of a compound one its head alone.

    One of these lines runs whenever the statement does; which ones depends on how it is broken.
    """
    heads = (_head(node) for node in ast.walk(ast.parse(source)))
    return frozenset(min((head for head in heads if line in head), key=len, default=range(line, line + 1)))


def _head(node: ast.AST) -> range:
    match node:
        case ast.stmt() | ast.excepthandler():
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        case ast.match_case():
            first = node.pattern.lineno
        case _:
            return range(0)
    if body := getattr(node, "body", None):
        return range(first, max(body[0].lineno, first + 1))
    return range(first, (node.end_lineno or first) + 1)
