"""The parts of a request of OTLP in JSON, read as what they must be: the file may be hostile.

Each function raises ValueError with the name of the field that has another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hearthnet.observability.traces.traceparent import from_w3c

__all__ = [
    "MAX_VALUES",
    "TooLargeError",
    "attributes",
    "integer",
    "objects",
    "span_id",
    "text",
    "time_ns",
    "trace_id",
    "value_of",
]

Part = Mapping[str, Any]

MAX_VALUES: Final = 1_000_000  # of a request: as objects each may take 300 bytes, written it takes two

_MAX_DEPTH: Final = 16  # of a value: far more than a record keeps
_MAX_DIGITS: Final = 20  # of an integer of 64 bits with its sign
_END_OF_TIME: Final = 2**64
_HEXADECIMAL: Final = frozenset("0123456789abcdef")
_SPAN_DIGITS: Final = 16


class TooLargeError(ValueError):
    """Raised for a request that may be right, but would take too much memory."""


def objects(of: Part, name: str) -> list[dict[str, Any]]:
    """Returns a list of objects; empty if there is none."""
    found = of.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{name} is not a list of objects")
    return found


def text(of: Part, name: str) -> str:
    """Returns a text; "" if there is none."""
    found = of.get(name)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{name} is not text")
    return found or ""


def integer(of: Part, name: str) -> int:
    """Returns a number that is not negative, such as that of an enum; 0 if there is none."""
    found = _integer(of.get(name) or 0)
    if found is None or not 0 <= found < _END_OF_TIME:
        raise ValueError(f"{name} is not a number that it can be")
    return found


def time_ns(of: Part, *names: str) -> int:
    """Returns nanoseconds since 1970: those of the first name that has any."""
    found = next((at for name in names if (at := integer(of, name))), 0)
    if not found:
        raise ValueError(f"{names[0]} is missing")
    return found


def trace_id(of: Part) -> str | None:
    """Returns `traceId` as a ULID; None if there is none."""
    found = text(of, "traceId").lower()
    try:
        return from_w3c(found) if found else None
    except ValueError:
        raise ValueError("traceId is not 32 hexadecimal digits, or all zeros") from None


def span_id(of: Part, name: str = "spanId") -> str | None:
    """Returns the id of a span, 16 hexadecimal digits in lower case; None if there is none."""
    found = text(of, name).lower()
    if not found:
        return None
    if len(found) != _SPAN_DIGITS or not _HEXADECIMAL.issuperset(found) or not found.strip("0"):
        raise ValueError(f"{name} is not {_SPAN_DIGITS} hexadecimal digits, or all zeros")
    return found


def attributes(of: Part) -> dict[str, Any]:
    """Returns attributes as a dictionary; of equal keys the first counts."""
    found: dict[str, Any] = {}
    for item in objects(of, "attributes"):
        found.setdefault(text(item, "key"), value_of(item.get("value")))
    return {key: value for key, value in found.items() if value is not None}


def value_of(value: object, depth: int = 0) -> Any:
    """Returns an `AnyValue` as a value of JSON; None for an empty one. Bytes stay base64."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("value is not one value with its type")
    if depth > _MAX_DEPTH:
        raise ValueError("value is nested too deep")
    ((kind, found),) = value.items()
    if kind in ("arrayValue", "kvlistValue"):
        return _nested(kind, found, depth)
    made = _integer(found) if kind == "intValue" else found
    if not isinstance(made, _TYPES.get(kind, ())) or (isinstance(made, bool) and kind != "boolValue"):
        raise ValueError(f"{kind} is not a value of its type")
    return made


# A number that JSON lacks, such as NaN, is text, as it is in records.
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "stringValue": (str,), "boolValue": (bool,), "intValue": (int,), "doubleValue": (float, int, str),
    "bytesValue": (str,),
}  # fmt: skip


def _nested(kind: str, found: object, depth: int) -> Any:
    if not isinstance(found, dict):
        raise ValueError(f"{kind} is not an object")
    items = objects(found, "values")
    if kind == "arrayValue":
        return [value_of(item, depth + 1) for item in items]
    return {text(item, "key"): value_of(item.get("value"), depth + 1) for item in items}


def _integer(value: object) -> int | None:
    """Returns an integer of JSON: a number, or digits, as 64-bit integers are written; None if it is none."""
    if isinstance(value, str) and value.isascii() and len(value) <= _MAX_DIGITS and value.lstrip("-").isdigit():
        try:
            value = int(value)
        except ValueError:  # two signs
            return None
    return value if type(value) is int and -(2**63) <= value < _END_OF_TIME else None
