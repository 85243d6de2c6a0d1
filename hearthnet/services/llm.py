"""`llm.chat@1.0`: forwards a conversation to a language model of `[[llm.backends]]`, streamed or not.

The first backend of the list answers; when it cannot, and no token was delivered yet, the next one is asked. Each try
is two spans: `queue`, the wait for one of the backend's places, and `generate`, with what people ask of a local model.
What is said, by either side, is recorded nowhere: not in spans, not in logs, not in errors.
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
from hearthnet.services.llm_client import BackendClient, place_of, read_document, read_events
from hearthnet.services.llm_errors import BackendError
from hearthnet.services.llm_frames import Piece, Tally, piece_of

__all__ = ["ANSWER_TIMEOUT_S", "DESCRIPTOR", "MAX_CHARS", "LlmChat"]

ANSWER_TIMEOUT_S: Final = 300.0  # a long prompt takes a Raspberry Pi minutes before its first token
MAX_CHARS: Final = 1_000_000  # of a whole conversation: four times the longest context of a model run at home
_MAX_CALLS: Final = 16  # at work and waiting; a longer queue would only time out
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
    timeout_seconds=ANSWER_TIMEOUT_S + 5,  # the backend's own time ends first: then the log says whose it was
)


log = get_logger(__name__)

_PLACES: Final = 4  # calls that a backend works on at once; llama.cpp's server and Ollama take about as many
_OTHER: Final = "other"  # the metric label of a model that is not configured here: callers invent names


def _label_of(model: str) -> str:
    """Returns a model's name as the metrics show it to everybody: of a file its name, not in whose home it lies."""
    return PurePath(model).name if model.startswith(("/", "~", ".")) else model


@dataclass(slots=True)
class Place:
    """A configured backend, and the places that it has free."""

    backend: LlmBackend
    free: asyncio.Semaphore


class LlmChat:
    """The service. Used with `async with`: leaving it closes the connections.

    Args:
        backends: in the order in which they are asked.
        timeout_s: the longest wait for a backend's answer, and for the next token of one; seconds.
        places: how many calls a backend works on at once; the others wait here, where the wait is seen.
        clock: monotonic seconds; tests hand in their own.
    """

    def __init__(
        self,
        backends: Sequence[LlmBackend],
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        places: int = _PLACES,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._places = [Place(backend, asyncio.Semaphore(places)) for backend in backends]
        self._models = frozenset(backend.model for backend in backends)
        for instrument in (metrics.llm_concurrent, metrics.llm_tokens_generated_total):
            instrument.allow("model", map(_label_of, self._models))
        self._client = BackendClient(timeout_s)
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def answer(self, request: RouteRequest) -> dict[str, Any] | Frames:
        """Answers a conversation, in frames where the caller can take them.

        Raises:
            WireError: raised when no backend can, with the code for why; of a stream, while it is read.
        """
        messages = request.body["input"]["messages"]
        if sum(len(message["content"]) for message in messages) > MAX_CHARS:
            raise WireError("bad_request", f"the conversation has more than {MAX_CHARS} characters")
        frames = self._frames({**request.body["params"], "messages": messages}, is_stream=request.stream)
        return frames if request.stream else await _collect(frames)

    async def _frames(self, wanted: dict[str, Any], *, is_stream: bool) -> AsyncIterator[dict[str, Any]]:
        """Yields the text as it comes, and at last the totals."""
        trouble: BackendError | None = None
        for place in self._candidates(wanted.get("model")):
            backend = place.backend
            tally = Tally(backend.name, wanted.get("model", backend.model), is_stream=is_stream, clock=self._clock)
            try:
                async with aclosing(self._pieces(place, wanted, tally)) as pieces:
                    async for piece in pieces:
                        if piece.text or piece.reasoning:
                            yield _frame(piece)
            except BackendError as error:
                trouble = error
                _tell(backend, tally, error)
                if error.is_final or tally.chunks:
                    break
            else:
                yield {"done": True, **tally.totals()}
                return
        assert trouble is not None
        raise self._wire_error(trouble, wanted)

    def _candidates(self, model: str | None) -> list[Place]:
        """Returns whom to ask: those configured for the model; for one that nobody is configured for, all of them."""
        named = [place for place in self._places if place.backend.model == model]
        return named or self._places

    def _wire_error(self, trouble: BackendError, wanted: dict[str, Any]) -> WireError:
        if trouble.kind == "no_model" and wanted.get("model") in (None, *self._models):
            # The model is one that this node's own configuration names: no mistake of the caller.
            return WireError("internal_error", "a backend does not have the model that is configured for it")
        return trouble.wire_error()

    async def _pieces(self, place: Place, wanted: dict[str, Any], tally: Tally) -> AsyncGenerator[Piece, None]:
        """Yields what one backend answers; however that ends, its place is free again and the work is counted."""
        with span("queue", backend=tally.backend):
            await place.free.acquire()
        label = _label_of(tally.model) if tally.model in self._models else _OTHER
        running = metrics.llm_concurrent.labels(label)
        running.inc()
        tally.begin()
        try:
            with span("generate", backend=tally.backend, model=tally.model, stream=tally.is_stream) as made:
                try:
                    async with aclosing(self._ask(place.backend, wanted, tally)) as pieces:
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
            place.free.release()

    async def _ask(self, backend: LlmBackend, wanted: dict[str, Any], tally: Tally) -> AsyncGenerator[Piece, None]:
        body = {**wanted, "model": tally.model, "stream": tally.is_stream}
        if not tally.is_stream:
            async with self._client.post(backend, body) as response:
                piece = piece_of(await read_document(response), "message")
            tally.take(piece)
            yield piece
            return
        body["stream_options"] = {"include_usage": True}
        async with self._client.post(backend, body) as response, aclosing(read_events(response)) as documents:
            async for document in documents:
                piece = piece_of(document, "delta")
                tally.take(piece)
                yield piece


async def _collect(frames: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """Returns the answer that is told in one piece."""
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


def _tell(backend: LlmBackend, tally: Tally, error: BackendError) -> None:
    """Logs what a backend did wrong, with what an operator needs to find it; the caller gets a code only."""
    log.warning(
        "language model backend failed",
        extra={
            "backend": backend.name,
            "place": place_of(backend.url),
            "model": tally.model,
            "kind": error.kind,
            "detail": error.detail,
            "status": error.status,
            "reason": error.reason,
            "chunks": tally.chunks,
        },
    )
