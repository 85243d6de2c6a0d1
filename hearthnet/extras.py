"""Packages of the extras, and the error raised when one of them is missing."""

from __future__ import annotations

from typing import Final

from hearthnet.errors import HearthNetError

__all__ = ["NODE_PACKAGES", "OTEL_PACKAGES", "OTLP_PACKAGES", "MissingExtraError", "missing_extra"]

# Import names of the packages that `hearthnet[node]` adds; a test compares them with pyproject.toml.
NODE_PACKAGES: Final = frozenset(
    {"cryptography", "fastapi", "httptools", "httpx", "jsonschema", "starlette", "tomli_w", "ulid", "uvicorn"}
)
# Those that `hearthnet[otlp]` and `hearthnet[otel]` add.
OTLP_PACKAGES: Final = frozenset({"google", "opentelemetry.proto"})
OTEL_PACKAGES: Final = frozenset({"opentelemetry"})
_EXTRAS: Final = (
    dict.fromkeys(NODE_PACKAGES, "node") | dict.fromkeys(OTLP_PACKAGES, "otlp") | dict.fromkeys(OTEL_PACKAGES, "otel")
)


class MissingExtraError(HearthNetError, ModuleNotFoundError):
    """Raised when a package of an extra is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed: this needs the {extra} extra of hearthnet",
            hint=f"pip install 'hearthnet[{extra}]'",
        )
        self.name = package

    def __str__(self) -> str:
        """Returns the message with the install command: a traceback does not show the hint."""
        return f"{self.message}; {self.hint}"


def missing_extra(error: ModuleNotFoundError, extra: str | None = None) -> MissingExtraError | None:
    """Returns the error to raise instead, or None if the missing module is not part of an extra.

    Args:
        error: raised by the import.
        extra: that of the caller, where packages of two extras share a name, `opentelemetry`.
    """
    if isinstance(error, MissingExtraError):
        return error
    parts = (error.name or "").split(".")
    package = next((one for one in (".".join(parts[:2]), parts[0]) if one in _EXTRAS), None)
    return None if package is None else MissingExtraError(package, extra or _EXTRAS[package])
