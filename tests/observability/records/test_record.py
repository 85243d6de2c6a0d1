"""Any value becomes bounded JSON, and no value raises."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import pathlib
import uuid
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.constants import MAX_KEYS, MAX_NESTING, MAX_STRING_BYTES
from hearthnet.forensics.frames import FRAME_FIELDS, FRAME_MAGIC
from hearthnet.forensics.tables import PAYLOAD_VERSION
from hearthnet.observability.records.record import (
    CUT,
    clean_text,
    encode,
    encode_value,
    error_text,
    fields_of,
    fit,
    json_texts_of,
    one_line,
    safe_text,
    spans_in,
)


class Raising:
    """A value that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no")


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1


def cyclic():
    """A dictionary that holds itself."""
    loop: dict = {}
    loop["self"] = loop
    return loop


class Float(float):
    """A float that no encoder knows, as numpy's."""


class Text(str):
    """A string of a type of its own."""

    __slots__ = ()


def wide():
    """A list of 64^6 values, all of them shared."""
    value: list = [0] * 64
    for _ in range(5):
        value = [value] * 64
    return value


HOSTILE = {
    "float subclass": Float(0.5),
    "string subclass": Text("x"),
    "wide": wide(),
    "cyclic": cyclic(),
    "deep": [[[[[[[[[[1]]]]]]]]]],
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge integer": 10**5_000,
    "negative huge integer": -(2**80),
    "surrogate": "\ud800",
    "raising": Raising(),
    "bytes": b"\x00\xff",
    "datetime": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=1),
    "enum": Colour.RED,
    "path": pathlib.Path("/tmp"),
    "set": {1, 2},
    "tuple keys": {(1, 2): 3, None: 4, Raising(): 5},
    "long string": "x" * 10_000_000,
    "long wide string": "🜨" * 1_000_000,
    "many keys": {f"k{number}": number for number in range(10_000)},
    "generator": (number for number in range(3)),
    "control characters": "a\x00b\x1b[31m\nc\u2028",
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_values_become_valid_json(value):
    """Whatever a caller passes, the result is one bounded JSON object that can be read again."""
    encoded = encode({"value": value, "plain": 1})

    assert orjson.loads(encoded)["plain"] == 1
    assert len(encoded) < (MAX_KEYS + 2) * (MAX_STRING_BYTES + 200)
    assert all(byte >= 0x20 for byte in encoded)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), json_like, max_size=10))
def test_any_extras_become_one_object(extras):
    """Any mapping becomes one line of JSON that names its keys."""
    encoded = encode(extras)

    assert isinstance(orjson.loads(encoded), dict)
    assert b"\n" not in encoded


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(-(2**53), 2**53) | st.booleans() | st.none()))
def test_plain_extras_come_back_as_they_were(extras):
    """Scalars survive unchanged."""
    assert orjson.loads(encode(extras)) == extras


@pytest.mark.parametrize("extras", [{"password": "hunter2"}, {"a": {"b": [{"api_key": "hunter2"}]}}])
def test_secrets_do_not_get_through_at_any_depth(extras):
    """The value under a secret's name is replaced, nested ones too."""
    encoded = encode(extras)

    assert b"hunter2" not in encoded
    assert b"[redacted]" in encoded


def test_string_is_cut_within_its_bytes():
    """A string is cut at 2 KiB of UTF-8, never inside a character, and says so."""
    value = orjson.loads(encode({"text": "ü" * 5_000}))["text"]

    assert len(value.encode()) <= MAX_STRING_BYTES
    assert value.startswith("üüü")
    assert value.endswith("…[cut]")


def test_mapping_that_raises_is_named():
    """A mapping that cannot be read leaves its type behind."""

    class Broken(dict):
        def items(self):
            raise OSError("gone")

    assert orjson.loads(encode(Broken(a=1))) == {"unencodable": "Broken: OSError"}


@given(st.text(max_size=300), st.integers(min_value=16, max_value=100))
def test_safe_text_fits(text, limit):
    """Text is at most its limit in bytes and is valid UTF-8."""
    assert len(safe_text(text, limit).encode("utf-8")) <= limit


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=20), st.integers(64, 2_000))
def test_fit_keeps_an_object_within_its_limit(extras, limit):
    """An object that is too large loses its largest values first and stays an object."""
    encoded = encode(extras)

    shorter = fit(encoded, limit)

    assert len(shorter) <= max(limit, 0)
    assert isinstance(orjson.loads(shorter), dict)


@given(st.text())
def test_a_value_alone_is_json(text):
    """A message is encoded whatever is in it."""
    assert isinstance(orjson.loads(encode_value(text)), str)


@pytest.mark.parametrize("value", ["a\ud800", {1, 2}, "plain"])
def test_value_that_is_no_json_is_encoded_as_text(value):
    """A lone surrogate is shown as its escape."""
    shown = str(value).replace("\ud800", "\\ud800")

    assert encode_value(value) == orjson.dumps(shown)


def test_items_beyond_the_limit_are_counted_truly():
    """Also of the arguments of a command, which are looked through for secrets."""
    for first in ("-v", "v"):
        shown = orjson.loads(encode({"argv": [first, *["x"] * (MAX_KEYS + 9)]}))["argv"]
        assert shown == [first, *["x"] * (MAX_KEYS - 1), "[10 more]"]


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "0x8000000000000000"),
        (-(2**63) - 1, "-0x8000000000000001"),
    ],
)
@pytest.mark.parametrize("beside", [1, decimal.Decimal(1)], ids=["plain", "slow"])
def test_integer_of_64_bits_is_a_number(number, shown, beside):
    """A larger one is text; whatever stands beside it."""
    assert orjson.loads(encode({"beside": beside, "n": number, "in": [number]}))["n"] == shown
    assert orjson.loads(encode({"beside": beside, "n": number, "in": [number]}))["in"] == [shown]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (2, ": [ValueError: 0; ValueError: 1]"),
        (8, "; ValueError: 7]"),
        (9, "ValueError: 7; 1 more]"),
        (11, "; 3 more]"),
    ],
)
def test_group_of_errors_tells_its_first_members(count, told):
    """Eight of them, and how many more there are."""
    group = ExceptionGroup("two", [ValueError(number) for number in range(count)])
    shown = orjson.loads(encode({"error": group}))["error"]

    assert shown.startswith("ExceptionGroup: two")
    assert shown.endswith(told)


@given(st.dictionaries(st.text(max_size=20), json_like, max_size=6))
def test_object_of_just_the_limit_is_whole(extras):
    """One byte less, and it is cut."""
    encoded = encode(extras)

    assert fit(encoded, len(encoded)) == encoded


def test_one_bad_value_costs_its_neighbours_nothing():
    """Of a mapping in which one value raises, the others are kept."""

    class Bad(dict):
        def items(self):
            raise OSError("gone")

    assert orjson.loads(encode({"a": 1, "bad": Bad(), "score": Float(0.5), "c": "x"})) == {
        "a": 1,
        "bad": "[Bad: OSError]",
        "score": 0.5,
        "c": "x",
    }


def test_secret_behind_a_long_name_is_found():
    """A name is judged whole, before it is cut."""
    assert b"hunter2" not in encode({"a" * 125 + "_password": "hunter2", "list": [1]})


@pytest.mark.parametrize(
    "value",
    ["x" * 2_048, "🜨" * 500, "\x01" * 2_000, '"' * 2_000, "\u2028" * 600, ["abc"] * 400, {"deep": ["abc"] * 400}],
)
def test_huge_value_keeps_its_beginning(value):
    """A bounded beginning of the value is there, as text that says it was cut; its neighbours are whole."""
    found = orjson.loads(fit(orjson.dumps({"small": 1, "huge": value, "later": "whole"}), 1_024))
    text = value if isinstance(value, str) else orjson.dumps(value).decode()

    assert (found["small"], found["later"]) == (1, "whole")
    assert found["huge"].endswith("…[cut]")
    assert text.startswith(found["huge"].removesuffix("…[cut]"))
    assert len(orjson.dumps(found)) > 900


def test_huge_values_share_the_space():
    """None of several huge values takes it all."""
    found = orjson.loads(fit(orjson.dumps({name: name * 3_000 for name in "abc"}), 900))

    assert all(found[name].startswith(name * 200) for name in "abc")


@pytest.mark.parametrize("length", [1, 20, 60])
def test_cut_values_fill_the_limit(length):
    """Names of any length, and the signs between them, take no more than their own space."""
    encoded = orjson.dumps({"a" * length: "x" * 1_000, "b": 1, "c" * length: "y" * 900})

    assert 495 <= len(fit(encoded, 500)) <= 500


def test_many_keys_that_do_not_fit_are_counted():
    """Names alone may be too much: the first ones are kept, and the number of the others."""
    encoded = orjson.dumps({f"{number:02d}{'k' * 120}": number for number in range(64)})
    found = orjson.loads(fit(encoded, 1_024))

    assert found.pop("truncated_keys") == 64 - len(found)
    assert len(found) >= 6


@given(st.dictionaries(st.text(max_size=60), json_like, max_size=12), st.integers(100, 2_000))
def test_anything_fits(extras, limit):
    """Whatever the object, the result is one, within its bytes, with no key that was not there."""
    encoded = encode(extras)
    found = orjson.loads(fit(encoded, limit))

    assert len(fit(encoded, limit)) <= limit
    assert found.keys() - {"truncated_keys"} <= orjson.loads(encoded).keys()


@pytest.mark.parametrize("wrap", [lambda inner: {"k": inner}, lambda inner: [inner]])
def test_nesting_ends_with_the_type_of_the_rest(wrap):
    """As deep as the limit, and no deeper."""
    value: object = 1
    for _ in range(MAX_NESTING + 3):
        value = wrap(value)
    found = orjson.loads(encode({"v": value}))["v"]
    for _ in range(MAX_NESTING - 1):
        found = found["k"] if isinstance(found, dict) else found[0]

    assert found == f"[{type(value).__name__} nested too deep]"


@pytest.mark.parametrize("count", [99, 100, 101, 102])
def test_text_of_one_byte_too_much_says_that_it_was_cut(count):
    """At its limit it is whole."""
    text = safe_text("x" * count, 100)

    assert text == ("x" * count if count <= 100 else "x" * (100 - len(CUT.encode())) + CUT)


def test_line_ends_of_unicode_are_escaped():
    """So that a line of JSON is one line to every reader; other text is as it was."""
    encoded = one_line(orjson.dumps("ü\x85\u2028\u2029 end"))

    assert orjson.loads(encoded) == "ü\x85\u2028\u2029 end"
    assert len(encoded.decode().splitlines()) == 1
    assert "ü" in encoded.decode()


@pytest.mark.parametrize(("bytes_more", "is_whole"), [(-2, True), (0, True), (2, False)])
def test_text_of_just_the_limit_is_whole(bytes_more, is_whole):
    """Counted in bytes, of which these letters have two each."""
    text = "ä" * (50 + bytes_more // 2)

    assert (safe_text(text, 100) == text) is is_whole


def test_bytes_keep_what_stands_beside_a_secret():
    """It is hidden before the bytes are shown, when a tab would be a backslash and a letter of the secret."""
    assert clean_text(b"api_key=abc\ttoken\n") == r"b'api_key=[redacted]\ttoken\n'"
    assert clean_text(bytearray(b"api_key=abc\ttoken")) == r"b'api_key=[redacted]\ttoken'"


@pytest.mark.parametrize("raised", [SystemExit, GeneratorExit, asyncio.CancelledError, RecursionError])
def test_text_of_an_error_that_ends_programs(raised):
    """What `__str__` raises does not take the place of the error; a person's interrupt does."""

    class OddError(Exception):
        def __str__(self):
            raise raised

    assert error_text(OddError()) == f"OddError: [OddError: str() raised {raised.__name__}]"
    raised = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        error_text(OddError())


def test_value_of_just_its_share_is_whole():
    """The one that is larger is cut to what is left."""
    parts = {"small": "x" * 98, "large": "y" * 500}
    limit = 200 + len('{"small":,"large":,}')
    fitted = orjson.loads(fit(orjson.dumps(parts), limit))

    assert fitted["small"] == parts["small"]
    assert fitted["large"].endswith(CUT)


@pytest.mark.parametrize("extras", [{}, {"a": 1}, {"a": "],["}, {"a": "é"}, {"a": [], "b": "x" * 300}])
@pytest.mark.parametrize("spans", [[], [{"id": "1", "name": "a"}], [{"id": "1", "name": "é"}, {"id": "2", "e": {}}]])
def test_parts_of_a_frame_are_read_in_each_way(spans, extras):
    """As bytes for recovery and peers, as text for SQL: the same whatever they hold."""
    payload = orjson.dumps((1, "id", None, "a.b", None, 1, 2, 0.5, "ok", None, 0, spans, extras))
    fields = FRAME_FIELDS.pack(PAYLOAD_VERSION, len(orjson.dumps(extras)), len(payload), 9) + payload
    frame = FRAME_MAGIC + zlib.crc32(fields).to_bytes(4, "little") + fields
    kept = (0, "run", 1, "id", None, "a.b", None, 1, 2, 0.5, "ok", None, 0, frame)
    expected = orjson.dumps(spans), orjson.dumps(extras)

    assert fields_of(kept) == (*kept[:-1], *expected)
    assert spans_in(frame) == expected[0]
    assert json_texts_of(frame) == tuple(part.decode() for part in expected)
