"""Errors of a backend: a closed set of kinds, and the wire error of each.

Error texts are ours, never the backend's: backends quote the prompt in their messages.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hearthnet.errors import WireError

__all__ = ["KINDS", "TOO_LONG", "BackendError", "error_of"]


class Kind(NamedTuple):
    """A kind of error: its wire code, the message for the caller, and whether not to ask another backend."""

    code: str
    message: str
    is_final: bool = False


KINDS: Final = {
    "unreachable": Kind("partition", "no language model is reachable"),
    "not_ready": Kind("partition", "the language model is not ready"),
    "busy": Kind("capacity_exceeded", "the language model is busy"),
    "no_model": Kind("not_found", "no backend has that model"),
    "key": Kind("internal_error", "the language model does not accept this node's key"),
    "failed": Kind("internal_error", "the language model failed"),
    "malformed": Kind("internal_error", "the language model's response is malformed"),
    "cut_short": Kind("internal_error", "the language model's response was cut short"),
    "timeout": Kind("timeout", "the language model did not respond in time", is_final=True),
    "too_long": Kind("bad_request", "the conversation is longer than the model's context", is_final=True),
    "refused": Kind("bad_request", "the language model refused the request", is_final=True),
}
TOO_LONG: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# The error codes that may be recorded. A backend may send any text, even the prompt; these are known to be safe.
_REASONS: Final = TOO_LONG | {
    "api_error",
    "authentication_error",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_request_error",
    "model_not_found",
    "not_found_error",
    "not_supported_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "server_error",
    "unavailable_error",
}
_RETRY_AFTER_MS: Final = 1_000


class BackendError(Exception):
    """Raised when a backend does not respond as it should.

    Args:
        kind: one of `KINDS`.
        detail: what happened, in our words.
        status: the HTTP status, if that was the error.
        reason: the backend's own error code, if it is a known one.
    """

    def __init__(self, kind: str, detail: str, *, status: int | None = None, reason: str | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.status = status
        self.reason = reason

    @property
    def is_final(self) -> bool:
        """True if no other backend would do better: the request is at fault, or its time is up."""
        return KINDS[self.kind].is_final

    def wire_error(self) -> WireError:
        """Returns the error to show to the caller."""
        kind = KINDS[self.kind]
        wait_ms = _RETRY_AFTER_MS if kind.code in ("partition", "capacity_exceeded") else None
        return WireError(kind.code, kind.message, retry_after_ms=wait_ms)


def error_of(reported: object) -> BackendError | None:
    """Returns the error for a backend's `error` object, or None if that is empty."""
    if not reported:
        return None
    words = [reported.get("type"), reported.get("code")] if isinstance(reported, dict) else []
    # The code is the more specific of the two, if it is text.
    reason = next((word for word in reversed(words) if isinstance(word, str) and word in _REASONS), None)
    kind = "too_long" if reason in TOO_LONG else "failed"
    return BackendError(kind, f"the backend reported an error {reason or ''}".rstrip(), reason=reason)
