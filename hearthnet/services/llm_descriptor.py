"""What `llm.chat@1.0` takes and gives, for whom it is, and its bounds."""

from __future__ import annotations

from typing import Final

from hearthnet.bus.capability import CapabilityDescriptor

__all__ = ["ANSWER_TIMEOUT_S", "DESCRIPTOR", "MAX_CHARS"]

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
