"""Values of records as OTLP's `AnyValue`: dictionaries with the field names of the protocol.

Nothing is lost without a word: an integer that OTLP has no field for becomes text, and so do a list of several types
and a map, as JSON. A field without a value is no attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

__all__ = ["attributes", "nanoseconds", "span_id", "text", "value_of"]

_SPAN_ID_BYTES: Final = 8
_MAX_INTEGER: Final = 2**63
_FIELDS: Final = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}


def attributes(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns fields as attributes, without those that are None."""
    return [{"key": text(key), "value": value_of(value)} for key, value in fields.items() if value is not None]


def value_of(value: Any) -> dict[str, Any]:
    """Returns a value as `AnyValue`. Never raises for what JSON can hold."""
    kind = type(value)
    if kind is str:
        return {"string_value": value if value.isascii() else text(value)}
    if kind is bool or kind is float:
        return {_FIELDS[kind]: value}
    if kind is int:
        return {"int_value": value} if -_MAX_INTEGER <= value < _MAX_INTEGER else {"string_value": str(value)}
    if isinstance(value, Mapping):
        return {"string_value": _as_json(value)}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _list(value)
    return {"string_value": text(value)}


def text(value: object) -> str:
    """Returns text that UTF-8 can hold: anything else is escaped."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    shown = value if isinstance(value, str) else str(value)
    return shown if shown.isascii() else shown.encode("utf-8", "backslashreplace").decode()


def span_id(hexadecimal: str) -> bytes:
    """Returns an id as bytes.

    Raises:
        ValueError: raised when it is none: a backend would refuse the whole request.
        TypeError: raised when it is no text.
    """
    made = bytes.fromhex(hexadecimal)
    if len(made) != _SPAN_ID_BYTES or not any(made):
        raise ValueError("no span id")
    return made


def nanoseconds(since_1970: int) -> int:
    """Returns a time as it is.

    Raises:
        ValueError: raised when the protocol has no field for it.
    """
    if not 0 <= since_1970 < 2**64:
        raise ValueError("no time that OTLP has")
    return since_1970


def _list(values: Sequence[Any]) -> dict[str, Any]:
    """Returns a list of one type as an array, any other as JSON text: older receivers drop a mixed one."""
    kinds = set(map(type, values))
    if len(kinds) > 1 or not kinds <= _FIELDS.keys():
        return {"string_value": _as_json(values)}
    return {"array_value": {"values": list(map(value_of, values))}}


def _as_json(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer over 64 bits, a lone surrogate
        return text(repr(value))
