"""Requests of `mapping.py` in the JSON of OTLP.

As the protocol's JSON mapping has it, names are in camel case, ids are hexadecimal, enums are numbers, and 64-bit
integers, such as nanoseconds, are strings. Numbers that JSON lacks are the strings `NaN`, `Infinity` and `-Infinity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import orjson

from hearthnet.observability.otel.export.mapping import Origin, Sender, request
from hearthnet.observability.records.stored import TraceRecord

__all__ = ["as_json", "encode", "export_request"]

_OF_64_BITS: Final = frozenset({"time_unix_nano", "start_time_unix_nano", "end_time_unix_nano", "int_value",
                                "observed_time_unix_nano"})  # fmt: skip
# As in protobuf's JSON mapping, what has its default value is omitted; the field of an attribute's value says its type.
_VALUES: Final = frozenset({"string_value", "bool_value", "int_value", "double_value", "array_value"})


def encode(
    signal: str,
    records: Iterable[Any],
    origins: Mapping[str, Origin],
    sender: Sender,
    unmapped: list[int] | None = None,
) -> bytes:
    """Returns a request as JSON, made record by record as `protobuf.encode` does.

    Args and errors are those of `mapping.request`.
    """
    return orjson.dumps(as_json(request(signal, records, origins, sender, unmapped, _as_fragment)))


def _as_fragment(fields: Mapping[str, Any]) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(as_json(fields)))


def as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a request, or a part of one, with the names and values of the JSON mapping."""
    return {
        _camel(name): _value(name, value)
        for name, value in fields.items()
        if name in _VALUES or (value not in ({}, [], 0, b"", ""))
    }


def export_request(record: TraceRecord, origin: Origin) -> dict[str, Any]:
    """Returns the request, in JSON, that exports one trace.

    Raises:
        ValueError: raised when it has no form in OTLP: its id is no ULID, in a damaged file.
    """
    return as_json(request("traces", [record], {record.run_id: origin}, Sender()))


def _value(name: str, value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return as_json(value)
    if kind is list:
        return [item if type(item) is orjson.Fragment else as_json(item) for item in value]
    if kind is bytes:
        return value.hex()
    if name in _OF_64_BITS:
        return str(value)
    if kind is float and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@cache
def _camel(name: str) -> str:
    """Returns a name in camel case; the names are those of the protocol, so there are few."""
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
