"""Canonical JSON: one encoding per value, and errors for values without one."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.identity.keys import canonical_json

text = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20
)


def shuffled(value, draw):
    """Returns a copy of a value with the keys of its objects in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ({"a": {"z": [], "b": {}}}, '{"a":{"b":{},"z":[]}}'),
        ([1, "two", None, True, False], '[1,"two",null,true,false]'),
        ((1, 2), "[1,2]"),
        (1.0, "1"),
        (-0.0, "0"),
        (1.50, "1.5"),
        (0.1, "0.1"),
        (2.0**53, "9007199254740992"),
        (10**30, "1" + "0" * 30),
        ([1.0, {"a": 2.0}], '[1,{"a":2}]'),
        (True, "true"),
        ("größe ✔ 🏠", '"größe ✔ 🏠"'),
        ('quote " and \\ and \n', r'"quote \" and \\ and \n"'),
        ("\x7f\u2028", '"\x7f\u2028"'),
        ({"é": 1, "e": 2, "E": 3}, '{"E":3,"e":2,"é":1}'),
        ("", '""'),
        ({}, "{}"),
    ],
)
def test_spelling(value, spelling):
    """Keys sorted at every level, no white space, UTF-8 not escaped, no trailing zeros."""
    assert canonical_json(value) == spelling.encode()


@given(values, st.data())
def test_order_of_keys_does_not_matter(value, data):
    """Equal values have the same encoding, whatever the order of their keys."""
    assert canonical_json(shuffled(value, data.draw)) == canonical_json(value)


@given(values)
def test_spelling_is_read_back_as_the_same_value(value):
    """The encoding decodes to an equal value."""
    assert json.loads(canonical_json(value)) == value


@given(values)
def test_spelling_of_what_was_read_back_is_the_same(value):
    """Encoding a received value again gives the same bytes, so signatures verify."""
    spelling = canonical_json(value)

    assert canonical_json(json.loads(spelling)) == spelling


@given(values)
def test_no_white_space_between_tokens(value):
    """White space occurs inside strings only."""
    spelling = canonical_json(value).decode()

    assert spelling == json.dumps(json.loads(spelling), separators=(",", ":"), ensure_ascii=False, sort_keys=True)


@given(st.integers(-(2**53), 2**53))
def test_whole_floats_are_spelled_as_integers(number):
    """1.0 and 1 are one number."""
    assert canonical_json(float(number)) == canonical_json(number) == str(number).encode()


def test_argument_is_left_as_it_was():
    """Encoding does not change the value."""
    value = {"b": [1.0], "a": {"d": 1, "c": 2}}
    canonical_json(value)

    assert list(value) == ["b", "a"]
    assert isinstance(value["b"][0], float)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        [math.nan],
        "\ud800",
        {"\ud800": 1},
        {1: "a"},
        {None: 1},
        {"a": {2: 3}},
        b"bytes",
        {1, 2},
        object(),
        [10**5_000],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_spelling_is_refused(value):
    """A value without an encoding raises ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  # each has a message of its own
        canonical_json(value)


def nested(depth: int) -> list:
    """Returns nested lists."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded():
    """64 levels are encoded; more are refused before the stack overflows."""
    assert canonical_json(nested(64)).startswith(b"[" * 65)
    with pytest.raises(ValueError, match="nested"):
        canonical_json(nested(65))
    with pytest.raises(ValueError, match="nested"):
        canonical_json(nested(100_000))


def test_list_that_holds_itself_is_refused():
    """A circular reference is refused as endless nesting."""
    value: list = []
    value.append(value)

    with pytest.raises(ValueError, match="nested"):
        canonical_json(value)
