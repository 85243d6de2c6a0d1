"""The error that an answer tells: what went wrong, for whoever called, and no secret in it."""

from __future__ import annotations

from typing import Any

from hearthnet.errors import WireError
from hearthnet.observability.record import clean_text

__all__ = ["error_body"]


def error_body(error: WireError) -> dict[str, Any]:
    """Returns the body of the answer; its message is a handler's own, which may quote whatever it was handed."""
    return {**error.body(), "message": clean_text(error.message)}
