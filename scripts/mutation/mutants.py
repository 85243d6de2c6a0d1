"""The changes that are tried: what operators make of a module, and what stays as it is."""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

__all__ = ["DeleteStatement", "Mutant", "PassArgument", "kind_of", "mutants_of", "operators", "sample", "unmutated"]


class Mutant(NamedTuple):
    """A change to a module: where it is, the operator that makes it, at which of its positions."""

    start: tuple[int, int]
    operator: str
    occurrence: int

    def apply(self, source: str) -> str | None:
        """Returns the module after it; None if that is no Python."""
        from cosmic_ray.mutating import mutate_code

        try:
            mutated: str = mutate_code(source, operators()[self.operator], self.occurrence)
            with warnings.catch_warnings(action="ignore"):
                compile(mutated, "mutant", "exec", dont_inherit=True)
        except (SyntaxError, AttributeError):  # the latter where cosmic-ray meets `except a.b`
            return None
        return mutated


class _Change:
    """An operator as cosmic-ray's visitor takes it: which nodes of parso's tree it changes (`applies`), and how."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yields where this node begins and ends, if it can be changed."""
        if self.applies(node):
            yield node.start_pos, node.end_pos


def _leaf(text: str, instead_of: Any) -> Any:
    from parso.python.tree import Name

    return Name(text, instead_of.start_pos, instead_of.get_first_leaf().prefix)


class DeleteStatement(_Change):
    """Replaces by `pass` a call whose result is not used, an assignment to an attribute or item, `raise`, `del`."""

    def applies(self, node: Any) -> bool:
        """Returns whether this is such a node."""
        if node.type != "simple_stmt":
            return False
        statement = node.children[0]
        if statement.type == "expr_stmt":
            target, sign = statement.children[0], statement.children[1]
            return sign.type != "annassign" and (target.type != "name" or sign != "=")
        return statement.type in ("atom_expr", "raise_stmt", "del_stmt", "yield_expr") or statement == "raise"

    def mutate(self, node: Any, _index: int) -> Any:
        """Returns the node that replaces it."""
        node.children[0] = _leaf("pass", node.children[0])
        return node


class PassArgument(_Change):
    """Replaces a call by its only argument: what is redacted, cut or converted is passed as it was."""

    def applies(self, node: Any) -> bool:
        """Returns whether this is such a node."""
        if node.type != "atom_expr" or node.children[0] == "await":
            return False
        call = node.children[-1]
        return (
            call.type == "trailer"
            and call.children[0] == "("
            and len(call.children) == 3
            and call.children[1].type not in ("argument", "arglist")
        )

    def mutate(self, node: Any, _index: int) -> Any:
        """Returns the node that replaces it."""
        return _leaf(f"({node.children[-1].children[1].get_code(include_prefix=False)})", node)


# What cosmic-ray puts in place of an operator, but a slip would not: most are a TypeError, which any test notices.
_FAR_FETCHED = re.compile(r"_(Pow|LShift|RShift|BitOr|BitXor|BitAnd|Mod|Div|Invert)$|(?<!_Is)_IsNot$|(?<!_IsNot)_Is$")


@cache
def operators() -> dict[str, Any]:
    """Returns each operator by name: those of cosmic-ray that need no arguments, and the two above."""
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    theirs = {
        name: provider[name] for name in provider if not provider[name].arguments() and not _FAR_FETCHED.search(name)
    }
    return {name: made() for name, made in (theirs | {c.__name__: c for c in (DeleteStatement, PassArgument)}).items()}


def unmutated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Returns the parts of a module that stay as they are, since no test need notice a change there.

    These are annotations, which nothing reads; sizes (`Final` numbers), which are a choice; `assert`, which tells the
    type checker what is the case, and what only type checkers run or read (protocols, type variables). The slots of
    dataclasses save memory, and do nothing else.
    """
    parts: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(annotation=ast.expr() as kept) | ast.FunctionDef(returns=ast.expr() as kept):
                parts.append(kept)
            case ast.AsyncFunctionDef(returns=ast.expr() as kept):
                parts.append(kept)
            case ast.AnnAssign(annotation=kept, value=value):
                parts.append(kept)
                if value and all(isinstance(part, _NUMERIC) for part in ast.walk(value)):
                    parts.append(value)
            case (
                ast.Assert()
                | ast.If(test=ast.Name(id="TYPE_CHECKING"))
                | ast.Assign(targets=[ast.Name(id="TYPE_CHECKING")])
                | ast.keyword(arg="slots")
            ):
                parts.append(node)
            case (
                ast.FunctionDef(decorator_list=[ast.Name("overload"), *_])
                | ast.ClassDef(bases=[ast.Name("Protocol")])
                | ast.Assign(value=ast.Call(ast.Name("ParamSpec" | "TypeVar")))
            ):
                parts.append(node)
    return [((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)) for part in parts]


_NUMERIC = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)


def mutants_of(source: str) -> list[Mutant]:
    """Returns the mutants of a module; some are no Python."""
    from cosmic_ray.ast import ast_nodes, get_ast

    kept = unmutated(source)
    nodes = list(ast_nodes(get_ast(source)))
    found = [
        Mutant(start, name, occurrence)
        for name, operator in operators().items()
        for occurrence, start in enumerate(start for node in nodes for start, _ in operator.mutation_positions(node))
    ]
    return sorted(mutant for mutant in found if not any(first <= mutant.start < last for first, last in kept))


def sample(source: str, count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Returns `count` mutants and the sources after them: one of each kind of operator at a place, or fewer."""
    mutants = mutants_of(source)
    random.Random(seed).shuffle(mutants)
    chosen: dict[tuple[tuple[int, int], str], tuple[Mutant, str]] = {}
    for mutant in mutants:
        place = mutant.start, kind_of(mutant.operator)
        if place not in chosen and (mutated := mutant.apply(source)):
            chosen[place] = mutant, mutated
        if len(chosen) == count:
            break
    return sorted(chosen.values())


def kind_of(operator: str) -> str:
    """Returns what operators have in common that replace one sign by another."""
    return operator.split("_")[0]
