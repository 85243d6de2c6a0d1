"""The fields of the current context, which records and traces take when they are made; `fields` opens their blocks.

Values are bounded and copied once, when they are given, so a record does not change because a list does later. A secret
is replaced when a record is made, in all parts of that record.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

from hearthnet.observability.records.context import collector
from hearthnet.observability.records.record import bounded, clean_text
from hearthnet.observability.redaction.rules import REDACTED

__all__ = ["Fields", "context_fields", "copied", "current_fields", "swap_fields", "with_fields"]


class Fields:
    """The fields of one block, with those around it.

    Attributes:
        values: all of them.
        outer: the block around it.
        owner: what opened the block.
        is_over: whether the block was left by the garbage collector, which cannot make the one around it current.
    """

    __slots__ = ("is_over", "outer", "owner", "values")

    def __init__(self, values: dict[str, Any], outer: Fields | None, owner: object) -> None:
        self.values = values
        self.outer = outer
        self.owner = owner
        self.is_over = False

    def __reduce__(self) -> tuple[type[Fields], tuple[dict[str, Any], None, None]]:
        # Of a record on its way to another process: a value that holds a secret may be anything.
        return Fields, ({name: bounded(value, name=name) for name, value in self.values.items()}, None, None)


context_fields: Final[ContextVar[Fields | None]] = ContextVar("hearthnet_fields", default=None)


def current_fields() -> Fields | None:
    """Returns the fields of the innermost block."""
    found = context_fields.get()
    while found is not None and found.is_over:
        found = found.outer
    return found


def swap_fields(value: Fields | None) -> Fields | None:
    """Makes the fields of a block current and returns the previous ones."""
    previous = context_fields.get()
    if not collector.thread or not collector.is_here():  # see records/context.py
        context_fields.set(value)
    return previous


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields as they are now: bounded, of JSON's types. One that holds a secret stays as it is."""
    return {key if type(key) is str else clean_text(key): _copied(key, value) for key, value in values.items()}


def _copied(name: str, value: object) -> Any:
    try:
        kept = bounded(value, name=name)
    except Exception as error:  # a value whose own methods raise  # noqa: BLE001
        return f"[{type(value).__name__}: {type(error).__name__}]"
    # As it is, each record replaces it, and what else of the record has the same text.
    return value if REDACTED in str(kept) else kept


def with_fields(extra: object) -> Any:
    """Returns a call's own fields with those of the context. The call's own win."""
    found = current_fields()
    if found is None:
        return extra
    if extra is None:
        return found.values
    try:
        return {**found.values, **cast("Mapping[str, object]", extra)}
    except Exception:  # no mapping, or one that raises while it is read: the logger copes  # noqa: BLE001
        return extra
