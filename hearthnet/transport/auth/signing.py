"""Signed requests and responses: signing by a caller, verification by a node, and the same for what it responds.

The signature of a request covers the canonical JSON of capability, version, request id, sender, community, time and
body. Checks run from cheap to expensive, so that a caller without a member's key costs least: the claimed sender and
time are checked before the body is read. Each refusal has a wire code for the caller and a reason for the counter.

A signed response proves to the caller that this node sent these bytes in response to that request. It has a timestamp
and a signature over the canonical JSON of `SignedResponse`. It names the request by its signature, so it is valid for
no other request, nor for the same one sent again. Unverified requests get unsigned responses: non-members must not make
the node sign, and a member cannot rely on anything in a refusal.

A stream is signed in its last event, `done` or `error`, over all bytes before that event and the event's own data. Only
then is everything before it proven. A node that is killed ends a stream without a signature.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ulid import ULID

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S, SENDER
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair, is_node_id, is_signature, normal, verify
from hearthnet.identity.manifest import Manifest
from hearthnet.observability.traces.traceparent import from_w3c
from hearthnet.transport.auth import failed_signatures
from hearthnet.transport.auth.replay import Replays, peer_clocks

if TYPE_CHECKING:
    from starlette.responses import Response

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
    "SignedResponse",
    "Signer",
    "digest_of",
    "is_signed_end",
    "is_signed_response",
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
# Longer than any valid value; longer headers are refused unparsed.
_MAX_HEADER_CHARS: Final = 256
_MAX_TARGET_CHARS: Final = 1_024  # a signed GET has path and query instead of a capability
_FULL_RETRY_MS: Final = 5_000
_SIGNED_END: Final = ("timestamp", "signature")  # what `Signer.end` adds to an event


@dataclass(frozen=True, slots=True)
class Envelope:
    """The signed fields. `sender` is the full node id, `timestamp` RFC 3339 UTC with `Z`."""

    capability: str
    version: str
    request_id: str
    sender: str
    community: str
    timestamp: str
    body: Any

    def payload(self) -> dict[str, Any]:
        """Returns the signed object, with its field names on the wire."""
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
    """Returns the headers of a call; `request_id` is the trace id, by default a new ULID; `timestamp` is now."""
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
    """Returns the current time in the wire format: RFC 3339 UTC with `Z`.

    In milliseconds: in whole seconds, the same call repeated under the same id would have the same signature.
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Claim:
    """The signed headers of a request, after all checks that need no body.

    `offset_s` is how far this clock is ahead of the sender's, in seconds.
    """

    envelope: Envelope
    signature: str
    offset_s: float


def read_claim(
    headers: Mapping[str, str], manifest: Manifest, now_s: float | None = None, target: str | None = None
) -> Claim:
    """Returns the claim of a request that is fresh, for this community, and from a member that is not revoked.

    The signature is not verified yet, and the body need not have arrived. Takes 10 us. `target` is the requested method
    and path of a GET, which must be the signed one.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    with _counted():
        envelope, signature = _read(headers)
        if target is not None and envelope.capability != target:
            raise _RefusedError("wrong", "invalid_signature", "the signed path or query is not the requested one")
        offset_s = _fresh_offset_s(envelope.timestamp, time.time() if now_s is None else now_s)
        if envelope.community != manifest.community_id:
            raise _RefusedError("community", "unauthorized", "this node belongs to another community")
        if manifest.is_revoked(envelope.sender):
            raise _RefusedError("revoked", "revoked", "this node was removed from the community")
        if manifest.level_of(envelope.sender) is None:
            raise _RefusedError("not_member", "unauthorized", "not a member of this community")
    return Claim(envelope, signature, offset_s)


def verify_claim(claim: Claim, body: Any, replays: Replays | None = None) -> Envelope:
    """Returns the envelope of a request whose signature is valid for this body and was not used before.

    The body in the envelope is the canonical one, independent of how numbers were spelled.

    Takes 125 us, of which the signature is 107. Keys and signatures are public, so the timing of comparisons reveals
    nothing.

    Args:
        claim: from the request's headers.
        body: JSON values; None for a GET.
        replays: records the signature; None: no replay protection.

    Raises:
        WireError: raised, and counted by reason, for every other request.
    """
    envelope = replace(claim.envelope, body=body)
    with _counted(envelope.sender):
        if not verify(envelope.payload(), claim.signature, envelope.sender):
            raise _RefusedError("wrong", "invalid_signature", "the signature does not match the request")
        # Only now, or anyone could fill the memory, or have a request refused before it arrives.
        if replays is not None:
            _remember(replays, claim)
    peer_clocks.record(envelope.sender, claim.offset_s)
    # The signed value, not the sent one: anyone on the way can respell 2 as 2.0, and a handler may reject a float.
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
        raise _RefusedError("replayed", "invalid_signature", "this request was already executed; sign it anew")
    if verdict == "closed":
        raise _RefusedError("closed", "expired", "it may have been executed already; sign it anew")
    if verdict == "full":
        message = "this node cannot remember more requests at present; try again later"
        raise _RefusedError("full", "capacity_exceeded", message, retry_after_ms=_FULL_RETRY_MS)


@contextmanager
def _counted(member: str | None = None) -> Iterator[None]:
    try:
        yield
    except _RefusedError as refusal:
        failed_signatures.record(refusal.reason, member)
        raise


class _RefusedError(WireError):
    def __init__(
        self, reason: failed_signatures.Reason, code: str, message: str, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(code, message, retry_after_ms=retry_after_ms)
        self.reason = reason


def _read(headers: Mapping[str, str]) -> tuple[Envelope, str]:
    values = [headers.get(name, "") for name in _SIGNED_HEADERS]  # each look-up scans all headers
    if not all(values):
        missing = _SIGNED_HEADERS[values.index("")]
        raise _RefusedError("missing", "invalid_signature", f"the request is not signed: no {missing}")
    capability, version, request_id, sender, community, timestamp, signature = values
    longest = _MAX_TARGET_CHARS if capability.startswith("GET ") else _MAX_HEADER_CHARS
    if len(capability) > longest or max(map(len, values[1:])) > _MAX_HEADER_CHARS:
        raise _RefusedError("malformed", "invalid_signature", "a signed header is too long")
    if not is_node_id(sender) or not is_signature(signature):
        raise _RefusedError("malformed", "invalid_signature", "the sender or the signature is malformed")
    return Envelope(capability, version, request_id, sender, community, timestamp, None), signature


def _signed_s(timestamp: str) -> float:
    """Returns a wire timestamp as seconds since the epoch; raises ValueError for a malformed one."""
    if _RFC_3339_UTC.fullmatch(timestamp) is None:
        raise ValueError("not RFC 3339 UTC")
    return datetime.fromisoformat(timestamp).timestamp()


def _fresh_offset_s(timestamp: str, now_s: float) -> float:
    """Returns how far this clock is ahead of the request's, in seconds."""
    try:
        sent_s = _signed_s(timestamp)
    except ValueError as error:
        raise _RefusedError("malformed", "invalid_signature", f"{TIMESTAMP} is not RFC 3339 UTC with Z") from error
    if abs(now_s - sent_s) > PROTOCOL_TIMESTAMP_WINDOW_S:
        peer_clocks.record_expired(now_s - sent_s)
        raise _RefusedError("expired", "expired", "the request is too old, or a clock is wrong")
    return now_s - sent_s


def trace_id_of(request_id: str) -> str | None:
    """Returns a caller's request id as a trace id, or None if it is neither a ULID nor a W3C id: never recorded."""
    try:
        if len(request_id) == _W3C_CHARS:
            return from_w3c(request_id)
        # ASCII only: some letters have a capital of two letters, and 25 characters would become 26.

        return str(ULID.from_str(request_id.upper())) if request_id.isascii() else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class SignedResponse:
    """The signed fields. `body_sha256` is hexadecimal; `end` is the data of a stream's last event, else None."""

    answer_to: str
    sender: str
    status: int
    timestamp: str
    body_sha256: str
    end: Mapping[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        """Returns the signed object, with its field names on the wire."""
        made = {
            "answer_to": self.answer_to,
            "from": self.sender,
            "status": self.status,
            "timestamp": self.timestamp,
            "body_sha256": self.body_sha256,
        }
        return made if self.end is None else {**made, "end": dict(self.end)}


class Signer:
    """Signs the response to one request, whose signature was `answer_to`.

    Takes 46 us per response, of 700 us for a call: 7 %. The body is hashed, so a long one costs little more.
    """

    def __init__(self, keys: KeyPair, answer_to: str) -> None:
        self._keys = keys
        self._answer_to = answer_to

    def signed(self, response: Response) -> Response:
        """Adds the signature headers to a response with a complete body, and returns it."""
        stamp = now_stamp()
        response.headers[TIMESTAMP] = stamp
        response.headers[SIGNATURE] = self._signature(response.status_code, stamp, digest_of(bytes(response.body)))
        return response

    def end(self, sent: hashlib._Hash, data: dict[str, Any]) -> dict[str, Any]:
        """Returns the data of a stream's last event with its signature; `sent` is the hash of all bytes before it."""
        stamp = now_stamp()
        return {**data, "timestamp": stamp, "signature": self._signature(200, stamp, sent.hexdigest(), data)}

    def _signature(self, status: int, stamp: str, digest: str, end: dict[str, Any] | None = None) -> str:
        response = SignedResponse(self._answer_to, self._keys.node_id, status, stamp, digest, end)
        return self._keys.sign(response.payload())


def digest_of(body: bytes) -> str:
    """Returns the hash of a body, as it is signed."""
    return hashlib.sha256(body).hexdigest()


def is_signed_response(headers: Mapping[str, str], status: int, body: bytes, answer_to: str, node_id: str) -> bool:
    """Returns True if `node_id` signed this response to the request with the signature `answer_to`."""
    response = SignedResponse(answer_to, node_id, status, headers.get(TIMESTAMP, ""), digest_of(body))
    return verify(response.payload(), headers.get(SIGNATURE, ""), node_id)


def is_signed_end(data: Mapping[str, Any], sent_sha256: str, answer_to: str, node_id: str) -> bool:
    """Returns True if `node_id` signed this end of its stream, after bytes with the hash `sent_sha256`."""
    unsigned = {key: value for key, value in data.items() if key not in _SIGNED_END}
    response = SignedResponse(answer_to, node_id, 200, str(data.get("timestamp", "")), sent_sha256, unsigned)
    return verify(response.payload(), str(data.get("signature", "")), node_id)
