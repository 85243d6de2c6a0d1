"""Packages of the extras `node` and `otlp`, and the error raised when one of them is missing."""

from __future__ import annotations

from typing import Final

from hearthnet.errors import HearthNetError

__all__ = ["NODE_PACKAGES", "OTLP_PACKAGES", "MissingExtraError", "missing_extra"]

# Import names of the packages that `hearthnet[node]` adds; a test compares them with pyproject.toml.
NODE_PACKAGES: Final = frozenset(
    {"cryptography", "fastapi", "httptools", "httpx", "jsonschema", "starlette", "tomli_w", "ulid", "uvicorn"}
)
# Those that `hearthnet[otlp]` adds to it.
OTLP_PACKAGES: Final = frozenset({"google", "opentelemetry"})


class MissingExtraError(HearthNetError, ModuleNotFoundError):
    """Raised when a package of an extra is needed and not installed."""

    def __init__(self, package: str) -> None:
        extra = "otlp" if package in OTLP_PACKAGES else "node"
        message = f"{package} is not installed: this needs the {extra} extra of hearthnet"
        super().__init__(message, hint=f"pip install 'hearthnet[{extra}]'")
        self.name = package

    def __str__(self) -> str:
        """Returns the message with the install command: a traceback does not show the hint."""
        return f"{self.message}; {self.hint}"


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Returns the error to raise instead, or None if the missing module is not part of an extra."""
    if isinstance(error, MissingExtraError):
        return error
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(package) if package in NODE_PACKAGES | OTLP_PACKAGES else None
