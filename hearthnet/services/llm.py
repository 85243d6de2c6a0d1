"""`llm.chat@1.0`: forwards a conversation to one of the `[[llm.backends]]`, streamed or not.

The first backend of the list is asked; if it fails before the first token was delivered, the next one is. Each attempt
is two spans: `queue`, the wait for one of the backend's slots, and `generate`, with token counts and timings. The
conversation itself is never recorded: not in spans, logs or errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePath
from time import monotonic
from typing import Any, Final, Self

from hearthnet.bus.capability import CapabilityDescriptor, Frames, RouteRequest
from hearthnet.config import LlmBackend
from hearthnet.errors import WireError
from hearthnet.observability import get_logger, metrics
from hearthnet.observability.tracing import span
from hearthnet.services.llm_client import BackendClient, address_of, read_document, read_events
from hearthnet.services.llm_errors import BackendError
from hearthnet.services.llm_frames import Piece, Tally, piece_of

__all__ = ["RESPONSE_TIMEOUT_S", "DESCRIPTOR", "MAX_CHARS", "LlmChat"]

RESPONSE_TIMEOUT_S: Final = 300.0  # a Raspberry Pi takes minutes to the first token of a long prompt
MAX_CHARS: Final = 1_000_000  # of a whole conversation: four times the longest context of models run at home
_MAX_CALLS: Final = 16  # running and waiting; a longer queue would only time out
_MAX_MESSAGES: Final = 1_000
_MAX_NAME_CHARS: Final = 200

DESCRIPTOR: Final = CapabilityDescriptor(
    name="llm.chat",
    version=(1, 0),
    stability="beta",
    request_schema={
        "type": "object",
        "required": ["input"],
        "additionalProperties": False,
        "properties": {
            "params": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "model": {"type": "string", "minLength": 1, "maxLength": _MAX_NAME_CHARS},
                    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
                    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
                    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
                    "stop": {
                        "type": ["string", "array"],
                        "minLength": 1,
                        "maxLength": _MAX_NAME_CHARS,
                        "minItems": 1,
                        "maxItems": 16,
                        "items": {"type": "string", "minLength": 1, "maxLength": _MAX_NAME_CHARS},
                    },
                },
            },
            "input": {
                "type": "object",
                "required": ["messages"],
                "additionalProperties": False,
                "properties": {
                    "messages": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": _MAX_MESSAGES,
                        "items": {
                            "type": "object",
                            "required": ["role", "content"],
                            "additionalProperties": False,
                            "properties": {
                                "role": {"enum": ["system", "user", "assistant"]},
                                "content": {"type": "string", "maxLength": MAX_CHARS},
                            },
                        },
                    },
                },
            },
        },
    },
    response_schema={
        "type": "object",
        "required": ["message", "model", "backend", "usage", "finish_reason", "timings"],
    },
    stream_schema={
        "type": "object",
        "anyOf": [{"required": ["delta"]}, {"required": ["done", "model", "backend", "usage", "timings"]}],
    },
    max_concurrent=_MAX_CALLS,
    timeout_seconds=RESPONSE_TIMEOUT_S + 5,  # the backend's timeout ends first, so the log names the backend
)


log = get_logger(__name__)

_SLOTS: Final = 4  # concurrent calls per backend; llama.cpp's server and Ollama take about as many
_OTHER: Final = "other"  # the metric label of models not configured here: callers invent names


def _label_of(model: str) -> str:
    """Returns a model's name for the metrics, which are public: only the file name of a path."""
    return PurePath(model).name if model.startswith(("/", "~", ".")) else model


@dataclass(slots=True)
class BackendSlots:
    """A configured backend and its free slots."""

    backend: LlmBackend
    free: asyncio.Semaphore


class LlmChat:
    """The service. An async context manager that closes the connections on exit.

    Args:
        backends: in the order in which to ask them.
        timeout_s: the longest wait for a backend's response, and for its next token; seconds.
        slots: concurrent calls per backend; other calls wait here, where the wait is recorded.
        clock: returns monotonic seconds; tests pass their own.
    """

    def __init__(
        self,
        backends: Sequence[LlmBackend],
        *,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        slots: int = _SLOTS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._slots = [BackendSlots(backend, asyncio.Semaphore(slots)) for backend in backends]
        self._models = frozenset(backend.model for backend in backends)
        for instrument in (metrics.llm_concurrent, metrics.llm_tokens_generated_total):
            instrument.allow("model", map(_label_of, self._models))
        self._client = BackendClient(timeout_s)
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def respond(self, request: RouteRequest) -> dict[str, Any] | Frames:
        """Returns the model's response to a conversation, in frames if the caller accepts them.

        Raises:
            WireError: raised when no backend can respond; for a stream, while it is read.
        """
        messages = request.body["input"]["messages"]
        if sum(len(message["content"]) for message in messages) > MAX_CHARS:
            raise WireError("bad_request", f"the conversation has more than {MAX_CHARS} characters")
        frames = self._frames({**request.body["params"], "messages": messages}, is_stream=request.stream)
        return frames if request.stream else await _collect(frames)

    async def _frames(self, wanted: dict[str, Any], *, is_stream: bool) -> AsyncIterator[dict[str, Any]]:
        """Yields the text as it arrives, then the totals."""
        failure: BackendError | None = None
        for slots in self._candidates(wanted.get("model")):
            backend = slots.backend
            tally = Tally(backend.name, wanted.get("model", backend.model), is_stream=is_stream, clock=self._clock)
            try:
                async with aclosing(self._pieces(slots, wanted, tally)) as pieces:
                    async for piece in pieces:
                        if piece.text or piece.reasoning:
                            yield _frame(piece)
            except BackendError as error:
                failure = error
                _log_failure(backend, tally, error)
                if error.is_final or tally.chunks:
                    break
            else:
                yield {"done": True, **tally.totals()}
                return
        assert failure is not None
        raise self._wire_error(failure, wanted)

    def _candidates(self, model: str | None) -> list[BackendSlots]:
        """Returns the backends to ask: those configured for the model, or all of them if there is none."""
        configured = [slots for slots in self._slots if slots.backend.model == model]
        return configured or self._slots

    def _wire_error(self, failure: BackendError, wanted: dict[str, Any]) -> WireError:
        if failure.kind == "no_model" and wanted.get("model") in (None, *self._models):
            # This node's configuration names the model: not the caller's mistake.
            return WireError("internal_error", "a backend does not have the model configured for it")
        return failure.wire_error()

    async def _pieces(self, slots: BackendSlots, wanted: dict[str, Any], tally: Tally) -> AsyncGenerator[Piece, None]:
        """Yields one backend's response; however that ends, its slot is freed and the work counted."""
        with span("queue", backend=tally.backend):
            await slots.free.acquire()
        label = _label_of(tally.model) if tally.model in self._models else _OTHER
        running = metrics.llm_concurrent.labels(label)
        running.inc()
        tally.begin()
        try:
            with span("generate", backend=tally.backend, model=tally.model, stream=tally.is_stream) as made:
                try:
                    async with aclosing(self._ask(slots.backend, wanted, tally)) as pieces:
                        async for piece in pieces:
                            yield piece
                    tally.end("ok")
                except BaseException as error:
                    tally.end(_outcome(error))
                    raise
                finally:
                    made.extras.update(tally.fields())
        finally:
            metrics.llm_tokens_generated_total.labels(label, tally.backend).inc(tally.tokens_out or 0)
            running.dec()
            slots.free.release()

    async def _ask(self, backend: LlmBackend, wanted: dict[str, Any], tally: Tally) -> AsyncGenerator[Piece, None]:
        body = {**wanted, "model": tally.model, "stream": tally.is_stream}
        if not tally.is_stream:
            async with self._client.post(backend, body) as response:
                piece = piece_of(await read_document(response), "message")
            tally.add(piece)
            yield piece
            return
        body["stream_options"] = {"include_usage": True}
        async with self._client.post(backend, body) as response, aclosing(read_events(response)) as documents:
            async for document in documents:
                piece = piece_of(document, "delta")
                tally.add(piece)
                yield piece


async def _collect(frames: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """Returns the response of a call without streaming."""
    message = {"role": "assistant", "content": ""}
    totals: dict[str, Any] = {}
    async for frame in frames:
        if "done" in frame:
            totals = {name: value for name, value in frame.items() if name != "done"}
            continue
        message["content"] += frame["delta"]
        if "reasoning" in frame:
            message["reasoning"] = message.get("reasoning", "") + frame["reasoning"]
    return {"message": message, **totals}


def _frame(piece: Piece) -> dict[str, Any]:
    frame = {"delta": piece.text}
    return {**frame, "reasoning": piece.reasoning} if piece.reasoning else frame


def _outcome(error: BaseException) -> str:
    if isinstance(error, BackendError):
        return error.kind
    return "failed" if isinstance(error, Exception) else "cancelled"


def _log_failure(backend: LlmBackend, tally: Tally, error: BackendError) -> None:
    """Logs a backend's failure with the details an operator needs; the caller only gets a code."""
    log.warning(
        "language model backend failed",
        extra={
            "backend": backend.name,
            "place": address_of(backend.url),
            "model": tally.model,
            "kind": error.kind,
            "detail": error.detail,
            "status": error.status,
            "reason": error.reason,
            "chunks": tally.chunks,
        },
    )
