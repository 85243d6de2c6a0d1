"""Signed requests: what a caller signs, and what a node checks before it listens.

The signature covers the canonical JSON of capability, version, request id, sender, community, time and body. The checks
run from cheap to dear; each refusal has a wire code for the caller and a reason for the counter.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ulid import ULID

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair, is_node_id, verify
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics
from hearthnet.observability.traceparent import from_w3c
from hearthnet.transport import peer_clocks

__all__ = ["CAPABILITY", "REQUEST_ID", "SENDER", "Envelope", "sign", "trace_id_of", "verify_request"]

CAPABILITY: Final = "X-HearthNet-Capability"
VERSION: Final = "X-HearthNet-Capability-Version"
REQUEST_ID: Final = "X-HearthNet-Request-Id"
SENDER: Final = "X-HearthNet-From"
COMMUNITY: Final = "X-HearthNet-Community"
TIMESTAMP: Final = "X-HearthNet-Timestamp"
SIGNATURE: Final = "X-HearthNet-Signature"

_RFC_3339_UTC: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
_W3C_CHARS: Final = 32
# Longer than any valid value; what is longer is refused before it is looked at.
_MAX_HEADER_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is signed. `sender` is the full node id, `timestamp` RFC 3339 UTC with `Z`."""

    capability: str
    version: str
    request_id: str
    sender: str
    community: str
    timestamp: str
    body: Any

    def payload(self) -> dict[str, Any]:
        """Returns the signed object, with the names of the wire."""
        return {
            "capability": self.capability,
            "version": self.version,
            "request_id": self.request_id,
            "from": self.sender,
            "community": self.community,
            "timestamp": self.timestamp,
            "body": self.body,
        }


def sign(
    keys: KeyPair, community: str, capability: str, version: str, body: Any, request_id: str | None = None
) -> dict[str, str]:
    """Returns the headers of a call made now; `request_id` is the trace id, by default a fresh ULID."""
    timestamp = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    envelope = Envelope(capability, version, request_id or str(ULID()), keys.node_id, community, timestamp, body)
    return {
        CAPABILITY: capability,
        VERSION: version,
        REQUEST_ID: envelope.request_id,
        SENDER: keys.node_id,
        COMMUNITY: community,
        TIMESTAMP: timestamp,
        SIGNATURE: keys.sign(envelope.payload()),
    }


def verify_request(headers: Mapping[str, str], body: Any, manifest: Manifest, now_s: float | None = None) -> Envelope:
    """Returns the envelope of a request that is signed, fresh, and from a member that is not revoked.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    try:
        envelope, signature = _read(headers, body)
        offset_s = _fresh_offset_s(envelope.timestamp, time.time() if now_s is None else now_s)
        if envelope.community != manifest.community_id:
            raise _RefusedError("community", "unauthorized", "this node belongs to another community")
        if not verify(envelope.payload(), signature, envelope.sender):
            raise _RefusedError("wrong", "invalid_signature", "the signature does not match the request")
        if manifest.is_revoked(envelope.sender):
            raise _RefusedError("revoked", "revoked", "this node was removed from the community")
        if manifest.level_of(envelope.sender) is None:
            raise _RefusedError("not_member", "unauthorized", "not a member of this community")
    except _RefusedError as refusal:
        metrics.signature_failures_total.labels(refusal.reason).inc()
        raise
    peer_clocks.note(envelope.sender, offset_s)
    return envelope


class _RefusedError(WireError):
    def __init__(self, reason: str, code: str, message: str) -> None:
        super().__init__(code, message)
        self.reason = reason


def _read(headers: Mapping[str, str], body: Any) -> tuple[Envelope, str]:
    names = (CAPABILITY, VERSION, REQUEST_ID, SENDER, COMMUNITY, TIMESTAMP, SIGNATURE)
    missing = [name for name in names if not headers.get(name)]
    if missing:
        raise _RefusedError("missing", "invalid_signature", f"the request is not signed: no {missing[0]}")
    capability, version, request_id, sender, community, timestamp, signature = (headers[name] for name in names)
    if max(len(headers[name]) for name in names) > _MAX_HEADER_CHARS or not is_node_id(sender):
        raise _RefusedError("malformed", "invalid_signature", "a signed header is malformed")
    return Envelope(capability, version, request_id, sender, community, timestamp, body), signature


def _fresh_offset_s(timestamp: str, now_s: float) -> float:
    """Returns how far this clock is ahead of the request's, seconds."""
    try:
        if _RFC_3339_UTC.fullmatch(timestamp) is None:
            raise ValueError("another spelling of a time")
        sent_s = datetime.fromisoformat(timestamp).timestamp()
    except ValueError as error:
        raise _RefusedError("malformed", "invalid_signature", f"{TIMESTAMP} is not RFC 3339 UTC with Z") from error
    if abs(now_s - sent_s) > PROTOCOL_TIMESTAMP_WINDOW_S:
        peer_clocks.note_expired(now_s - sent_s)
        raise _RefusedError("expired", "expired", "the request is too old, or a clock is wrong")
    return now_s - sent_s


def trace_id_of(request_id: str) -> str | None:
    """Returns a caller's request id as a trace id, or None for one that is neither ULID nor W3C id: never recorded."""
    try:
        if len(request_id) == _W3C_CHARS:
            return from_w3c(request_id)
        return str(ULID.from_str(request_id.upper()))
    except ValueError:
        return None
