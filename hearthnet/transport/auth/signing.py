"""Signed requests: what a caller signs, and what a node checks before it listens.

The signature covers the canonical JSON of capability, version, request id, sender, community, time and body. The checks
run from cheap to dear, and what a stranger can do without a member's key costs least: who it claims to be, and when, is
looked at before the body is read. Each refusal has a wire code for the caller and a reason for the counter.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from ulid import ULID

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S, SENDER
from hearthnet.errors import WireError
from hearthnet.identity.canonical import normal
from hearthnet.identity.keys import KeyPair, is_node_id, is_signature, verify
from hearthnet.identity.manifest import Manifest
from hearthnet.observability.traces.traceparent import from_w3c
from hearthnet.transport.auth import failed_signatures, peer_clocks
from hearthnet.transport.auth.replay import Replays

__all__ = [
    "CAPABILITY",
    "COMMUNITY",
    "REQUEST_ID",
    "SENDER",
    "SIGNATURE",
    "TIMESTAMP",
    "VERSION",
    "Claim",
    "Envelope",
    "now_stamp",
    "read_claim",
    "sign",
    "trace_id_of",
    "verify_claim",
    "verify_request",
]

CAPABILITY: Final = "X-HearthNet-Capability"
VERSION: Final = "X-HearthNet-Capability-Version"
REQUEST_ID: Final = "X-HearthNet-Request-Id"
COMMUNITY: Final = "X-HearthNet-Community"
TIMESTAMP: Final = "X-HearthNet-Timestamp"
SIGNATURE: Final = "X-HearthNet-Signature"
_SIGNED_HEADERS: Final = (CAPABILITY, VERSION, REQUEST_ID, SENDER, COMMUNITY, TIMESTAMP, SIGNATURE)

_RFC_3339_UTC: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
_W3C_CHARS: Final = 32
# Longer than any valid value; what is longer is refused before it is looked at.
_MAX_HEADER_CHARS: Final = 256
_MAX_TARGET_CHARS: Final = 1_024  # a signed GET has path and query in place of a capability
_FULL_RETRY_MS: Final = 5_000


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
    keys: KeyPair,
    community: str,
    capability: str,
    version: str,
    body: Any,
    request_id: str | None = None,
    timestamp: str | None = None,
) -> dict[str, str]:
    """Returns the headers of a call; `request_id` is the trace id, by default a fresh ULID; `timestamp` is now."""
    timestamp = timestamp or now_stamp()
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


def now_stamp() -> str:
    """Returns the time as the wire has it: RFC 3339 UTC with `Z`.

    With milliseconds, for the same call under the same id would have the same signature within a whole second.
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the headers of a request say; all that can be checked without its body was.

    `offset_s` is how far this clock is ahead of the sender's, seconds.
    """

    envelope: Envelope
    signature: str
    offset_s: float


def read_claim(
    headers: Mapping[str, str], manifest: Manifest, now_s: float | None = None, target: str | None = None
) -> Claim:
    """Returns what a request claims, which is fresh, for this community and from a member that is not revoked.

    It is not verified yet, and its body is not looked at, nor need it have arrived. Takes 10 us. `target` is what a GET
    asks for, as it must have been signed.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    with _counted():
        envelope, signature = _read(headers)
        if target is not None and envelope.capability != target:
            raise _RefusedError("wrong", "invalid_signature", "another path or query was signed than is asked for")
        offset_s = _fresh_offset_s(envelope.timestamp, time.time() if now_s is None else now_s)
        if envelope.community != manifest.community_id:
            raise _RefusedError("community", "unauthorized", "this node belongs to another community")
        if manifest.is_revoked(envelope.sender):
            raise _RefusedError("revoked", "revoked", "this node was removed from the community")
        if manifest.level_of(envelope.sender) is None:
            raise _RefusedError("not_member", "unauthorized", "not a member of this community")
    return Claim(envelope, signature, offset_s)


def verify_claim(claim: Claim, body: Any, replays: Replays | None = None) -> Envelope:
    """Returns the envelope of a request with this body, if it is signed, and for the first time.

    Its body is the canonical one: the same whichever way a number was spelled.

    Takes 125 us, of which the signature is 107. Nothing here is secret: keys and signatures are public, so how long a
    comparison takes tells nobody anything.

    Args:
        claim: what its headers say.
        body: as JSON values; None for a GET.
        replays: remembers it; None: it may come again.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    envelope = replace(claim.envelope, body=body)
    with _counted(envelope.sender):
        if not verify(envelope.payload(), claim.signature, envelope.sender):
            raise _RefusedError("wrong", "invalid_signature", "the signature does not match the request")
        # After that alone, or anybody could fill the memory, or have a request refused before it comes.
        if replays is not None:
            _remember(replays, claim)
    peer_clocks.note(envelope.sender, claim.offset_s)
    # What was signed, not what was sent: 2 may come as 2.0, without a key, and a handler may not take that for a count.
    return replace(envelope, body=normal(body))


def verify_request(
    headers: Mapping[str, str],
    body: Any,
    manifest: Manifest,
    now_s: float | None = None,
    replays: Replays | None = None,
) -> Envelope:
    """Returns the envelope of a request that passes `read_claim` and `verify_claim`.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    return verify_claim(read_claim(headers, manifest, now_s), body, replays)


def _remember(replays: Replays, claim: Claim) -> None:
    envelope = claim.envelope
    verdict = replays.take(envelope.sender, claim.signature, _signed_s(envelope.timestamp))
    if verdict == "replayed":
        raise _RefusedError("replayed", "invalid_signature", "this very request was here before; sign it anew")
    if verdict == "closed":
        raise _RefusedError("closed", "expired", "it is not known any more what was signed then; sign it anew")
    if verdict == "full":
        message = "more requests than this node can tell apart; later it can again"
        raise _RefusedError("full", "capacity_exceeded", message, retry_after_ms=_FULL_RETRY_MS)


@contextmanager
def _counted(member: str | None = None) -> Iterator[None]:
    try:
        yield
    except _RefusedError as refusal:
        failed_signatures.note(refusal.reason, member)
        raise


class _RefusedError(WireError):
    def __init__(
        self, reason: failed_signatures.Reason, code: str, message: str, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(code, message, retry_after_ms=retry_after_ms)
        self.reason = reason


def _read(headers: Mapping[str, str]) -> tuple[Envelope, str]:
    values = [headers.get(name, "") for name in _SIGNED_HEADERS]  # each look-up goes through all headers
    if not all(values):
        missing = _SIGNED_HEADERS[values.index("")]
        raise _RefusedError("missing", "invalid_signature", f"the request is not signed: no {missing}")
    capability, version, request_id, sender, community, timestamp, signature = values
    longest = _MAX_TARGET_CHARS if capability.startswith("GET ") else _MAX_HEADER_CHARS
    if len(capability) > longest or max(map(len, values[1:])) > _MAX_HEADER_CHARS:
        raise _RefusedError("malformed", "invalid_signature", "a signed header is longer than any should be")
    if not is_node_id(sender) or not is_signature(signature):
        raise _RefusedError("malformed", "invalid_signature", "the sender or the signature is malformed")
    return Envelope(capability, version, request_id, sender, community, timestamp, None), signature


def _signed_s(timestamp: str) -> float:
    """Returns a time of the wire as seconds since the epoch; ValueError for what is none."""
    if _RFC_3339_UTC.fullmatch(timestamp) is None:
        raise ValueError("another spelling of a time")
    return datetime.fromisoformat(timestamp).timestamp()


def _fresh_offset_s(timestamp: str, now_s: float) -> float:
    """Returns how far this clock is ahead of the request's, seconds."""
    try:
        sent_s = _signed_s(timestamp)
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
        # Of ASCII alone: some letter's capital is two letters, and then 25 characters are 26.
        return str(ULID.from_str(request_id.upper())) if request_id.isascii() else None
    except ValueError:
        return None
