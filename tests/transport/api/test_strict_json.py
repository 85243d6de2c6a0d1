"""Strict JSON: only unambiguous bodies of limited size are accepted, and refusing is cheap."""

from __future__ import annotations

import json
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.errors import WireError
from hearthnet.transport.api.strict_json import MAX_DEPTH, MAX_NODES, parse

MEGABYTE = 1_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from([":", '"', "\\", "a:b"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def refusal(raw: bytes) -> str:
    """Returns why a body is refused."""
    with pytest.raises(WireError) as caught:
        parse(raw)
    assert caught.value.code == "bad_request"
    assert len(caught.value.message) < 100  # it quotes nothing of a body
    return caught.value.message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" \n",
        b"{",
        b"{} x",
        b"{}{}",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b"[-Infinity]",
        b"[1e999]",
        b"[-1e999]",
        b"[" + b"9" * 500 + b"]",
        b"[01]",
        b"[1,]",
        b"{'a': 1}",
        b'["\x00"]',
        b'["\\ud800"]',
        b'["\\udc00\\ud800"]',
        b'["\xed\xa0\x80"]',
        b'["\xff"]',
        b'{"\\ud800": 1}',
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_invalid_json_is_refused(raw):
    """NaN, a lone surrogate, another encoding, a byte order mark and trailing text are refused."""
    assert refusal(raw).startswith("the body is not JSON")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'[{"b": {"c": {"": 1, "": 2}}}]',
        b'{"a": ":", "a": ":"}',
        b'{"a": 1, "a": "\\u003a"}',  # the escape makes up for the colon that the first key loses
        b'{"a": 1, "a": "\\u003A", "b": "\\\\u003a"}',
        b'{"a": {"x": 1, "y": 2}, "a": "\\u003a\\u003a\\u003a"}',
        b'{"\\u003a": 1, ":": 2}',
    ],
)
def test_repeated_key_is_refused(raw):
    """A repeated key is found at any depth, in any spelling, and despite escaped colons."""
    assert "repeated key" in refusal(raw)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**19 * 2, int("1" * 200), -int("9" * 60)])
def test_integer_that_would_become_another_is_refused(number):
    """Integers of more than 64 bits, which would become floats, are refused."""
    for raw in (b"%d" % number, b'{"text": "1", "n": [0, %d ]}' % number):
        assert "64 bits" in refusal(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b" [1, -1, 0.5, 1e300]\n", [1, -1, 0.5, 1e300]),
        (b"[18446744073709551615, -9223372036854775808]", [2**64 - 1, -(2**63)]),
        (b'["123456789012345678901234567890", 0.5000000000000000000000]', ["123456789012345678901234567890", 0.5]),
        (b"[1000000000000000000000e1, 1e-0000000000000000000000001]", [1e22, 0.1]),
        (b'{"a": {"a": {"a": ":"}}, "b": [{"a": 1}, {"a": 1}]}', {"a": {"a": {"a": ":"}}, "b": [{"a": 1}, {"a": 1}]}),
        (b'{"\\u003a": "\\u003a", "\\\\u003a": "\\\\"}', {":": ":", "\\u003a": "\\"}),
        (b'["\\ud83d\\ude00", "\\u0000"]', ["\U0001f600", "\0"]),
        (b"null", None),
    ],
)  # fmt: skip
def test_unusual_valid_json_is_accepted(raw, value):
    """The largest integers, digits in texts and fractions, colons in texts, equal keys of different objects pass."""
    assert parse(raw) == value


def test_depth_and_number_of_values_are_bounded():
    """The limits are exact; brackets and commas in texts do not count."""
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert "deeper" in refusal(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert "deeper" in refusal(b'{"a":' * 900 + b"1" + b"}" * 900)
    assert len(parse(b"[" + b"1," * (MAX_NODES - 2) + b"1]")) == MAX_NODES - 1
    assert "values" in refusal(b"[" + b"1," * (MAX_NODES - 1) + b"1]")
    text = '[[{{,,::"\\"' * 9_000
    assert parse(orjson.dumps([text])) == [text]


@pytest.mark.parametrize(
    "piece",
    [b"[", b"[1,", b'{"a":', b"1,", b"[],", b'"', b'"",', b'"\\",', b'"\\n",', b'\\"', b"\\", b"1", b'"a":1,', b":"],
)
def test_a_megabyte_of_anything_is_refused_for_little(piece):
    """Refusing a megabyte of anything, inside a list, an object, a text or alone, is cheap."""
    for start in (b"", b"[", b"{", b'"'):
        raw = (start + piece * (MEGABYTE // len(piece)))[:MEGABYTE]
        tracemalloc.start()
        try:
            refusal(raw)
            assert tracemalloc.get_traced_memory()[1] < 16 * MEGABYTE
        finally:
            tracemalloc.stop()


@given(VALUES, st.booleans())
def test_whatever_is_json_is_read_as_every_reader_does(value, is_ascii):
    """Output of the standard library, with escapes or without, is read as the same value."""
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert parse(raw) == value


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), st.booleans())
def test_repeated_keys_are_those_that_the_standard_library_finds(pairs, is_ascii):
    """An object is refused if and only if a parser that sees all pairs finds a key twice."""
    raw = b"{%b}" % b",".join(
        b"%b:%b" % tuple(json.dumps(x, ensure_ascii=is_ascii).encode() for x in pair) for pair in pairs
    )
    if len(dict(pairs)) < len(pairs):
        assert "repeated key" in refusal(raw)
    else:
        assert parse(raw) == dict(pairs)
