"""What a value really is. `isinstance` also asks the value, whose own code may raise: proxies that are not bound do."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

__all__ = ["is_a"]

T = TypeVar("T")


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Returns whether the type of `value` is `kind` or one below it. Never raises."""
    return issubclass(type(value), kind)
