"""What `pip install hearthnet` leaves out: the packages of a node, and the error for what needs one of them."""

from __future__ import annotations

from typing import Final

from hearthnet.errors import HearthNetError

__all__ = ["NODE_PACKAGES", "MissingExtraError", "missing_extra"]

# What `hearthnet[node]` adds, by the names that are imported; a test compares them with pyproject.toml.
NODE_PACKAGES: Final = frozenset(
    {"cryptography", "fastapi", "httptools", "httpx", "jsonschema", "starlette", "tomli_w", "ulid", "uvicorn"}
)
_INSTALL: Final = "pip install 'hearthnet[node]'"


class MissingExtraError(HearthNetError, ModuleNotFoundError):
    """Raised when something needs a package of `hearthnet[node]` and that is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is not installed: this needs the node extra of hearthnet", hint=_INSTALL)
        self.name = package

    def __str__(self) -> str:
        """Returns the message with the line to type: a traceback does not show the hint."""
        return f"{self.message}; {self.hint}"


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Returns the error to report instead, or None if the missing module is not one of `hearthnet[node]`."""
    if isinstance(error, MissingExtraError):
        return error
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(package) if package in NODE_PACKAGES else None
