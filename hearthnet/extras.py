"""Packages of the extras, and the error raised when one of them is missing."""

from __future__ import annotations

from typing import Final

from hearthnet.errors import HearthNetError

__all__ = ["NODE_PACKAGES", "MissingExtraError", "missing_extra"]

# Import names of the packages that `hearthnet[node]` adds; a test compares them with pyproject.toml.
NODE_PACKAGES: Final = frozenset(
    {"cryptography", "fastapi", "httptools", "httpx", "jsonschema", "starlette", "tomli_w", "ulid", "uvicorn"}
)
_EXTRAS: Final = {**dict.fromkeys(NODE_PACKAGES, "node"), "opentelemetry": "otel"}


class MissingExtraError(HearthNetError, ModuleNotFoundError):
    """Raised when a package of an extra is needed and not installed."""

    def __init__(self, package: str) -> None:
        extra = _EXTRAS.get(package, "node")
        hint = f"pip install 'hearthnet[{extra}]'"
        super().__init__(f"{package} is not installed: this needs the {extra} extra of hearthnet", hint=hint)
        self.name = package

    def __str__(self) -> str:
        """Returns the message with the install command: a traceback does not show the hint."""
        return f"{self.message}; {self.hint}"


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Returns the error to raise instead, or None if the missing module is not part of an extra."""
    if isinstance(error, MissingExtraError):
        return error
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(package) if package in _EXTRAS else None
