"""Values of records that are neither JSON nor plain text: what each becomes, on the fast way and any other."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import fractions
import numbers
import pathlib

import orjson
import pytest
from support.reading import log_lines, rows

from hearthnet.constants import MAX_KEYS, MAX_STRING_BYTES
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.logs.messages import find, new_entry
from hearthnet.observability.records import record
from hearthnet.observability.records.record import bounded, encode, encode_plain
from hearthnet.observability.redaction.rules import REDACTED
from hearthnet.observability.redaction.told import Told


class Raising:
    """A value that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no")


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1


class Float(float):
    """A float that no encoder knows, as numpy's."""


NO_NUMBERS = [(float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (Float("nan"), "NaN")]


@pytest.mark.parametrize(("value", "text"), NO_NUMBERS)
@pytest.mark.parametrize(
    "place",
    [
        lambda value: {"v": value},  # nothing else would take it from the fast way
        lambda value: {"v": value, "path": pathlib.Path("/")},
        lambda value: {"v": {"deep": [1.5, (value,)]}},
        lambda value: {"v": [{value: value}]},
    ],
)
def test_float_that_is_no_json_becomes_text(place, value, text):
    """JSON has neither NaN nor infinity; null would be no value at all."""
    encoded = encode(place(value))

    assert f'"{text}"'.encode() in encoded
    assert b"null" not in encoded


def test_finite_floats_stay_numbers():
    """Also the largest, the smallest and minus nothing."""
    values = {"a": 1.7976931348623157e308, "b": 5e-324, "c": -0.0, "d": 0.1, "e": 1e16}

    assert orjson.loads(encode(values)) == orjson.loads(encode({**values, "f": [values]}))["f"][0] == values


class Scalar:
    """A scalar of numpy: its own type, which is neither `int` nor `float`; `item` gives Python's."""

    dtype = "any"
    shape: tuple = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        """Returns the value as Python's own."""
        return self.value

    def __str__(self):
        return f"<{self.value}>"

    def __index__(self):
        return 99

    __int__ = __index__


class Array(Scalar):
    """More than a scalar."""

    shape = (2,)


class HostileScalar(Scalar):
    """Its library fails."""

    def item(self):
        """Raises."""
        raise OSError("no device")


class Everything:
    """Whatever is asked for is there."""

    def __getattr__(self, name):
        return lambda *_: 7

    def __str__(self):
        return "everything"


@numbers.Integral.register
class Whole:
    """A whole number of another library."""

    def __init__(self, value=7):
        self.value = value

    def __int__(self):
        return self.value


@numbers.Real.register
class Real:
    """A real number of another library."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value


@numbers.Integral.register
class HostileWhole(Raising):
    """One that raises whatever is asked."""

    def __int__(self):
        raise OSError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Scalar(7), 7),
        (Scalar(True), True),
        (Scalar(0.5), 0.5),
        (Scalar(float("nan")), "NaN"),
        (Scalar(2**63), hex(2**63)),
        (Scalar(dt.date(2025, 1, 1)), "<2025-01-01>"),  # a time with a unit: not the number that its type has
        (Scalar("text"), "<text>"),
        (Scalar(None), "<None>"),
        (Scalar(Real(0.25)), 0.25),
        (Array(7), "<7>"),
        (HostileScalar(7), "<7>"),
        (Everything(), "everything"),
        (Whole(), 7),
        (Whole(-(2**70)), hex(-(2**70))),
        (Real(0.5), 0.5),
        (Real(float("inf")), "Infinity"),
        (HostileWhole(), "[HostileWhole: str() raised RuntimeError]"),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("NaN"), "NaN"),
        (fractions.Fraction(1, 3), "1/3"),
        (1j, "1j"),
    ],
)
def test_number_of_another_library_is_a_number(value, expected):
    """What compares as a number in SQL; exact numbers and those with a unit are text, which loses nothing."""
    found = orjson.loads(encode({"v": value, "deep": [value]}))

    assert found == {"v": expected, "deep": [expected]}
    assert type(found["v"]) is type(expected)


class SilentError(Exception):
    """An error without words."""

    def __str__(self):
        return ""


class Exit(BaseException):  # as the standard library's
    """Ends something."""


class UnspeakableError(Exception):
    """An error whose text raises."""

    def __str__(self):
        raise RuntimeError("no")


def nested_group(depth):
    """A group in a group."""
    return ExceptionGroup("g", [nested_group(depth - 1) if depth else KeyError("deep")])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "TimeoutError"),
        (asyncio.CancelledError(), "CancelledError"),
        (KeyError("k"), "KeyError: 'k'"),
        (ValueError("bad"), "ValueError: bad"),
        (OSError(2, "gone", "/x"), "FileNotFoundError: [Errno 2] gone: '/x'"),
        (SystemExit(3), "SystemExit: 3"),
        (SilentError("x"), "SilentError"),
        (UnspeakableError(), "UnspeakableError: [UnspeakableError: str() raised RuntimeError]"),
        (
            ExceptionGroup("boom", [ValueError("a"), TimeoutError()]),
            "ExceptionGroup: boom (2 sub-exceptions): [ValueError: a; TimeoutError]",
        ),
        (
            BaseExceptionGroup("b", [ExceptionGroup("in", [KeyError("k")]), Exit()]),
            "BaseExceptionGroup: b (2 sub-exceptions): [ExceptionGroup: in (1 sub-exception): [KeyError: 'k']; Exit]",
        ),
    ],
)
def test_error_as_a_field_keeps_its_type(error, text):
    """Its text alone may be empty, or a key; a group is its members."""
    assert orjson.loads(encode({"error": error, "all": [error]})) == {"error": text, "all": [text]}
    assert orjson.loads(encode({"by": {error: 1}})) == {"by": {text: 1}}


def test_group_of_errors_is_bounded():
    """Many members are counted, and the text is as long as any; a deep one ends."""
    many = ExceptionGroup("many", [ValueError(str(number)) for number in range(1_000)])
    found = orjson.loads(encode({"error": many}))["error"]
    assert "ValueError: 0; " in found
    assert found.endswith("992 more]")

    long = ExceptionGroup("long", [ValueError("x" * 100_000)] * 8)
    assert len(orjson.loads(encode({"error": long}))["error"].encode()) <= MAX_STRING_BYTES
    assert b"ExceptionGroup: g" in encode({"error": nested_group(500)})


@pytest.mark.parametrize("wrap", [dict, lambda fields: {"a": fields}, lambda fields: {"a": [1, fields]}])
@pytest.mark.parametrize("name", ["https://ann:hunter2hunter2@host/", b"https://ann:hunter2hunter2@host/"])
def test_secret_in_a_name_is_replaced(wrap, name):
    """Names are made of values, too: a dictionary by URL, say."""
    encoded = encode(wrap({name: 1, "n": 2}))

    assert b"hunter2" not in encoded
    assert b"@host" in encoded
    assert b'"n":2' in encoded


@pytest.mark.parametrize(
    "kind", [ValueError, str, str.encode, lambda text: bytearray(text.encode()), lambda text: [text]]
)
def test_secret_is_not_cut_in_half(kind):
    """A long value is searched before it is cut: no first half of a secret is left at the edge."""
    for margin in range(5, 60, 5):
        text = "x " * ((MAX_STRING_BYTES - margin) // 2) + f"https://ann:{'abcdefghij' * 4}@example.org/"
        encoded = encode({"value": kind(text)})
        assert b"abcdef" not in encoded
        assert b"x x x" in encoded


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"1": "text", 1: "number"}, {"1": "text", "1 (2)": "number"}),
        ({None: 1, "None": 2}, {"None": 1, "None (2)": 2}),
        ({b"a": 1, "b'a'": 2}, {"b'a'": 1, "b'a' (2)": 2}),
        ({True: 1, "True": 2}, {"True": 1, "True (2)": 2}),
        ({1.0: 1, "1.0": 2, decimal.Decimal("1.0"): 3}, {"1.0": 3, "1.0 (2)": 2}),
        ({Colour.RED: 1, "Colour.RED": 2}, {"Colour.RED": 1, "Colour.RED (2)": 2}),
        ({(1, 2): 1, "(1, 2)": 2, "(1, 2) (2)": 3}, {"(1, 2)": 1, "(1, 2) (2)": 2, "(1, 2) (2) (2)": 3}),
        ({"k" * 200 + "a": 1, "k" * 200 + "b": 2}, {"k" * 128: 1, "k" * 128 + " (2)": 2}),
        ({"token=abcdefgh1": 1, "token=abcdefgh2": 2}, None),
    ],
)
def test_keys_that_become_equal_are_numbered(mapping, expected):
    """Neither value is lost, wherever the mapping is, and whatever is beside it."""
    for extras, found in (
        (mapping, orjson.loads(encode(mapping))),
        (mapping, orjson.loads(encode({"k": [mapping]}))["k"][0]),
        ({**mapping, "odd": object()}, orjson.loads(encode({**mapping, "odd": object()}))),
    ):
        assert len(found) == len(extras)
        assert expected is None or expected.items() <= found.items()


def test_key_named_like_the_count_of_the_dropped_stays():
    """A program's own field is not replaced by ours."""
    extras = {"truncated_keys": "own"} | {str(number): object() for number in range(MAX_KEYS + 5)}
    found = orjson.loads(encode(extras))

    assert found["truncated_keys"] == "own"
    assert found["truncated_keys (2)"] == 6


def test_long_key_is_cut_on_the_fast_way_too():
    """A megabyte is no name."""
    found = orjson.loads(encode({"k" * 1_000_000: 1, "k" * 1_000_001: 2}))

    assert list(found) == ["k" * 128, "k" * 128 + " (2)"]


def test_values_are_the_same_in_every_place(observability):
    """Of a log record, a trace and a span, in rows and lines, with others beside them or alone."""
    values = {"nan": float("nan"), "low": float("-inf"), "scalar": Scalar(7), "problem": TimeoutError()}
    expected = {"nan": "NaN", "low": "-Infinity", "scalar": 7, "problem": "TimeoutError"}
    sets = [{name: value} for name, value in values.items()] + [values, {"deep": [values]}]
    wanted = [{name: expected[name]} for name in values] + [expected, {"deep": [expected]}]
    with telemetry.open(observability) as store:
        for extras in sets:
            with trace.new_trace("a.b") as made, trace.span("s", **extras):
                made.extras.update(extras)
                get_logger("hearthnet.test").info("values", extra=extras)
        assert store.flush()
    database = observability.data_dir / "telemetry.db"
    traces = rows(database, "SELECT extras, spans FROM traces ORDER BY seq")
    logs = rows(database, "SELECT extras FROM logs WHERE msg = 'values' ORDER BY seq")
    lines = [line for line in log_lines(observability.log_dir) if line["msg"] == "values"]

    assert [orjson.loads(extras) for extras, _ in traces] == wanted
    assert [orjson.loads(spans)[0]["extras"] for _, spans in traces] == wanted
    assert [orjson.loads(extras) for (extras,) in logs] == wanted
    assert [{name: line[name] for name in given} for given, line in zip(sets, lines, strict=True)] == wanted


@pytest.mark.parametrize("value", [0, -(2**62), True, None, 1.5, "", "short text", "x" * (MAX_STRING_BYTES // 4)])
def test_short_scalars_take_the_fast_way(value):
    """They are encoded as they are, and at once: what most records have."""
    assert encode_plain({"v": value}) == orjson.dumps({"v": value})


SLOW = {
    "a container": {"v": []},
    "no JSON number": {"v": float("-inf")},
    "another type of float": {"v": Float(0.5)},
    "a text to be cut": {"v": "x" * (MAX_STRING_BYTES // 4 + 1)},
    "a secret's name": {"n": 1, "password": 7},
    "a secret": {"v": "Authorization: Bearer abcdefghijklmnop"},
    "a secret in a name": {"x password=hunter2hunter2": 1},
    "a name that is no text": {1: 1},
    "a name to be cut": {"k" * 129: 1},
    "too many names": {str(number): number for number in range(MAX_KEYS + 1)},
    "an integer over 64 bits": {"v": 2**64},
    "a lone surrogate": {"v": "\ud800"},
    "no dictionary": [("v", 1)],
}


@pytest.mark.parametrize("extras", SLOW.values(), ids=SLOW)
def test_what_needs_more_does_not_take_the_fast_way(extras):
    """Rather none than one that is too long, no JSON, or has a secret in it."""
    assert encode_plain(extras) is None


def test_names_up_to_the_limit_take_the_fast_way():
    """As many keys as a record may have, each as long as it may be."""
    extras = {f"{number:0128}": number for number in range(MAX_KEYS)}

    assert encode_plain(extras) == orjson.dumps(extras)


def test_harmless_names_are_remembered_but_not_without_end():
    """A program has few; one that makes them up takes no more memory than this."""
    record.harmless.clear()
    for number in range(record._MAX_REMEMBERED):
        encode_plain({f"name {number}": 1})
    held = len(record.harmless)
    encode_plain({"one more": 1})

    assert (held, record.harmless) == (record._MAX_REMEMBERED, {"one more"})


@pytest.mark.parametrize("count", [MAX_KEYS - 1, MAX_KEYS, MAX_KEYS + 1, 100])
def test_rest_of_a_long_container_is_counted(count):
    """So many items and keys are kept, and the number of the others; none are counted where all are kept."""
    found = orjson.loads(encode({"list": list(range(count)), "dict": {str(key): key for key in range(count)}}))
    kept = min(count, MAX_KEYS)

    assert found["list"] == [*range(kept), *([f"[{count - kept} more]"] if count > kept else [])]
    assert found["dict"].pop("truncated_keys", 0) == count - kept
    assert list(found["dict"].values()) == list(range(kept))


SECRET = "orchid-lantern-4471"


@pytest.mark.parametrize(
    "extras",
    [
        {"password": SECRET},
        {"password": SECRET.encode()},
        {"password": [0, SECRET]},
        {"password": {"first": (SECRET,)}},
        {"headers": [("cookie", SECRET)]},
        {"headers": [[b"cookie", SECRET.encode()]]},
        {"pair": {"name": "X_TOKEN", "value": SECRET}},
        {"name": "X_TOKEN", "value": SECRET},
        {"header": "authorization", "value": SECRET},
        {"Field": "x-api-key", "val": SECRET},
        {"variable": "DB_PASSWORD", "VALUE": SECRET},
        {"list": [{"Key": "api_key", "Value": SECRET}]},
    ],
)
def test_secret_of_one_field_is_replaced_in_the_others(extras):
    """What a name tells of its value holds for the same text without a name, in the same record."""
    for fields in (extras, {"before": f"uses {SECRET}", **extras, "after": [f"uses {SECRET}"]}):
        encoded = new_entry(find("hearthnet.test", 20, "m"), fields, None, 0).extras

        assert SECRET.encode() not in encoded
        assert b"[redacted]" in encoded
        assert encoded.count(b"uses ") == len(fields) - len(extras)


@pytest.mark.parametrize(
    "extras",
    [
        {"pair": {"name": "colour", "value": SECRET}},
        {"name": "colour", "value": SECRET},
        {"name": "X_TOKEN", "count": SECRET},
        {"pair": [SECRET, "cookie"]},
        {"three": ["a", "cookie", SECRET]},
    ],
)
def test_value_beside_a_harmless_name_is_kept(extras):
    """Only a pair says that one names the other."""
    assert orjson.loads(encode(extras)) == extras


@pytest.mark.parametrize("number", [2**63 - 1, 2**62, -(2**63)])
def test_integers_of_64_bits_are_numbers(number):
    """The largest and the smallest, too; one more is text."""
    assert bounded(number) == number
    assert bounded(2 * number + 1) == hex(2 * number + 1)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["tool", "--name", "bob", "--token", "swordfish-12"], ["tool", "--name", "bob", "--token", REDACTED]),
        (["curl", "-u", "bob:swordfish-12", "-v", "x"], ["curl", "-u", f"bob:{REDACTED}", "-v", "x"]),
        (["--verbose", "yes"], ["--verbose", "yes"]),
    ],
)
def test_arguments_without_a_secret_stay(arguments, kept):
    """Of a command only the secrets behind their options are replaced."""
    assert bounded(arguments) == kept


def test_name_of_a_pair_stays():
    """What is replaced is the value beside it."""
    assert bounded({"headers": [("x-api-key", "swordfish-12")]}) == {"headers": [["x-api-key", REDACTED]]}


@pytest.mark.parametrize("width", [1, 2, 64])
def test_secret_value_that_holds_itself_costs_no_more_than_any_other(width):
    """However often: as many containers are looked through for its texts as are visited of a value that is kept."""
    endless = ["swordfish-12"]
    endless.extend([endless] * width)
    with Told() as told:
        assert bounded({"password": endless}) == {"password": REDACTED}

    assert set(told) == {"swordfish-12"}


@pytest.mark.parametrize(("containers", "is_told"), [(100, True), (101, False)])
def test_texts_deep_in_a_secret_value_are_secrets_too(containers, is_told):
    """Up to the hundredth container, nested or side by side; of each the first 64 values."""
    deep = ["swordfish-12"]
    for _ in range(containers - 1):
        deep = {"inner": deep}
    wide = [*["x"] * 63, b"swordfish-34", "of no more interest"]
    with Told() as told:
        bounded({"password": deep, "token": wide})

    assert set(told) == {"swordfish-34", *(["swordfish-12"] if is_told else [])}
