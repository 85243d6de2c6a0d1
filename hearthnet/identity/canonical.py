"""Canonical JSON: the unique encoding of a value over which signatures are computed.

Keys sorted at every level, no white space, UTF-8 not escaped, and whole numbers without a fraction (1.0 is 1).
"""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["canonical_json", "normal"]

# Up to here every whole float is exactly an integer; beyond, its digits would be arbitrary.
_MAX_EXACT: Final = 2.0**53
_MAX_DEPTH: Final = 64

_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def canonical_json(value: Any) -> bytes:
    """Returns the canonical encoding of a JSON value.

    Raises:
        ValueError: raised for a value without one: NaN, infinities, lone surrogates, keys that are not strings, or
            nesting beyond 64.
    """
    return _encode(normal(value)).encode("utf-8")


def normal(value: Any, depth: int = 0) -> Any:
    """Returns the value that the canonical encoding of `value` decodes to: equal for all values encoded alike.

    Raises:
        ValueError: raised for a value without a canonical encoding, as by `canonical_json`.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys must be strings")
        return {key: normal(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal(item, depth + 1) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT:
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{type(value).__name__} is not a JSON type")
