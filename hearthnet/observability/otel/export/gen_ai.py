"""Spans of language models by the conventions `gen_ai.*` of OpenTelemetry.

A `generate` span of `llm.chat` is a call of a model: its fields become the attributes that tools for language models
read. The conversation is there only while its bodies were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

__all__ = ["CAPABILITY", "SPAN", "conversation", "is_named", "name_of", "named", "unnamed"]

CAPABILITY: Final = "llm.chat"
SPAN: Final = "generate"
_PROVIDERS: Final = {"anthropic_api": "anthropic", "hf_api": "hugging_face"}  # others have their own names
_NAMES: Final = {
    "model": "gen_ai.request.model",
    "stream": "gen_ai.request.stream",
    "tokens_in": "gen_ai.usage.input_tokens",
    "tokens_out": "gen_ai.usage.output_tokens",
}
_OWN_NAMES: Final = {theirs: ours for ours, theirs in _NAMES.items()}
_OWN_PROVIDERS: Final = {theirs: ours for ours, theirs in _PROVIDERS.items()}
_OPERATION: Final = "gen_ai.operation.name"
_MESSAGES: Final = ("gen_ai.input.messages", "gen_ai.output.messages")


def name_of(extras: Mapping[str, Any]) -> str:
    """Returns the span's name, `chat tiny`: the operation and its model."""
    return f"chat {extras['model']}" if extras.get("model") else "chat"


def named(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a span's fields under the names of the conventions; those that have none keep their own."""
    made: dict[str, Any] = {_OPERATION: "chat"}
    for key, value in extras.items():
        if key == "backend":
            made["gen_ai.provider.name"] = _PROVIDERS.get(value, value) if isinstance(value, str) else value
        elif key == "finish_reason":
            made["gen_ai.response.finish_reasons"] = None if value is None else [value]
        elif key == "ttft_ms":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            made["gen_ai.response.time_to_first_chunk"] = value / 1_000 if is_number else None
        else:
            made[_NAMES.get(key, key)] = value
    return made


def is_named(fields: Mapping[str, Any]) -> bool:
    """Returns whether fields are those that `named` has made."""
    return fields.get(_OPERATION) == "chat"


def unnamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a span's fields under their own names: those that `named` was called with, without the conversation.

    That is in the bodies of the trace as well.
    """
    made: dict[str, Any] = {}
    for key, value in fields.items():
        if key == "gen_ai.provider.name":
            made["backend"] = _OWN_PROVIDERS.get(value, value) if isinstance(value, str) else value
        elif key == "gen_ai.response.finish_reasons" and isinstance(value, list) and len(value) == 1:
            made["finish_reason"] = value[0]
        elif key == "gen_ai.response.time_to_first_chunk" and isinstance(value, int | float):
            made["ttft_ms"] = value * 1_000
        elif key != _OPERATION and key not in _MESSAGES:
            made[_OWN_NAMES.get(key, key)] = value
    return made


def conversation(extras: Mapping[str, Any]) -> dict[str, str]:
    """Returns the messages of a call whose bodies were recorded; nothing of a body that was cut."""
    asked, told = _asked(extras.get("request_body")), _told(extras.get("answer_body"))
    found = dict(zip(_MESSAGES, (asked, told), strict=True))
    return {name: orjson.dumps(messages).decode() for name, messages in found.items() if messages}


def _asked(body: object) -> list[dict[str, Any]]:
    document = _parsed(body)
    given = document.get("input") if isinstance(document, dict) else None
    messages = given.get("messages") if isinstance(given, dict) else None
    return [_message(item.get("role"), item.get("content")) for item in messages or () if isinstance(item, dict)]


def _told(body: object) -> list[dict[str, Any]]:
    """Returns the model's message: of one document, or joined of the frames of a stream, one a line."""
    frames = [_parsed(line) for line in body.splitlines()] if isinstance(body, str) else []
    if not frames or not all(isinstance(frame, dict) for frame in frames):
        return []
    whole = frames[0].get("message")
    if isinstance(whole, dict):
        return [_message(whole.get("role"), whole.get("content"))]
    return [_message("assistant", "".join(str(frame.get("delta") or "") for frame in frames))]


def _message(role: object, content: object) -> dict[str, Any]:
    return {"role": str(role or "user"), "parts": [{"type": "text", "content": str(content or "")}]}


def _parsed(body: object) -> Any:
    try:
        return orjson.loads(body) if isinstance(body, str) else None
    except orjson.JSONDecodeError:  # it was cut
        return None
