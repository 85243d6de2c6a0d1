"""Expressions that are compiled when they are first used."""

from __future__ import annotations

import re

import pytest

from hearthnet.observability.redaction.expressions import Expression


def test_methods_are_those_of_the_compiled_expression():
    """Callers may take it for one."""
    expression = Expression(r"(\d)(\d)")
    compiled = re.compile(r"(\d)(\d)")
    assert expression.sub(r"\2\1", "a12b") == compiled.sub(r"\2\1", "a12b") == "a21b"
    assert expression.findall("12 34") == compiled.findall("12 34")
    assert expression.split("a12b") == compiled.split("a12b")
    for method in ("search", "match", "fullmatch"):
        found, expected = getattr(expression, method)("12"), getattr(compiled, method)("12")
        assert found.groups() == expected.groups()
        assert getattr(expression, method)("no digit") is None


def test_compiled_when_first_used_and_then_no_more(monkeypatch):
    """Importing costs nothing, and a call no more than with `re`."""
    compiled: list[str] = []
    compile_now = re.compile
    monkeypatch.setattr(re, "compile", lambda text: compiled.append(text) or compile_now(text))
    expression = Expression("a+")
    assert compiled == []
    assert expression.search("baa")
    assert expression.match("aa")
    assert compiled == ["a+"]


def test_no_expression_raises_when_it_is_first_used():
    """Not at import: a test of the module that has it must use it."""
    expression = Expression("(")
    with pytest.raises(re.error):
        expression.search("x")


def test_other_attributes_are_the_expressions_own_or_none():
    """A misspelled method is an error, no endless search."""
    assert Expression("a").groups == 0
    with pytest.raises(AttributeError):
        _ = Expression("a").no_attribute
