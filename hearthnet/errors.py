"""Exception types, by what the caller can do about them.

    HearthNetError            printed by the command line as one line and a hint
    ├── ConfigError           the configuration cannot be used
    ├── IdentityError         keys or manifest missing, unreadable, wrong
    │   └── UntrustedResponseError  a response is not proven to be the called node's
    ├── StoreError            telemetry.db or the event log cannot be used
    │   ├── UnusableStoreError    permanently: damaged, or not ours
    │   └── NewerStoreError       written by a newer version of this program
    ├── DiskFullError         no space for a file of the node
    ├── UnknownCheckError     the doctor has no check of that name
    ├── MissingExtraError     a package of an extra is not installed
    ├── NodeUnreachableError  a running node is needed and none responds
    └── WireError             an error on the wire: a code, its HTTP status, a message

`WireError` carries a code of the protocol; `HTTP_STATUS` is the only mapping from codes to HTTP status.
"""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

HTTP_STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "schema_mismatch": 400,
    "invalid_signature": 401,
    "unauthorized": 401,
    "revoked": 403,
    "not_found": 404,
    "timeout": 408,
    "expired": 410,
    "rate_limited": 429,
    "capacity_exceeded": 429,
    "internal_error": 500,
    "not_implemented": 501,
    "partition": 503,
}

# Import names of the packages that `hearthnet[node]` adds; a test compares them with pyproject.toml.
NODE_PACKAGES: Final = frozenset(
    {"cryptography", "fastapi", "httptools", "httpx", "jsonschema", "starlette", "tomli_w", "ulid", "uvicorn"}
)
# Those that `hearthnet[otlp]`, `hearthnet[otel]` and `hearthnet[mcp]` add.
OTLP_PACKAGES: Final = frozenset({"google", "opentelemetry.proto"})
OTEL_PACKAGES: Final = frozenset({"opentelemetry"})
MCP_PACKAGES: Final = frozenset({"mcp"})
_EXTRAS: Final = {
    package: extra
    for extra, packages in (
        ("node", NODE_PACKAGES), ("otlp", OTLP_PACKAGES), ("otel", OTEL_PACKAGES), ("mcp", MCP_PACKAGES),
    )
    for package in packages
}  # fmt: skip

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_NODE: Final = 3
EXIT_UNAUTHORIZED: Final = 4
EXIT_DISK_FULL: Final = 5

# Codes after which the command line exits with EXIT_UNAUTHORIZED.
AUTHORIZATION_CODES: Final = frozenset({"invalid_signature", "unauthorized", "revoked", "expired"})


class HearthNetError(Exception):
    """An error with a message for users, a hint what to do, and the exit code of the command line."""

    exit_code: int = EXIT_ERROR

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(HearthNetError):
    """Raised when the configuration cannot be read, is wrong, or its paths cannot be resolved.

    `code` is `invalid_toml`, `invalid_field` (then `details["field"]` names it), `path_resolution`, or `unreachable`:
    the standard folder of the configuration may not be entered.
    """

    def __init__(self, code: str, **details: Any) -> None:
        self.code = code
        self.details = details
        super().__init__(str(details.get("message", code)), hint=details.get("hint"))

    @property
    def field(self) -> str | None:
        """The dotted name of the invalid setting, if any."""
        return self.details.get("field")


class IdentityError(HearthNetError):
    """Raised when a key, a signature or a community manifest is missing, unreadable or wrong."""


class UntrustedResponseError(IdentityError):
    """Raised when a response is another node's, is not signed by the called node, or is for another request."""

    exit_code = EXIT_UNAUTHORIZED


class StoreError(HearthNetError):
    """Raised when a database cannot be opened, is not ours, or is newer than this program."""


class UnusableStoreError(StoreError):
    """Raised when a database is damaged or not ours: waiting will not help."""


class NewerStoreError(StoreError):
    """Raised when a database is of a newer version than this program; it is left alone."""


class DiskFullError(HearthNetError):
    """Raised when a file of the node cannot be written because the disk is full."""

    exit_code = EXIT_DISK_FULL


class NodeUnreachableError(HearthNetError):
    """Raised when a command needs a running node and none responds on the configured port."""

    exit_code = EXIT_NO_NODE


class NodeRefusedError(HearthNetError):
    """Raised when the running node responds to a command with an error; the message is the node's."""


class UnknownCheckError(HearthNetError, KeyError):
    """Raised when no check of the doctor has the given name; the message lists those there are."""

    exit_code = EXIT_USAGE

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"there is no check {name!r}; there are: {', '.join(known)}")

    def __str__(self) -> str:
        """Returns the message: that of a KeyError would be quoted."""
        return self.message


class WireError(HearthNetError):
    """Raised when a call ends with an error of the protocol.

    Args:
        code: one of `HTTP_STATUS`.
        message: for the caller; never contains internals of this node.
        retry_after_ms: when the caller may try again, in milliseconds.
        asked_for: the caller requested this failure (the echo service), so it does not count against health.
    """

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None, asked_for: bool = False) -> None:
        if code not in HTTP_STATUS:
            raise ValueError(f"not a wire error code: {code!r}")
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms
        self.asked_for = asked_for
        if code in AUTHORIZATION_CODES:
            self.exit_code = EXIT_UNAUTHORIZED

    @property
    def status(self) -> int:
        """The HTTP status of the response."""
        return HTTP_STATUS[self.code]

    def body(self) -> dict[str, Any]:
        """Returns the error body on the wire: code, message, and when to retry."""
        body: dict[str, Any] = {"error": self.code, "message": self.message}
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        return body


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
