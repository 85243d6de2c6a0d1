"""Probes the backends of `[[llm.backends]]` in parallel by asking each for its list of models.

Listing models costs a backend nothing: no prompt is sent. The key is sent as with a call, and never shown.
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

from hearthnet.checks.probes.probe_all import probe_all
from hearthnet.config import LlmBackend
from hearthnet.services.llm_client import address_of, is_plain_http, usable_key
from hearthnet.services.llm_errors import BackendError

__all__ = ["CLOUD", "BackendStatus", "ask_backends"]

CLOUD: Final = frozenset({"hf_api", "anthropic_api"})
_ASK_TIMEOUT_S: Final = 1.5
_ALL_S: Final = 1.8  # for all of them together; the check should finish within two seconds
_MAX_LIST_BYTES: Final = 4 * 1024 * 1024  # a cloud's catalogue has some thousand models
_MAX_MODELS: Final = 8  # named in a finding
_MAX_MODEL_CHARS: Final = 64
_ANTHROPIC_VERSION: Final = "2023-06-01"
# Errors of the route to a host, not of the host itself.
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """The state of one backend.

    Attributes:
        backend: its kind.
        place: its host and port.
        model: the configured model.
        state: `ok`; `no_model`: it has only others; `key`: it refuses the key; `no_key`: the environment has none;
            `not_ready`: it responds with an error; `dead`: it does not respond; `offline`: a cloud without a route.
        detail: the reason, in words.
        latency_ms: until the response was complete; None without one.
        status: the HTTP status.
        models: some of its models.
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
        """True if it can serve calls, at least for its own models."""
        return self.state in ("ok", "no_model")


def ask_backends(backends: tuple[LlmBackend, ...]) -> list[BackendStatus]:
    """Returns the state of each of the first 16 backends, in order, within two seconds."""
    states = probe_all(_ask, backends, _ALL_S)
    return [state or _unresponsive(backend) for backend, state in zip(backends, states, strict=False)]


def _unresponsive(backend: LlmBackend) -> BackendStatus:
    state = "offline" if backend.name in CLOUD else "dead"
    return replace(_initial_status(backend), state=state, detail="no response in time")


def _initial_status(backend: LlmBackend) -> BackendStatus:
    return BackendStatus(backend.name, address_of(backend.url), backend.model, "ok")


def _ask(backend: LlmBackend) -> BackendStatus:
    initial = _initial_status(backend)
    try:
        key = usable_key(backend)
    except BackendError:
        return replace(initial, state="no_key", detail="the variable named by api_key_env has no usable key")
    started = monotonic()
    try:
        status, content = _list_of_models(backend, key)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # Only its type: an error's message may contain a header, and so the key.
        state = "offline" if backend.name in CLOUD and _is_no_route(error) else "dead"
        return replace(initial, state=state, detail=type(error).__name__)
    return _check(replace(initial, status=status, latency_ms=(monotonic() - started) * 1_000), backend, content)


def _list_of_models(backend: LlmBackend, key: str | None) -> tuple[int, bytes]:
    """Returns the HTTP status and content of the backend's list: its native one, or else the OpenAI-compatible one."""
    verify = not is_plain_http(backend.url)  # all authorities' certificates are read only where there is one to check
    with httpx.Client(verify=verify, timeout=_ASK_TIMEOUT_S, trust_env=False, headers=_headers(backend, key)) as client:
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
    if backend.name == "anthropic_api":  # accepts the common header for chats only
        return {"anthropic-version": _ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})}
    return {"Authorization": f"Bearer {key}"} if key else {}


def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    for block in response.iter_bytes():
        content += block
        if len(content) > _MAX_LIST_BYTES:
            break
    return bytes(content)


def _check(state: BackendStatus, backend: LlmBackend, content: bytes) -> BackendStatus:
    status = state.status or 0
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        problem = "requires a key" if backend.api_key_env is None else "does not accept the key"
        return replace(state, state="key", detail=f"{problem} (HTTP {status})")
    if status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
        return replace(state, detail="does not list its models")
    if status != httpx.codes.OK:
        return replace(state, state="not_ready", detail=f"HTTP {status}")
    models = _models_in(content)
    if models is None:
        return replace(state, state="not_ready", detail="its response is not a list of models")
    shown = tuple(model[:_MAX_MODEL_CHARS] for model in models[:_MAX_MODELS])
    state = replace(state, models=shown)
    return state if _has(backend, models) else replace(state, state="no_model", detail=_format_models(models))


def _models_in(content: bytes) -> list[str] | None:
    """Returns the names in a list of models, Ollama's or OpenAI's; None if it is neither."""
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
        return True  # it serves the one model that it has loaded, under any name
    wanted = backend.model
    # Ollama's default tag; and the provider that may follow a Hugging Face model's name.
    alike = {wanted, f"{wanted}:latest", wanted.partition(":")[0] if backend.name == "hf_api" else wanted}
    return not alike.isdisjoint(models)


def _format_models(models: list[str]) -> str:
    if not models:
        return "it has no model"
    more = f" and {len(models) - _MAX_MODELS} more" if len(models) > _MAX_MODELS else ""
    return f"it has {', '.join(model[:_MAX_MODEL_CHARS] for model in models[:_MAX_MODELS])}{more}"


def _is_no_route(error: BaseException) -> bool:
    """Returns True if the network is at fault: no name server, no route, not even a refused connection."""
    if isinstance(error, httpx.ConnectTimeout):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NO_ROUTE):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
