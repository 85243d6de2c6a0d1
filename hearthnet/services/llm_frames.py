"""Parsing of a backend's documents, and the totals of a response: text, tokens, times.

Text passes through here on its way to the caller. `Tally.fields` is all that is recorded of a response: names, numbers
and words of closed sets, no text.
Hand-written because a vendor's SDK would be a large dependency for the few fields read here.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NamedTuple

from hearthnet.services.llm_errors import BackendError, error_of

__all__ = ["Piece", "Tally", "Usage", "piece_of"]

_FINISH_REASONS: Final = frozenset({"stop", "length", "content_filter", "tool_calls", "function_call"})
_OTHER: Final = "other"
_MAX_TOKENS: Final = 100_000_000  # more in one response is a backend's error and must not ruin a counter
_MAX_MODEL_CHARS: Final = 200


class Usage(NamedTuple):
    """The token counts reported by the backend."""

    tokens_in: int
    tokens_out: int


class Piece(NamedTuple):
    """The part of a response in one document; `reasoning` is the model's thinking before the actual response."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None


def piece_of(document: object, part: str) -> Piece:
    """Returns the part of a response in a document.

    Args:
        document: parsed JSON.
        part: the key of its text: `delta` in a stream, else `message`.

    Raises:
        BackendError: raised when it is not a chat completion, or reports an error.
    """
    if not isinstance(document, dict):
        raise BackendError("malformed", "not an object")
    reported = error_of(document.get("error"))
    if reported is not None:
        raise reported
    choices = document.get("choices")
    if not isinstance(choices, list) or not (choices or part == "delta"):
        raise BackendError("malformed", "no choices")
    choice = choices[0] if choices else {part: {}}  # the chunk with the usage has no choice
    content = choice.get(part) if isinstance(choice, dict) else None
    if not isinstance(content, dict):
        raise BackendError("malformed", f"a choice without {part}")
    return Piece(
        _text(content.get("content")),
        _text(content.get("reasoning_content") or content.get("reasoning")),
        _finish_reason(choice.get("finish_reason")),
        _usage(document.get("usage")),
        _model(document.get("model")),
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BackendError("malformed", "content that is not text")
    return value


def _finish_reason(value: object) -> str | None:
    if not value:
        return None
    return value if isinstance(value, str) and value in _FINISH_REASONS else _OTHER


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    tokens_in, tokens_out = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    return None if tokens_in is None or tokens_out is None else Usage(tokens_in, tokens_out)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _model(value: object) -> str | None:
    return value[:_MAX_MODEL_CHARS] if isinstance(value, str) and value else None


class Tally:
    """Tokens and times of one call to one backend.

    Args:
        backend: its name in the configuration.
        model: the requested model.
        is_stream: whether a stream is requested.
        clock: returns monotonic seconds; tests pass their own.
    """

    def __init__(self, backend: str, model: str, *, is_stream: bool, clock: Callable[[], float] = monotonic) -> None:
        self.backend = backend
        self.model = model
        self.is_stream = is_stream
        self.chunks = 0  # with text
        self.outcome = "ok"
        self._clock = clock
        self._arrived_at = self._sent_at = clock()
        self._first_at: float | None = None
        self._last_at = self._arrived_at
        self._ended_at: float | None = None
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._served_by = model

    def begin(self) -> None:
        """Marks the start of the request to the backend: the wait for a slot is over."""
        self._sent_at = self._clock()

    def add(self, piece: Piece) -> None:
        """Adds a piece that has just arrived."""
        self._usage = piece.usage or self._usage
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._served_by = piece.model or self._served_by
        if piece.text or piece.reasoning:
            self.chunks += 1
            self._last_at = self._clock()
            if self._first_at is None:
                self._first_at = self._last_at

    def end(self, outcome: str) -> None:
        """Sets the outcome: `ok`, `cancelled`, or the kind of the error."""
        self.outcome = outcome
        self._ended_at = self._clock()

    @property
    def tokens_out(self) -> int | None:
        """The number of generated tokens; if the backend does not report it, a stream's chunks are counted instead."""
        if self._usage is not None:
            return self._usage.tokens_out
        return self.chunks if self.is_stream else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second: from the first token of a stream to its last, else over the whole time of the backend."""
        if not self.tokens_out or self._ended_at is None:
            return None
        if self.is_stream and self.chunks > 1 and self._first_at is not None:
            count, took_s = self.tokens_out - 1, self._last_at - self._first_at
        else:
            count, took_s = self.tokens_out, self._ended_at - self._sent_at
        return round(count / took_s, 2) if took_s > 0 else None

    def timings(self) -> dict[str, float | None]:
        """Returns the durations in milliseconds, and the tokens per second.

        `queue_ms` is the wait for a slot; `ttft_ms`, for a stream, and `backend_ms` start at its end.
        """
        ended_at = self._clock() if self._ended_at is None else self._ended_at
        first_at = self._first_at if self.is_stream else None
        return {
            "queue_ms": _ms(self._sent_at - self._arrived_at),
            "ttft_ms": None if first_at is None else _ms(first_at - self._sent_at),
            "backend_ms": _ms(ended_at - self._sent_at),
            "tokens_per_s": self.tokens_per_s,
        }

    def fields(self) -> dict[str, Any]:
        """Returns the fields to record."""
        return {
            **self.timings(),
            "tokens_in": None if self._usage is None else self._usage.tokens_in,
            "tokens_out": self.tokens_out,
            "tokens_counted": self._usage is None,
            "finish_reason": self._finish_reason,
            "outcome": self.outcome,
        }

    def totals(self) -> dict[str, Any]:
        """Returns the fields for the caller, beside the text."""
        return {
            "model": self._served_by,
            "backend": self.backend,
            "usage": {
                "prompt_tokens": None if self._usage is None else self._usage.tokens_in,
                "completion_tokens": self.tokens_out,
                "counted": self._usage is None,
            },
            "finish_reason": self._finish_reason,
            "timings": self.timings(),
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 3)
