"""The fields of the current context, which records and traces take when they are made; `fields` opens their blocks.

Values are bounded and copied once, when they are given, so a record does not change because a list does later. A secret
is replaced when a record is made, in all parts of that record.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from hearthnet.constants import MAX_NESTING
from hearthnet.observability.records.context import collector
from hearthnet.observability.records.record import bounded, clean_text
from hearthnet.observability.redaction.rules import REDACTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "Fields",
    "context_fields",
    "copied",
    "current_fields",
    "fields_of_trace",
    "swap_fields",
    "with_fields",
    "without_secrets",
]

_MAX_CONTAINERS: Final = 100  # copied in one value: a list may hold itself many times over


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
        # Of a record on its way to another process.
        return Fields, (without_secrets(self.values), None, None)


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
    """Returns fields as they are now: bounded, of JSON's types. Secrets in them stay as they are."""
    return {
        key if type(key) is str else clean_text(key): _copied(key, value, [_MAX_CONTAINERS])
        for key, value in values.items()
    }


def _copied(name: str, value: object, budget: list[int], depth: int = 0) -> Any:
    try:
        kept = bounded(value, name=name)
    except Exception as error:  # a value whose own methods raise  # noqa: BLE001
        return f"[{type(value).__name__}: {type(error).__name__}]"
    if REDACTED not in str(kept):
        return kept
    # Each record replaces the secret, and what else of the record has the same text: only the containers are copied.
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return value
    budget[0] -= 1
    if budget[0] < 0 or depth >= MAX_NESTING:
        return kept
    if isinstance(value, Mapping):
        return {key: _copied(key if type(key) is str else "", item, budget, depth + 1) for key, item in value.items()}
    return [_copied("", item, budget, depth + 1) for item in value]


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields, as they were copied, with their secrets replaced: to leave this process."""
    return {name: bounded(value, name=name) for name, value in values.items()}


def fields_of_trace() -> dict[str, Any]:
    """Returns the context's fields for a trace to keep and to change: its own copies."""
    found = current_fields()
    return {} if found is None else {name: _own(value) for name, value in found.values.items()}


def _own(value: Any) -> Any:
    if type(value) is dict:
        return {key: _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if type(value) is list else value


def with_fields(extra: object) -> Any:
    """Returns a call's own fields with those of the context. The call's own win."""
    found = current_fields()
    if found is None:
        return extra
    if extra is None:
        return found.values
    try:
        return {**found.values, **extra}  # type: ignore[dict-item]
    except Exception:  # no mapping, or one that raises while it is read: the logger copes  # noqa: BLE001
        return extra
