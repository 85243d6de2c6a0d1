"""What the backends of `[[llm.backends]]` answer to the list of their models, asked side by side.

The list is what a backend gives without working for it: no prompt is sent. The key is, as with a call; it is shown
nowhere.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

import httpx
import orjson

from hearthnet.checks.probes.side_by_side import ask_all
from hearthnet.config import LlmBackend
from hearthnet.services.llm_client import place_of, usable_key
from hearthnet.services.llm_errors import BackendError

__all__ = ["CLOUD", "Answer", "ask_backends"]

CLOUD: Final = frozenset({"hf_api", "anthropic_api"})
_ASK_TIMEOUT_S: Final = 1.5
_ALL_S: Final = 1.8  # of all of them together; the doctor is to answer within two seconds
_MAX_LIST_BYTES: Final = 4 * 1024 * 1024  # a cloud's catalogue has some thousand models
_MAX_MODELS: Final = 8  # what a finding names
_MAX_MODEL_CHARS: Final = 64
_ANTHROPIC_VERSION: Final = "2023-06-01"
# What the way to a host fails with, while the host itself says nothing.
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one backend answered.

    Attributes:
        backend: its kind.
        place: its host and port.
        model: that is configured for it.
        state: `ok`; `no_model`: it has others; `key`: it wants another key; `no_key`: the environment has none;
            `not_ready`: it answers with an error; `dead`: it does not answer; `offline`: a cloud that no way leads to.
        detail: why, in words.
        latency_ms: until the whole answer was there; None when there was none.
        status: of HTTP.
        models: some of those that it has.
    """

    backend: str
    place: str
    model: str
    state: str
    detail: str = ""
    latency_ms: float | None = None
    status: int | None = None
    models: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether it can answer calls, of its own models at least."""
        return self.state in ("ok", "no_model")


def ask_backends(backends: tuple[LlmBackend, ...]) -> list[Answer]:
    """Returns what each backend answers, in their order, within two seconds; beyond the first 16 none is asked."""
    answers = ask_all(_ask, backends, _ALL_S)
    return [answer or _silent(backend) for backend, answer in zip(backends, answers, strict=False)]


def _silent(backend: LlmBackend) -> Answer:
    state = "offline" if backend.name in CLOUD else "dead"
    return replace(_answer(backend), state=state, detail="no answer in time")


def _answer(backend: LlmBackend) -> Answer:
    return Answer(backend.name, place_of(backend.url), backend.model, "ok")


def _ask(backend: LlmBackend) -> Answer:
    nothing = _answer(backend)
    try:
        key = usable_key(backend)
    except BackendError:
        return replace(nothing, state="no_key", detail="the variable that api_key_env names holds no usable key")
    started = monotonic()
    try:
        status, content = _list_of_models(backend, key)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # Its type alone: the message of an error may hold a header, the key's too.
        state = "offline" if backend.name in CLOUD and _is_no_way(error) else "dead"
        return replace(nothing, state=state, detail=type(error).__name__)
    return _judge(replace(nothing, status=status, latency_ms=(monotonic() - started) * 1_000), backend, content)


def _list_of_models(backend: LlmBackend, key: str | None) -> tuple[int, bytes]:
    """Returns the status and the content of the backend's list, of the protocol that all share where its own fails."""
    with httpx.Client(timeout=_ASK_TIMEOUT_S, trust_env=False, headers=_headers(backend, key)) as client:
        status, content = 404, b""
        for url in _urls(backend):
            with client.stream("GET", url) as response:
                status, content = response.status_code, _bounded(response)
            if status != httpx.codes.NOT_FOUND:
                break
        return status, content


def _urls(backend: LlmBackend) -> Iterator[str]:
    base = backend.url.rstrip("/").removesuffix("/v1")
    if backend.name == "ollama":
        yield f"{base}/api/tags"
    yield f"{base}/v1/models"


def _headers(backend: LlmBackend, key: str | None) -> dict[str, str]:
    if backend.name == "anthropic_api":  # takes the common header with chats alone
        return {"anthropic-version": _ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})}
    return {"Authorization": f"Bearer {key}"} if key else {}


def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    for block in response.iter_bytes():
        content += block
        if len(content) > _MAX_LIST_BYTES:
            break
    return bytes(content)


def _judge(answer: Answer, backend: LlmBackend, content: bytes) -> Answer:
    status = answer.status or 0
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        told = "accepts no call without a key" if backend.api_key_env is None else "does not accept the key"
        return replace(answer, state="key", detail=f"{told} (HTTP {status})")
    if status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
        return replace(answer, detail="does not list its models")
    if status != httpx.codes.OK:
        return replace(answer, state="not_ready", detail=f"HTTP {status}")
    models = _models_in(content)
    if models is None:
        return replace(answer, state="not_ready", detail="its answer is no list of models")
    shown = tuple(model[:_MAX_MODEL_CHARS] for model in models[:_MAX_MODELS])
    answer = replace(answer, models=shown)
    return answer if _has(backend, models) else replace(answer, state="no_model", detail=_others(models))


def _models_in(content: bytes) -> list[str] | None:
    """Returns the names in a list of models, Ollama's or the common one; None when it is neither."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    rows: Any = document.get("models", document.get("data")) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        return None
    names = [row.get("id") or row.get("name") for row in rows if isinstance(row, dict)]
    return [name for name in names if isinstance(name, str)]


def _has(backend: LlmBackend, models: list[str]) -> bool:
    if backend.name == "llama_cpp" and len(models) == 1:
        return True  # it answers with the one model that it has loaded, under whatever name
    wanted = backend.model
    # Ollama's own default tag; and the provider that a caller of Hugging Face may name behind the model.
    alike = {wanted, f"{wanted}:latest", wanted.partition(":")[0] if backend.name == "hf_api" else wanted}
    return not alike.isdisjoint(models)


def _others(models: list[str]) -> str:
    if not models:
        return "it has no model"
    more = f" and {len(models) - _MAX_MODELS} more" if len(models) > _MAX_MODELS else ""
    return f"it has {', '.join(model[:_MAX_MODEL_CHARS] for model in models[:_MAX_MODELS])}{more}"


def _is_no_way(error: BaseException) -> bool:
    """Tells whether the network is to blame: no name server, no route, nobody who as much as refuses."""
    if isinstance(error, httpx.ConnectTimeout):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NO_WAY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
